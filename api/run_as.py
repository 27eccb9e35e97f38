"""Whom a script may run as: what the operator allows, and never the user of the database."""

from __future__ import annotations

import os
import pwd

from api.problems import Malformed
from protocol.config import Config


def check_run_as(run_as: str | None, config: Config) -> None:
    """Raises ``Malformed`` for a user that a script must not run as now. None: as Bashd itself does."""
    message = _objection(run_as, config)
    if message is not None:
        raise Malformed(f"run_as {message}.", errors=[("run_as", message)])


def _objection(run_as: str | None, config: Config) -> str | None:
    if os.getuid() != 0:
        return None if run_as is None else "is only possible when Bashd runs as root"
    named = [*config.allowed_run_as, *([config.default_run_as] if config.default_run_as is not None else [])]
    if run_as is None:
        if not named or "root" in named:
            return None
        return f"must be named, for root, as which Bashd itself runs, is not allowed; {_allowed(config, named)}"
    if config.allowed_run_as and run_as not in named:
        # Before the user is looked for: whether there is one is told only of those who may be named.
        return f"is not allowed to be {run_as!r}; {_allowed(config, named)}"
    try:
        uid = pwd.getpwnam(run_as).pw_uid
    except KeyError:
        return f"is no user of this machine: {run_as!r}"
    if uid == config.postgres_uid:
        return "must not be the user of the database"
    if uid == 0 and run_as not in named:
        return f"must not be root, unless allowed_run_as names it; {_allowed(config, named)}"
    return None


def _allowed(config: Config, named: list[str]) -> str:
    if config.allowed_run_as:
        return f"allowed are {', '.join(dict.fromkeys(named))}"
    return "allowed is every user but root and that of the database"
