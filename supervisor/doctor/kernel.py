"""What the kernel offers: each feature that Bashd stands on is tried, not looked up by version."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator

from protocol import linux
from supervisor import groups
from supervisor.doctor.finding import Finding, failed, ok, warning

OLD_KERNEL = "run Linux 5.4 or newer; in a container, look at what its seccomp profile refuses"
PIDFD_SIGNAL_PROCESS_GROUP = 4  # linux/pidfd.h, since Linux 6.9


def findings() -> Iterator[Finding]:
    """Features in the order in which a command needs them."""
    yield ok("kernel", f"Linux {os.uname().release} on {os.uname().machine}")
    yield _proc()
    yield _needed("sealed memory files", "a script lies in one, and cannot be changed while it runs", _seal)
    yield _needed("pidfd", "a process is pinned before it is signalled", _pidfd)
    yield _needed("subreaper", "what leaves a group comes back to its worker", _in_a_child(_become_subreaper))
    yield _needed("no_new_privs", "a script gains no rights by setuid programs", _in_a_child(_drop_privileges))
    yield _needed("dumpable", "no script of the same user reads our memory", _in_a_child(_hide_memory))
    yield _children_file()
    yield _real_time()
    yield _cgroups()


def _needed(subject: str, what_for: str, attempt: Callable[[], None]) -> Finding:
    try:
        attempt()
    except OSError as error:
        return failed(subject, f"{what_for}: {error.strerror}", OLD_KERNEL)
    return ok(subject, what_for)


def _proc() -> Finding:
    if linux.process(os.getpid()) is None:
        return failed("/proc", "it is not mounted, or not of this pid namespace", "mount -t proc proc /proc")
    if os.getuid() != 0 and linux.process(1) is None:
        return warning(
            "/proc",
            "processes of others are hidden (hidepid); those of scripts that run as another user would not be seen",
            "mount it without hidepid, or let Bashd's user be of the group that its gid= names",
        )
    return ok("/proc", "mounted; start times and parents can be read")


def _seal() -> None:
    os.close(linux.sealed_memfd("doctor", b"x"))


def _pidfd() -> None:
    pidfd = os.pidfd_open(os.getpid())
    try:
        signal.pidfd_send_signal(pidfd, 0)
    finally:
        os.close(pidfd)


def _become_subreaper() -> None:
    linux.prctl(linux.PR_SET_CHILD_SUBREAPER, 1)


def _drop_privileges() -> None:
    linux.prctl(linux.PR_SET_NO_NEW_PRIVS, 1)


def _hide_memory() -> None:
    linux.prctl(linux.PR_SET_DUMPABLE, 0)


def _in_a_child(attempt: Callable[[], None]) -> Callable[[], None]:
    """The same in a process that ends with it, for what cannot be taken back."""

    def forked() -> None:
        pid = os.fork()
        if pid == 0:
            try:
                attempt()
            except OSError as error:
                os._exit(error.errno or 1)
            os._exit(0)
        number = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        if number != 0:
            raise OSError(number, os.strerror(number))

    return forked


def _children_file() -> Finding:
    if os.path.exists("/proc/thread-self/children"):
        return ok("list of children", "a sweep finds descendants by /proc/<pid>/task/<tid>/children")
    return warning(
        "list of children",
        "this kernel has none (CONFIG_PROC_CHILDREN): a sweep looks through all processes instead, and is slower",
        "nothing has to be done; a kernel of a distribution has it",
    )


def _cgroups() -> Finding:
    found = groups.look()
    have = f"commands may have cgroups of their own, with {', '.join(found.controllers)}"
    if found.directory is not None and found.controllers:
        return ok("cgroups", have if found.why_not is None else f"{have}; {found.why_not}")
    return warning(
        "cgroups",
        f"{found.why_not}: a limit of memory holds for each process by itself, one of processes for each user",
        "start Bashd in a cgroup v2 of its own that it may write in, with the controllers memory and pids "
        "(systemd: Delegate=yes)",
    )


def _real_time() -> Finding:
    try:
        _in_a_child(lambda: os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1)))()
    except OSError:
        return warning(
            "real-time priority",
            "a worker may not go before what it has to end: a fork bomb of hundreds of sessions is ended slowly",
            "give Bashd CAP_SYS_NICE (systemd: AmbientCapabilities=CAP_SYS_NICE), or limit the processes of scripts",
        )
    return ok("real-time priority", "a worker that ends a fork bomb goes before it")
