"""Reading what a command printed: from its journal while there is one, else from PostgreSQL."""

from __future__ import annotations

from collections.abc import AsyncIterator

from api.command import Command
from api.live import Live, Lives
from api.store import Chunk, Store

ROWS_AT_ONCE = 16  # of at most 64 KiB each


class Output:
    """Gives the bytes of one stream (1 stdout, 2 stderr) or of both (None) in recorded order."""

    def __init__(self, store: Store, lives: Lives) -> None:
        self._store = store
        self._lives = lives

    async def read(
        self, command: Command, *, stream: int | None, offset: int, limit: int | None, follow: bool
    ) -> AsyncIterator[bytes]:
        """The bytes from ``offset`` on, at most ``limit``; with ``follow`` until the command has ended.

        Offsets count every byte the command wrote; those that were not kept are passed over.
        """
        left = limit
        async for chunk in self._chunks(command, stream, offset, follow):
            start = max(0, offset - _start(chunk, stream))
            piece = chunk.bytes[start:] if left is None else chunk.bytes[start : start + left]
            if piece:
                yield piece
            if left is not None:
                left -= len(piece)
                if left <= 0:
                    return

    def _chunks(self, command: Command, stream: int | None, offset: int, follow: bool) -> AsyncIterator[Chunk]:
        # The journal first: between the two, the end of a command moves it from there into the database.
        live = self._lives.get(command.id)
        if live is not None:
            return self._live(live, stream, offset, follow)
        return self._stored(command.id, stream, offset)

    async def _live(self, live: Live, stream: int | None, offset: int, follow: bool) -> AsyncIterator[Chunk]:
        mark = live.mark_at(stream, offset)
        with live.reading():
            while True:
                # Looked at before the reading: while a slow client takes a piece, more may come, and the end.
                over, followed = live.over, live.followed.file
                for chunk, after in live.pieces(mark):
                    mark = after
                    wanted = chunk is not None and (stream is None or chunk.stream == stream)
                    if chunk is not None and wanted and _start(chunk, stream) + len(chunk.bytes) > offset:
                        yield chunk
                if not follow or over:
                    return
                if live.followed.file == followed and not live.over:
                    await live.change()

    async def _stored(self, command_id: int, stream: int | None, offset: int) -> AsyncIterator[Chunk]:
        position = await self._store.first_position(command_id, stream=stream, offset=offset)
        while position is not None:
            chunks = await self._store.output(command_id, from_position=position, stream=stream, count=ROWS_AT_ONCE)
            for chunk in chunks:
                yield chunk
            position = chunks[-1].position + 1 if len(chunks) == ROWS_AT_ONCE else None

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
