"""What Bashd says, as values: a command, its events, its processes. Fields that a newer Bashd adds are in ``row``."""

from __future__ import annotations

import base64
from dataclasses import dataclass, field, fields
from typing import Any, Self

FINAL = frozenset({"succeeded", "failed", "stopped", "lost"})


@dataclass(frozen=True)
class Row:
    """An object of the API: the fields that we know, and all of it in ``row``."""

    row: dict[str, Any] = field(repr=False, compare=False)

    @classmethod
    def of(cls, row: dict[str, Any]) -> Self:
        return cls(row=row, **{one.name: row.get(one.name) for one in fields(cls) if one.name != "row"})


@dataclass(frozen=True)
class Token(Row):
    """A token that may ask; ``secret`` only where it was made or rotated just now."""

    id: int
    name: str
    scope: str
    created_at: str
    created_by: str | None
    rotated_at: str | None
    expires_at: str | None  # None: never
    revoked_at: str | None
    secret: str | None


@dataclass(frozen=True)
class Command(Row):
    """A command as it was at one moment; in one that is ``final`` nothing changes any more."""

    id: int
    name: str | None
    labels: dict[str, str]
    status: str
    reason: str | None
    exit_code: int | None  # None when a signal ended it, or nobody knows
    signal: int | None
    pid: int | None
    worker_pid: int | None
    paused: bool
    script: str  # in lists its first 200 characters
    args: list[str]
    cwd: str | None
    stdin_open: bool
    run_as: str | None
    timeout_s: float | None
    grace_s: float
    leftovers: str
    merge_stderr: bool
    rerun_of: int | None
    created_at: str
    started_at: str | None
    stop_requested_at: str | None
    ended_at: str | None
    duration_s: float | None
    stdout_bytes: int
    stderr_bytes: int
    truncated: dict[str, Any] | None
    swept: dict[str, int]
    usage: dict[str, Any]
    signals: list[dict[str, Any]]
    evidence: dict[str, Any] | None

    @property
    def final(self) -> bool:
        """True when it has ended, however."""
        return self.status in FINAL


@dataclass(frozen=True)
class Process(Row):
    """A process of a command."""

    pid: int
    ppid: int
    pgid: int
    sid: int
    state: str
    uid: int | None
    user: str | None
    escaped: bool  # it has left the group
    cpu_s: float
    rss_bytes: int
    age_s: float
    command_line: str | None


@dataclass(frozen=True)
class Tree:
    """The processes of one command, parents before children."""

    row: dict[str, Any] = field(repr=False, compare=False)
    command: int
    complete: bool  # False: there are more than are named
    processes: list[Process]

    @classmethod
    def of(cls, row: dict[str, Any]) -> Tree:
        return cls(row, row["command"], row["complete"], [Process.of(one) for one in row["processes"]])


@dataclass(frozen=True)
class Page:
    """One page of a list, newest first."""

    items: list[Command]
    next: str | None  # the cursor of the following page


@dataclass(frozen=True)
class Status:
    """The command has become this."""

    command: Command


@dataclass(frozen=True)
class Output:
    """It has printed this."""

    stream: str
    offset: int  # bytes of its stream before it
    time: str
    bytes: bytes


@dataclass(frozen=True)
class Gap:
    """Bytes ``start`` up to ``stop`` of a stream were counted and not kept."""

    stream: str
    start: int
    stop: int


@dataclass(frozen=True)
class End:
    """It is final; nothing comes after this."""

    command: Command


Event = Status | Output | Gap | End


def event(name: str, data: dict[str, Any]) -> Event | None:
    """The event of this name; None for one that only a newer client knows."""
    match name:
        case "status":
            return Status(Command.of(data))
        case "output":
            text = data.get("text")
            printed = text.encode() if text is not None else base64.b64decode(data["base64"])
            return Output(data["stream"], data["offset"], data["time"], printed)
        case "gap":
            return Gap(data["stream"], data["from"], data["to"])
        case "end":
            return End(Command.of(data))
        case _:
            return None
