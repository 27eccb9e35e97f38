"""What the kernel holds a command to, and how it tells that one went beyond.

All are limits of each process by itself but ``processes``, which counts all that its user has (getrlimit(2)).
"""

import os
import resource
import signal

_RLIMITS = {
    "memory_bytes": resource.RLIMIT_AS,
    "cpu_s": resource.RLIMIT_CPU,
    "file_bytes": resource.RLIMIT_FSIZE,
    "open_files": resource.RLIMIT_NOFILE,
    "processes": resource.RLIMIT_NPROC,
}
_TICKS = os.sysconf("SC_CLK_TCK")


def apply(limits: "dict[str, int]") -> None:
    """Hold this process, and all that it starts, to these limits. Raises ``OSError``.

    Called after the fork. None is raised above what we have ourselves: an ordinary user could not.
    """
    for name, wanted in limits.items():
        _, most = resource.getrlimit(_RLIMITS[name])
        hard = wanted if most == resource.RLIM_INFINITY else min(wanted, most)
        if name == "cpu_s" and hard == wanted and (most == resource.RLIM_INFINITY or wanted < most):
            # A second between the two: at the first the kernel sends XCPU, which says why, at the other one KILL.
            hard = wanted + 1
        try:
            resource.setrlimit(_RLIMITS[name], (min(wanted, hard), hard))
        except ValueError as error:  # which Python makes of EINVAL
            raise OSError(22, str(error), name) from error


def exceeded(limits: "dict[str, int]", code: int, leader_cpu_s: float, *, oom_killed: bool) -> "str | None":
    """The reason for which the kernel ended bash, as far as its signal tells; None: it was no limit.

    ``code`` is minus the signal, ``leader_cpu_s`` what bash itself used, ``oom_killed``: the kernel ended somebody in
    our cgroup for want of memory meanwhile.
    """
    if code == -signal.SIGKILL and oom_killed:
        return "memory"
    if code == -signal.SIGXFSZ and "file_bytes" in limits:
        return "file_size"
    if "cpu_s" in limits:
        # The kernel counts whole ticks for the limit and tells us a finer sum, which may be a little less.
        used_up = leader_cpu_s > 0.9 * limits["cpu_s"]
        if code == -signal.SIGXCPU or (code == -signal.SIGKILL and used_up):
            return "cpu"
    return None


def cpu_s(pid: int) -> float:
    """The processor time that ``pid`` used, without its children; it may be dead, and must not be reaped."""
    fd = os.open(f"/proc/{pid}/stat", os.O_RDONLY | os.O_CLOEXEC)
    try:
        fields = os.read(fd, 4096).rpartition(b")")[2].split()
    finally:
        os.close(fd)
    return (int(fields[11]) + int(fields[12])) / _TICKS  # utime and stime, fields 14 and 15 (proc_pid_stat(5))
