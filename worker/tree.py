"""The tree of processes that one script started: in its group, and escaped from it; and how it is ended.

``os.killpg`` alone misses whatever left the group (setsid, double fork, job control, daemons). As the worker
is a subreaper, all of that is re-parented to it, at the latest when bash is dead, and is found below it.
"""

import os
import signal
import time

from protocol import linux

TYPE_CHECKING = False
if TYPE_CHECKING:
    import resource

    from worker.group import Group

MAX_BODIES = 256  # of killed processes, not yet reaped
REST_PAUSE_S = (0.001, 1.0)  # between two looks at a rest that does not go: doubled up to the last


class Usage:
    """What the processes that were reaped so far have used."""

    def __init__(self) -> None:
        self.cpu_s = 0.0
        self.max_rss_kib = 0

    def add(self, used: "resource.struct_rusage") -> None:
        """Add what one process and those it waited for have used."""
        self.cpu_s += used.ru_utime + used.ru_stime
        self.max_rss_kib = max(self.max_rss_kib, used.ru_maxrss)


class Tree:
    """Everything below this process but bash, which stays unreaped so that its group's id stays ours."""

    def __init__(self, leader_pid: int, group: "Group | None" = None) -> None:
        """``group``: a cgroup that is this tree's own."""
        self.leader_pid = leader_pid
        self._group = group
        self.leader_exited = False
        self.usage = Usage()
        self._seen: dict[tuple[int, int], bool] = {}  # (pid, start time) → in the group

    def others(self) -> "list[linux.Process]":
        """What is alive beside the leader."""
        children = linux.own_children()
        if self.leader_exited and children == [self.leader_pid]:
            return []  # the dead have no children: what bash had left would be ours by now
        # Of bodies there may be a thousand, and to ask for one is a tenth of what reading about it costs.
        roots = [pid for pid in children if pid == self.leader_pid or not _is_body(pid)]
        return [one for one in linux.descendants(roots) if one.pid != self.leader_pid]

    def count(self, processes: "list[linux.Process]") -> bool:
        """Remember these for the record; true if one of them is new."""
        before = len(self._seen)
        for one in processes:
            self._seen.setdefault((one.pid, one.start_time), one.pgid == self.leader_pid)
        return len(self._seen) > before

    @property
    def counted_in_group(self) -> int:
        return sum(self._seen.values())

    @property
    def counted_escaped(self) -> int:
        return len(self._seen) - self.counted_in_group

    def signal_group(self, number: int) -> None:
        """Send ``number`` to the group. Its id is ours for as long as we have not reaped its leader."""
        _kill_group(self.leader_pid, number)

    def stop_group(self, number: int) -> None:
        """Send ``number`` to the group, and CONT after it: a stopped process sees no TERM until it goes on."""
        self.signal_group(number)
        if number != signal.SIGSTOP:
            self.signal_group(signal.SIGCONT)

    def kill_round(self) -> "list[linux.Process]":
        """Send KILL to the group and to all that escaped it, and reap what is dead. Returns who was alive.

        Call it until nobody is left. First our own children, at once: a process that forks and exits for ever is
        ours in every moment, and gone before a careful look is over. Then everything below them, all listed before
        the first is killed: killing on the way does not converge against processes that start themselves again.
        """
        _kill_group(self.leader_pid, signal.SIGKILL)
        children = linux.own_children()
        for pid in reversed(children):  # the newest are alive; the first may be bodies
            if pid != self.leader_pid:
                _kill_child(pid)
        alive = self.others()
        self.count(alive)
        self.kill_escaped(alive)  # the group has got it
        if alive and self._group is not None:
            self._group.kill()  # who came after we had looked too
        # The bodies are left lying while any are alive: they count against the limit of processes, so a fork bomb
        # that has reached it cannot go on.
        if not alive or len(children) > MAX_BODIES:
            self.reap()
        return alive

    def kill_escaped(self, processes: "list[linux.Process]") -> None:
        """Send KILL to those of these descendants of ours that are not in the group."""
        kill_each([one for one in processes if one.pgid != self.leader_pid])

    def reap(self) -> None:
        """Collect the dead that were re-parented to us, but never bash: it is reaped last."""
        while (dead := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOWAIT | os.WNOHANG)) is not None:
            if dead.si_pid == self.leader_pid:
                break  # its body hides the others from this question: ask for each of them
            self._reap_one(dead)
        else:
            return
        for pid in linux.own_children():
            if pid != self.leader_pid:
                ended = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT | os.WNOHANG)
                if ended is not None:
                    self._reap_one(ended)

    def reap_leader(self) -> int:
        """Collect bash, which has exited: from here on the group's id is not ours. Returns its wait status."""
        _, status, used = os.wait4(self.leader_pid, 0)
        self.usage.add(used)
        return status

    def sweep_rest(self) -> None:
        """Until wait itself says that nobody is left, which is the only proof. Bash is reaped.

        A scan alone may miss an orphan that is between two parents.
        """
        pause_s = REST_PAUSE_S[0]
        while True:
            try:
                dead = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOWAIT | os.WNOHANG)
            except ChildProcessError:
                return
            if dead is not None:
                self._reap_one(dead)
            else:
                others = self.others()
                self.count(others)
                kill_each(others)
                # One in uninterruptible sleep may take its time: it must not cost a processor.
                time.sleep(pause_s)
                pause_s = min(pause_s * 2, REST_PAUSE_S[1])

    def _reap_one(self, dead: os.waitid_result) -> None:
        if dead.si_code == os.CLD_KILLED and dead.si_status == signal.SIGKILL:
            # One of ours, most likely, and perhaps never seen alive: its body still tells where it belonged.
            body = linux.process(dead.si_pid)
            if body is not None:
                self.count([body])
        self.usage.add(os.wait4(dead.si_pid, 0)[2])


def _is_body(pid: int) -> bool:
    """True for a child of ours that is dead and not reaped."""
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is not None


def _kill_child(pid: int) -> None:
    """Send KILL to a child of ours: as long as we have not reaped it, its id is its own."""
    try:
        os.kill(pid, signal.SIGKILL)
    except PermissionError:
        pass  # it changed its user; the record names whom we cannot kill


def _kill_group(pgid: int, number: int) -> None:
    try:
        os.killpg(pgid, number)
    except ProcessLookupError:
        pass  # nobody is left in it, which is what was asked for
    except PermissionError:
        pass  # only processes that changed their user are left in it; the sweep names those it cannot kill


def kill_each(processes: "list[linux.Process]") -> None:
    """Send KILL to each of these descendants of ours, and to nobody who got one of their ids since."""
    ours = {one.pid for one in processes} | {os.getpid()}
    for one in processes:
        kill_proven(one, ours)


def kill_proven(one: linux.Process, parents: "set[int]") -> None:
    """Send KILL to ``one`` if it is still the process that was seen, below one of ``parents``.

    The pidfd pins the process first; only then is its identity read, so a reused id cannot be hit.
    """
    try:
        pidfd = os.pidfd_open(one.pid)
    except ProcessLookupError:
        return  # already gone, which is what was asked for
    try:
        now = linux.process(one.pid)
        if now is not None and now.start_time == one.start_time and now.ppid in parents:
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        pass  # gone; or a process of another user, which the next round still finds and the record names
    finally:
        os.close(pidfd)
