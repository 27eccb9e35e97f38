"""One request's bytes on their way into the stdin of a running command."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from api.commands import Commands, ended
from api.live import Live
from api.problems import Conflict, Problem, Unavailable

END_TOLD_WITHIN_S = 0.5

T = TypeVar("T")


class Pour:
    """The writing end of the pipe that bash reads, for one body. Holds no more of that than one piece."""

    def __init__(self, live: Live, commands: Commands) -> None:
        self._live = live
        self._commands = commands
        self._fd = -1
        self.taken_bytes = 0

    async def open(self, path: str) -> None:
        """Raises ``Conflict`` when nobody reads there any more."""
        try:
            self._fd = os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except FileNotFoundError:
            raise await self._why_not(f"The stdin of command {self._live.id} is closed.") from None
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
            raise await self._nobody_reads() from error

    async def take(self, read: Callable[[], Coroutine[Any, Any, bytes | None]]) -> None:
        """Write what ``read`` gives until it gives None; raises when the command or Bashd ends before."""
        try:
            while (piece := await self._unless_over(read())) is not None:
                await self._write(piece)
        except Problem as problem:
            problem.detail += f" {self.taken_bytes} bytes of this request were taken before."
            raise

    async def _write(self, piece: bytes) -> None:
        """Returns when the pipe has taken all of it; raises ``Conflict`` when nobody will ever read it."""
        rest = memoryview(piece)
        while rest:
            try:
                count = os.write(self._fd, rest)
            except BlockingIOError:
                await self._unless_over(self._room())
                continue
            except BrokenPipeError as error:
                raise await self._nobody_reads() from error
            self.taken_bytes += count
            rest = rest[count:]

    async def _room(self) -> None:
        """Wait until the pipe takes more, or its readers are gone."""
        loop = asyncio.get_running_loop()
        room = asyncio.Event()
        loop.add_writer(self._fd, room.set)
        try:
            await room.wait()
        finally:
            loop.remove_writer(self._fd)

    async def _unless_over(self, awaited: Coroutine[Any, Any, T]) -> T:
        """What it returns; raises when the command ends, or Bashd closes, and it is still not done."""
        task = asyncio.ensure_future(awaited)
        try:
            while not task.done():
                refuse_if_over(self._live, self._commands)
                changed = asyncio.ensure_future(self._live.change())
                await asyncio.wait({task, changed}, return_when=asyncio.FIRST_COMPLETED)
                changed.cancel()
            return task.result()
        finally:
            # Its own last steps before ours: it must let go of the descriptor before that is closed.
            task.cancel()
            await asyncio.wait({task})

    async def _nobody_reads(self) -> Problem:
        return await self._why_not(f"Nobody reads the stdin of command {self._live.id} any more.")

    async def _why_not(self, detail: str) -> Problem:
        """``detail``, unless the command has ended: that is told a moment after its last reader has gone."""
        try:
            async with asyncio.timeout(END_TOLD_WITHIN_S):
                while not self._live.over:
                    await self._live.change()
        except TimeoutError:
            return Conflict(detail)
        return ended(self._live.command)

    def close(self) -> None:
        """Let go of the pipe. Twice is safe."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def refuse_if_over(live: Live, commands: Commands) -> None:
    """Raises ``Conflict`` when the command has ended, ``Unavailable`` when Bashd is about to."""
    if live.over:
        raise ended(live.command)
    if commands.closing:
        raise Unavailable("Bashd is shutting down.", headers={"Retry-After": "10"})
