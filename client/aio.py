"""The client for asyncio: ``AsyncClient``, and ``AsyncHandle`` for one command. What it knows stands in ``calls``."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Generator, Sequence
from typing import Any, Self, TypeVar, Unpack

import httpx

from client import calls
from client.answers import Command, Event, Tree
from client.calls import Call, Course, Following, Patience, Reading
from client.options import Fields, Filters, Service, Transport

T = TypeVar("T")


class AsyncClient:
    """``Client`` for asyncio. Without an address it finds the service of this machine.

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
        self._http = httpx.AsyncClient(**Transport.of(self._service))

    @property
    def url(self) -> str:
        """Whom it asks."""
        return self._service.url

    async def run(self, script: str, **fields: Unpack[Fields]) -> AsyncHandle:
        """Hand a script in; it is accepted when this returns. ``fields`` are those of ``POST /v1/commands``."""
        return AsyncHandle(self, await self.ask(calls.run(script, dict(fields))))

    async def rerun(self, command_id: int) -> AsyncHandle:
        """The same again, as a new command."""
        return AsyncHandle(self, await self.ask(calls.rerun(command_id)))

    async def get(self, command_id: int) -> AsyncHandle:
        """A command that there is. Raises ``NotFound``."""
        return AsyncHandle(self, await self.ask(calls.get(command_id)))

    async def list(self, **filters: Unpack[Filters]) -> AsyncIterator[Command]:
        """All commands that pass the filters, newest first; pages are loaded as they are needed."""
        cursor: str | None = None
        while True:
            page = await self.ask(calls.page(dict(filters), cursor))
            for one in page.items:
                yield one
            cursor = page.next
            if cursor is None:
                return

    async def processes(self) -> Sequence[Tree]:
        """The processes of all commands that run."""
        return await self.ask(calls.all_processes())

    async def ask(self, call: Call[T]) -> T:
        """Carry out one call, again if it may be."""
        patience = Patience(self._service.retry_for_s)
        while True:
            try:
                return call.answer(await self._http.request(**call.arguments(self._service.timeout_s)))
            except Exception as error:
                await asyncio.sleep(patience.pause_after(error, repeatable=call.repeatable))

    async def carry_out(self, steps: Generator[Call[T], T, T]) -> T:
        """Carry out what takes several calls."""
        call = next(steps)
        while True:
            try:
                call = steps.send(await self.ask(call))
            except StopIteration as stop:
                return stop.value  # type: ignore[no-any-return]

    async def take(self, course: Course[T]) -> AsyncIterator[T]:
        """What comes piece by piece, over every cut that can be mended."""
        patience = Patience(self._service.retry_for_s)
        while not course.over:
            try:
                async with self._http.stream(
                    "GET", course.path, timeout=self._service.streaming, **course.request()
                ) as answer:
                    if not answer.is_success:
                        await answer.aread()
                        calls.refuse(answer)
                    if answer.status_code == httpx.codes.NO_CONTENT:
                        return
                    async for piece in answer.aiter_bytes():
                        patience.renew()
                        for one in course.take(piece):
                            yield one
                course.ended()
                if not course.over:
                    await asyncio.sleep(calls.FIRST_PAUSE_S)
            except Exception as error:
                await asyncio.sleep(patience.pause_after(error, repeatable=course.cut()))

    async def close(self) -> None:
        """Give the connections back. Twice is safe."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


class AsyncHandle:
    """One command. ``command`` is as it was last seen by this handle."""

    def __init__(self, client: AsyncClient, command: Command) -> None:
        self._client = client
        self.command = command

    @property
    def id(self) -> int:
        """The id of the command."""
        return self.command.id

    def _seen(self, command: Command) -> Command:
        self.command = command
        return command

    async def refresh(self) -> Command:
        """The command as it is now."""
        return self._seen(await self._client.ask(calls.get(self.id)))

    async def wait(self, timeout_s: float | None = None) -> Command:
        """The command when it has ended. Raises ``NotEnded`` after ``timeout_s``; it runs on then."""
        return self._seen(await self._client.carry_out(calls.wait(self.id, timeout_s)))

    async def stop(self, signal: str | int | None = None, grace_s: float | None = None) -> Command:
        """Ask for its stop, and of all that it started; ``wait`` tells when it has ended. Twice is safe."""
        return self._seen(await self._client.ask(calls.stop(self.id, signal, grace_s)))

    async def signal(self, signal: str | int) -> Command:
        """Send its group a signal. Raises ``Conflict`` when it does not run."""
        return self._seen(await self._client.ask(calls.signal(self.id, signal)))

    async def feed(self, content: bytes, *, close: bool = False) -> int:
        """Send bytes to its stdin; returns when bash's pipe has them. It was run with ``stdin_open``."""
        return await self._client.ask(calls.feed(self.id, content, close=close))

    async def processes(self) -> Tree:
        """Its processes; none when it waits or has ended."""
        return await self._client.ask(calls.processes(self.id))

    async def rerun(self) -> AsyncHandle:
        """The same again, as a new command."""
        return await self._client.rerun(self.id)

    def follow(self) -> AsyncIterator[Event]:
        """What it becomes and prints, from its beginning to its end, each event once, whatever cuts the connection."""
        return self._client.take(Following(self.id, None))

    def read(self, *, text: bool = False, **params: Any) -> AsyncIterator[bytes]:
        """What it has printed, as it comes; ``params`` are those of ``GET …/output``."""
        return self._client.take(Reading(self.id, params, text=text))

    async def output(self, stream: str = "both", **params: Any) -> bytes:
        """What it has printed so far, all at once; ``params`` are those of ``GET …/output``."""
        return b"".join([piece async for piece in self.read(stream=stream, **params)])
