"""Answers that come piece by piece, for as long as it takes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

from sanic import Request

from api.handover import first_line
from api.log import Log
from api.output import Closing
from api.store import CommandRemoved, DatabaseAway

log = Log()


async def send(
    request: Request, pieces: AsyncGenerator[bytes, None], *, content_type: str, headers: dict[str, str]
) -> None:
    """Answer with these pieces, each asked for when the one before is on its way.

    ``send`` waits while more than 64 KiB lie in the connection's buffer, so a client that reads slowly holds one piece
    and that, and nobody else. One that goes away cancels us here; then whatever the pieces came from is let go at once.
    """
    async with aclosing(pieces):
        response = await request.respond(content_type=content_type, headers=headers)
        assert response is not None
        await response.send(b"")  # the head: the first piece may be long in coming
        try:
            async for piece in pieces:
                await response.send(piece)
                # A client that takes all at once would keep the others waiting.
                await asyncio.sleep(0)
        except (Closing, CommandRemoved, *DatabaseAway) as error:
            # Without the last chunk of the encoding the client knows that this is not all.
            if not isinstance(error, Closing):
                log.error("an answer is cut short", path=request.path, error=first_line(error))
            assert request.transport is not None
            request.transport.close()
            return
        await response.eof()
