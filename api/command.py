"""A command as the API knows it: one record, the same whether it comes from a row or from a journal."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime, timedelta
from operator import attrgetter
from typing import Any

from protocol.limits import BOUNDS
from protocol.status import FINAL
from protocol.story import Story

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
SCRIPT_IN_LIST = 200  # characters


@dataclass(frozen=True, slots=True)
class Command:
    """Everything that is known of a command. Names are those of the table's columns."""

    id: int
    script: str
    created_at: datetime
    grace_s: float
    output_limit_bytes: int
    name: str | None = None
    labels: dict[str, str] = field(default_factory=dict)
    args: list[str] = field(default_factory=list)
    env: dict[str, str] = field(default_factory=dict)
    cwd: str | None = None
    secrets: str | None = None  # sealed (``protocol.sealed``), in base64
    stdin: str | None = None
    stdin_open: bool = False
    run_as: str | None = None
    timeout_s: float | None = None  # None: no limit
    leftovers: str = "kill"
    merge_stderr: bool = False
    on_output_limit: str = "truncate"
    limits: dict[str, int] = field(default_factory=dict)  # those that hold (``protocol.limits``)
    rerun_of: int | None = None
    requested_by: str | None = None  # the token of who asked for it; None: not known, as for older rows
    traceparent: str | None = None  # the place in a trace that its request named
    handed_boot_id: str | None = None  # None while it only waits
    status: str = "queued"
    reason: str | None = None
    exit_code: int | None = None  # None when a signal ended it, or nobody knows
    signal: int | None = None
    pid: int | None = None
    worker_pid: int | None = None
    paused: bool = False
    started_at: datetime | None = None
    stop_requested_at: datetime | None = None
    stopped_by: str | None = None  # the token of who asked for its stop
    ended_at: datetime | None = None
    duration_s: float | None = None
    stdout_bytes: int = 0
    stderr_bytes: int = 0
    truncated: dict[str, Any] | None = None  # stream → missing ranges [from, to); and the reason
    swept_group: int = 0
    swept_escaped: int = 0
    swept_left: int = 0
    cpu_s: float | None = None
    max_rss_bytes: int | None = None
    signals: list[dict[str, Any]] = field(default_factory=list)  # {"signal", "at"}: sent for clients
    peak_memory_bytes: int | None = None
    masked: int | None = None  # how often a secret was replaced; None while it runs, and when nobody knows
    evidence: dict[str, Any] | None = None

    @property
    def final(self) -> bool:
        return self.status in FINAL

    @property
    def condition(self) -> tuple[Any, ...]:
        """What of it is worth a word to those who watch: when this differs, they are told of it."""
        return self.status, self.paused, self.pid, self.stop_requested_at, self.evidence, self.signals[-1:]

    def but(self, **changes: Any) -> Command:
        """The same with other values of these: ``dataclasses.replace`` at half its price, for it is done so often."""
        values = dict(zip(_NAMES, _values_of(self), strict=True))
        values.update(changes)
        return Command(**values)

    def spec(self) -> dict[str, Any]:
        """The first frame of its journal: what a worker needs, and what finds it again without the database."""
        return {
            "id": self.id,
            "script": self.script,
            "args": self.args,
            "env": self.env,
            "secrets": self.secrets,
            "cwd": self.cwd,
            "stdin": self.stdin,
            "stdin_open": self.stdin_open,
            "timeout_s": self.timeout_s,
            "grace_s": self.grace_s,
            "leftovers": self.leftovers,
            "merge_stderr": self.merge_stderr,
            "run_as": self.run_as,
            "output_limit_bytes": self.output_limit_bytes,
            "on_output_limit": self.on_output_limit,
            "limits": self.limits,
            "name": self.name,
            "labels": self.labels,
            "rerun_of": self.rerun_of,
            "requested_by": self.requested_by,
            "traceparent": self.traceparent,
            "created_at_us": (self.created_at - EPOCH) // timedelta(microseconds=1),
            "handed_boot_id": self.handed_boot_id,
        }

    @classmethod
    def from_spec(cls, spec: dict[str, Any]) -> Command:
        """The command whose journal begins with ``spec``."""
        facts = dict(spec)
        created_at = EPOCH + timedelta(microseconds=facts.pop("created_at_us"))
        return cls(created_at=created_at, **facts)

    def again(self, created_at: datetime, *, requested_by: str | None, traceparent: str | None) -> Command:
        """A new command that asks for the same, in a trace of its own. It has no id yet."""
        asked = {**self.spec(), "id": 0, "rerun_of": self.id, "handed_boot_id": None, "created_at_us": 0}
        asked["requested_by"], asked["traceparent"] = requested_by, traceparent
        return Command.from_spec(asked).but(created_at=created_at)

    def told_by(self, story: Story) -> Command:
        """This command as its journal tells it."""
        worker, bash, ended = story.worker or {}, story.bash or {}, story.ended or {}
        swept, usage = ended.get("swept") or {}, ended.get("usage") or {}
        status = ended.get("status") or ("running" if story.worker else self.status)
        stopping = story.stopping or {}
        requested = stopping.get("requested_at_ns")
        return self.but(
            status=status,
            reason=ended.get("reason"),
            exit_code=ended.get("exit_code"),
            signal=ended.get("signal"),
            pid=bash.get("pid"),
            worker_pid=worker.get("pid"),
            paused=story.paused,
            started_at=at(story.started_at_ns),
            # A request that left no trace in the journal is forgotten at the end: the next API could not know of it.
            stop_requested_at=at(requested) if requested else None if ended else self.stop_requested_at,
            stopped_by=stopping.get("by") if stopping or ended else self.stopped_by,
            ended_at=at(story.ended_at_ns),
            duration_s=ended.get("duration_s"),
            stdout_bytes=story.stdout_bytes,
            stderr_bytes=story.stderr_bytes,
            truncated=_truncated(story),
            swept_group=swept.get("group", 0),
            swept_escaped=swept.get("escaped", 0),
            swept_left=swept.get("left", 0),
            cpu_s=usage.get("cpu_s"),
            max_rss_bytes=usage.get("max_rss_bytes"),
            signals=[{"signal": one["signal"], "at": _iso(at(one["time_ns"]))} for one in story.signals],
            peak_memory_bytes=usage.get("peak_memory_bytes"),
            masked=ended.get("masked"),
            evidence=_evidence(story),
        )

    def to_json(self, *, script_at_most: int | None = None) -> dict[str, Any]:
        """The command as HTTP shows it. Every key is always there, none depends on now."""
        return {
            "id": self.id,
            "name": self.name,
            "labels": dict(sorted(self.labels.items())),
            "status": self.status,
            "reason": self.reason,
            "exit_code": self.exit_code,
            "signal": self.signal,
            "pid": self.pid,
            "worker_pid": self.worker_pid,
            "paused": self.paused,
            "script": self.script if script_at_most is None else self.script[:script_at_most],
            "args": self.args,
            "cwd": self.cwd,
            "stdin_open": self.stdin_open,
            "run_as": self.run_as,
            "timeout_s": self.timeout_s,
            "grace_s": self.grace_s,
            "leftovers": self.leftovers,
            "merge_stderr": self.merge_stderr,
            "limits": {name: self.limits.get(name) for name in BOUNDS},
            "rerun_of": self.rerun_of,
            "requested_by": self.requested_by,
            "traceparent": self.traceparent,
            "created_at": _iso(self.created_at),
            "started_at": _iso(self.started_at),
            "stop_requested_at": _iso(self.stop_requested_at),
            "stopped_by": self.stopped_by,
            "ended_at": _iso(self.ended_at),
            "duration_s": self.duration_s,
            "stdout_bytes": self.stdout_bytes,
            "stderr_bytes": self.stderr_bytes,
            "truncated": self.truncated and {key: self.truncated[key] for key in ("stdout", "stderr", "reason")},
            "signals": [{"signal": one["signal"], "at": one["at"]} for one in self.signals],
            "masked": self.masked,
            "swept": {"group": self.swept_group, "escaped": self.swept_escaped, "left": self.swept_left},
            "usage": {
                "cpu_s": self.cpu_s,
                "max_rss_bytes": self.max_rss_bytes,
                "peak_memory_bytes": self.peak_memory_bytes,
            },
            "evidence": _plain(self.evidence),  # a jsonb column gives keys back in an order of its own
        }


_NAMES = tuple(one.name for one in fields(Command))
_values_of: Callable[[Command], tuple[Any, ...]] = attrgetter(*_NAMES)


def at(ns: int | None) -> datetime | None:
    """Nanoseconds since the epoch as a time of microseconds, which is what PostgreSQL keeps."""
    return None if ns is None else EPOCH + timedelta(microseconds=ns // 1000)


def now() -> datetime:
    return datetime.now(UTC)


def iso(time: datetime) -> str:
    """A time as HTTP shows it: ISO 8601, UTC, microseconds."""
    return f"{time.astimezone(UTC).isoformat(timespec='microseconds')[:-6]}Z"


def _iso(time: datetime | None) -> str | None:
    return None if time is None else iso(time)


def _evidence(story: Story) -> dict[str, Any] | None:
    """Who could not be killed, which stays true at the end; and what the end says besides."""
    unkillable = {"unkillable": story.unkillable["processes"]} if story.unkillable else {}
    found = unkillable | ((story.ended or {}).get("evidence") or {})
    return _plain(found) if found else None


def _truncated(story: Story) -> dict[str, Any] | None:
    if not story.missing:
        return None
    truncated: dict[str, Any] = {"stdout": [], "stderr": [], "reason": "output_limit"}
    for one in story.missing:
        truncated[one["stream"]].append([one["from"], one["to"]])
        # Of two reasons the one that was not asked for. Journals of an earlier version name none.
        if truncated["reason"] == "output_limit":
            truncated["reason"] = one.get("reason", "output_limit")
    return truncated


def _plain(value: Any) -> Any:
    """Evidence as it is shown and kept: sorted keys, and no NUL or lone surrogate, which jsonb refuses."""
    if isinstance(value, dict):
        return {_plain(key): _plain(value[key]) for key in sorted(value)}
    if isinstance(value, list):
        return [_plain(one) for one in value]
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode().replace("\0", "\ufffd")
    return value
