"""Commands that are handed over and not yet recorded as final, followed through their journals.

The journal is the truth about them: what is served here needs neither PostgreSQL nor the supervisor.
"""

from __future__ import annotations

import asyncio
import bisect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime

from api.command import Command, at
from api.rows import STREAMS, Chunk
from protocol import journal, tail
from protocol.places import Places, tail_paths
from protocol.story import Story

INDEX_EVERY_BYTES = 256 * 1024  # of journal, between two entries of the index
FOLLOW_AT_ONCE_BYTES = 4 * 1024 * 1024  # of journal, read in one go before others get their turn
READER_HOLDS_BYTES = 64 * 1024  # of journal, by each who reads for a client: there may be hundreds, and slow ones
_STREAM_OF = {journal.STDOUT: STREAMS["stdout"], journal.STDERR: STREAMS["stderr"]}


@dataclass(frozen=True, slots=True)
class InTail:
    """A place in one of the files of a tail (``protocol.tail``)."""

    begins_at: int  # names the file
    file: int  # the position in it
    stdout: int
    stderr: int


class Mark:
    """A place in a journal: the file position after a frame, and the bytes of each stream before it."""

    __slots__ = ("beyond", "file", "in_journal", "stderr", "stdout")

    def __init__(
        self,
        file: int,
        stdout: int,
        stderr: int,
        beyond: InTail | None = None,
        in_journal: tuple[int, int] | None = None,
    ) -> None:
        """``beyond``: of a place in the tail. ``in_journal``: the bytes before ``file``, if a reader has more."""
        self.file = file
        self.stdout = stdout
        self.stderr = stderr
        self.beyond = beyond
        self.in_journal = in_journal or (stdout, stderr)

    def of(self, stream: int | None) -> int:
        """Bytes of the stream (None: of both) before this place."""
        return (self.stdout, self.stderr)[stream - 1] if stream else self.stdout + self.stderr


class Live:
    """One command and the story of its journal so far."""

    def __init__(self, command: Command, path: str, on_change: Callable[[Command], None]) -> None:
        """Raises ``FileNotFoundError`` without a journal."""
        self.command = command
        self._on_change = on_change
        self.story = Story()
        self._tail_paths = tail_paths(path)
        self._tail: InTail | None = None  # how far the tail has been followed
        self.news = 0  # how often there was something new
        self.noted = 0  # up to which of them it was noted to be recorded; who reads for a client may find news too
        self._reader = journal.Reader(path)
        self._index = [Mark(journal.START, 0, 0)]
        # Where the row stands; None until it has been compared with the database.
        self.recorded: Mark | None = None
        self.row: Command | None = None  # what of it was last recorded
        self._removed = False
        self._readers = 0  # who goes on reading it, whatever becomes of its name
        self._changed: asyncio.Future[None] | None = None

    @property
    def id(self) -> int:
        return self.command.id

    @property
    def ended(self) -> bool:
        return self.story.ended is not None

    @property
    def over(self) -> bool:
        """Nothing more will come from here: it has ended, or is not followed any more."""
        return self.ended or self._removed

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Keep the journal readable for as long as this lasts, even when its command is recorded and forgotten."""
        self._readers += 1
        try:
            yield
        finally:
            self._readers -= 1

    def is_ours_alone(self, at_most_bytes: int) -> bool:
        """True when the journal is no longer and nobody else has it open; then its lock is ours until ``remove``."""
        return not self._readers and self._reader.position <= at_most_bytes and self._reader.lock()

    def remove(self) -> None:
        """Note that nobody follows it any more; who waits for a change looks again."""
        self._removed = True
        if not self._readers:
            self._reader.close()
        self.wake()

    def follow(self) -> bool:
        """Read what is new; true when there may be more. Wakes those who wait in ``change``."""
        before = self._reader.position
        for frame in self._reader.frames(FOLLOW_AT_ONCE_BYTES):
            self.story.apply(frame)
            # After output alone: so the bytes of both streams before a mark are where a kept byte ends.
            if frame.kind in _STREAM_OF and frame.end - self._index[-1].file >= INDEX_EVERY_BYTES:
                self._index.append(Mark(frame.end, self.story.stdout_bytes, self.story.stderr_bytes))
        beyond = self.story.tailed and not self.ended and self._follow_tail()
        if self._reader.position == before and not beyond:
            return False
        self.news += 1
        told = self.command.told_by(self.story)
        if not self.ended:
            stdout, stderr = self._reached
            told = told.but(stdout_bytes=stdout, stderr_bytes=stderr)
        self._show(told)
        return self._reader.position - before >= FOLLOW_AT_ONCE_BYTES

    @property
    def _reached(self) -> tuple[int, int]:
        """Bytes of each stream that are known of, in the journal or in its tail."""
        stdout, stderr = self.story.stdout_bytes, self.story.stderr_bytes
        if self._tail is not None and not self.ended:
            return max(stdout, self._tail.stdout), max(stderr, self._tail.stderr)
        return stdout, stderr

    def _follow_tail(self) -> bool:
        """Count what is new in the tail, without reading it; true when there is something."""
        before = self._tail
        for one in tail.files(self._tail_paths):
            if self._tail is not None and one.begins_at < self._tail.begins_at:
                continue
            stdout, stderr = one.place
            if self._tail is not None and one.begins_at == self._tail.begins_at:
                one.reader.position = self._tail.file
                stdout, stderr = self._tail.stdout, self._tail.stderr
            for kind, length in one.reader.headers():
                if kind == journal.STDOUT:
                    stdout += length
                elif kind == journal.STDERR:
                    stderr += length
            self._tail = InTail(one.begins_at, one.reader.position, stdout, stderr)
        return self._tail != before

    def note_stop(self, requested_at: datetime, by: str | None) -> None:
        """Show that a stop was asked for, and by whom, before the worker has written it down."""
        if not self.ended and self.command.stop_requested_at is None:
            self._show(self.command.but(stop_requested_at=requested_at, stopped_by=by))

    @property
    def stdin_open(self) -> bool | None:
        """Whether what is written into its stdin is read; None while nobody may write there yet."""
        return self.story.stdin_open

    def note_stdin_closed(self) -> None:
        """Know that its stdin is closed, before the worker has written it down."""
        self.story.stdin_open = False

    def is_abandoned(self) -> bool:
        """True when its journal was deleted under it and no worker holds that: no end will ever stand there."""
        return not self.ended and self._reader.is_abandoned()

    def give_up(self, at_ns: int) -> None:
        """Show that nobody can know how it ended."""
        self.story.ended = {"status": "lost", "reason": "journal_gone", "evidence": {"journal": "was deleted"}}
        self.story.ended_at_ns = at_ns
        self._show(self.command.told_by(self.story))

    def _show(self, command: Command) -> None:
        before, self.command = self.command, command
        if command.condition != before.condition:
            self._on_change(command)
        self.wake()

    def wake(self) -> None:
        """Let those who wait look again."""
        if self._changed is not None:
            self._changed.set_result(None)
            self._changed = None

    async def change(self) -> None:
        """Wait until something is new."""
        # Shielded: one of many who wait may be cancelled.
        await asyncio.shield(self.next_change())

    def next_change(self) -> asyncio.Future[None]:
        """The word that something is new, which many may wait for: nobody may cancel it."""
        if self._changed is None:
            self._changed = asyncio.get_running_loop().create_future()
        return self._changed

    def mark_at(self, stream: int | None, offset: int) -> Mark:
        """A place at or before ``offset`` bytes of the stream."""
        index = bisect.bisect_right(self._index, offset, key=lambda mark: mark.of(stream))
        return self._index[max(0, index - 1)]

    def pieces(self, mark: Mark, *, hold_bytes: int | None = None) -> Iterator[tuple[Chunk | None, Mark]]:
        """The output after ``mark`` that has been followed, each piece with the place after it.

        A missing range gives no chunk, only its place; the offsets go on behind it. ``hold_bytes``: no more of the
        journal than this is kept in memory meanwhile, a single frame excepted.
        """
        stdout, stderr = mark.stdout, mark.stderr
        end = self._reader.position
        reader = self._reader.again(mark.file)
        if hold_bytes is not None:
            reader.READ_BYTES = (reader.READ_BYTES[0], hold_bytes)
        for frame in reader.frames():
            if frame.end > end:
                return
            stream = _STREAM_OF.get(frame.kind)
            if stream is not None:
                time = at(frame.time_ns)
                assert time is not None
                chunk = Chunk(stdout + stderr, stream, (stdout, stderr)[stream - 1], time, frame.payload)
                if stream == 1:
                    stdout += len(frame.payload)
                else:
                    stderr += len(frame.payload)
                yield chunk, Mark(frame.end, stdout, stderr)
            elif frame.kind == journal.MISSING:
                facts = frame.facts()
                if facts["stream"] == "stdout":
                    stdout = facts["to"]
                else:
                    stderr = facts["to"]
                yield None, Mark(frame.end, stdout, stderr)

    def printed(self, mark: Mark, *, hold_bytes: int) -> Iterator[tuple[Chunk | None, Mark]]:
        """The output after ``mark`` for those who read: that of ``pieces``, and what lies in the tail.

        What comes from the tail now stands in the journal later, or is named there as missing. So a reader goes on from
        what he has of each stream, wherever that is by now, and no byte is given twice.
        """
        stdout, stderr = mark.stdout, mark.stderr
        for chunk, after in self._sequence(mark, hold_bytes):
            if chunk is None:
                if after.stdout <= stdout and after.stderr <= stderr:
                    continue
                stdout, stderr = max(stdout, after.stdout), max(stderr, after.stderr)
                yield None, Mark(after.file, stdout, stderr, after.beyond, after.in_journal)
                continue
            known = stdout if chunk.stream == 1 else stderr
            start = max(0, known - chunk.offset)
            if start >= len(chunk.bytes):
                continue
            other = chunk.position - chunk.offset
            end = chunk.offset + len(chunk.bytes)
            stdout, stderr = (end, max(stderr, other)) if chunk.stream == 1 else (max(stdout, other), end)
            yield chunk.part(start, len(chunk.bytes)), Mark(after.file, stdout, stderr, after.beyond, after.in_journal)

    def _sequence(self, mark: Mark, hold_bytes: int) -> Iterator[tuple[Chunk | None, Mark]]:
        """The journal from ``mark`` on, and then its tail."""
        while True:
            followed = self._reader.position
            if mark.beyond is None or mark.file != followed:
                for chunk, after in self.pieces(Mark(mark.file, *mark.in_journal), hold_bytes=hold_bytes):
                    mark = Mark(after.file, after.stdout, after.stderr, mark.beyond)
                    yield chunk, mark
            if self._reader.position != followed and self.story.tailed:
                continue  # while a slow reader took a piece, the journal was followed on
            if not self.story.tailed or self.ended:
                return
            found = tail.files(self._tail_paths)
            if self._is_whole(found, mark.beyond):
                yield from self._beyond(found, mark.beyond, hold_bytes)
                return
            # A file has given way to a newer one: what became of it stands in the journal by now.
            news = self.news
            self.follow()
            if self.news == news:
                return

    def _is_whole(self, found: list[tail.File], beyond: InTail | None) -> bool:
        """True when nothing is between what was read and what these files have."""
        if not found or (beyond is not None and any(one.begins_at == beyond.begins_at for one in found)):
            return True
        return found[0].begins_at <= self.story.stdout_bytes + self.story.stderr_bytes

    def _beyond(
        self, found: list[tail.File], beyond: InTail | None, hold_bytes: int
    ) -> Iterator[tuple[Chunk | None, Mark]]:
        # As they are now: while a slow reader takes a piece, the journal is followed on.
        file, in_journal = self._reader.position, (self.story.stdout_bytes, self.story.stderr_bytes)
        reached = self._reached
        for one in found:
            if beyond is not None and one.begins_at < beyond.begins_at:
                continue
            stdout, stderr = one.place
            if beyond is not None and one.begins_at == beyond.begins_at:
                one.reader.position, stdout, stderr = beyond.file, beyond.stdout, beyond.stderr
            one.reader.READ_BYTES = (one.reader.READ_BYTES[0], hold_bytes)
            for frame in one.reader.frames():
                stream = _STREAM_OF.get(frame.kind)
                if stream is None:
                    continue
                time = at(frame.time_ns)
                assert time is not None
                chunk = Chunk(stdout + stderr, stream, (stdout, stderr)[stream - 1], time, frame.payload)
                stdout += len(frame.payload) * (stream == 1)
                stderr += len(frame.payload) * (stream == 2)
                if stdout > reached[0] or stderr > reached[1]:
                    return  # the command as it is shown does not know of it yet
                place = InTail(one.begins_at, frame.end, stdout, stderr)
                yield chunk, Mark(file, stdout, stderr, place, in_journal)

    @property
    def followed(self) -> Mark:
        """The place up to which the journal has been read."""
        return Mark(self._reader.position, self.story.stdout_bytes, self.story.stderr_bytes)


class Lives:
    """All live commands of this API, by id."""

    def __init__(self, places: Places) -> None:
        self._places = places
        self._by_id: dict[int, Live] = {}
        self._running: set[int] = set()  # ids of those that have not ended
        self._arrived = asyncio.Event()
        self._turns: dict[int, set[asyncio.Future[None]]] = {}  # of those who wait for commands that wait
        self.on_change: Callable[[Command], None] = lambda _command: (
            None
        )  # told of every change of a condition; set before the first is added
        self.closing = False  # the process is about to end: nobody may wait any more

    def __len__(self) -> int:
        return len(self._by_id)

    def __iter__(self) -> Iterator[Live]:
        return iter(list(self._by_id.values()))

    def get(self, command_id: int) -> Live | None:
        return self._by_id.get(command_id)

    def running(self) -> int:
        """How many have not ended."""
        return len(self._running)

    def statuses(self) -> dict[int, str]:
        """The status that each really has."""
        return {live.id: live.command.status for live in self._by_id.values()}

    def shown(self, command: Command) -> Command:
        """The live state of a command whose row was read."""
        live = self._by_id.get(command.id)
        return live.command if live is not None else command

    def add(self, command: Command) -> Live:
        """Begin to follow a command's journal; raises ``FileNotFoundError`` without one."""
        live = self._by_id[command.id] = Live(command, self._places.journal(command.id), self._note)
        self._running.add(command.id)
        self._arrived.set()
        self.announce(command.id)
        return live

    def remove(self, live: Live) -> None:
        """Stop following: its final row is committed, or it never was a command."""
        del self._by_id[live.id]
        self._running.discard(live.id)
        live.remove()

    def _note(self, command: Command) -> None:
        """The condition of a command is another. It may have been removed, and somebody still reads its journal."""
        live = self._by_id.get(command.id)
        if live is not None and live.ended:
            self._running.discard(command.id)
        self.on_change(command)

    async def arrival(self) -> None:
        """Wait until there is a live command."""
        while not self._by_id:
            self._arrived.clear()
            await self._arrived.wait()

    @contextmanager
    def turn(self, command_id: int) -> Iterator[asyncio.Future[None]]:
        """A future that is done when the command becomes live, or ends without: from here on no word is missed."""
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._turns.setdefault(command_id, set()).add(turn)
        try:
            yield turn
        finally:
            turns = self._turns[command_id]
            turns.discard(turn)
            if not turns:
                del self._turns[command_id]

    def announce(self, command_id: int) -> None:
        """Let those look again who wait for a command that is not live."""
        for turn in self._turns.get(command_id, ()):
            if not turn.done():
                turn.set_result(None)

    def changed(self, command: Command) -> None:
        """Note that a command that is not live is new, or has become another."""
        self.on_change(command)
        self.announce(command.id)

    def close(self) -> None:
        """Let everybody look again who waits for anything: the process is about to end."""
        self.closing = True
        for live in self:
            live.wake()
        for command_id in self._turns:
            self.announce(command_id)
