"""What lies in a row: of a command, of its output, and what is sent to be written there."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from api.command import Command
from api.idempotency import Once

STREAMS = {"stdout": 1, "stderr": 2}


@dataclass(frozen=True, slots=True)
class Chunk:
    """Consecutive bytes of one stream."""

    position: int  # bytes of both streams before it
    stream: int  # 1 stdout, 2 stderr
    offset: int  # bytes of its stream before it
    time: datetime
    bytes: bytes

    def part(self, start: int, end: int) -> Chunk:
        """The bytes from ``start`` up to ``end`` of it."""
        if start == 0 and end >= len(self.bytes):
            return self
        return Chunk(self.position + start, self.stream, self.offset + start, self.time, self.bytes[start:end])


@dataclass(frozen=True, slots=True)
class Progress:
    """What is to be recorded of one command: its row as it is now, and the output since the last time."""

    command: Command  # its stdout_bytes and stderr_bytes are those after the chunks
    recorded: tuple[int, int]  # stdout and stderr bytes that the row should have now
    chunks: list[Chunk]


def new_row(command: Command, once: Once | None) -> dict[str, Any]:
    """What is inserted for a command, as JSON."""
    row = {
        "id": command.id,
        "handed_boot_id": command.handed_boot_id,
        "name": command.name,
        "labels": command.labels,
        "script": command.script,
        "args": command.args,
        "env": command.env,
        "secrets": command.secrets,
        "cwd": command.cwd,
        "stdin": None if command.stdin is None else base64.b64encode(command.stdin.encode()).decode(),
        "run_as": command.run_as,
        "timeout_s": command.timeout_s,
        "grace_s": command.grace_s,
        "leftovers": command.leftovers,
        "merge_stderr": command.merge_stderr,
        "output_limit_bytes": command.output_limit_bytes,
        "on_output_limit": command.on_output_limit,
        "limits": command.limits,
        "created_at": command.created_at.isoformat(),
        "stdin_open": command.stdin_open,
        "rerun_of": command.rerun_of,
        "requested_by": command.requested_by,
        "traceparent": command.traceparent,
    }
    if once is not None:
        row["idempotency_key"], row["request_digest"] = once.key, once.digest.hex()
    return row


def progress_row(one: Progress) -> dict[str, Any]:
    """What is updated, as JSON."""
    command = one.command
    row: dict[str, Any] = {
        name: getattr(command, name)
        for name in (
            "id", "status", "reason", "exit_code", "signal", "pid", "worker_pid", "duration_s", "stdout_bytes",
            "stderr_bytes", "truncated", "swept_group", "swept_escaped", "swept_left", "cpu_s", "max_rss_bytes",
            "evidence", "masked", "stopped_by", "signals", "peak_memory_bytes",
        )
    }  # fmt: skip
    for name in ("started_at", "stop_requested_at", "ended_at"):
        time = getattr(command, name)
        row[name] = None if time is None else time.isoformat()
    row["recorded_stdout"], row["recorded_stderr"] = one.recorded
    return row


def command_of(row: dict[str, Any]) -> Command:
    """The command that a row, by names of columns, tells of."""
    if row["stdin"] is not None:
        row["stdin"] = bytes(row["stdin"]).decode()
    if row["secrets"] is not None:
        row["secrets"] = base64.b64encode(row["secrets"]).decode()
    return Command(**row)
