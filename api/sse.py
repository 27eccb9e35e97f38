"""Server-sent events as bytes (WHATWG HTML, section 9.2). One ``data`` line an event, whatever it holds."""

from __future__ import annotations

import asyncio
import json
from typing import Any

SILENCE_S = 15.0  # after so long without anything new those who listen are told that we are still there
# What keeps a silent connection from being taken for a dead one.
COMMENT = b": nothing new\n\n"


def encode(name: str, event_id: str, value: dict[str, Any]) -> bytes:
    """One event. ASCII alone: some clients take U+2028 or U+0085, too, for the end of a line."""
    return f"event: {name}\nid: {event_id}\ndata: {json.dumps(value, separators=(',', ':'))}\n\n".encode("ascii")


async def heard(word: asyncio.Future[None]) -> bool:
    """Wait for a word that others may wait for too; false after ``SILENCE_S`` without it."""
    done, _ = await asyncio.wait({word}, timeout=SILENCE_S)  # leaves the word as it is, also when we are cancelled
    return bool(done)
