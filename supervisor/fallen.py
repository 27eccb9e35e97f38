"""What dead workers left: found, killed and counted, until nobody is left; then the end is recorded.

The orphans of a dead worker come to the supervisor (a subreaper) or, when the worker had been adopted, to init.
Re-parenting raises no signal, so they are looked for. After a crash of init too they go to the machine's first
process; there the proven group and the mark in their environment find all but those that cleared it.
"""

from __future__ import annotations

import fcntl
import json
import os
from dataclasses import dataclass, field
from typing import Any

from protocol import journal, linux, story, tail
from protocol.places import Places, command_ids, tail_paths
from supervisor.child import PendingStop
from worker.tree import kill_proven

ROUND_PAUSE_S = (0.002, 1.0)  # between two rounds of killing: doubled up to the last


@dataclass
class Fallen:
    """A command whose worker died before it could record the end."""

    id: int
    story: story.Story
    adopted: bool  # its orphans may be init's or the machine's, not ours
    host_died: bool  # its worker belonged to another life of this machine: nothing of it can be alive
    status: int | None  # the worker's wait status, if we know it
    taken_over: PendingStop | None = None  # we killed the worker to carry out this stop
    asked: PendingStop | None = None  # the first stop that was asked for, if the worker had not written it down
    bash_status: int | None = None  # wait status, when bash came to us
    seen: dict[tuple[int, int], bool] = field(default_factory=dict)  # (pid, start time) → in the group
    unkillable: list[int] = field(default_factory=list)  # pids that the journal names as such
    next_round: float = 0.0
    pause_s: float = ROUND_PAUSE_S[0]
    said_unrecorded: bool = False

    @property
    def group(self) -> int | None:
        return self.story.bash["pid"] if self.story.bash else None

    def owns(self, one: linux.Process) -> bool:
        """True when ``one`` is proven to come from this command, wherever it hangs now.

        Group and session keep their numbers from reuse as long as a member lives; the start time and the mark
        guard against numbers that came round after the last one had gone.
        """
        assert self.story.worker is not None
        if one.start_time < self.story.worker["start_time"]:
            return False
        if one.pid == self.group and self.story.bash is not None:
            return one.start_time == int(self.story.bash["start_time"])
        marked = linux.has_mark(one.pid, b"BASHD_COMMAND_ID=%d" % self.id)
        ours = one.pgid == self.group or one.sid == self.story.worker["pid"]
        return marked and (ours or not _has_live_worker(one))


def _has_live_worker(one: linux.Process) -> bool:
    """True when a living worker is above ``one``: then it is that worker's, of this Bashd or another."""
    ancestor: linux.Process | None = one
    while ancestor is not None and ancestor.ppid > 1:
        if linux.command_line(ancestor.ppid).startswith((b"bashd: worker", b"bashd: left")):
            return True
        ancestor = linux.process(ancestor.ppid)
    return False


def kill_round(
    fallen: list[Fallen], *, came_to_us: list[int], init_pid: int, init_known: set[int]
) -> list[linux.Process]:
    """Send KILL to everything the fallen left; returns who was alive.

    ``came_to_us`` are the orphans among our own children, ``init_known`` the children of init that are none.
    """
    came_to_init: list[int] = []
    if any(one.adopted and not one.host_died for one in fallen):
        came_to_init = [pid for pid in linux.children(init_pid) if pid not in init_known]
    orphans = linux.descendants(came_to_us + came_to_init)
    parents = {os.getpid(), init_pid} | {one.pid for one in orphans}
    elsewhere = _elsewhere(fallen, parents)
    for one in orphans:
        kill_proven(one, parents)
    for one in elsewhere:
        kill_proven(one, {one.ppid})
    for one in orphans + elsewhere:
        _count(one, fallen)
    return orphans + elsewhere


def _elsewhere(fallen: list[Fallen], searched: set[int]) -> list[linux.Process]:
    """What is proven to come from an adopted worker and hangs below none of us."""
    adopted = [one for one in fallen if one.adopted and not one.host_died]
    if not adopted:
        return []
    found = [linux.process(pid) for pid in linux.all_pids() if pid not in searched]
    return [one for one in found if one is not None and one.alive and any(each.owns(one) for each in adopted)]


def _count(one: linux.Process, fallen: list[Fallen]) -> None:
    """Remember a killed process for the record of the command that it came from."""
    owner = owner_of(one, fallen)
    if owner is not None:
        owner.seen[one.pid, one.start_time] = one.pgid == owner.group


def owner_of(one: linux.Process, fallen: list[Fallen]) -> Fallen | None:
    """Whose it is, as far as can be told: by its group, else by its mark, which a script may have changed."""
    for each in fallen:
        if one.pgid == each.group:
            return each
    for each in fallen:
        if len(fallen) == 1 or linux.has_mark(one.pid, b"BASHD_COMMAND_ID=%d" % each.id):
            return each
    return None


def left_worker_pids(places: Places) -> set[int]:
    """The workers that stay as parents of what a final command left on purpose."""
    pids = set()
    for command_id in command_ids(places.left):
        try:
            with open(places.left_file(command_id), "rb") as file:
                try:
                    fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
                except BlockingIOError:
                    pids.add(int(file.read() or b"0"))
        except FileNotFoundError:
            pass  # it has just ended
    return pids


def conclude(one: Fallen, path: str, at_ns: int, monotonic_s: float) -> bool:
    """Write how the command ended, as its dead worker's heir. False: somebody else holds the journal.

    Both times are now: of the wall clock, which may have been set since the start, and of the one that nobody sets.
    Raises ``OSError`` when the disk is full, with the journal as it was.
    """
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return True  # recorded and deleted meanwhile
    try:
        if not journal.lock(fd):
            return False
        if not journal.is_at(path, fd):
            return True  # the same, this moment
        now, position = story.read(path)
        if now.ended is None:
            writer = journal.Writer(fd, position)
            if now.tailed:
                _bring_tail(writer, now, path, at_ns)
            if now.stopping is None and one.asked is not None:
                writer.append_facts(journal.STOPPING, max(at_ns, now.last_time_ns), one.asked.to_facts())
            ending = _ending(one)
            ran_s = _ran_s(one, at_ns, monotonic_s)
            if now.started_at_ns is not None and ran_s is not None:
                ending["duration_s"] = round(ran_s, 6)
                at_ns = now.started_at_ns + int(ran_s * 1e9)
            writer.append_facts(journal.ENDED, max(at_ns, now.last_time_ns), ending)
            writer.release()
        return True
    finally:
        os.close(fd)


def _bring_tail(writer: journal.Writer, now: story.Story, path: str, at_ns: int) -> None:
    """Do what the worker would have done at the end: what is kept of the tail goes into the journal.

    What a full disk does not take is named as missing, out of the reserve.
    """
    assert now.spec is not None
    paths = tail_paths(path)
    place = (now.stdout_bytes, now.stderr_bytes)
    end = tail.end_of(paths, place)
    for kind, time_ns, payload in tail.settled(paths, place, end, now.spec["output_limit_bytes"]):
        now.last_time_ns = max(now.last_time_ns, time_ns)
        try:
            writer.append(kind, time_ns or now.last_time_ns, payload, keep=journal.RESERVE_BYTES)
        except OSError:
            break
        now.apply(journal.Frame(kind, time_ns or now.last_time_ns, payload, 0))
    for stream, here, to in (("stdout", now.stdout_bytes, end[0]), ("stderr", now.stderr_bytes, end[1])):
        if here < to:
            missing = {"stream": stream, "from": here, "to": to, "reason": "disk_full"}
            writer.append_facts(journal.MISSING, max(at_ns, now.last_time_ns), missing)
            now.apply(journal.Frame(journal.MISSING, now.last_time_ns, json.dumps(missing).encode(), 0))
    tail.remove(paths)


def _ran_s(one: Fallen, at_ns: int, monotonic_s: float) -> float | None:
    """How long ago bash was started; None when it was not."""
    if one.story.bash is None or one.story.started_at_ns is None:
        return None
    began_s = one.story.bash.get("monotonic_s")
    if one.host_died or began_s is None:  # the other clock began anew; or a journal of an earlier version
        return max(0.0, (at_ns - one.story.started_at_ns) / 1e9)
    return max(0.0, monotonic_s - float(began_s))


def _ending(one: Fallen) -> dict[str, Any]:
    in_group = sum(in_group for (pid, _), in_group in one.seen.items() if pid != one.group)
    escaped = sum(not in_group for in_group in one.seen.values())
    code = None if one.bash_status is None else os.waitstatus_to_exitcode(one.bash_status)
    ending: dict[str, Any] = {
        "status": "lost",
        "reason": "host_died" if one.host_died else "worker_died",
        "exit_code": None,
        "signal": None,
        "swept": {"group": in_group, "escaped": escaped, "left": 0},
        "usage": None,
        "evidence": _evidence(one),
        "duration_s": None,
    }
    if one.taken_over is not None:
        # We know what happened: the worker was silent, so we ended it and the command ourselves.
        reason = one.taken_over.reason
        ending["status"] = "failed" if reason == "timeout" else "stopped"
        ending["reason"] = reason
        if code is not None:
            ending["exit_code" if code >= 0 else "signal"] = abs(code)
    return ending


def _evidence(one: Fallen) -> dict[str, Any]:
    worker = one.story.worker or {}
    evidence: dict[str, Any] = {"worker_pid": worker.get("pid")}
    if one.status is not None:
        code = os.waitstatus_to_exitcode(one.status)
        evidence["worker_exit_code" if code >= 0 else "worker_signal"] = abs(code)
    if one.story.crash is not None:
        evidence["traceback"] = one.story.crash
    if one.taken_over is not None:
        evidence["worker"] = "silent: the supervisor carried out the stop"
    return evidence
