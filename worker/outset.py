"""What a worker has before any command comes: from the forker, and of its own."""

import os
import time

from protocol import cgroup, linux
from protocol.config import boot_id
from protocol.fault import Fault
from protocol.places import Places
from worker import bash
from worker.group import Groups

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class Outset:
    """What a worker gets from the process that forked it; all of it made before the fork."""

    def __init__(
        self,
        *,
        places: Places,
        surroundings: bash.Surroundings,
        title: linux.Title,
        fault: Fault,
        commands_per_worker: int,
        secrets_key: bytes,
        groups: Groups,
    ) -> None:
        self.places = places
        self.surroundings = surroundings
        self.title = title
        self.boot_id = boot_id()
        self.fault = fault
        self.commands_per_worker = commands_per_worker
        self.secrets_key = secrets_key  # opens the secrets of commands (``protocol.sealed``)
        self.groups = groups
        self.oom_fd = -1  # of the file that counts whom the kernel ended for want of memory; -1: there is none

    def count_oom_kills(self) -> None:
        """From now on know how many the kernel ends; to be called by the process that forks workers."""
        path = cgroup.oom_counter()
        if path is not None:
            self.oom_fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def oom_counts(self) -> bytes:
        """What the kernel counts now of want of memory in our cgroup, for ``oom_kills``; empty if it does not say."""
        if self.oom_fd < 0:
            return b""
        try:
            return os.pread(self.oom_fd, 4096, 0)
        except OSError:
            return b""  # somebody moved us, and that cgroup is gone

    def elsewhere(self, places: Places) -> "Outset":
        """The same in another state directory, where no moment of a test comes."""
        other = Outset(
            places=places,
            surroundings=self.surroundings,
            title=self.title,
            fault=Fault(None, places),
            commands_per_worker=self.commands_per_worker,
            secrets_key=self.secrets_key,
            groups=Groups(None, [], always=False),
        )
        other.oom_fd = self.oom_fd
        return other


def oom_kills(counts: bytes) -> int:
    """How many the kernel had ended for want of memory, as far as we know; read only of a script that was killed."""
    return cgroup.count_in(counts, b"oom_kill") or 0


class Worker:
    """This process as a worker: how it is reached, where it reports, and who it is."""

    def __init__(self, outset: Outset, berth: int, before: int) -> None:
        """``berth``: a small number that no other worker of the same forker has now. Raises ``OSError``.

        ``before``: a moment before this process was forked (``linux.ticks``).
        """
        self.outset = outset
        self.places = outset.places
        self.berth = berth
        self.unmoved = True  # no command did anything but start, end by itself, and leave nobody
        self.wake_fd, self._wake_writer = linux.wake_here()
        self.reports_fd = os.open(self.places.reports, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        self._pid = os.getpid()
        self._start_time = linux.started_since(self._pid, before)

    def close(self) -> None:
        """Close what is our own."""
        for fd in (self.wake_fd, self._wake_writer, self.reports_fd):
            os.close(fd)

    def identity(self) -> "dict[str, Any]":
        """Who takes a command, and when: what proves later that a process is this one."""
        return {
            "pid": self._pid,
            "start_time": self._start_time,
            "boot_id": self.outset.boot_id,
            "monotonic_s": time.monotonic(),
        }

    def signals(self) -> "set[int]":
        """The signals that have reached us since the last call."""
        try:
            return set(os.read(self.wake_fd, 4096))
        except BlockingIOError:
            return set()
