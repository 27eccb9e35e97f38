"""The client for programs that wait: ``Client``, and ``Handle`` for one command."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator, Sequence
from typing import Any, Self, TypeVar, Unpack

import httpx

from client import calls
from client.answers import Command, Event, Tree
from client.calls import Call, Course, Following, Patience, Reading
from client.options import Fields, Filters, Service, Transport

T = TypeVar("T")


class Client:
    """A connection to one Bashd; safe to share between threads. Without an address it finds that of this machine.

    What may be sent again is, with pauses, for ``retry_for_s``; a command is never made twice by that.
    Raises ``client.errors``, each of them a ``BashdError``.
    """

    def __init__(
        self,
        url: str | None = None,
        token: str | None = None,
        *,
        timeout_s: float = 30.0,
        retry_for_s: float = 60.0,
    ) -> None:
        self._service = Service.at(url, token, timeout_s=timeout_s, retry_for_s=retry_for_s)
        self._http = httpx.Client(**Transport.of(self._service))

    @property
    def url(self) -> str:
        """Whom it asks."""
        return self._service.url

    def run(self, script: str, **fields: Unpack[Fields]) -> Handle:
        """Hand a script in; it is accepted when this returns. ``fields`` are those of ``POST /v1/commands``."""
        return Handle(self, self.ask(calls.run(script, dict(fields))))

    def rerun(self, command_id: int) -> Handle:
        """The same again, as a new command."""
        return Handle(self, self.ask(calls.rerun(command_id)))

    def get(self, command_id: int) -> Handle:
        """A command that there is. Raises ``NotFound``."""
        return Handle(self, self.ask(calls.get(command_id)))

    def list(self, **filters: Unpack[Filters]) -> Iterator[Command]:
        """All commands that pass the filters, newest first; pages are loaded as they are needed."""
        cursor: str | None = None
        while True:
            page = self.ask(calls.page(dict(filters), cursor))
            yield from page.items
            cursor = page.next
            if cursor is None:
                return

    def processes(self) -> Sequence[Tree]:
        """The processes of all commands that run."""
        return self.ask(calls.all_processes())

    def ask(self, call: Call[T]) -> T:
        """Carry out one call, again if it may be."""
        patience = Patience(self._service.retry_for_s)
        while True:
            try:
                return call.answer(self._http.request(**call.arguments(self._service.timeout_s)))
            except Exception as error:
                time.sleep(patience.pause_after(error, repeatable=call.repeatable))

    def carry_out(self, steps: Generator[Call[T], T, T]) -> T:
        """Carry out what takes several calls."""
        call = next(steps)
        while True:
            try:
                call = steps.send(self.ask(call))
            except StopIteration as stop:
                return stop.value  # type: ignore[no-any-return]

    def take(self, course: Course[T]) -> Iterator[T]:
        """What comes piece by piece, over every cut that can be mended."""
        patience = Patience(self._service.retry_for_s)
        while not course.over:
            try:
                with self._http.stream(
                    "GET", course.path, timeout=self._service.streaming, **course.request()
                ) as answer:
                    if not answer.is_success:
                        answer.read()
                        calls.refuse(answer)
                    if answer.status_code == httpx.codes.NO_CONTENT:
                        return
                    for piece in answer.iter_bytes():
                        patience.renew()
                        yield from course.take(piece)
                course.ended()
                if not course.over:
                    time.sleep(calls.FIRST_PAUSE_S)
            except Exception as error:
                time.sleep(patience.pause_after(error, repeatable=course.cut()))

    def close(self) -> None:
        """Give the connections back. Twice is safe."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Handle:
    """One command. ``command`` is as it was last seen by this handle."""

    def __init__(self, client: Client, command: Command) -> None:
        self._client = client
        self.command = command

    @property
    def id(self) -> int:
        """The id of the command."""
        return self.command.id

    def _seen(self, command: Command) -> Command:
        self.command = command
        return command

    def refresh(self) -> Command:
        """The command as it is now."""
        return self._seen(self._client.ask(calls.get(self.id)))

    def wait(self, timeout_s: float | None = None) -> Command:
        """The command when it has ended. Raises ``NotEnded`` after ``timeout_s``; it runs on then."""
        return self._seen(self._client.carry_out(calls.wait(self.id, timeout_s)))

    def stop(self, signal: str | int | None = None, grace_s: float | None = None) -> Command:
        """Ask for its stop, and of all that it started; ``wait`` tells when it has ended. Twice is safe."""
        return self._seen(self._client.ask(calls.stop(self.id, signal, grace_s)))

    def signal(self, signal: str | int) -> Command:
        """Send its group a signal. Raises ``Conflict`` when it does not run."""
        return self._seen(self._client.ask(calls.signal(self.id, signal)))

    def feed(self, content: bytes, *, close: bool = False) -> int:
        """Send bytes to its stdin; returns when bash's pipe has them. It was run with ``stdin_open``."""
        return self._client.ask(calls.feed(self.id, content, close=close))

    def processes(self) -> Tree:
        """Its processes; none when it waits or has ended."""
        return self._client.ask(calls.processes(self.id))

    def rerun(self) -> Handle:
        """The same again, as a new command."""
        return self._client.rerun(self.id)

    def follow(self) -> Iterator[Event]:
        """What it becomes and prints, from its beginning to its end, each event once, whatever cuts the connection."""
        return self._client.take(Following(self.id, None))

    def read(self, *, text: bool = False, **params: Any) -> Iterator[bytes]:
        """What it has printed, as it comes; ``params`` are those of ``GET …/output``."""
        return self._client.take(Reading(self.id, params, text=text))

    def output(self, stream: str = "both", **params: Any) -> bytes:
        """What it has printed so far, all at once; ``params`` are those of ``GET …/output``."""
        return b"".join(self.read(stream=stream, **params))
