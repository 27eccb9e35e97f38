"""Requests that may be sent again: a key that the client chose, and what tells its request from another one.

Both stand in the row of the command that the request made, so they live exactly as long as it.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from typing import Any

from api import limits
from api.models import CommandRequest
from api.parameters import Parameter
from api.problems import Conflict
from protocol.config import Config
from protocol.sealed import fingerprint

HEADER = "Idempotency-Key"
_KEY = re.compile(r"[\x21-\x7e]{1,255}")


@dataclass(frozen=True, slots=True)
class Once:
    """A request that makes one command, however often it comes."""

    key: str
    digest: bytes


@dataclass(frozen=True, slots=True)
class Holder:
    """Who has a key already."""

    command_id: int
    digest: bytes

    def check(self, once: Once) -> None:
        """Raises ``Conflict`` when the key belongs to another request."""
        if self.digest != once.digest:
            message = f"belongs to command {self.command_id}, which another request made; send a new key"
            raise Conflict(f"{HEADER} {message}.", errors=[(HEADER, message)])


def _key(text: str) -> str:
    if not _KEY.fullmatch(text):
        raise ValueError("must be 1 to 255 visible ASCII characters")
    return text


KEY: Parameter[str | None] = Parameter(
    HEADER,
    "The same key and the same request: the same command, however often it is sent.",
    _key,
    {"type": "string", "pattern": "^[!-~]{1,255}$"},
    None,
    "7d9f2a4e-nightly",
)


def digest_of_command(request: CommandRequest, config: Config) -> bytes:
    """What tells one request to run a command from another: its checked values, as far as they are no defaults.

    So neither white space nor the order of members matters, nor a default that is named, nor a field that a later
    version adds.
    """
    values = request.model_dump(exclude_defaults=True, exclude={"timeout_s", "secrets", "limits"})
    if request.secrets:
        # A plain digest of what is easy to guess would let who reads the rows try guesses.
        text = json.dumps(request.secrets, sort_keys=True)
        values["secrets"] = fingerprint(bytes.fromhex(config.secrets_key), text.encode()).hex()
    if request.timeout_s != config.default_timeout_s:
        values["timeout_s"] = request.timeout_s
    given = limits.defaults(config, request.run_as)
    if asked := {name: value for name, value in request.limits if value != given.get(name)}:
        values["limits"] = asked
    return digest_of("POST /v1/commands", values)


def digest_of(what: str, values: dict[str, Any]) -> bytes:
    """The digest of a request: what it asks for, and with which values."""
    text = json.dumps([what, values], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).digest()
