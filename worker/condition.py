"""The proof that a worker is as it was before its command: what a script could have changed, and the next inherit.

A worker's memory is out of reach for an ordinary user's script (``PR_SET_DUMPABLE``). What the kernel lets any process
of the same user set from outside is compared; what only the worker could change, it does not.
"""

import os
import resource

from protocol import linux

_LIMITS = sorted({value for name, value in vars(resource).items() if name.startswith("RLIMIT_")})
_FILES = ("cgroup", "oom_score_adj", "timerslack_ns", "autogroup", "coredump_filter")  # of /proc/self


class Condition:
    """A worker's condition at one moment."""

    def __init__(self) -> None:
        self._facts = _facts()

    def still_holds(self) -> bool:
        """True when nothing has changed since, and there is no child."""
        try:
            os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return _facts() == self._facts
        return False


def _facts() -> "list[object]":
    return [
        [resource.getrlimit(limit) for limit in _LIMITS],
        os.getpriority(os.PRIO_PROCESS, 0),
        os.sched_getscheduler(0),
        os.sched_getaffinity(0),
        linux.io_priority(),
        [_read(f"/proc/self/{name}") for name in _FILES],
        os.listdir("/proc/self/fd"),
    ]


def _read(path: str) -> bytes:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return b""  # this kernel does not have it
    try:
        return os.read(fd, 4096)
    finally:
        os.close(fd)
