"""A control group of one command's own (kernel: admin-guide/cgroup-v2): real memory, a count of processes, a sure kill.

Where there is none the limits of each process do (``limits.py``), and the sweep needs none.
"""

import os
import time

from protocol import cgroup

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

REMOVE_TRIES = 50  # a millisecond apart

# Which limit needs which controller; without it the limit of each process is all there is.
_CONTROLLERS = {"memory_bytes": "memory", "processes": "pids"}


class Groups:
    """Where commands get groups of their own; found at the start of Bashd, the same for all workers."""

    def __init__(self, directory: "str | None", controllers: "list[str]", *, always: bool) -> None:
        """``directory``: None when there are none. ``always``: for commands too that name no limit that needs one."""
        self._directory = directory
        self._controllers = controllers
        self._always = always

    def own(self, command_id: int, limits: "dict[str, int]") -> "Group | None":
        """The group of this command, which is not made yet; None when it needs none."""
        held = {name: limits[name] for name, one in _CONTROLLERS.items() if name in limits and one in self._controllers}
        if self._directory is None or not (held or self._always):
            return None
        return Group(f"{self._directory}/{command_id}", held)


class Group:
    """The group of one command. ``limits`` are those that it holds instead of each process."""

    def __init__(self, directory: str, limits: "dict[str, int]") -> None:
        self._directory = directory
        self.limits = limits

    def make(self) -> None:
        """Make it, with its limits. Raises ``OSError``, and then there is none."""
        self.remove()  # of a worker that died before it could say that it had begun
        os.mkdir(self._directory)
        try:
            if "memory_bytes" in self.limits:
                self._write("memory.max", self.limits["memory_bytes"])
                self._write("memory.oom.group", 1)  # all of it or nobody: half a script is of no use
                try:
                    self._write("memory.swap.max", 0)
                except OSError:
                    pass  # a kernel without swap accounting
            if "processes" in self.limits:
                self._write("pids.max", self.limits["processes"])
        except OSError:
            self.remove()
            raise

    def enter(self) -> None:
        """Bring the calling process into it; to be called between fork and exec. Raises ``OSError``."""
        self._write("cgroup.procs", 0)

    def kill(self) -> None:
        """Kill all that is in it at once, what forks for ever included (cgroup.kill, since Linux 5.14)."""
        kill(self._directory)

    def usage(self) -> "dict[str, Any]":
        """What all that has ever been in it has used, as far as the kernel tells; those too whom nobody waited for."""
        found: dict[str, Any] = {}
        cpu_us = cgroup.count_in(self._read("cpu.stat"), b"usage_usec")
        if cpu_us is not None:
            found["cpu_s"] = cpu_us / 1e6
        peak = self._read("memory.peak")  # since Linux 5.19
        if peak:
            found["peak_memory_bytes"] = int(peak)
        return found

    @property
    def oom_killed(self) -> bool:
        """True when the kernel ended somebody in it for want of memory."""
        return bool(cgroup.count_in(self._read("memory.events"), b"oom_kill"))

    def remove(self) -> None:
        """Remove it, if nobody is in it. Newer kernels take a moment after ``wait`` until that is so."""
        for _ in range(REMOVE_TRIES):
            if remove(self._directory):
                return
            time.sleep(0.001)
        # Somebody was brought in from outside. The next start of Bashd tries again.

    def _write(self, name: str, value: int) -> None:
        fd = os.open(f"{self._directory}/{name}", os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, b"%d" % value)
        finally:
            os.close(fd)

    def _read(self, name: str) -> bytes:
        try:
            with open(f"{self._directory}/{name}", "rb") as file:
                return file.read()
        except OSError:
            return b""  # its controller is not there


def kill(directory: str) -> None:
    """Kill all that is in this group and those below it. Without it, or on an older kernel, nothing happens."""
    try:
        with open(f"{directory}/cgroup.kill", "wb", buffering=0) as file:
            file.write(b"1")
    except OSError:
        pass  # the sweep does it all the same


def remove(directory: str) -> bool:
    """Remove this group and those that a script made below it. False: somebody is in it, or it is not ours."""
    try:
        for place, _, _ in os.walk(directory, topdown=False):
            os.rmdir(place)
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True


def spread(spec: "dict[str, Any]", group: "Group | None") -> "dict[str, int]":
    """The limits of a command that each of its processes is held to: those that no group holds."""
    limits: dict[str, int] = spec.get("limits") or {}  # journals of an earlier version know of none
    held = group.limits if group is not None else {}
    return {name: value for name, value in limits.items() if name not in held}
