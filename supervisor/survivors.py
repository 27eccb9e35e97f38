"""Who lives on though KILL was sent: in uninterruptible sleep, most often. It is said, and waited for.

One command must not wait for what another one left, but nobody can be sure whose an orphan is. So as long as anybody
may still be killed, all dead workers' commands wait for all orphans; of those who are beyond that, each for its own.
"""

from __future__ import annotations

import os

from protocol import journal, linux, story
from supervisor.fallen import Fallen, owner_of
from worker.watch import MAX_UNKILLABLE, UNKILLABLE_AFTER_S


class Survivors:
    """How long who has been killed without dying of it. Times are monotonic."""

    def __init__(self) -> None:
        self._since: dict[tuple[int, int], float] = {}  # (pid, start time) → when it was first found alive

    def holding_up(
        self, alive: list[linux.Process], fallen: list[Fallen], now: float
    ) -> dict[int, list[linux.Process]]:
        """Command → for whom it has to wait. ``alive``: who was found in this round."""
        self._since = {(one.pid, one.start_time): self._since.get((one.pid, one.start_time), now) for one in alive}
        if not self.beyond_killing(now):
            return {each.id: alive for each in fallen}
        owners = [(one, owner_of(one, fallen)) for one in alive]
        return {each.id: [one for one, owner in owners if owner is None or owner is each] for each in fallen}

    def beyond_killing(self, now: float) -> bool:
        """True when all who are left have been killed for so long that it is of no use."""
        return all(now - since >= UNKILLABLE_AFTER_S for since in self._since.values())


def say_unkillable(one: Fallen, path: str, at_ns: int, survivors: list[linux.Process]) -> bool:
    """Write into the journal whom we cannot kill, if it does not say so yet; true when it was written.

    Raises ``OSError`` when the disk is full.
    """
    pids = sorted(survivor.pid for survivor in survivors)[:MAX_UNKILLABLE]
    if pids == one.unkillable:
        return False
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False  # recorded and deleted meanwhile
    try:
        if not journal.lock(fd) or not journal.is_at(path, fd):
            return False
        now, position = story.read(path)
        if now.ended is not None:
            return False
        facts = {"processes": [{"pid": pid, "wchan": linux.wchan(pid)} for pid in pids]}
        journal.Writer(fd, position).append_facts(journal.UNKILLABLE, max(at_ns, now.last_time_ns), facts)
    finally:
        os.close(fd)
    one.unkillable = pids
    return True
