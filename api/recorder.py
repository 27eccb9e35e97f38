"""Bringing live commands into PostgreSQL: in batches, one commit for many, and nothing twice.

Output is recorded at the latest a second after it was printed, an end at once. While PostgreSQL is away the journals
keep everything; when it is back, everything is written.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from itertools import takewhile

from api.command import Command
from api.handover import first_line
from api.live import Live, Lives, Mark
from api.log import Log
from api.rows import Chunk, Progress
from api.spares import Spares
from api.store import DatabaseAway, Store
from protocol import journal
from protocol.fault import Fault
from protocol.places import Places

EVERY_S = 1.0
GATHER_S = 0.02  # after the first end: one commit for those that follow it at once
TRY_AGAIN_S = (0.2, 2.0)  # while PostgreSQL is away: the first pause, doubled up to the last
BATCH_BYTES = 8 * 1024 * 1024
BATCH_COMMANDS = 500
CHUNK_BYTES = 64 * 1024  # the longest row of output

log = Log()


class Recorder:
    """Writes what lives have to say. One batch at a time."""

    def __init__(self, store: Store, lives: Lives, places: Places, fault: Fault, spares: Spares) -> None:
        self._store = store
        self._spares = spares
        self._lives = lives
        self._places = places
        self._fault = fault
        self._dirty: dict[
            int, float
        ] = {}  # id → when it is to be recorded at the latest, by the loop's clock; ascending
        self._ends: set[int] = set()
        self._wake = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._hurry = False
        self._began_at = time.monotonic()
        self.on_recorded: Callable[[Command, Command], None] = lambda _before, _after: None
        self.trouble: str | None = None  # why nothing can be recorded now, though PostgreSQL may answer otherwise

    def note(self, live: Live) -> None:
        """A live command has something new to be recorded."""
        if live.recorded is None:
            return  # its row has not been compared yet; recovery notes it again
        if live.id not in self._dirty:
            self._dirty[live.id] = asyncio.get_running_loop().time() + EVERY_S
        self._idle.clear()
        if live.ended:
            self._ends.add(live.id)
        self._wake.set()

    def behind(self) -> tuple[int, float]:
        """Bytes of journals that are not recorded yet, and the seconds since the oldest change among them."""
        unrecorded = 0
        oldest_s = 0.0
        for live in self._lives:
            unrecorded += live.followed.file - (live.recorded.file if live.recorded is not None else 0)
            if live.recorded is None:
                oldest_s = time.monotonic() - self._began_at  # its row has not been read since we began
        if self._dirty:
            since = next(iter(self._dirty.values())) - EVERY_S
            oldest_s = max(oldest_s, asyncio.get_running_loop().time() - since)
        return unrecorded, oldest_s

    async def run(self) -> None:
        """Record for ever."""
        pause_s = TRY_AGAIN_S[0]
        while True:
            await self._wait()
            try:
                await self._record_batch()
                pause_s = TRY_AGAIN_S[0]
                if self.trouble is not None:
                    log.info("PostgreSQL takes what is to be recorded again")
                self.trouble = None
            except DatabaseAway as error:
                if pause_s == TRY_AGAIN_S[0]:
                    log.error("PostgreSQL is away; journals keep what is to be recorded", error=first_line(error))
                self.trouble = first_line(error)
                await asyncio.sleep(pause_s)
                pause_s = min(pause_s * 2, TRY_AGAIN_S[1])

    async def finish(self) -> None:
        """Returns when everything known now is recorded."""
        for live in self._lives:
            self.note(live)
        self._hurry = True
        self._wake.set()
        await self._idle.wait()

    async def _wait(self) -> None:
        """Until an end is to be recorded, or a second has passed since something else was to be."""
        while not self._dirty:
            self._idle.set()
            self._wake.clear()
            await self._wake.wait()
        while not self._ends and not self._hurry:
            self._wake.clear()
            try:
                async with asyncio.timeout_at(next(iter(self._dirty.values()))):
                    await self._wake.wait()
            except TimeoutError:
                return
        if not self._hurry:
            await asyncio.sleep(GATHER_S)

    def _due(self) -> list[int]:
        """What is to be recorded now: ends, and what has waited for a second. Most commands are recorded once."""
        now = asyncio.get_running_loop().time()
        others = takewhile(lambda one: self._hurry or one[1] <= now, self._dirty.items())
        return [*self._ends, *(one for one, _ in others if one not in self._ends)][:BATCH_COMMANDS]

    async def _record_batch(self) -> None:
        ids = self._due()
        batch: list[tuple[Live, Progress, Mark]] = []
        room = BATCH_BYTES
        for command_id in ids:
            live = self._lives.get(command_id)
            if live is not None and live.recorded is not None and room > 0:
                progress, mark = _progress(live, room)
                room -= sum(len(chunk.bytes) for chunk in progress.chunks)
                batch.append((live, progress, mark))
            elif live is None:
                self._done(command_id)
        # A row that already says all there is to say needs no writing.
        needed = [one for one in batch if one[1].command != one[0].row or one[1].chunks]
        ends = any(progress.command.final for _, progress, _ in needed)
        if ends:
            self._fault.die_at("before_commit")
        written = await self._store.record([progress for _, progress, _ in needed]) if needed else set()
        if ends:
            self._fault.die_at("after_commit")
        for live, progress, mark in batch:
            if live.id in written or progress.command == live.row:
                self._recorded(live, progress.command, mark)
            else:
                await self.compare(live)

    def _recorded(self, live: Live, command: Command, mark: Mark) -> None:
        if live.row is not None:
            self.on_recorded(live.row, command)
        live.recorded, live.row = mark, command
        if command.final:
            self.forget(live)
            log_end(command)
        if command.final or not live.ended:
            self._done(live.id)
        if not command.final and mark.file != live.followed.file:
            self.note(live)  # more has come meanwhile

    def _done(self, command_id: int) -> None:
        self._dirty.pop(command_id, None)
        self._ends.discard(command_id)

    def forget(self, live: Live) -> None:
        """The final row is committed: the journal has done its work."""
        journals = () if self._spares.keep(live) else (self._places.journal(live.id),)
        stdins = (self._places.stdin(live.id),) if live.command.stdin_open else ()
        tails = self._places.tail(live.id) if live.story.tailed else ()
        for path in (*journals, *tails, self._places.control(live.id), *stdins):
            try:
                os.unlink(path)
            except FileNotFoundError:
                pass  # its worker has removed it
            except OSError as error:
                # The next API that finds it compares it with its row, and removes it.
                log.error("a file of a command stays behind", command=live.command, path=path, error=error.strerror)
        self._lives.remove(live)

    async def compare(self, live: Live) -> None:
        """Read a command's row to learn where its recording stands; then it goes on from there."""
        row = await self._store.get(live.id)
        if row is None and _is_at_work(self._places.journal(live.id)):
            log.error("a command runs and has no row, as if accepted with another database", command=live.command)
            self._done(live.id)
            return
        if row is None or row.final:
            if row is None:
                log.error("a command has a journal and no row; its journal is removed", command=live.command)
            elif live.recorded is not None:
                log_end(row)  # recorded by a commit of ours whose answer was lost
                self.on_recorded(live.row or row, row)
            # Else an API before us has recorded it, and said so.
            self._done(live.id)
            self.forget(live)
            return
        if live.row is not None:
            self.on_recorded(live.row, row)
        live.recorded, live.row = _place_of(row, live), row
        self.note(live)


def _is_at_work(path: str) -> bool:
    try:
        return journal.is_locked(path)
    except FileNotFoundError:
        return False


def _place_of(row: Command, live: Live) -> Mark:
    """The place in the journal after exactly what the row says is recorded.

    Batches end where frames end, so there is one.
    """
    counts = (row.stdout_bytes, row.stderr_bytes)
    mark = live.mark_at(None, sum(counts))
    if (mark.stdout, mark.stderr) == counts:
        return mark
    for _, after in live.pieces(mark):
        if (after.stdout, after.stderr) == counts:
            return after
    stdout_bytes, stderr_bytes = counts
    log.error(
        "a journal and the recorded output disagree",
        command=live.command,
        stdout_bytes=stdout_bytes,
        stderr_bytes=stderr_bytes,
    )
    return Mark(live.followed.file, *counts)


def _progress(live: Live, room: int) -> tuple[Progress, Mark]:
    """What is to be recorded of a command, at most about ``room`` bytes of output, and the place after it."""
    assert live.recorded is not None
    chunks = _Chunks()
    mark = live.recorded
    complete = True
    for chunk, after in live.pieces(mark):
        if chunks.total_bytes >= room:
            complete = False
            break
        if chunk is not None:
            chunks.add(chunk)
        mark = after
    command = live.command
    if complete:
        mark = live.followed
    else:
        # The end is told only with the last of the output.
        command = _unended(command)
    if not command.final:
        # What lies in a tail is recorded at the end, when it is known what is kept of it.
        command = command.but(stdout_bytes=mark.stdout, stderr_bytes=mark.stderr)
    return Progress(command, (live.recorded.stdout, live.recorded.stderr), chunks.all()), mark


def _unended(command: Command) -> Command:
    if not command.final:
        return command
    return command.but(
        status="running",
        reason=None,
        exit_code=None,
        signal=None,
        ended_at=None,
        duration_s=None,
        masked=None,
        evidence=None,
    )


class _Chunks:
    """Pieces of output made into rows: joined where they follow each other, cut where they are too long."""

    def __init__(self) -> None:
        self._whole: list[Chunk] = []
        self._first: Chunk | None = None  # of those being joined
        self._parts: list[bytes] = []
        self._joined_bytes = 0
        self.total_bytes = 0

    def add(self, chunk: Chunk) -> None:
        self.total_bytes += len(chunk.bytes)
        first = self._first
        follows = first is not None and first.stream == chunk.stream
        follows = follows and first is not None and first.position + self._joined_bytes == chunk.position
        if not follows or self._joined_bytes + len(chunk.bytes) > CHUNK_BYTES:
            self._flush()
            self._first = chunk
        self._parts.append(chunk.bytes)
        self._joined_bytes += len(chunk.bytes)

    def _flush(self) -> None:
        if self._first is None:
            return
        joined = b"".join(self._parts)
        for start in range(0, len(joined), CHUNK_BYTES):
            first = self._first
            part = joined[start : start + CHUNK_BYTES]
            self._whole.append(Chunk(first.position + start, first.stream, first.offset + start, first.time, part))
        self._first, self._parts, self._joined_bytes = None, [], 0

    def all(self) -> list[Chunk]:
        self._flush()
        return self._whole


def log_end(command: Command) -> None:
    """The one line that the log has about the end of a command."""
    say = log.error if command.status == "lost" else log.info
    say(
        "a command ended",
        command=command,
        status=command.status,
        reason=command.reason,
        exit_code=command.exit_code,
        signal=command.signal,
        duration_s=command.duration_s,
    )
