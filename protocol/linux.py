"""What Linux tells and offers about processes and the standard library does not, or not cheaply.

Facts of /proc are from proc_pid_stat(5) and proc_tid_children(5), the prctl numbers from linux/prctl.h.
"""

import ctypes
import errno
import fcntl
import os
import signal
import time

PR_SET_PDEATHSIG = 1
PR_SET_DUMPABLE = 4
PR_SET_NAME = 15
PR_SET_CHILD_SUBREAPER = 36
PR_SET_NO_NEW_PRIVS = 38

FALLOC_FL_KEEP_SIZE = 1  # linux/falloc.h

_libc = ctypes.CDLL(None, use_errno=True)
# Its offsets are 64 bits wide on every machine; where there is no function of that name, those of the plain one are.
_fallocate = getattr(_libc, "fallocate64", None) or _libc.fallocate


def prctl(option: int, argument: int) -> None:
    """prctl(2) with one argument; raises ``OSError``."""
    if _libc.prctl(option, ctypes.c_ulong(argument), 0, 0, 0) != 0:
        error = ctypes.get_errno()
        raise OSError(error, f"prctl({option}, {argument}): {os.strerror(error)}")


def die_with_parent(parent_pid: int, with_signal: int = signal.SIGKILL) -> None:
    """Have the kernel send us ``with_signal`` when our parent ends; ends us now if it has ended already.

    To be called by the child, in its main thread, after any change of user (which clears it).
    """
    prctl(PR_SET_PDEATHSIG, with_signal)
    if os.getppid() != parent_pid:
        os._exit(1)


def wake_on_signals(*more: int) -> "tuple[int, int]":
    """From now on the numbers of CHLD, TERM, INT, HUP and ``more`` that reach us can be read from the first descriptor.

    The second is the interpreter's, to be closed by a forked child that wants neither. Handlers, not SIG_IGN, which
    what is executed would inherit.
    """
    # The descriptor before the handlers: a signal between the two would be handled and forgotten.
    wake_fd, writer = wake_here()
    for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP, *more):
        signal.signal(number, _only_wake)
    return wake_fd, writer


def wake_here() -> "tuple[int, int]":
    """In a forked child of a process that called ``wake_on_signals``: the same, for this process.

    Its handlers were inherited, which saves a worker a tenth of the memory that it would touch (``signal.signal`` makes
    an enumeration's member of every number).
    """
    wake_fd, writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    return wake_fd, writer


def _only_wake(_number: int, _frame: object) -> None:
    """Handles nothing: the loop reads the number from the wake-up descriptor and acts."""


class Title:
    """The process's title: what ``/proc/<pid>/cmdline`` and ``ps`` show, written over the arguments of exec.

    Forked children inherit the place, and each writes its own.
    """

    def __init__(self) -> None:
        with open("/proc/self/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
        self._start = int(fields[45])  # arg_start, field 48 of the line
        self._room = int(fields[46]) - self._start  # up to arg_end, field 49

    def set(self, title: str) -> None:
        """Show ``title``, cut to the room there is."""
        text = title.encode()[: self._room - 1]
        # NUL to the end: the kernel reads on into the environment unless the last byte is one.
        ctypes.memmove(self._start, text + bytes(self._room - len(text)), self._room)
        _libc.prctl(PR_SET_NAME, ctypes.c_char_p(text), 0, 0, 0)


class Process:
    """One process as ``/proc`` shows it at one moment. ``start_time`` in clock ticks after boot."""

    __slots__ = ("comm", "pgid", "pid", "ppid", "sid", "start_time", "state", "threads")

    def __init__(self, pid: int, stat: bytes) -> None:
        self.pid = pid
        name, _, rest = stat.partition(b"(")[2].rpartition(b")")
        self.comm = name.decode(errors="replace")
        fields = rest.split()
        self.state = fields[0].decode()
        self.ppid = int(fields[1])
        self.pgid = int(fields[2])
        self.sid = int(fields[3])
        self.threads = int(fields[17])
        self.start_time = int(fields[19])

    @property
    def alive(self) -> bool:
        return self.state not in "ZX"


def process(pid: int) -> "Process | None":
    """What ``/proc`` says of ``pid`` now; None when there is no such process."""
    try:
        fd = os.open(f"/proc/{pid}/stat", os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        return Process(pid, os.read(fd, 4096))
    except ProcessLookupError:
        return None
    finally:
        os.close(fd)


def start_time(pid: int) -> int:
    """When ``pid`` started, in clock ticks after boot; raises ``OSError`` when there is no such process."""
    fd = os.open(f"/proc/{pid}/stat", os.O_RDONLY | os.O_CLOEXEC)
    try:
        return int(os.read(fd, 4096).rpartition(b")")[2].split()[19])
    finally:
        os.close(fd)


def wchan(pid: int) -> str:
    """Where in the kernel the process sleeps (proc_pid_wchan(5)); empty as far as the kernel does not tell."""
    try:
        with open(f"/proc/{pid}/wchan") as file:
            place = file.read()
    except OSError:
        return ""
    return "" if place == "0" else place


_TICK_NS = 10**9 // os.sysconf("SC_CLK_TCK")


def ticks() -> int:
    """Clock ticks after boot, which is what start times are given in."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // _TICK_NS


def ticks_ago(seconds: float) -> int:
    """What ``ticks`` was then."""
    return ticks() - int(seconds * 10**9) // _TICK_NS


def started_since(pid: int, before: int) -> int:
    """The start time of ``pid``, which was started after ``before`` (``ticks``) and a moment ago.

    Most often no tick has passed since, and then it is known: asking /proc costs thirty times as much.
    """
    return before if ticks() == before and _ticks_agree else start_time(pid)


_ticks_agree = False


def compare_ticks() -> None:
    """See whether start times are what ``ticks`` says, as on Linux itself; else ``started_since`` always asks /proc.

    Forks once, and waits for the child.
    """
    global _ticks_agree
    before = ticks()
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    _ticks_agree = before <= start_time(pid) <= ticks()
    os.waitpid(pid, 0)


def all_pids() -> "list[int]":
    """Every process we can see."""
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


_HAS_CHILDREN_FILE = os.path.exists("/proc/thread-self/children")  # needs CONFIG_PROC_CHILDREN


def own_children() -> "list[int]":
    """The children of this single-threaded process, zombies included."""
    if not _HAS_CHILDREN_FILE:
        return children(os.getpid())
    return [int(pid) for pid in _read_all("/proc/thread-self/children").split()]


def children(pid: int) -> "list[int]":
    """The children of all threads of ``pid``. A list taken while they come and go may miss some."""
    if not _HAS_CHILDREN_FILE:
        found = [process(candidate) for candidate in all_pids()]
        return [child.pid for child in found if child and child.ppid == pid]
    pids: list[int] = []
    try:
        for tid in os.listdir(f"/proc/{pid}/task"):
            pids += _children_of_thread(pid, tid)
    except (FileNotFoundError, ProcessLookupError):
        pass  # it ended while we looked: its children have another parent now
    return pids


def _children_of_thread(pid: int, tid: "int | str") -> "list[int]":
    """Raises ``FileNotFoundError`` or ``ProcessLookupError`` when it is gone."""
    return [int(child) for child in _read_all(f"/proc/{pid}/task/{tid}/children").split()]


def _read_all(path: str) -> bytes:
    """A file of /proc, at a third of what ``open`` costs."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        text = b""
        while chunk := os.read(fd, 65536):
            text += chunk
        return text
    finally:
        os.close(fd)


def _children_of(one: Process) -> "list[int]":
    if one.threads > 1 or not _HAS_CHILDREN_FILE:
        return children(one.pid)
    try:
        return _children_of_thread(one.pid, one.pid)
    except (FileNotFoundError, ProcessLookupError):
        return []  # it ended while we looked: its children have another parent now


def descendants(roots: "list[int]") -> "list[Process]":
    """``roots`` and everything below them that is not a zombie, parents before children."""
    found: list[Process] = []
    seen: set[int] = set()
    waiting = list(roots)
    while waiting:
        pid = waiting.pop()
        if pid in seen:
            continue
        seen.add(pid)
        one = process(pid)
        if one is None:
            continue
        if one.alive:
            found.append(one)
            waiting += _children_of(one)
    return found


def has_mark(pid: int, mark: bytes) -> bool:
    """True when ``mark`` (NAME=value) stands in the environment that ``pid`` was started with."""
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            return mark in file.read().split(b"\0")
    except OSError:
        return False  # gone, or another user's: then it cannot be told


def command_line(pid: int) -> bytes:
    """The arguments of ``pid``, separated by NUL; empty for a zombie or one that is gone."""
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            return file.read()
    except OSError:
        return b""


def oom_score_adj(pid: int) -> int:
    """How much more or less than its memory says the kernel wants to end ``pid`` (proc_pid_oom_score_adj(5))."""
    return int(_read_all(f"/proc/{pid}/oom_score_adj"))


def set_oom_score_adj(pid: int, score: int) -> None:
    """Set that. Anybody may raise it for a process that he may look into. Raises ``OSError``."""
    fd = os.open(f"/proc/{pid}/oom_score_adj", os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, b"%d" % score)
    finally:
        os.close(fd)


_IOPRIO_GET = {"x86_64": 252, "aarch64": 31, "riscv64": 31}.get(os.uname().machine)  # asm/unistd.h


def io_priority() -> int:
    """The class and level of our input and output (ioprio_get(2)); -1 on a machine whose number for it is not known."""
    return -1 if _IOPRIO_GET is None else int(_libc.syscall(ctypes.c_long(_IOPRIO_GET), 1, 0))


def allocate(fd: int, start: int, length: int) -> bool:
    """Have the file system set these bytes aside for the file, whose size stays as it is (fallocate(2)).

    False: this file system cannot. Raises ``OSError`` (``ENOSPC``, ``EDQUOT``, …) when it has no room.
    """
    while _fallocate(fd, FALLOC_FL_KEEP_SIZE, ctypes.c_int64(start), ctypes.c_int64(length)) != 0:
        error = ctypes.get_errno()
        if error in (errno.EOPNOTSUPP, errno.ENOSYS):
            return False
        # A tmpfs gives up as soon as a signal is pending, SIGCHLD for one; Python has taken it by now.
        if error != errno.EINTR:
            raise OSError(error, f"fallocate: {os.strerror(error)}")
    return True


def sealed_memfd(name: str, content: bytes) -> int:
    """A descriptor (close-on-exec) on an anonymous file whose content nobody can change any more."""
    fd = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    rest = memoryview(content)
    while rest:
        rest = rest[os.write(fd, rest) :]
    os.lseek(fd, 0, os.SEEK_SET)
    seals = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)
    return fd
