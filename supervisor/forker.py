"""The forker: the lean process that forks workers for the supervisor.

What a fork costs follows the memory and the at-fork handlers of the process that forks (measured: 0.5 ms bare,
1.2 ms once multiprocessing is imported). So the supervisor splits this process off before it imports its queues.
The forker is not a subreaper: what a dead worker leaves goes past it, to the supervisor.
"""

import gc
import os
import resource
import select
import struct
import sys
import traceback

from protocol import linux
from worker import run

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

# supervisor → forker: the id of the command that wants a worker. forker → supervisor: what became of it.
_REQUEST = struct.Struct("<q")
_RESULT = struct.Struct("<qi")  # id, wait status; minus errno when the fork failed


def serve(requests_fd: int, results_fd: int, outset: run.Outset, nofile: "tuple[int, int]") -> "NoReturn":
    """Fork a worker for each request and tell how each ended, until the supervisor is gone. Never returns."""
    outset.title.set("bashd: forker")
    os.chdir("/")
    os.umask(0o022)
    _keep_only({requests_fd, results_fd})
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_NOFILE, nofile)
    wake_fd, _ = linux.wake_on_signals()
    above_all_fds = max(_open_fds()) + 1
    linux.prctl(linux.PR_SET_DUMPABLE, 0)
    gc.collect()
    gc.freeze()
    gc.disable()
    workers: dict[int, int] = {}  # pid → command id
    poll = select.poll()
    poll.register(requests_fd, select.POLLIN)
    poll.register(wake_fd, select.POLLIN)
    while True:
        for fd, _ in poll.poll():
            if fd == wake_fd:
                os.read(wake_fd, 4096)
                _tell_ended(workers, results_fd)
                continue
            requests = os.read(requests_fd, 4096)
            if not requests:
                os._exit(0)  # the supervisor is gone; the workers stay
            for (command_id,) in _REQUEST.iter_unpack(requests):
                _fork_worker(command_id, workers, results_fd, outset, above_all_fds)


def _open_fds() -> "list[int]":
    return [int(name) for name in os.listdir("/proc/self/fd")]


def _keep_only(kept: "set[int]") -> None:
    """Close everything inherited (listening socket, lock, settings) but stderr and ``kept``; 0 and 1 read nothing."""
    nothing = os.open("/dev/null", os.O_RDWR)
    for fd in (0, 1):
        os.dup2(nothing, fd)
    for fd in _open_fds():
        if fd > 2 and fd not in kept:
            os.closerange(fd, fd + 1)  # unlike close, it does not mind that listdir's own is gone


def _fork_worker(
    command_id: int, workers: "dict[int, int]", results_fd: int, outset: run.Outset, above_all_fds: int
) -> None:
    try:
        pid = os.fork()
    except OSError as error:
        os.write(results_fd, _RESULT.pack(command_id, -(error.errno or 1)))
        return
    if pid == 0:
        status = run.EXIT_CRASHED
        try:
            os.dup2(0, 2)  # the script's stderr is its pipe; a worker speaks through the journal alone
            os.closerange(3, above_all_fds)
            status = run.run(command_id, outset)
        finally:
            os._exit(status)
    workers[pid] = command_id


def _tell_ended(workers: "dict[int, int]", results_fd: int) -> None:
    while workers:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid == 0:
            return
        os.write(results_fd, _RESULT.pack(workers.pop(pid), status))


class Forker:
    """The supervisor's side. ``results_fd`` is readable when something is to be taken."""

    def __init__(self, outset: run.Outset, nofile: "tuple[int, int]") -> None:
        """Split the forker off. To be called before anything dear is imported."""
        requests, self._requests_fd = os.pipe()
        self.results_fd, results = os.pipe()
        supervisor_pid = os.getpid()
        self.pid = os.fork()
        if self.pid == 0:
            try:
                os.close(self._requests_fd)
                os.close(self.results_fd)
                linux.die_with_parent(supervisor_pid)
                serve(requests, results, outset, nofile)
            except BaseException:
                traceback.print_exc(file=sys.stderr)
            finally:
                os._exit(1)
        os.close(requests)
        os.close(results)
        os.set_blocking(self.results_fd, False)
        os.set_blocking(self._requests_fd, False)

    def fork_worker(self, command_id: int) -> bool:
        """Ask for a worker. False: the forker is behind; ask again later."""
        try:
            os.write(self._requests_fd, _REQUEST.pack(command_id))
        except BlockingIOError:
            return False
        return True

    def results(self) -> "list[tuple[int, int]]":
        """(command id, wait status or minus errno of a failed fork) since the last call.

        Raises ``EOFError`` when the forker is gone.
        """
        try:
            buffer = os.read(self.results_fd, _RESULT.size * 512)
        except BlockingIOError:
            return []
        if not buffer:
            raise EOFError("the forker is gone")
        # Whole records only: each was one write of less than PIPE_BUF, and we read a multiple of their size.
        return list(_RESULT.iter_unpack(buffer))
