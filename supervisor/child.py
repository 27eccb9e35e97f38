"""The supervisor's view of one worker: a child it forked, or one it found alive and adopted."""

from __future__ import annotations

from dataclasses import dataclass, field

from protocol.story import Story

SILENT_AFTER_S = 2.0  # how long after a deadline of its own a worker may take before we look after it


@dataclass
class PendingStop:
    """A stop to be passed on to the worker. ``ticket``: of the order that has to be answered then, if there is one."""

    signal: int
    grace_s: float
    reason: str
    requested_at_ns: int | None
    ticket: int | None = None
    delivered: bool = False
    by: str | None = None  # the token of who asked for it
    by_signal_at: float = float("inf")  # monotonic: when to do without the control pipe if it is gone

    def to_facts(self) -> dict[str, object]:
        """What the journal says of it."""
        return {
            "signal": self.signal,
            "reason": self.reason,
            "grace_s": self.grace_s,
            "requested_at_ns": self.requested_at_ns,
            "by": self.by,
        }


@dataclass
class Child:
    """One worker. Times are monotonic."""

    id: int
    grace_s: float
    timeout_due: float | None  # when the worker should have dealt with the timeout
    pidfd: int | None = None  # of an adopted worker; how our own end, the forker tells
    story: Story | None = None  # of an adopted worker, as far as it was told then
    stops: list[PendingStop] = field(default_factory=list)
    silent_at: float | None = None  # when to look whether the worker did what it was told
    hurry_at: float | None = None  # the end of the grace of a worker that was told by a signal
    taken_over: PendingStop | None = None  # the stop that we carry out because the worker did not
    end_told: bool = False  # its worker has reported that the journal holds the end
    said_no_disk: bool = False
    tries: int = 0  # forks that came to nothing

    def undelivered(self) -> list[PendingStop]:
        """The stops that the worker has not been told of."""
        return [stop for stop in self.stops if not stop.delivered]
