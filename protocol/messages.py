"""What API and supervisor say to each other over the queues: orders ask, reports tell what happened.

Each is small, frozen and typed, and pickles to at most ``MAX_MESSAGE_BYTES``: a report only says *which*
command changed, its journal says *what*. So reports may be merged or dropped, and bulk never crosses a queue.
"""

from __future__ import annotations

from dataclasses import dataclass

MAX_MESSAGE_BYTES = 4096  # PIPE_BUF: longer writes to a pipe may be torn (pipe(7))
MAX_CHANGED_IDS = 256  # keeps a Changed under MAX_MESSAGE_BYTES whatever the ids


@dataclass(frozen=True, slots=True)
class Run:
    """Order: let a worker take this command. Any number of times: its journal lets it run once."""

    id: int
    timeout_s: float | None  # for the supervisor's own timer, should the worker fall silent
    grace_s: float


@dataclass(frozen=True, slots=True)
class Stop:
    """Order: signal the command's group, kill the whole tree after the grace. Answered by ``Accepted``."""

    ticket: int
    id: int
    signal: int
    grace_s: float
    requested_at_ns: int  # since the epoch; returned unchanged in the journal
    by: str | None = None  # the token of who asks; returned likewise


@dataclass(frozen=True, slots=True)
class Ping:
    """Order: say that you live. Answered by ``Accepted``."""

    ticket: int


@dataclass(frozen=True, slots=True)
class Accepted:
    """Report: the order with this ticket has been taken; a stop now lies where only its worker takes it from."""

    ticket: int


@dataclass(frozen=True, slots=True)
class Changed:
    """Report: the journals of these commands (at most ``MAX_CHANGED_IDS``) have something new."""

    ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Draining:
    """Report: Bashd is being shut down; accept no new commands and hand over none."""


@dataclass(frozen=True, slots=True)
class Closing:
    """Report: every command has ended or is left to its worker; write what is unwritten and exit.

    ``within_s`` is what is left of the shutdown's time.
    """

    within_s: float


Order = Run | Stop | Ping
Report = Accepted | Changed | Draining | Closing
