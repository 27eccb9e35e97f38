"""Listening to the events of a Bashd, as a client does that takes nothing for granted: byte by byte, line by line."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import httpx

from tests.processes import Command, Service


@dataclass(frozen=True)
class Event:
    """One event as it was sent."""

    name: str
    id: str
    value: dict[str, Any]

    @property
    def content(self) -> bytes:
        """The bytes of an output event."""
        return base64.b64decode(self.value["base64"]) if "base64" in self.value else self.value["text"].encode()


def parsed(pieces: Iterator[bytes]) -> Iterator[Event]:
    """The events in what a connection gives; comments are passed over, what is not whole is none."""
    rest = b""
    for piece in pieces:
        *blocks, rest = (rest + piece).split(b"\n\n")
        for block in blocks:
            if not block.startswith(b":"):
                yield _event(block)


def _event(block: bytes) -> Event:
    lines = [line.split(b": ", 1) for line in block.split(b"\n")]
    assert [name for name, _ in lines] == [b"event", b"id", b"data"], block
    assert b"\r" not in block
    name, event_id, data = (value.decode("ascii") for _, value in lines)
    return Event(name, event_id, json.loads(data))


def path_of(command: Command | None) -> str:
    return "/v1/events" if command is None else f"/v1/commands/{command.id}/events"


def listen(
    service: Service,
    command: Command | None,
    *,
    after: str | None = None,
    until: Callable[[Event], bool] = lambda _event: False,
) -> list[Event]:
    """The events of a command (None: of all), up to the one that is waited for or the end of the answer."""
    got: list[Event] = []
    headers = {} if after is None else {"Last-Event-ID": after}
    with service.http.stream("GET", path_of(command), headers=headers) as answer:
        assert answer.status_code == 200, answer.read()
        for event in parsed(answer.iter_raw()):
            got.append(event)
            if until(event):
                break
    return got


class Listener:
    """Follows one command over any number of connections, each cut off somewhere, until its end."""

    def __init__(self, service: Service, command: Command) -> None:
        self.events: list[Event] = []
        self.connections = 0
        self._service = service
        self._command = command

    def connect(self, events: int) -> bool:
        """Take so many events at most, then cut the connection; true when the end has come."""
        last = self.events[-1].id if self.events else None
        headers = {"Authorization": f"Bearer {self._service.token}", **({"Last-Event-ID": last} if last else {})}
        url = f"{self._service.url}{path_of(self._command)}"
        try:
            with httpx.stream("GET", url, headers=headers, timeout=30, trust_env=False) as answer:
                if answer.status_code == 503:
                    return False  # its database is just being looked at
                assert answer.status_code == 200, answer.read()
                self.connections += 1
                for count, event in enumerate(parsed(answer.iter_raw()), 1):
                    self.events.append(event)
                    if event.name == "end" or count == events:
                        break
        except httpx.TransportError:
            pass  # of a process that was killed, which is the point
        return bool(self.events) and self.events[-1].name == "end"


def bytes_of(events: list[Event], stream: str) -> bytes:
    """What the output events say of a stream; fails when they do not follow each other, gaps counted."""
    content = b""
    reached: int | None = None
    for event in events:
        if event.value.get("stream") != stream or event.name not in ("output", "gap"):
            continue
        first = event.value["offset"] if event.name == "output" else event.value["from"]
        assert reached in (None, first), f"{event} after {reached} bytes of {stream}"
        reached = first + len(event.content) if event.name == "output" else event.value["to"]
        content += event.content if event.name == "output" else b""
    return content
