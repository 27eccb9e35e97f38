"""The supervisor's view of one worker: a child it forked, or one it found alive and adopted."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass, field

from protocol import journal, linux
from protocol.story import Story

SILENT_AFTER_S = 2.0  # how long after a deadline of its own a worker may take before we look after it


@dataclass
class PendingStop:
    """A stop to be passed on to the worker."""

    signal: int
    grace_s: float
    reason: str
    requested_at_ns: int | None
    delivered: bool = False


@dataclass
class Child:
    """One worker. Times are monotonic."""

    id: int
    grace_s: float
    timeout_due: float | None  # when the worker should have dealt with the timeout
    pidfd: int | None = None  # of an adopted worker; how our own end, the forker tells
    stops: list[PendingStop] = field(default_factory=list)
    silent_at: float | None = None  # when to look whether the worker did what it was told
    taken_over: PendingStop | None = None  # the stop that we carry out because the worker did not
    tries: int = 0  # forks that came to nothing

    def undelivered(self) -> list[PendingStop]:
        """The stops that the worker has not been told of."""
        return [stop for stop in self.stops if not stop.delivered]


def adopt(story: Story) -> int | None:
    """A pidfd of the worker that the journal names; None if that process is not there any more.

    The pidfd pins the process before its identity is compared: a reused pid cannot be adopted.
    """
    assert story.worker is not None
    try:
        pidfd = os.pidfd_open(story.worker["pid"])
    except ProcessLookupError:
        return None
    now = linux.process(story.worker["pid"])
    if now is None or not now.alive or now.start_time != story.worker["start_time"]:
        os.close(pidfd)
        return None
    return pidfd


def is_silent(story: Story) -> bool:
    """True when a worker that should be stopping its command is not: stopped itself, or it never reacted."""
    if story.worker is None:
        return True
    now = linux.process(story.worker["pid"])
    return story.stopping is None or (now is not None and now.state in "Tt")


def kill_worker(path: str, story: Story) -> bool:
    """End a worker with KILL, if it is proven to be the one that holds this journal's lock."""
    if story.worker is None or not journal.is_locked(path):
        return False
    pidfd = adopt(story)
    if pidfd is None:
        return False
    try:
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    finally:
        os.close(pidfd)
    return True
