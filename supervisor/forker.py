"""The forker: the lean process that forks workers for the supervisor, and keeps a few ahead of the demand.

What a fork costs follows the memory and the at-fork handlers of the process that forks (measured: 0.5 ms bare,
1.2 ms once multiprocessing is imported). So the supervisor splits this process off before it imports its queues.
The forker is not a subreaper: what a dead worker leaves goes past it, to the supervisor.
"""

import gc
import os
import resource
import select
import struct

from protocol import control, linux
from supervisor.log import Log
from supervisor.pace import Pace
from worker import run
from worker.outset import Outset
from worker.rehearsal import rehearse
from worker.serve import DONE, NEXT
from worker.serve import serve as serve_worker

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

# supervisor → forker: the id of a command, and 0 if it wants a worker, else the signal that its worker is to be sent.
_REQUEST = struct.Struct("<qi")
# forker → supervisor: what became of the command's worker: id, wait status; minus errno when the fork failed.
_RESULT = struct.Struct("<qi")


def serve(requests_fd: int, results_fd: int, outset: Outset, nofile: "tuple[int, int]") -> "NoReturn":
    """Find a worker for each request and tell how each ended, until the supervisor is gone. Never returns."""
    os.chdir("/")
    os.umask(0o022)
    _keep_only({requests_fd, results_fd})
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_NOFILE, nofile)
    # Those of a worker too, which inherits the handlers.
    wake_fd, _ = linux.wake_on_signals(control.STOP_SIGNAL, control.HURRY_SIGNAL, control.LISTEN_SIGNAL)
    linux.compare_ticks()
    outset.count_oom_kills()
    outset.surroundings.precedence.go_between()
    rehearse(outset)
    outset.title.set("bashd: forker")
    crew = Crew(outset, results_fd)
    linux.prctl(linux.PR_SET_DUMPABLE, 0)
    gc.collect()
    gc.freeze()
    gc.disable()
    poll = select.poll()
    for fd in (requests_fd, wake_fd, crew.done_fd):
        poll.register(fd, select.POLLIN)
    while True:
        ready = poll.poll(crew.wait_ms())
        if not ready:
            crew.fork_spare()
        for fd, _ in ready:
            if fd == wake_fd:
                os.read(wake_fd, 4096)
                crew.take_ended()
            elif fd == crew.done_fd:
                crew.take_done()
            else:
                requests = os.read(requests_fd, _REQUEST.size * 256)
                if not requests:
                    os._exit(0)  # the supervisor is gone; workers at work stay, and spare ones see us go
                for command_id, number in _REQUEST.iter_unpack(requests):
                    if number:
                        crew.signal(command_id, number)
                    else:
                        crew.pace.add(command_id)
        crew.begin()


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


class _Hand:
    """One worker. ``command_id`` is None while it is spare."""

    __slots__ = ("berth", "command_id", "next_fd")

    def __init__(self, berth: int, command_id: "int | None", next_fd: int) -> None:
        self.berth = berth
        self.command_id = command_id
        self.next_fd = next_fd  # where it takes its next command from; -1: it takes none


class Crew:
    """The workers of one forker: at work, or spare and waiting for a command."""

    def __init__(self, outset: Outset, results_fd: int) -> None:
        self._outset = outset
        self._results_fd = results_fd
        self.done_fd, self._done_writer = os.pipe()
        self._hands: dict[int, _Hand] = {}  # by pid
        self._spare: list[int] = []  # pids
        self._berths: list[int] = []  # that are free, below the highest that was ever taken
        processors = len(os.sched_getaffinity(0))
        self._spares_at_most = processors
        self.pace = Pace(processors)
        self._cannot_fork = False
        self._above_all_fds = max(_open_fds()) + 1

    def wait_ms(self) -> "int | None":
        """How long to sleep if nothing happens; None: for ever. Workers are forked ahead when nothing else is to do."""
        until_next_ms = self.pace.wait_ms()
        return 0 if until_next_ms is None and self._wants_spares() else until_next_ms

    def _wants_spares(self) -> bool:
        return len(self._spare) < self._spares_at_most and not self._cannot_fork

    def fork_spare(self) -> None:
        """Fork a worker for a command to come, if one is missing and none waits."""
        if self.pace.wait_ms() is not None or not self._wants_spares():
            return
        try:
            self._spare.append(self._fork(None))
        except OSError:
            self._cannot_fork = True  # until one has ended; meanwhile commands try for themselves

    def begin(self) -> None:
        """Begin the commands whose turn it is."""
        for command_id in self.pace.turns():
            self._assign(command_id)

    def _assign(self, command_id: int) -> None:
        """Give the command to a spare worker, or to a new one."""
        while self._spare:
            pid = self._spare.pop()
            hand = self._hands[pid]
            try:
                os.write(hand.next_fd, NEXT.pack(command_id))
            except BrokenPipeError:
                continue  # it was killed, and its end is about to be told
            hand.command_id = command_id
            return
        try:
            self._fork(command_id)
        except OSError as error:
            self._tell(command_id, -(error.errno or 1))

    def _tell(self, command_id: int, result: int) -> None:
        """Tell the supervisor what became of the command's worker."""
        self.pace.ended(command_id)
        os.write(self._results_fd, _RESULT.pack(command_id, result))

    def signal(self, command_id: int, number: int) -> None:
        """Send a signal to the worker that has the command. Its pid is its own: it is our child, and not reaped."""
        for pid, hand in self._hands.items():
            if hand.command_id == command_id:
                os.kill(pid, number)

    def _fork(self, command_id: "int | None") -> int:
        lasting = command_id is None or self._outset.commands_per_worker > 1
        next_fd, writer = os.pipe() if lasting else (-1, -1)
        self._above_all_fds = max(self._above_all_fds, next_fd + 1, writer + 1)
        berth = self._berths.pop() if self._berths else len(self._hands)
        before = linux.ticks()
        try:
            pid = os.fork()
        except OSError:
            self._berths.append(berth)
            if lasting:
                os.close(next_fd)
                os.close(writer)
            raise
        if pid == 0:
            status = run.EXIT_CRASHED
            try:
                os.dup2(0, 2)  # the script's stderr is its pipe; a worker speaks through the journal alone
                self._close_all_but(self._outset.oom_fd, next_fd, self._done_writer if lasting else -1)
                status = serve_worker(self._outset, berth, before, command_id, next_fd, self._done_writer)
            finally:
                os._exit(status)
        if lasting:
            os.close(next_fd)
        self._hands[pid] = _Hand(berth, command_id, writer)
        return pid

    def _close_all_but(self, *kept: int) -> None:
        """Close every descriptor above stderr but these (-1: none)."""
        start = 3
        for fd in sorted(fd for fd in kept if fd >= 0):
            os.closerange(start, fd)
            start = fd + 1
        os.closerange(start, self._above_all_fds)

    def take_done(self) -> None:
        """Take in which workers have dealt with their command and wait for the next."""
        for (pid,) in DONE.iter_unpack(os.read(self.done_fd, DONE.size * 512)):
            hand = self._hands.get(pid)
            if hand is not None and hand.command_id is not None:
                self._tell(hand.command_id, 0)
                hand.command_id = None
                self._spare.append(pid)

    def take_ended(self) -> None:
        """Reap the workers that have ended, and tell of the commands they had."""
        while self._hands:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return
            hand = self._hands.pop(pid)
            self._berths.append(hand.berth)
            self._cannot_fork = False
            if hand.next_fd >= 0:
                os.close(hand.next_fd)
            if pid in self._spare:
                self._spare.remove(pid)
            if hand.command_id is not None:
                self._tell(hand.command_id, status)


class Forker:
    """The supervisor's side. ``results_fd`` is readable when something is to be taken."""

    def __init__(self, outset: Outset, nofile: "tuple[int, int]", log: Log) -> None:
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
            except BaseException as error:
                log.failed(error)
            finally:
                os._exit(1)
        os.close(requests)
        os.close(results)
        os.set_blocking(self.results_fd, False)
        os.set_blocking(self._requests_fd, False)

    def fork_worker(self, command_id: int) -> bool:
        """Ask for a worker. False: the forker is behind; ask again later."""
        return self.signal_worker(command_id, 0)

    def signal_worker(self, command_id: int, number: int) -> bool:
        """Ask for a signal to be sent to the worker that has the command. False: the forker is behind."""
        try:
            os.write(self._requests_fd, _REQUEST.pack(command_id, number))
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
