"""A client of Bashd for Python, and the command line on top of it. It knows the HTTP API alone.

Names are looked up when they are asked for: a word of the command line waits for no more than it needs.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from client.aio import AsyncClient, AsyncHandle
    from client.answers import Command, End, Event, Gap, Output, Process, Status, Tree
    from client.client import Client, Handle
    from client.errors import (
        BashdError,
        Conflict,
        Malformed,
        NoService,
        NotEnded,
        NotFound,
        Problem,
        QueueFull,
        Unauthorized,
        Unavailable,
        Unreachable,
    )

__all__ = [
    "AsyncClient",
    "AsyncHandle",
    "BashdError",
    "Client",
    "Command",
    "Conflict",
    "End",
    "Event",
    "Gap",
    "Handle",
    "Malformed",
    "NoService",
    "NotEnded",
    "NotFound",
    "Output",
    "Problem",
    "Process",
    "QueueFull",
    "Status",
    "Tree",
    "Unauthorized",
    "Unavailable",
    "Unreachable",
]

_ELSEWHERE = {
    "client.aio": {"AsyncClient", "AsyncHandle"},
    "client.answers": {"Command", "End", "Event", "Gap", "Output", "Process", "Status", "Tree"},
    "client.client": {"Client", "Handle"},
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = next((one for one, names in _ELSEWHERE.items() if name in names), "client.errors")
    return getattr(import_module(module), name)
