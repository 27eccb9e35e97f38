"""Removing commands that are not to be kept: little by little, so that nobody who runs one has to wait.

A command goes at once and whole, with its key, its labels and its place in the counts; what it printed, which may be
much, follows in pieces. Whoever still reads that finds out that the command has gone.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from datetime import timedelta

from api.command import now
from api.live import Lives
from api.log import Log
from api.store import DatabaseAway, Store

EVERY_S = 30.0
SETTLED_AFTER = timedelta(minutes=1)  # since its end: its client may be about to look at it
COMMANDS_AT_ONCE = 200
CHUNKS_AT_ONCE = 200  # of output, of at most 64 KiB

log = Log()


class Retention:
    """Works while ``is_ours`` says that the database is ours. Limits that are None are none."""

    def __init__(
        self,
        store: Store,
        lives: Lives,
        *,
        keep_days: float | None,
        keep_commands: int | None,
        is_ours: Callable[[], bool],
    ) -> None:
        self._store = store
        self._lives = lives
        self._keep_days = keep_days
        self._keep_commands = keep_commands
        self._is_ours = is_ours
        self._wake = asyncio.Event()

    def wake(self) -> None:
        """Look now: a command was removed, or the database has become ours."""
        self._wake.set()

    async def run(self) -> None:
        """Remove for ever."""
        again_s: float | None = None
        while True:
            try:
                async with asyncio.timeout(again_s):
                    await self._wake.wait()
            except TimeoutError:
                pass  # then it is time to look again
            self._wake.clear()
            again_s = None if self._keep_days is None and self._keep_commands is None else EVERY_S
            if not self._is_ours():
                continue
            try:
                await self._remove()
            except DatabaseAway:
                again_s = EVERY_S  # the recorder says so in the log

    async def _remove(self) -> None:
        """Everything that is to go now."""
        began = time.monotonic()
        removed = await self._repeat(self._remove_old) + await self._repeat(self._remove_surplus)
        await self._repeat(self._remove_output)
        if removed:
            took_s = round(time.monotonic() - began, 3)
            log.info("removed what is not to be kept", commands=removed, took_s=took_s)

    async def _repeat(self, remove: Callable[[], Awaitable[int]]) -> int:
        """Do it until nothing is left to do; at most half of the time, the other half is for who waits for us."""
        total = 0
        while self._is_ours():
            began = time.monotonic()
            count = await remove()
            if not count:
                break
            total += count
            await asyncio.sleep(max(0.02, time.monotonic() - began))
        return total

    async def _remove_old(self) -> int:
        if self._keep_days is None:
            return 0
        ended_before = now() - max(timedelta(days=self._keep_days), SETTLED_AFTER)
        return await self._with_output(self._store.remove_ended(ended_before, COMMANDS_AT_ONCE, self._live()))

    async def _remove_surplus(self) -> int:
        if self._keep_commands is None:
            return 0
        last_id = await self._store.last_surplus_id(self._keep_commands)
        if last_id is None:
            return 0
        asking = self._store.remove_up_to(last_id, now() - SETTLED_AFTER, COMMANDS_AT_ONCE, self._live())
        return await self._with_output(asking)

    async def _with_output(self, removing: Awaitable[int]) -> int:
        """Let the output go before more commands do, so that there is never much of it that nobody can read."""
        count = await removing
        await self._repeat(self._remove_output)
        return count

    async def _remove_output(self) -> int:
        return await self._store.remove_output(CHUNKS_AT_ONCE)

    def _live(self) -> list[int]:
        """Those whose row may be final while their journal is still looked at."""
        return [live.id for live in self._lives]
