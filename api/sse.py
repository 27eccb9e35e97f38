"""Server-sent events as bytes (WHATWG HTML, section 9.2). One ``data`` line an event, whatever it holds."""

from __future__ import annotations

import json
from typing import Any

# What keeps a silent connection from being taken for a dead one.
COMMENT = b": nothing new\n\n"


def encode(name: str, event_id: str, value: dict[str, Any]) -> bytes:
    """One event. ASCII alone: some clients take U+2028 or U+0085, too, for the end of a line."""
    return f"event: {name}\nid: {event_id}\ndata: {json.dumps(value, separators=(',', ':'))}\n\n".encode("ascii")
