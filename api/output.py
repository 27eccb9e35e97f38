"""Reading what a command printed: from its journal while there is one, else from PostgreSQL."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from enum import Enum

from api import sse
from api.command import Command
from api.live import READER_HOLDS_BYTES, Live, Lives, Mark
from api.rows import STREAMS, Chunk
from api.store import Store

ROWS_AT_ONCE = 4  # of at most 64 KiB each: what a reader who takes his time keeps in our memory
_NAMES = {number: name for name, number in STREAMS.items()}


class Pause(Enum):
    """What a follower is told between two pieces."""

    ALL_GIVEN = "there is nothing more for now"
    SILENCE = "there has been nothing for a while"


class Closing(Exception):
    """The process is about to end, and what is followed goes on: the reader has to come again."""


class Output:
    """Gives the bytes of one stream (1 stdout, 2 stderr) or of both (None) in recorded order."""

    def __init__(self, store: Store, lives: Lives) -> None:
        self._store = store
        self._lives = lives

    async def read(
        self, command: Command, *, stream: int | None, offset: int, limit: int | None, follow: bool
    ) -> AsyncIterator[bytes]:
        """The bytes of ``chunks``."""
        async with aclosing(self.chunks(command, stream=stream, offset=offset, limit=limit, follow=follow)) as chunks:
            async for chunk in chunks:
                yield chunk.bytes

    async def chunks(
        self, command: Command, *, stream: int | None, offset: int, limit: int | None, follow: bool
    ) -> AsyncGenerator[Chunk, None]:
        """What was written from ``offset`` on, at most ``limit`` bytes; with ``follow`` until the command has ended.

        Offsets count every byte the command wrote; those that were not kept are passed over. Raises ``Closing`` when
        the process ends before the command that is followed.
        """
        left = limit
        async with aclosing(self._chunks(command, stream, offset, follow)) as chunks:
            async for chunk in chunks:
                start = max(0, offset - _start(chunk, stream))
                part = chunk.part(start, len(chunk.bytes) if left is None else start + left)
                if part.bytes:
                    yield part
                if left is not None:
                    left -= len(part.bytes)
                    if left <= 0:
                        return

    def _chunks(self, command: Command, stream: int | None, offset: int, follow: bool) -> AsyncGenerator[Chunk, None]:
        # The journal first: between the two, the end of a command moves it from there into the database.
        live = self._lives.get(command.id)
        if live is not None:
            return self._live(live, stream, offset, follow)
        return self.stored(command.id, stream=stream, offset=offset)

    async def _live(self, live: Live, stream: int | None, offset: int, follow: bool) -> AsyncGenerator[Chunk, None]:
        async with aclosing(self.live(live, live.mark_at(stream, offset), follow=follow)) as pieces:
            async for piece in pieces:
                if not isinstance(piece, Chunk) or (stream is not None and piece.stream != stream):
                    continue
                if _start(piece, stream) + len(piece.bytes) > offset:
                    yield piece

    async def live(self, live: Live, mark: Mark, *, follow: bool) -> AsyncGenerator[Chunk | Mark | Pause, None]:
        """The output after ``mark`` of a live command; with ``follow`` until it has ended.

        A missing range gives the place after it. Raises ``Closing``.
        """
        with live.reading():
            while True:
                # Looked at before the reading: while a slow client takes a piece, more may come, and the end.
                over, news = live.over, live.news
                for chunk, after in live.printed(mark, hold_bytes=READER_HOLDS_BYTES):
                    mark = after
                    yield after if chunk is None else chunk
                if not follow or over:
                    return
                if self._lives.closing and not live.over:
                    raise Closing
                if live.news != news or live.over:
                    continue
                # Asked for before the word is passed: what changes while that is under way is not missed.
                changed = live.next_change()
                yield Pause.ALL_GIVEN
                while not await sse.heard(changed):
                    yield Pause.SILENCE

    async def stored(self, command_id: int, *, stream: int | None, offset: int) -> AsyncGenerator[Chunk, None]:
        """The chunks of a recorded command that reach beyond ``offset``."""
        position = await self._store.first_position(command_id, stream=stream, offset=offset)
        while position is not None:
            chunks = await self._store.output(command_id, from_position=position, stream=stream, count=ROWS_AT_ONCE)
            position = chunks[-1].position + 1 if len(chunks) == ROWS_AT_ONCE else None
            # Let go of each as soon as it is given.
            chunks.reverse()
            while chunks:
                yield chunks.pop()

    async def next_piece(self, command: Command, position: int) -> Chunk | Mark | None:
        """What stands in the record behind ``position`` bytes of both streams; None when nothing does."""
        live = self._lives.get(command.id)
        if live is not None:
            for chunk, after in live.printed(live.mark_at(None, position), hold_bytes=READER_HOLDS_BYTES):
                if after.of(None) > position:
                    return after if chunk is None else chunk
            return None
        async with aclosing(self.stored(command.id, stream=None, offset=position)) as chunks:
            return await anext(chunks, None)

    async def missing_at(self, command: Command, stream: int | None, offset: int) -> tuple[int, int] | None:
        """The bytes from … up to … that were counted and not kept, if ``offset`` is among them."""
        if command.truncated is None:
            return None
        if stream is not None:
            ranges = command.truncated[_NAMES[stream]]
            return next(((first, to) for first, to in ranges if first <= offset < to), None)
        total = command.stdout_bytes + command.stderr_bytes
        live = self._lives.get(command.id)
        first, to = _kept_around(live, offset) if live else await self._store.kept_around(command.id, offset)
        to = total if to is None else to
        return (first, to) if first <= offset < to else None

    async def tails(self, commands: list[Command], tail_bytes: int) -> dict[int, bytes]:
        """For each command its last ``tail_bytes``, both streams, as far as they were kept."""
        found: dict[int, bytes] = {}
        stored: list[int] = []
        for command in commands:
            live = self._lives.get(command.id)
            if live is None:
                stored.append(command.id)
                continue
            offset = max(0, command.stdout_bytes + command.stderr_bytes - tail_bytes)
            pieces = [piece async for piece in self.read(command, stream=None, offset=offset, limit=None, follow=False)]
            found[command.id] = b"".join(pieces)[-tail_bytes:]
        if stored:
            for command_id, chunks in (await self._store.tails(stored, tail_bytes)).items():
                found[command_id] = b"".join(chunk.bytes for chunk in chunks)[-tail_bytes:]
        return found


def _start(chunk: Chunk, stream: int | None) -> int:
    return chunk.offset if stream else chunk.position


def _kept_around(live: Live, position: int) -> tuple[int, int | None]:
    """What ``Store.kept_around`` says, of a live command. A mark stands where a kept byte ends."""
    mark = live.mark_at(None, position)
    end = mark.of(None)
    for chunk, _ in live.printed(mark, hold_bytes=READER_HOLDS_BYTES):
        if chunk is None:
            continue
        if chunk.position + len(chunk.bytes) > position:
            return (min(end, position) if chunk.position >= position else position), max(chunk.position, position)
        end = chunk.position + len(chunk.bytes)
    return end, None
