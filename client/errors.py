"""What can go wrong for who uses Bashd: a class for each thing that a caller may want to tell apart."""

from __future__ import annotations

import json
from typing import Any


class BashdError(Exception):
    """Anything that the client raises by itself."""


class NoService(BashdError):
    """No address was given, and no service of this machine has left one."""


class Unreachable(BashdError):
    """Nobody answered, or the connection was cut, and asking again did not help within ``retry_for_s``."""


class NotEnded(BashdError):
    """The command runs on: the time that ``wait`` was given is over."""


class Problem(BashdError):
    """The service answered that it cannot do it. Its words are the message."""

    def __init__(self, status: int, answer: dict[str, Any], retry_after_s: float | None = None) -> None:
        self.status = status
        self.code = str(answer.get("type", "")).removeprefix("/problems/")
        self.errors = {str(one.get("field")): str(one.get("message")) for one in answer.get("errors", [])}
        self.retry_after_s = retry_after_s
        detail = str(answer.get("detail") or answer.get("title") or f"HTTP status {status}")
        named = [f"{field}: {message}" for field, message in self.errors.items() if message not in detail]
        super().__init__("; ".join([detail, *named]))


class Malformed(Problem):
    """The request cannot be right; ``errors`` names the fields and says what is allowed."""


class Unauthorized(Problem):
    """A token is needed, or this one is not the right one."""


class NotFound(Problem):
    """There is no such command."""


class Conflict(Problem):
    """Not possible in this state of the command."""


class QueueFull(Problem):
    """As many commands wait as may wait."""


class Unavailable(Problem):
    """PostgreSQL or the supervisor is away, or the service is about to end."""


_CLASSES: dict[int, type[Problem]] = {
    400: Malformed,
    401: Unauthorized,
    404: NotFound,
    409: Conflict,
    413: Malformed,
    415: Malformed,
    429: QueueFull,
    503: Unavailable,
}


def problem(status: int, retry_after: str | None, body: bytes) -> Problem:
    """The exception for an answer that is not what was asked for; whatever stands in the body."""
    try:
        answer = json.loads(body)
    except ValueError:
        answer = None
    if not isinstance(answer, dict):
        answer = {"detail": f"HTTP status {status}: this is no answer of Bashd"}
    seconds = float(retry_after) if retry_after is not None and retry_after.isdecimal() else None
    return _CLASSES.get(status, Problem)(status, answer, seconds)
