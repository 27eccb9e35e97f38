"""What a client did wrong, or cannot have now: named exceptions, turned into answers in one place (``app.py``)."""

from __future__ import annotations

from typing import Any


class Problem(Exception):
    """An answer that is not what was asked for (RFC 9457). ``errors`` name the fields at fault."""

    status = 500
    code = "internal"
    title = "Something went wrong on our side"

    def __init__(
        self,
        detail: str,
        *,
        errors: list[tuple[str, str]] | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.detail = detail
        self.errors = errors or []
        self.headers = headers or {}

    def to_json(self) -> dict[str, Any]:
        return {
            "type": f"/problems/{self.code}",
            "title": self.title,
            "status": self.status,
            "detail": self.detail,
            "errors": [{"field": field, "message": message} for field, message in self.errors],
        }


class Malformed(Problem):
    status, code, title = 400, "malformed", "The request is malformed"


class Unauthorized(Problem):
    status, code, title = 401, "unauthorized", "A valid token is needed"


class Forbidden(Problem):
    status, code, title = 403, "forbidden", "Not with this token, or not from another site"


class ForeignOrigin(Forbidden):
    code, title = "foreign-origin", "Requests from other sites are refused"


class MissingScope(Forbidden):
    code, title = "missing-scope", "The token does not reach that far"


class NotFound(Problem):
    status, code, title = 404, "not-found", "There is no such thing"


class MethodNotAllowed(Problem):
    status, code, title = 405, "method-not-allowed", "This method is not for this resource"


class NotAcceptable(Problem):
    status, code, title = 406, "not-acceptable", "There is no such form of it"


class Conflict(Problem):
    status, code, title = 409, "conflict", "Not possible in this state"


class TooLarge(Problem):
    status, code, title = 413, "too-large", "The request is too large"


class NotJson(Problem):
    status, code, title = 415, "not-json", "The body must be JSON"


class UnknownHost(Problem):
    status, code, title = 421, "unknown-host", "This host name is not served here"


class QueueFull(Problem):
    status, code, title = 429, "queue-full", "The queue is full"


class Unavailable(Problem):
    status, code, title = 503, "unavailable", "Not available at the moment"
