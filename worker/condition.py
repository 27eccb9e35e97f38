"""The proof that a worker is as it was before its command: what a script could have changed, and the next inherit.

A worker's memory is out of reach for an ordinary user's script (``PR_SET_DUMPABLE``). What the kernel lets any process
of the same user set from outside is compared; what only the worker could change, it does not.
"""

import os

from protocol import linux

_FILES = ("limits", "cgroup", "oom_score_adj", "timerslack_ns", "autogroup", "coredump_filter")  # of /proc/self


class Condition:
    """A worker's condition at one moment."""

    def __init__(self) -> None:
        self._files = [fd for name in _FILES if (fd := _open(f"/proc/self/{name}")) >= 0]
        self._facts = self._look()

    def still_holds(self) -> bool:
        """True when nothing has changed since, and there is no child."""
        try:
            os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return self._look() == self._facts
        return False

    def _look(self) -> "list[object]":
        return [
            os.getpriority(os.PRIO_PROCESS, 0),
            os.sched_getscheduler(0),
            os.sched_getaffinity(0),
            linux.io_priority(),
            [os.pread(fd, 4096, 0) for fd in self._files],
            _descriptors(),
        ]


def _descriptors() -> object:
    """How many there are, which Linux tells from 6.2 on (proc_pid_fd(5)) at a third of the price of their names."""
    return os.stat("/proc/self/fd").st_size or os.listdir("/proc/self/fd")


def _open(path: str) -> int:
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return -1  # this kernel does not have it
