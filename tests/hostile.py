"""What a hostile script does, as a program of its own: its text is handed to a script, which any user may run.

``reach PID…`` says how it could get hold of each of these processes, or ``closed`` when there is no way.
``search END BEGINNING`` says where in ``/proc`` it found the text that begins and ends so: in environments, arguments,
open files, memory. (In this order, because PostgreSQL keeps the arguments of a command side by side.)
Both end with a line that says on how many processes they tried.
"""

from __future__ import annotations

import ctypes
import errno
import os
import resource
import signal
import stat
import sys

PTRACE_ATTACH, PTRACE_DETACH, PTRACE_SEIZE = 16, 17, 0x4206  # linux/ptrace.h
SYS_PIDFD_GETFD = 438  # on every architecture
FILES = ("environ", "mem", "maps", "auxv", "io", "syscall", "stack", "personality", "pagemap", "clear_refs")
CHUNK = 1 << 20

libc = ctypes.CDLL(None, use_errno=True)
libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]


def ways_into(pid: int) -> list[str]:
    """What of this process is open to us."""
    ways = [name for name in FILES if _opens(f"/proc/{pid}/{name}")]
    ways += [name for name in ("fd", "fdinfo", "map_files", f"task/{pid}/fd") if _lists(f"/proc/{pid}/{name}")]
    ways += [name for name in ("exe", "cwd", "root", "fd/0", "ns/mnt") if _leads(f"/proc/{pid}/{name}")]
    ways += [name for name, way in (("ptrace", _traced), ("vm", _read), ("getfd", _taken)) if way(pid)]
    ways += [name for name, way in (("signal", _signalled), ("limits", _limited)) if way(pid)]
    return ways


def _opens(path: str) -> bool:
    try:
        os.close(os.open(path, os.O_WRONLY if path.endswith("clear_refs") else os.O_RDONLY))
    except OSError:
        return False
    return path.endswith(("mem", "maps", "pagemap", "clear_refs", "environ")) or _reads(path)


def _reads(path: str) -> bool:
    try:
        with open(path, "rb") as file:
            return bool(file.read(1))
    except OSError:
        return False


def _lists(path: str) -> bool:
    try:
        return bool(os.listdir(path))
    except OSError:
        return False


def _leads(path: str) -> bool:
    try:
        return bool(os.readlink(path))
    except OSError:
        return False


def _traced(pid: int) -> bool:
    for request in (PTRACE_SEIZE, PTRACE_ATTACH):
        if libc.ptrace(request, pid, None, None) == 0:
            if request == PTRACE_ATTACH:
                os.waitpid(pid, 0)
            libc.ptrace(PTRACE_DETACH, pid, None, None)
            return True
    return False


def _read(pid: int) -> bool:
    """process_vm_readv(2): who may not is told so before the address is looked at."""
    ours = ctypes.create_string_buffer(8)
    here, there = (ctypes.c_size_t * 2)(ctypes.addressof(ours), 8), (ctypes.c_size_t * 2)(8, 8)
    one = ctypes.c_ulong(1)
    return libc.process_vm_readv(pid, here, one, there, one, ctypes.c_ulong(0)) >= 0 or _errno() == errno.EFAULT


def _taken(pid: int) -> bool:
    """pidfd_getfd(2)."""
    pidfd = os.pidfd_open(pid)
    taken = libc.syscall(SYS_PIDFD_GETFD, pidfd, 0, 0)
    os.close(pidfd)
    return taken >= 0 or _errno() == errno.EBADF


def _errno() -> int:
    return ctypes.get_errno()


def _signalled(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except PermissionError:
        return False
    return True


def _limited(pid: int) -> bool:
    try:
        limits = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        resource.prlimit(pid, resource.RLIMIT_NOFILE, limits)
    except PermissionError:
        return False
    return True


def search(needle: bytes) -> int:
    """Print where it is; returns how many processes were looked at. Ours does not count: it has it of course."""
    pids = [int(name) for name in os.listdir("/proc") if name.isdigit() and int(name) != os.getpid()]
    for pid in pids:
        for place in (f"/proc/{pid}/environ", f"/proc/{pid}/cmdline", *_files(f"/proc/{pid}/fd")):
            if _holds(place, needle):
                print(place)
        if _remembers(pid, needle):
            print(f"/proc/{pid}/mem")
    return len(pids)


def _files(directory: str) -> list[str]:
    """The plain files and memfds that it has open: what can be read without waiting."""
    try:
        paths = [f"{directory}/{name}" for name in os.listdir(directory)]
        return [path for path in paths if stat.S_ISREG(os.stat(path).st_mode)]
    except OSError:
        return []


def _holds(path: str, needle: bytes) -> bool:
    before = b""
    try:
        with open(path, "rb") as file:
            while piece := file.read(CHUNK):
                if needle in before + piece:
                    return True
                before = piece[-len(needle) :]
    except OSError:
        pass  # it is closed to us, or gone
    return False


def _remembers(pid: int, needle: bytes) -> bool:
    try:
        with open(f"/proc/{pid}/maps") as maps, open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
            ranges = [line.split()[0].split("-") for line in maps if line.split()[1].startswith("r")]
            return any(needle in piece for start, end in ranges for piece in _pieces(memory.fileno(), start, end))
    except OSError:
        return False


def _pieces(memory_fd: int, start: str, end: str) -> list[bytes]:
    try:
        return [os.pread(memory_fd, int(end, 16) - int(start, 16), int(start, 16))]
    except (OSError, OverflowError):
        return []  # the kernel's own pages


def main() -> None:
    signal.alarm(120)
    what, *rest = sys.argv[1:]
    if what == "search":
        print(f"searched {search(''.join(reversed(rest)).encode())}")
    else:
        for pid in rest:
            print(pid, *(ways_into(int(pid)) or ["closed"]))
        print(f"tried {len(rest)}")


if __name__ == "__main__":
    main()
