"""What happens to one command, as events: its statuses, its output, its end.

The id of an event is the place behind it: how far the command had come, and how many bytes of each stream there were.
It says nothing of how the bytes were cut into pieces, so it means the same while the command runs, when it is told from
the database, and after any restart (docs/decisions/0020).
"""

from __future__ import annotations

import base64
import re
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from dataclasses import dataclass

from api import sse
from api.command import Command, iso
from api.commands import Commands
from api.live import Live, Lives, Mark
from api.output import Closing, Output, Pause
from api.problems import Malformed, NotFound, Unavailable
from api.rows import STREAMS, Chunk
from api.store import DatabaseAway

PART_BYTES = 16 * 1024  # the most that one event holds: with what JSON makes of it, up to 96 KiB
NOTHING, QUEUED, RUNNING, ENDED = -1, 0, 1, 2  # how far a command had come
_NAMES = {number: name for name, number in STREAMS.items()}
_ID = re.compile(r"([012])-([0-9]{1,19})-([0-9]{1,19})")


@dataclass(slots=True)
class Place:
    """A place among the events of a command."""

    rank: int
    stdout: int
    stderr: int

    def __str__(self) -> str:
        return f"{self.rank}-{self.stdout}-{self.stderr}"

    @classmethod
    def parse(cls, text: str) -> Place:
        """Raises ``Malformed``."""
        found = _ID.fullmatch(text)
        if found is None:
            raise unusable(f"{text[:80]!r} is not the id of an event of a command; those are like 1-4096-0")
        return cls(*map(int, found.groups()))


def unusable(message: str) -> Malformed:
    """Why nobody can go on from a Last-Event-ID."""
    return Malformed(f"Last-Event-ID: {message}.", errors=[("Last-Event-ID", message)])


class Events:
    """The events of commands, one at a time."""

    def __init__(self, commands: Commands, lives: Lives, output: Output) -> None:
        self._commands = commands
        self._lives = lives
        self._output = output

    async def check(self, command_id: int, place: Place | None) -> None:
        """Raises ``NotFound``, ``Unavailable``, and ``Malformed`` for a place that is none of this command."""
        command = await self._commands.get(command_id)
        if place is not None and not await self._is_place(command, place):
            raise unusable(
                f"{place} is no place among the events of command {command_id}: use the id of one of them. It is"
                f" {command.status}, its stdout has {command.stdout_bytes} bytes, its stderr {command.stderr_bytes}"
            )

    async def _is_place(self, command: Command, place: Place) -> bool:
        here, there = (place.stdout, place.stderr), (command.stdout_bytes, command.stderr_bytes)
        match place.rank:
            case 0:
                return here == (0, 0)
            case 2:
                return command.final and here == there
        if command.worker_pid is None or place.stdout > command.stdout_bytes or place.stderr > command.stderr_bytes:
            return False
        if any(_is_missing(command, *one) for one in zip(("stdout", "stderr"), here, _next(here), strict=True)):
            # It was told live: what came between has given way, and the other stream may stand a little later now.
            return True
        position = sum(here)
        match await self._output.next_piece(command, position):
            case Chunk() as chunk:
                reached = _before(chunk)
                if chunk.position <= position:
                    ahead = position - chunk.position
                    return here == (reached[0] + ahead * (chunk.stream == 1), reached[1] + ahead * (chunk.stream == 2))
            case None:
                reached = there
            case mark:
                reached = (mark.stdout, mark.stderr)
        return all(_is_missing(command, *one) for one in zip(("stdout", "stderr"), here, reached, strict=True))

    async def tell(self, command_id: int, place: Place | None) -> AsyncGenerator[bytes, None]:
        """The events after a place that ``check`` has found good, or all of them. Ends after ``end``.

        Without ``end`` it ends when the process does, or PostgreSQL is away: who listens comes again.
        """
        told = _Told(place)
        try:
            while True:
                live = self._lives.get(command_id)
                if live is not None:
                    async with aclosing(self._tell_live(live, told)) as events:
                        async for event in events:
                            yield event
                    if live.ended:
                        return
                    continue
                with self._lives.turn(command_id) as turn:
                    command = await self._commands.get(command_id)
                    if self._lives.get(command_id) is not None:
                        continue
                    for event in told.statuses(command):
                        yield event
                    if not command.final:
                        for event in told.now(command):
                            yield event
                        if self._lives.closing:
                            return
                        if not await sse.heard(turn):
                            yield sse.COMMENT
                        continue
                async with aclosing(self._tell_recorded(command, told)) as events:
                    async for event in events:
                        yield event
                return
        except (Closing, NotFound, Unavailable, *DatabaseAway):
            return

    async def _tell_live(self, live: Live, told: _Told) -> AsyncGenerator[bytes, None]:
        mark = live.mark_at(None, told.place.stdout + told.place.stderr)
        async with aclosing(self._output.live(live, mark, follow=True)) as pieces:
            async for piece in pieces:
                for event in told.statuses(live.command):
                    yield event
                match piece:
                    case Pause.SILENCE:
                        yield sse.COMMENT
                    case Pause.ALL_GIVEN:
                        for event in told.now(live.command):
                            yield event
                    case _:
                        for event in told.output(piece):
                            yield event
        if live.ended:
            for event in told.end(live.command):
                yield event

    async def _tell_recorded(self, command: Command, told: _Told) -> AsyncGenerator[bytes, None]:
        position = told.place.stdout + told.place.stderr
        async with aclosing(self._output.stored(command.id, stream=None, offset=position)) as chunks:
            async for chunk in chunks:
                for event in told.output(chunk):
                    yield event
        for event in told.end(command):
            yield event


class _Told:
    """What one listener has been told, and from it what he is to be told next."""

    def __init__(self, place: Place | None) -> None:
        self.place = place or Place(NOTHING, 0, 0)
        self._condition: object = None  # of the command as last told; None: nobody knows

    def statuses(self, command: Command) -> Iterator[bytes]:
        """The statuses that it has come through and that anybody can derive, ever after."""
        if self.place.rank < QUEUED:
            yield self._status(QUEUED, _as_queued(command))
        if self.place.rank < RUNNING and command.worker_pid is not None:
            yield self._status(RUNNING, _as_started(command))

    def now(self, command: Command) -> Iterator[bytes]:
        """A command that has not ended as it is, unless that is what was told last.

        The event has the id of its place, which says nothing of it: nobody could tell it again later.
        """
        if not command.final and command.condition != self._condition:
            yield self._status(self.place.rank, command)

    def _status(self, rank: int, command: Command) -> bytes:
        self.place.rank = rank
        self._condition = command.condition
        return sse.encode("status", str(self.place), command.to_json())

    def output(self, piece: Chunk | Mark) -> Iterator[bytes]:
        """What of a piece has not been told, and before it the bytes that were not kept."""
        if isinstance(piece, Mark):
            yield from self._gaps(piece.stdout, piece.stderr)
            return
        yield from self._gaps(*_before(piece))
        known = self.place.stdout if piece.stream == 1 else self.place.stderr
        start = max(0, known - piece.offset)
        while start < len(piece.bytes):
            part = piece.part(start, start + _length(piece.bytes, start))
            start += len(part.bytes)
            self._move(part.stream, part.offset + len(part.bytes))
            yield sse.encode("output", str(self.place), _shown(part))

    def end(self, command: Command) -> Iterator[bytes]:
        """The last event."""
        yield from self.statuses(command)
        yield from self._gaps(command.stdout_bytes, command.stderr_bytes)
        self.place.rank = ENDED
        yield sse.encode("end", str(self.place), command.to_json())

    def _gaps(self, stdout: int, stderr: int) -> Iterator[bytes]:
        for stream, here, to in ((1, self.place.stdout, stdout), (2, self.place.stderr, stderr)):
            if here < to:
                self._move(stream, to)
                yield sse.encode("gap", str(self.place), {"stream": _NAMES[stream], "from": here, "to": to})

    def _move(self, stream: int, to: int) -> None:
        if stream == 1:
            self.place.stdout = to
        else:
            self.place.stderr = to


def _before(chunk: Chunk) -> tuple[int, int]:
    """Bytes of stdout and stderr before a chunk."""
    other = chunk.position - chunk.offset
    return (chunk.offset, other) if chunk.stream == 1 else (other, chunk.offset)


def _is_missing(command: Command, stream: str, first: int, to: int) -> bool:
    """True when all bytes from ``first`` up to ``to`` were counted and not kept; also when there are none."""
    ranges = (command.truncated or {}).get(stream, [])
    return first == to or any(begin <= first and to <= end for begin, end in ranges)


def _next(place: tuple[int, int]) -> tuple[int, int]:
    """Where the next byte of each stream ends."""
    return place[0] + 1, place[1] + 1


def _length(content: bytes, start: int) -> int:
    """How much of ``content`` from ``start`` on makes one event: whole characters, as far as it is UTF-8.

    Bytes of a character that began or ends in another chunk are an event of their own, so that all around it is text.
    """
    end = min(start + PART_BYTES, len(content))
    first = start
    while first < end and first - start < 3 and content[first] & 0xC0 == 0x80:
        first += 1
    if first > start:
        return first - start
    last = end - 1
    while last > start and end - last < 4 and content[last] & 0xC0 == 0x80:
        last -= 1
    # A byte that leads more than follow it here.
    leads = next((count for count, lead in ((4, 0xF0), (3, 0xE0), (2, 0xC0)) if content[last] >= lead), 1)
    return last - start if leads > end - last and last > start else end - start


def _shown(part: Chunk) -> dict[str, str | int]:
    shown: dict[str, str | int] = {"stream": _NAMES[part.stream], "offset": part.offset, "time": iso(part.time)}
    try:
        shown["text"] = part.bytes.decode()
    except UnicodeDecodeError:
        shown["base64"] = base64.b64encode(part.bytes).decode()
    return shown


def _as_queued(command: Command) -> Command:
    """A command as it was before its worker had it."""
    return _as_started(command).but(status="queued", pid=None, worker_pid=None, started_at=None)


def _as_started(command: Command) -> Command:
    """A command as it was before it printed anything."""
    return command.but(
        status="running",
        reason=None,
        exit_code=None,
        signal=None,
        paused=False,
        stop_requested_at=None,
        ended_at=None,
        duration_s=None,
        stdout_bytes=0,
        stderr_bytes=0,
        truncated=None,
        swept_group=0,
        swept_escaped=0,
        swept_left=0,
        cpu_s=None,
        max_rss_bytes=None,
        signals=[],
        peak_memory_bytes=None,
        masked=None,
        evidence=None,
    )
