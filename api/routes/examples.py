"""Commands to show in the description: one that runs, one that is being stopped, one that has ended."""

from __future__ import annotations

from typing import Any

RUNNING: dict[str, Any] = {
    "id": 42,
    "name": None,
    "labels": {},
    "status": "running",
    "reason": None,
    "exit_code": None,
    "signal": None,
    "pid": 4711,
    "worker_pid": 4710,
    "paused": False,
    "script": "echo hello",
    "args": [],
    "cwd": None,
    "run_as": None,
    "timeout_s": 300.0,
    "grace_s": 5.0,
    "leftovers": "kill",
    "merge_stderr": False,
    "limits": {"memory_bytes": None, "cpu_s": 600, "file_bytes": None, "open_files": None, "processes": None},
    "stdin_open": False,
    "rerun_of": None,
    "requested_by": "ci",
    "traceparent": None,
    "created_at": "2026-01-31T12:00:00.123456Z",
    "started_at": "2026-01-31T12:00:00.125012Z",
    "stop_requested_at": None,
    "stopped_by": None,
    "ended_at": None,
    "duration_s": None,
    "stdout_bytes": 0,
    "stderr_bytes": 0,
    "truncated": None,
    "signals": [],
    "masked": None,
    "swept": {"group": 0, "escaped": 0, "left": 0},
    "usage": {"cpu_s": None, "max_rss_bytes": None, "peak_memory_bytes": None},
    "evidence": None,
}

STOPPING = {**RUNNING, "stop_requested_at": "2026-01-31T12:00:03.000815Z", "stopped_by": "ci"}

ENDED = {
    **RUNNING,
    "status": "succeeded",
    "reason": "exit",
    "exit_code": 0,
    "ended_at": "2026-01-31T12:00:00.128104Z",
    "duration_s": 0.003092,
    "stdout_bytes": 6,
    "masked": 0,
    "usage": {"cpu_s": 0.001502, "max_rss_bytes": None, "peak_memory_bytes": None},
}
