"""The processes that the supervisor answers for, as the kernel shows them: adopted, ended, reaped, cleared up after."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable

from protocol import journal, linux, story
from protocol.places import Places, command_ids
from supervisor import fallen
from supervisor.fallen import Fallen
from worker import group
from worker.directory import start_removing

# Of a process that says it is a worker and has no lock to show: until then it takes one, or goes by itself.
BEGINNING_S = 3.0
# How long, and how often, a cgroup is tried to be removed: a kernel may take a moment after the last one has ended.
EMPTYING_S = 10.0
EMPTY_AGAIN_S = 0.02
BEGINNERS = (b"bashd: forker", b"bashd: spare", b"bashd: worker ")  # titles, from the fork to the lock


class Kin:
    """What the loop asks of the kernel, so that the loop itself only decides."""

    def __init__(
        self,
        places: Places,
        *,
        own_pids: set[int],
        init_pid: int,
        postgres_argv: list[str] | None,
        groups: str | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``own_pids``: children of ours that have to live as long as we (the forker).

        ``groups``: the cgroup below which commands may have one of their own.
        """
        self._places = places
        self._own_pids = own_pids
        self._init_pid = init_pid
        self._postgres_argv = [os.fsencode(one) for one in postgres_argv or ()]
        self._groups = groups
        self._clock = clock
        self._removing: set[int] = set()  # pids of rm(1) at work
        self._emptying: dict[str, float] = {}  # cgroups of dead workers' commands → until when they are tried
        self._beginners: dict[tuple[int, int], float] = {}  # (pid, start time) → when it was first seen at init's

    def adopt(self, facts: story.Story) -> int | None:
        """A pidfd of the worker that the journal names; None if that process is not there any more.

        The pidfd pins the process before its identity is compared: a reused pid cannot be adopted.
        """
        assert facts.worker is not None
        try:
            pidfd = os.pidfd_open(facts.worker["pid"])
        except ProcessLookupError:
            return None
        now = linux.process(facts.worker["pid"])
        if now is None or not now.alive or now.start_time != facts.worker["start_time"]:
            os.close(pidfd)
            return None
        return pidfd

    def is_paused(self, facts: story.Story) -> bool:
        """True when the worker itself is stopped (SIGSTOP) or traced."""
        assert facts.worker is not None
        now = linux.process(facts.worker["pid"])
        return now is not None and now.state in "Tt"

    def kill_worker(self, path: str, facts: story.Story) -> bool:
        """End a worker with KILL, if it is proven to be the one that holds this journal's lock."""
        if facts.worker is None or not journal.is_locked(path):
            return False
        pidfd = self.adopt(facts)
        if pidfd is None:
            return False
        try:
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        finally:
            os.close(pidfd)
        return True

    def has_bash(self, facts: story.Story) -> bool:
        """False when the bash that the journal names is dead."""
        if facts.bash is None:
            return True  # it may have been started this moment
        now = linux.process(facts.bash["pid"])
        return now is not None and now.alive and now.start_time == facts.bash["start_time"]

    def signal_worker(self, command_id: int, pidfd: int | None, number: int) -> bool:
        """Send a worker a signal without asking its journal. ``pidfd``: that of an adopted one.

        Ours are the forker's children, and nobody else is. False: there is no such worker.
        """
        if pidfd is not None:
            return _send(pidfd, number)
        title = b"bashd: worker %d\0" % command_id
        for parent in self._own_pids:
            for pid in linux.children(parent):
                if linux.command_line(pid).startswith(title):
                    return self._signal_child(pid, parent, title, number)
        return False

    def _signal_child(self, pid: int, parent: int, title: bytes, number: int) -> bool:
        try:
            pidfd = os.pidfd_open(pid)
        except ProcessLookupError:
            return False
        try:
            # Once more, now that it is pinned: its id may have gone to another.
            now = linux.process(pid)
            known = now is not None and now.ppid == parent and linux.command_line(pid).startswith(title)
            return known and _send(pidfd, number)
        finally:
            os.close(pidfd)

    def reap(self) -> list[tuple[int, int]]:
        """(pid, wait status) of every child of ours that has ended, and of every orphan that came to us."""
        ended: list[tuple[int, int]] = []
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return ended
            if pid == 0:
                return ended
            self._removing.discard(pid)
            ended.append((pid, status))

    def kill_orphans(self, dead: list[Fallen], *, api_pid: int | None) -> list[linux.Process]:
        """Send KILL to everything that dead workers left; returns who was alive, or may be a worker at its start.

        Raises ``ChildProcessError``, and kills nobody, when the forker is dead.
        """
        came_to_us = self._came_to_us(self._removing | ({api_pid} if api_pid is not None else set()))
        beginners = self._beginners_at_init()
        # In this order: one that has taken its lock meanwhile is found with it.
        init_known = self._known_of_init()
        spared = beginners - init_known
        for one in dead:
            if self._groups is not None:
                group.kill(f"{self._groups}/{one.id}")
        found = fallen.kill_round(dead, came_to_us=came_to_us, init_pid=self._init_pid, init_known=init_known | spared)
        return found + [one for one in map(linux.process, spared) if one is not None]

    def _came_to_us(self, known: set[int]) -> list[int]:
        """The orphans among our children: all but the forker and ``known``."""
        found = [pid for pid in linux.own_children() if pid not in known | self._own_pids]
        # With the forker's death its workers, which live, come to us too: so it has to be alive after the list is made.
        for pid in self._own_pids:
            if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is not None:
                raise ChildProcessError(f"process {pid} has ended: what came to us may be at work")
        return found

    def _beginners_at_init(self) -> set[int]:
        """The children of init that may be workers of a dead forker, about to take their command's lock.

        They had its order in their pipe when the forker died. A script may give itself such a title too: so it spares
        nobody for longer than a worker needs.
        """
        now = self._clock()
        seen = {}
        for pid in linux.children(self._init_pid):
            one = linux.process(pid)
            if one is not None and one.alive and linux.command_line(pid).startswith(BEGINNERS):
                seen[pid, one.start_time] = self._beginners.get((pid, one.start_time), now)
        self._beginners = seen
        return {pid for (pid, _), since in seen.items() if now < since + BEGINNING_S}

    def _known_of_init(self) -> set[int]:
        """The children of init that are no orphans: us, the postmaster, and workers with a lock to show."""
        known = {os.getpid()} | fallen.left_worker_pids(self._places)
        beginners = set()  # titles of workers that hold their lock and have not yet written who they are
        for command_id in command_ids(self._places.journals):
            path = self._places.journal(command_id)
            try:
                if journal.is_locked(path):
                    facts, _ = story.read(path)
                    if facts.worker is None:
                        beginners.add(b"bashd: worker %d" % command_id)
                    else:
                        known.add(facts.worker["pid"])
            except FileNotFoundError:
                continue
        for pid in linux.children(self._init_pid) if beginners or self._postgres_argv else ():
            arguments = linux.command_line(pid).rstrip(b"\0").split(b"\0")
            if arguments == self._postgres_argv or arguments[0] in beginners:
                known.add(pid)
        return known

    def tidy(self, command_id: int) -> None:
        """Remove what a dead worker would have removed, without waiting for it."""
        for path in (self._places.control(command_id), self._places.stdin(command_id)):
            try:
                os.unlink(path)
            except OSError:
                pass  # it had not come so far; or the disk has become read-only, and the name leads nowhere
        if self._groups is not None and not group.remove(path := f"{self._groups}/{command_id}"):
            self._emptying[path] = self._clock() + EMPTYING_S
        directory = self._places.directory(command_id)
        if os.path.exists(directory):
            self._removing.add(start_removing(directory))

    def due(self) -> float | None:
        """When to ``remove_groups`` again, if there is one that could not be removed yet."""
        return self._clock() + EMPTY_AGAIN_S if self._emptying else None

    def remove_groups(self) -> None:
        """Try those again that ``tidy`` could not remove. Where somebody stays, the next start of Bashd tries."""
        for path, until in list(self._emptying.items()):
            if group.remove(path) or self._clock() > until:
                del self._emptying[path]


def _send(pidfd: int, number: int) -> bool:
    try:
        signal.pidfd_send_signal(pidfd, number)
    except ProcessLookupError:
        return False
    return True
