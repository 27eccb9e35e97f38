"""What clients may send about tokens, checked."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from api.asker import RESERVED
from api.models import PositiveSeconds, parse_json, validate

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


def _name(value: Any) -> Any:
    if not isinstance(value, str) or not _NAME.fullmatch(value):
        raise ValueError("must have 1 to 64 letters, digits, '.', '_' or '-' (of ASCII), and begin with none of '._-'")
    if value in RESERVED:
        raise ValueError(f"must be none of {', '.join(sorted(RESERVED))}: those are names of Bashd's own")
    return value


_RESERVED_WORDS = "|".join(sorted(RESERVED))
Name = Annotated[
    str,
    BeforeValidator(_name),
    Field(
        description="Under which the audit log and commands name it; no other token ever gets it.",
        json_schema_extra={"pattern": f"^(?!({_RESERVED_WORDS})$)[A-Za-z0-9][A-Za-z0-9._-]{{0,63}}$"},
    ),
]
Expiry = Annotated[
    PositiveSeconds | None, Field(description="From now; then it is refused. `null`: it does not expire.")
]


class TokenRequest(BaseModel):
    """The body of ``POST /v1/tokens``."""

    model_config = ConfigDict(extra="forbid")

    name: Name
    scope: Literal["read", "run", "admin"] = Field(
        description="`read`: look; `run`: also run, steer and remove; `admin`: also tokens and the audit log."
    )
    expires_in_s: Expiry = None


class RotateRequest(BaseModel):
    """The body of ``POST /v1/tokens/{id}/rotate``, if there is one."""

    model_config = ConfigDict(extra="forbid")

    expires_in_s: Expiry = None


def parse_token(body: bytes) -> TokenRequest:
    """A checked request for a token; raises ``Malformed``."""
    return validate(TokenRequest, parse_json(body))


def parse_rotation(body: bytes) -> RotateRequest:
    """A checked request for a new secret; an absent body changes nothing else."""
    return validate(RotateRequest, parse_json(body) if body.strip() else {})
