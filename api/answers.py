"""What clients are given, as models that describe it. Answers are not made from them: a test holds the two equal."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema

from api.models import MAX_ID
from protocol.status import REASONS, STATUSES

_STATUS = {"type": "string", "enum": list(STATUSES)}
_REASON = {"type": "string", "enum": list(REASONS)}

Id = Annotated[int, Field(ge=1, le=MAX_ID)]
Count = Annotated[int, Field(ge=0)]
Time = Annotated[
    datetime, WithJsonSchema({"type": "string", "format": "date-time", "examples": ["2026-01-31T12:00:00.123456Z"]})
]


def _glossary(words: dict[str, str]) -> str:
    return "; ".join(f"`{word}`: {meaning}" for word, meaning in words.items()) + "."


class Answer(BaseModel):
    """Every member is always there, and there is no other."""

    model_config = ConfigDict(extra="forbid")


class Truncated(Answer):
    """What was written and not kept: ranges of bytes, each `[from, to)`, and why."""

    stdout: list[Annotated[list[Count], Field(min_length=2, max_length=2)]]
    stderr: list[Annotated[list[Count], Field(min_length=2, max_length=2)]]
    reason: Literal["output_limit", "disk_full", "disk_failed"]


class Swept(Answer):
    """How many processes had to be ended after bash, or were left."""

    group: Count = Field(description="In its process group.")
    escaped: Count = Field(description="Escaped from its group.")
    left: Count = Field(description="Left alive, as `leftovers` asked for.")


class Usage(Answer):
    """What the command used, as the kernel counted; `null` when nobody knows."""

    cpu_s: float | None
    max_rss_bytes: int | None = Field(description="Of the largest process.")
    peak_memory_bytes: int | None = Field(description="Of all processes at once, of a command with a cgroup.")


class LimitsAnswer(Answer):
    """The limits that hold, those of the service included; `null`: none of ours."""

    memory_bytes: int | None
    cpu_s: int | None
    file_bytes: int | None
    open_files: int | None
    processes: int | None


class Sent(Answer):
    """A signal that was sent to the group because a client asked for it."""

    signal: int
    at: Time


class CommandAnswer(Answer):
    """A command as it is now. Once it is final nothing in it changes."""

    id: Id
    name: str | None
    labels: dict[str, str]
    status: Annotated[str, WithJsonSchema(_STATUS)] = Field(description=_glossary(STATUSES))
    reason: Annotated[str, WithJsonSchema(_REASON)] | None = Field(description=_glossary(REASONS))
    exit_code: int | None = Field(description="`null` when a signal ended it, or nobody knows.")
    signal: int | None = Field(description="The number of the signal that ended bash.")
    pid: int | None = Field(description="Of bash, and of its process group.")
    worker_pid: int | None = Field(description="Of its parent.")
    paused: bool = Field(description="Bash is stopped, as by SIGSTOP.")
    script: str = Field(description="In a list its first 200 characters.")
    args: list[str]
    cwd: str | None
    stdin_open: bool = Field(description="Its standard input may be fed while it runs.")
    run_as: str | None
    timeout_s: float | None
    grace_s: float
    leftovers: Literal["kill", "wait", "leave"]
    merge_stderr: bool
    limits: LimitsAnswer
    rerun_of: Id | None = Field(description="The command of which it is a copy, which may be gone by now.")
    requested_by: str | None = Field(description="The name of the token with which it was asked for.")
    traceparent: str | None = Field(description="Of the request that made it, as far as it was valid.")
    created_at: Time
    started_at: Time | None
    stop_requested_at: Time | None
    stopped_by: str | None = Field(description="The name of the token with which its stop was asked for.")
    ended_at: Time | None
    duration_s: float | None
    stdout_bytes: Count = Field(description="Written so far, kept or not.")
    stderr_bytes: Count
    truncated: Truncated | None
    signals: list[Sent] = Field(description="What `POST …/signal` has sent it, the newest 50.")
    masked: Count | None = Field(
        description="How often a secret was replaced by `***` in what it printed; `null` while it runs, or unknown."
    )
    swept: Swept
    usage: Usage
    evidence: dict[str, Any] | None = Field(
        description="What is known of one that is `lost`; and, as `unkillable`, who did not end though it was killed."
    )


class CommandsAnswer(Answer):
    """One page of commands."""

    items: list[CommandAnswer]
    next: str | None = Field(description="The `cursor` of the next page; `null` on the last.")
    searched: Count = Field(default=0, description="Only with `q`: in how many of the newest commands was looked.")


class CountsAnswer(Answer):
    """How many commands there are of each status."""

    queued: Count
    running: Count
    succeeded: Count
    failed: Count
    stopped: Count
    lost: Count


class FedAnswer(Answer):
    """What became of the bytes for a command's stdin."""

    taken_bytes: Count = Field(description="They are in the pipe that bash reads.")
    closed: bool = Field(description="Its stdin ends behind them.")


class ProcessAnswer(Answer):
    """One process, as the kernel shows it (proc_pid_stat(5))."""

    pid: int
    ppid: int
    pgid: int
    sid: int
    state: str
    uid: int | None
    user: str | None
    escaped: bool = Field(description="It has left the group.")
    cpu_s: float
    rss_bytes: Count
    age_s: float
    command_line: str = Field(description="Its arguments, up to 1,024 bytes of them.")


class ProcessesAnswer(Answer):
    """What is alive below the worker of a command."""

    command: Id
    worker_pid: int | None
    group: int | None = Field(description="The id of the process group, which is bash's pid.")
    complete: bool = Field(description="`false`: there are more processes than are shown.")
    processes: list[ProcessAnswer]


class AllProcessesAnswer(Answer):
    """The trees of all running commands, by id."""

    items: list[ProcessesAnswer]


class NothingEvent(Answer):
    """The data of an event `reset`."""


class FieldError(Answer):
    """What is wrong with one field or parameter."""

    field: str
    message: str


class ProblemAnswer(Answer):
    """Why it is not what was asked for (RFC 9457)."""

    type: str = Field(json_schema_extra={"pattern": "^/problems/[a-z-]+$"})
    title: str
    status: int = Field(ge=400, le=599)
    detail: str
    errors: list[FieldError]


class HealthAnswer(Answer):
    """It answers, so it is alive."""

    status: Literal["ok"]
    version: str


class CgroupsAnswer(Answer):
    """Which commands get a cgroup of their own, and what that can hold them to."""

    commands: Literal["none", "limited", "all"]
    controllers: list[str]
    why_not: str | None = Field(description="Why none, or not all controllers that could be of use.")


class ReadyAnswer(Answer):
    """Whether commands are accepted, and if not, what is in the way."""

    ready: bool
    version: str
    why: dict[str, str] = Field(description="What is in the way: the part, and a sentence.")
    cgroups: CgroupsAnswer


class DescriptionAnswer(BaseModel):
    """OpenAPI 3.1: https://spec.openapis.org/oas/v3.1.0"""

    model_config = ConfigDict(extra="allow")

    openapi: str
    info: dict[str, Any]
    paths: dict[str, Any]


class SeedCommandAnswer(Answer):
    """A command in the words of the service that Bashd succeeds."""

    id: Id
    script: str
    status: Literal["started", "success", "stopped", "error"]
    output: str = Field(description="Both streams in recorded order, U+FFFD for what is no UTF-8; in a list its end.")


class SeedErrorAnswer(Answer):
    """An error in the form of the service that Bashd succeeds."""

    error: str


class OutputEvent(BaseModel):
    """The data of an event `output`; bytes that are no UTF-8 come as `base64` instead of `text`."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"oneOf": [{"required": ["text"]}, {"required": ["base64"]}]}
    )

    stream: Literal["stdout", "stderr"]
    offset: Count = Field(description="Bytes of its stream before it.")
    time: Time
    text: str = ""
    base64: str = Field(default="", json_schema_extra={"contentEncoding": "base64"})


class GapEvent(Answer):
    """The data of an event `gap`: bytes `[from, to)` of a stream that were not kept."""

    stream: Literal["stdout", "stderr"]
    from_: Count = Field(alias="from")
    to: Count
