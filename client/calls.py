"""Every request that a client can make, and what its answer means; without a line that sends one.

``Client`` and ``AsyncClient`` only carry these out, so that what they know stands once. Something that takes several
requests is a generator: it yields calls, is sent what they answered, and returns the outcome.
"""

from __future__ import annotations

import json
import random
import secrets
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

import httpx

from client import errors
from client.answers import Command, End, Event, Page, Token, Tree, event

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

WAIT_S = 30.0  # for one request that waits; then the next one does
FIRST_PAUSE_S = 0.1
LONGEST_PAUSE_S = 2.0
SILENCE_S = 45.0  # a stream that lives says something every 15 s

Params = dict[str, Any]


@dataclass(frozen=True)
class Call(Generic[T]):
    """One request. ``repeatable``: sent twice it does what it does once."""

    method: str
    path: str
    read: Callable[[Any], T]
    params: Params = field(default_factory=dict)
    body: dict[str, Any] | None = None
    content: bytes | None = None
    headers: dict[str, str] = field(default_factory=dict)
    repeatable: bool = True
    answers_within_s: float = 0.0  # beside the usual time

    def arguments(self, timeout_s: float) -> dict[str, Any]:
        """What httpx is given."""
        return {
            "method": self.method,
            "url": self.path,
            "params": self.params,
            "json": self.body,
            "content": self.content,
            "headers": self.headers,
            "timeout": timeout_s + self.answers_within_s,
        }

    def answer(self, response: httpx.Response) -> T:
        """What a response means. Raises ``errors.Problem``; the response has been read."""
        refuse(response)
        try:
            return self.read(response.json())
        except (ValueError, TypeError, KeyError) as error:
            raise errors.Problem(response.status_code, {"detail": "this is no answer of Bashd"}) from error


def refuse(response: httpx.Response) -> None:
    """Raises ``errors.Problem`` for anything but success; the response has been read."""
    if not response.is_success:
        raise errors.problem(response.status_code, response.headers.get("Retry-After"), response.content)


class Patience:
    """How often to ask again: with growing pauses, until ``retry_for_s`` have brought nothing."""

    def __init__(self, retry_for_s: float) -> None:
        self._retry_for_s = retry_for_s
        self.renew()

    def renew(self) -> None:
        """Something came: count from now."""
        self._pause_s = FIRST_PAUSE_S
        self._give_up_at = time.monotonic() + self._retry_for_s

    def pause_after(self, error: Exception, *, repeatable: bool) -> float:
        """The seconds to wait before asking again. Raises what the caller is to be told when that is in vain."""
        told = error
        wanted_s: float | None = None
        if isinstance(error, httpx.TransportError):
            told = errors.Unreachable(_words(error))
            told.__cause__ = error
            # Without a connection nothing was sent. What was sent may have been done.
            again = repeatable or isinstance(error, httpx.ConnectError | httpx.ConnectTimeout)
        elif isinstance(error, errors.Unavailable | errors.QueueFull):
            again, wanted_s = repeatable, error.retry_after_s
        else:
            again = False
        pause_s = (wanted_s or self._pause_s) * random.uniform(0.8, 1.2)  # noqa: S311  (many must not come at once)
        if not again or time.monotonic() + pause_s > self._give_up_at:
            raise told
        self._pause_s = min(self._pause_s * 2, LONGEST_PAUSE_S)
        return pause_s


def _words(error: httpx.TransportError) -> str:
    try:
        url = error.request.url
        where = f"{url.scheme}://{url.netloc.decode()}"
    except RuntimeError:
        where = "the service"
    said = str(error) or type(error).__name__
    return f"{where} does not answer: {said}"


def _key() -> dict[str, str]:
    return {"Idempotency-Key": secrets.token_urlsafe(24)}


def run(script: str, fields: dict[str, Any]) -> Call[Command]:
    """However often it is sent, it makes one command."""
    return Call("POST", "/v1/commands", Command.of, body={"script": script, **fields}, headers=_key())


def rerun(command_id: int) -> Call[Command]:
    """Once, like ``run``."""
    return Call("POST", f"/v1/commands/{command_id}/rerun", Command.of, headers=_key())


def get(command_id: int, *, wait_s: float = 0.0) -> Call[Command]:
    params = {"wait": wait_s} if wait_s else {}
    return Call("GET", f"/v1/commands/{command_id}", Command.of, params=params, answers_within_s=wait_s)


def stop(command_id: int, signal: str | int | None, grace_s: float | None) -> Call[Command]:
    body = {name: value for name, value in (("signal", signal), ("grace_s", grace_s)) if value is not None}
    return Call("POST", f"/v1/commands/{command_id}/stop", Command.of, body=body)


def signal(command_id: int, signal: str | int) -> Call[Command]:
    return Call("POST", f"/v1/commands/{command_id}/signal", Command.of, body={"signal": signal}, repeatable=False)


def feed(command_id: int, content: bytes, *, close: bool) -> Call[int]:
    """Bytes for its stdin; the answer is how many of them bash's pipe has."""
    return Call(
        "POST",
        f"/v1/commands/{command_id}/stdin",
        lambda row: int(row["taken_bytes"]),
        params={"close": "true"} if close else {},
        content=content,
        headers={"Content-Type": "application/octet-stream"},
        repeatable=False,
        answers_within_s=365 * 24 * 3600.0,  # it is held back as long as the script does not read
    )


def processes(command_id: int) -> Call[Tree]:
    return Call("GET", f"/v1/commands/{command_id}/processes", Tree.of)


def all_processes() -> Call[list[Tree]]:
    return Call("GET", "/v1/processes", lambda row: [Tree.of(one) for one in row["items"]])


def tokens() -> Call[list[Token]]:
    return Call("GET", "/v1/tokens", lambda row: [Token.of(one) for one in row["items"]])


def create_token(name: str, scope: str, expires_in_s: float | None) -> Call[Token]:
    body = {"name": name, "scope": scope, "expires_in_s": expires_in_s}
    return Call("POST", "/v1/tokens", Token.of, body=body, repeatable=False)


def rotate_token(token_id: int) -> Call[Token]:
    return Call("POST", f"/v1/tokens/{token_id}/rotate", Token.of, repeatable=False)


def revoke_token(token_id: int) -> Call[Token]:
    return Call("DELETE", f"/v1/tokens/{token_id}", Token.of)


def page(filters: Params, cursor: str | None) -> Call[Page]:
    params = {name: value for name, value in filters.items() if value is not None}
    if cursor is not None:
        params["cursor"] = cursor
    return Call(
        "GET", "/v1/commands", lambda row: Page([Command.of(one) for one in row["items"]], row["next"]), params=params
    )


def wait(command_id: int, timeout_s: float | None) -> Generator[Call[Command], Command, Command]:
    """The command when it is final. Raises ``NotEnded`` when the time is over."""
    until = None if timeout_s is None else time.monotonic() + timeout_s
    while True:
        left_s = WAIT_S if until is None else min(WAIT_S, max(0.0, until - time.monotonic()))
        command = yield get(command_id, wait_s=left_s)
        if command.final:
            return command
        if until is not None and time.monotonic() >= until:
            raise errors.NotEnded(f"command {command_id} is {command.status} after {timeout_s:g} s")


class Course(Protocol[T_co]):
    """An answer that comes piece by piece, from where it was cut."""

    over: bool
    path: str

    def request(self) -> dict[str, Any]:
        """Params and headers with which to go on."""

    def take(self, piece: bytes) -> Iterator[T_co]:
        """What this piece completes."""

    def ended(self) -> None:
        """The answer ended, and was not cut off."""

    def cut(self) -> bool:
        """The answer was cut off; true when one can go on from there."""


class Following:
    """The events of a command: it goes on after the last whole one, however often it is cut."""

    def __init__(self, command_id: int, after: str | None) -> None:
        self.path = f"/v1/commands/{command_id}/events"
        self.over = False
        self._last = after
        self._rest = bytearray()

    def request(self) -> dict[str, Any]:
        headers = {"Accept": "text/event-stream"}
        if self._last is not None:
            headers["Last-Event-ID"] = self._last
        return {"headers": headers}

    def take(self, piece: bytes) -> Iterator[Event]:
        self._rest += piece
        while (end := self._rest.find(b"\n\n")) >= 0:
            block = bytes(self._rest[:end])
            del self._rest[: end + 2]
            named = dict(line.split(b": ", 1) for line in block.split(b"\n") if line and not line.startswith(b":"))
            if b"data" not in named:
                continue
            found = event(named.get(b"event", b"").decode(), json.loads(named[b"data"]))
            self.over = isinstance(found, End)
            # Before it is handed out: who takes it has it.
            self._last = named[b"id"].decode() if b"id" in named else self._last
            if found is not None:
                yield found

    def ended(self) -> None:
        self.cut()  # without an end event it wants to be asked again; `204` leaves nothing to ask for

    def cut(self) -> bool:
        self._rest.clear()
        return True


class Reading:
    """The output as the service gives it. Where a piece of it was given already, a cut cannot be mended."""

    def __init__(self, command_id: int, params: Params, *, text: bool) -> None:
        self.path = f"/v1/commands/{command_id}/output"
        self.over = False
        self._params = {name: value for name, value in params.items() if value is not None}
        self._text = text
        self._given = False

    def request(self) -> dict[str, Any]:
        return {"params": self._params, "headers": {"Accept": "text/plain" if self._text else "*/*"}}

    def take(self, piece: bytes) -> Iterator[bytes]:
        self._given = True
        yield piece

    def ended(self) -> None:
        self.over = True

    def cut(self) -> bool:
        return not self._given
