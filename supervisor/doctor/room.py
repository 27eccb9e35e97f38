"""How many commands at once this machine has room for: descriptors, processes, memory."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator

from supervisor.doctor.finding import Finding, ok, warning
from supervisor.settings import Settings

# What a running command takes at most. A pidfd, an end of a pipe or a journal in each of supervisor, forker and API;
# a worker, bash and one program; private memory of worker and bash, as docs/performance.md has it.
FDS_A_COMMAND = 4
PROCESSES_A_COMMAND = 3
MEMORY_A_COMMAND = 3 * 1024 * 1024
OWN_FDS = 1000  # connections of clients, sockets of the database, listening
OWN_PROCESSES = 50  # the database's among them
OWN_MEMORY = 256 * 1024 * 1024


def findings(settings: Settings) -> Iterator[Finding]:
    """Each kind of room, against ``max_running``."""
    at_once = settings.max_running
    yield _room("open files", _at_most(resource.RLIMIT_NOFILE), OWN_FDS, FDS_A_COMMAND, at_once, "LimitNOFILE=")
    yield _room("processes", _processes(), OWN_PROCESSES, PROCESSES_A_COMMAND, at_once, "LimitNPROC=, TasksMax=")
    yield _room("memory", _memory(), OWN_MEMORY, MEMORY_A_COMMAND, at_once, "MemoryMax=, or more memory")


def _room(subject: str, there_is: int | None, own: int, each: int, at_once: int, unit_setting: str) -> Finding:
    if there_is is None:
        return ok(subject, "no limit")
    fits = max(0, (there_is - own) // each)
    says = f"{_written(subject, there_is)}: room for about {fits} commands at once, max_running is {at_once}"
    if fits >= at_once:
        return ok(subject, says)
    return warning(subject, says, f"set max_running to {max(fits, 1)}, or raise the limit (systemd: {unit_setting})")


def _written(subject: str, there_is: int) -> str:
    return f"{there_is // 2**20} MiB" if subject == "memory" else f"{there_is}"


def _at_most(limit: int) -> int | None:
    hard = resource.getrlimit(limit)[1]
    return None if hard == resource.RLIM_INFINITY else hard


def _processes() -> int | None:
    """The least of what limits them: the kernel, the cgroup, and the user's limit, which does not bind root."""
    limits = [_number(path) for path in ("/proc/sys/kernel/pid_max", "/proc/sys/kernel/threads-max")]
    limits += [_number(os.path.join(directory, "pids.max")) for directory in _cgroups("pids")]
    if os.getuid() != 0:
        limits.append(_at_most(resource.RLIMIT_NPROC))
    return min((one for one in limits if one is not None), default=None)


def _memory() -> int | None:
    """Bytes that are available, at most what the cgroup allows in all."""
    limits = [_available()]
    for directory in _cgroups("memory"):
        limits += [_number(os.path.join(directory, name)) for name in ("memory.max", "memory.limit_in_bytes")]
    return min((one for one in limits if one is not None), default=None)


def _available() -> int | None:
    """MemAvailable of proc_meminfo(5)."""
    try:
        with open("/proc/meminfo") as file:
            lines = dict(line.split(":", 1) for line in file)
        return int(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return None


def _cgroups(controller: str) -> list[str]:
    """Where the cgroups that we are in show their files: the one of version 2, and that of the controller in version 1.

    /proc/self/cgroup has ``id:controllers:path`` a line, cgroups(7).
    """
    try:
        with open("/proc/self/cgroup") as file:
            lines = [line.rstrip("\n").split(":", 2) for line in file]
    except OSError:
        return []
    directories = []
    for _, controllers, path in lines:
        inside = path.lstrip("/")
        if not controllers:
            directories.append(os.path.join("/sys/fs/cgroup", inside))
        elif controller in controllers.split(","):
            directories.append(os.path.join("/sys/fs/cgroup", controller, inside))
    return directories


def _number(path: str) -> int | None:
    """What the file holds; None when it is no number (``max``), or not there."""
    try:
        with open(path) as file:
            return int(file.read())
    except (OSError, ValueError):
        return None
