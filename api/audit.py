"""The audit log: who changed what, and who was refused.

What is changed by a statement is written by the same statement (``store.py``, ``store_access.py``). The rest is noted
here and written within a moment: stops, signals and input, which are taken while PostgreSQL is away too; and refused
attempts, merged, so that however many there are they are few rows.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

from api.asker import Asker
from api.command import now
from api.commands import Commands
from api.log import Log
from api.store import DatabaseAway
from api.store_access import AccessStore, Entry

GATHER_S = 0.2
REFUSED_EVERY_S = 60.0
MOST_REFUSED = 16  # rows for what was refused in that time; who comes then is counted among the others
OTHERS = "others"  # instead of an address
MOST_NOTED = 10_000  # while PostgreSQL is away; of more only the number is kept
AT_ONCE = 500
OLD_EVERY_S = 3600.0
OLD_AT_ONCE = 1000
TRY_AGAIN_S = 1.0

GONE = 499  # as the status of an entry: the client went away before it was answered
REFUSED = frozenset({401, 403, 421})
# Found to be wrong before anything was done.
NOTHING_DONE = frozenset({400, 404, 405, 406, 413, 415, 429})

log = Log()


class Audit:
    """Notes, writes and shows entries, and removes old ones."""

    def __init__(
        self, store: AccessStore, commands: Commands, *, keep_days: float | None, is_ours: Callable[[], bool]
    ) -> None:
        self._store = store
        self._commands = commands
        self._keep_days = keep_days
        self._is_ours = is_ours
        self._noted: deque[Entry] = deque()
        self._dropped = 0
        self._refused: dict[tuple[str, str | None, int], Entry] = {}
        self._refused_since = 0.0  # monotonic
        self._removed_old_at = float("-inf")
        self._wake = asyncio.Event()
        self._turn = asyncio.Lock()

    def note(self, asker: Asker, status: int) -> None:
        """A request was answered so."""
        if status in REFUSED:
            self._note_refused(asker, status)
        elif asker.changes and status not in NOTHING_DONE:
            if asker.recorded and (status < 400 or status == GONE):
                return  # by the statement that changed it
            self._add(Entry(now(), asker.token, asker.action, asker.command_id, None, asker.address, status))

    def note_gone(self, asker: Asker) -> None:
        """The client went away before its request was answered."""
        self.note(asker, GONE)

    def _add(self, entry: Entry) -> None:
        if len(self._noted) >= MOST_NOTED:
            self._dropped += 1
            return
        self._noted.append(entry)
        self._wake.set()

    def _note_refused(self, asker: Asker, status: int) -> None:
        address = asker.address
        if (address, asker.token, status) not in self._refused and len(self._refused) >= MOST_REFUSED - len(REFUSED):
            asker = Asker(OTHERS)
        key = (asker.address, asker.token, status)
        known = self._refused.get(key)
        if known is not None:
            self._refused[key] = replace(known, attempts=min(known.attempts + 1, 2**31 - 1))
            return
        if not self._refused:
            self._refused_since = time.monotonic()
        self._refused[key] = Entry(now(), asker.token, "refused", None, None, asker.address, status)
        log.error("a request was refused", status=status, address=address, token=asker.token)
        self._wake.set()

    async def run(self) -> None:
        """Write what is noted and remove what is old, for ever."""
        while True:
            try:
                async with asyncio.timeout(self._next_look_s()):
                    await self._wake.wait()
                await asyncio.sleep(GATHER_S)
            except TimeoutError:
                pass  # then refused ones are to be written, or old ones removed
            self._wake.clear()
            if not self._is_ours():
                await asyncio.sleep(TRY_AGAIN_S)
                continue
            try:
                await self.flush(refused=time.monotonic() - self._refused_since >= REFUSED_EVERY_S)
                await self._remove_old()
            except DatabaseAway:
                await asyncio.sleep(TRY_AGAIN_S)  # the recorder says so in the log

    def _next_look_s(self) -> float | None:
        now_s = time.monotonic()
        looks = []
        if self._noted:
            looks.append(TRY_AGAIN_S)
        if self._refused:
            looks.append(self._refused_since + REFUSED_EVERY_S - now_s)
        if self._keep_days is not None:
            looks.append(self._removed_old_at + OLD_EVERY_S - now_s)
        return max(0.01, min(looks)) if looks else None

    async def flush(self, *, refused: bool) -> None:
        """Write what is noted, and what was ``refused`` since the last time too. Raises when PostgreSQL is away."""
        async with self._turn:
            if refused:
                self._close_round()
            if self._dropped:
                dropped, self._dropped = self._dropped, 0
                log.error("the audit log has no line for some requests: PostgreSQL was away too long", count=dropped)
                self._noted.append(Entry(now(), None, "dropped", None, None, None, 503, attempts=dropped))
            while self._noted:
                entries = list(self._noted)[:AT_ONCE]
                await self._store.append(entries)
                for _ in entries:
                    self._noted.popleft()

    def _close_round(self) -> None:
        """What was refused in this round becomes rows; the next begins."""
        for entry in self._refused.values():
            if entry.attempts > 1:
                log.error("requests were refused", status=entry.status, address=entry.address, attempts=entry.attempts)
            self._noted.append(entry)
        self._refused = {}

    async def page(self, *, limit: int, before_id: int | None) -> list[Entry]:
        """Entries, the newest first, with all that was noted before this was asked; raises ``Unavailable``."""
        await self._commands.ask_database(self.flush(refused=True))
        return await self._commands.ask_database(self._store.audit_page(limit=limit, before_id=before_id))

    async def _remove_old(self) -> None:
        if self._keep_days is None or time.monotonic() - self._removed_old_at < OLD_EVERY_S:
            return
        before = now() - timedelta(days=self._keep_days)
        while await self._store.remove_audit(before, OLD_AT_ONCE):
            await asyncio.sleep(0.02)
        self._removed_old_at = time.monotonic()
