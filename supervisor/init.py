"""init: the first process of Bashd, PID 1 in a container, and deliberately almost nothing.

It holds the state directory's lock and the listening socket, passes signals on, reaps, and keeps two children
alive: the supervisor and, if the database is embedded, the postmaster. When PID 1 of a container dies the kernel
kills everything in it, so whatever does real work, and could fail at it, is a child.
"""

import os
import select
import signal
import time

from protocol import linux, starts
from protocol.config import Config
from protocol.places import Places
from supervisor.log import Log, how_it_ended
from supervisor.postmaster import Ending, Predecessor, Said, Server
from supervisor.restart import Restart

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

SHUTDOWN_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class Kept:
    """A child that is started again whenever it ends."""

    def __init__(self, name: str, start: "Callable[[], int]") -> None:
        self.name = name
        self.pid: int | None = None
        self.restart = Restart()
        self._start = start

    def start(self) -> None:
        """Start it now."""
        self.restart.started()
        self.pid = self._start()

    def ended(self) -> None:
        """Note that it ended."""
        self.pid = None
        self.restart.ended()


class Init:
    """The state of the first process."""

    def __init__(self, config: Config, *, lock_fd: int, socket_fd: int) -> None:
        self._config = config
        self._places = Places(config.state_dir)
        self._lock_fd = lock_fd
        self._socket_fd = socket_fd
        self._log = Log("init", config.log_format)
        self._title = linux.Title()
        self._wake_fd = -1
        self._wake_writer = -1
        self._shutdown_signals = 0
        self._shutdown_at: float | None = None
        self._supervisor = Kept("supervisor", self._fork_supervisor)
        self._postmaster: Kept | None = None
        if config.postgres_argv is not None:
            self._postgres = Server(config.postgres_argv)
            self._said = Said(config.log_format)
            self._predecessor = Predecessor(self._postgres, self._log)
            self._postmaster = Kept("postmaster", self._fork_postmaster)

    def run(self) -> int:
        """Keep the children alive until a signal tells us to go; returns the exit status."""
        self._title.set("bashd: init")
        self._listen_to_signals()
        if os.getpid() != 1:
            linux.prctl(linux.PR_SET_CHILD_SUBREAPER, 1)
        starts.count(self._places, "init")
        while self._shutdown_at is None:
            self._start_what_is_due()
            self._wait(self._next_start())
            self._reap()
        return self._shut_down()

    def _listen_to_signals(self) -> None:
        """From here on signals are noted. They were blocked since the launcher began, so none was lost."""
        for number in signal.valid_signals() - {signal.SIGPIPE, signal.SIGXFSZ}:
            if signal.getsignal(number) == signal.SIG_IGN:
                # Whoever started us ignores it, and a script would inherit that.
                signal.signal(number, signal.SIG_DFL)
        self._wake_fd, self._wake_writer = linux.wake_on_signals()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, signal.valid_signals())

    @property
    def _kept(self) -> list[Kept]:
        return [self._supervisor] + ([self._postmaster] if self._postmaster else [])

    def _start_what_is_due(self) -> None:
        now = time.monotonic()
        for child in self._kept:
            if child.pid is None and now >= child.restart.start_at:
                try:
                    child.start()
                    starts.count(self._places, child.name)
                except OSError as error:  # no process to be had now: like one that died at once
                    self._log.error("cannot start a process", name=child.name, error=error)
                    child.ended()

    def _next_start(self) -> "float | None":
        return min((child.restart.start_at for child in self._kept if child.pid is None), default=None)

    def _wait(self, until: "float | None") -> None:
        """Sleep until a signal comes or ``until`` (monotonic) is reached, and note the signals."""
        timeout_ms = None if until is None else max(0, int((until - time.monotonic()) * 1000) + 1)
        poll = select.poll()
        poll.register(self._wake_fd, select.POLLIN)
        if self._postmaster is not None:
            poll.register(self._said.reader_fd, select.POLLIN)
        ready = [fd for fd, _ in poll.poll(timeout_ms)]
        if self._postmaster is not None and self._said.reader_fd in ready:
            self._said.take()
        if self._wake_fd not in ready:
            return
        told = [number for number in os.read(self._wake_fd, 4096) if number in SHUTDOWN_SIGNALS]
        self._shutdown_signals += len(told)
        if told and self._shutdown_at is None:
            self._shutdown_at = time.monotonic()
            self._log.info("shutting down", signal=told[0])

    def _reap(self) -> None:
        """Collect every dead child: ours, and the orphans that come to the first process."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            for child in self._kept:
                if child.pid == pid:
                    child.ended()
                    if self._shutdown_at is None:
                        self._log.error("a process ended", name=child.name, pid=pid, how=how_it_ended(status))

    def _shut_down(self) -> int:
        """Let the supervisor end its commands, then end the postmaster."""
        assert self._shutdown_at is not None
        deadline = self._shutdown_at + self._config.shutdown_timeout_s
        passed_on = 0
        # Signals count: the first asks, another one hurries. So each is passed on.
        while self._supervisor.pid is not None:
            if passed_on < self._shutdown_signals:
                os.kill(self._supervisor.pid, signal.SIGTERM)
                passed_on += 1
                continue
            if time.monotonic() > deadline:
                self._log.error(
                    "the supervisor did not end in time", shutdown_timeout_s=self._config.shutdown_timeout_s
                )
                os.kill(self._supervisor.pid, signal.SIGKILL)
            self._wait(max(deadline, time.monotonic() + 0.1))
            self._reap()
        if self._postmaster is not None:
            self._end_postmaster(self._postmaster)
        if self._config.groups is not None:
            from supervisor import groups  # too dear for what is forked from us

            groups.leave(self._config.groups, self._config.controllers)
        try:
            os.ftruncate(self._lock_fd, 0)  # our pid stands there: it is nobody's now
        except OSError:
            pass  # a disk that has become read-only; the start time beside the pid tells that it was ours
        self._log.info("ended")
        return 0

    def _end_postmaster(self, postmaster: Kept) -> None:
        ending = Ending(self._postgres, self._log)
        while postmaster.pid is not None and (until := ending.urge()) is not None:
            self._wait(until)
            self._reap()
        self._said.take()

    def _fork(self, name: str, run: "Callable[[int], int]") -> int:
        """Fork a child in a session of its own, which runs ``run(our pid)`` and exits with what it returns."""
        init_pid = os.getpid()
        # Blocked over the fork: the child has our handlers until it has set its own, and they would swallow a signal
        # that is passed on to it at once.
        told = {*SHUTDOWN_SIGNALS, signal.SIGCHLD}
        signal.pthread_sigmask(signal.SIG_BLOCK, told)
        try:
            pid = os.fork()
        except OSError:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, told)
            raise
        if pid:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, told)
            return pid
        status = 1
        try:
            os.setsid()
            signal.set_wakeup_fd(-1)
            for number in told:
                signal.signal(number, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, told)
            os.close(self._wake_fd)
            os.close(self._wake_writer)
            status = run(init_pid)
        except BaseException as error:
            Log(name, self._config.log_format).failed(error)
        finally:
            os._exit(status)

    def _fork_supervisor(self) -> int:
        def run(init_pid: int) -> int:
            linux.die_with_parent(init_pid)
            if self._postmaster is not None:
                self._said.close()
            from supervisor import supervise

            return supervise.main(self._config, self._socket_fd, self._lock_fd, self._title)

        return self._fork("supervisor", run)

    def _fork_postmaster(self) -> int:
        self._predecessor.end()

        def run(init_pid: int) -> int:
            argv = self._config.postgres_argv
            assert argv is not None
            os.umask(0o077)
            os.dup2(self._said.writer_fd, 2)
            if self._config.postgres_uid is not None and self._config.postgres_gid is not None:
                os.setgroups([])
                os.setgid(self._config.postgres_gid)
                os.setuid(self._config.postgres_uid)
            # After the change of user, which would clear it. SIGINT is postgres' fast shutdown.
            linux.die_with_parent(init_pid, signal.SIGINT)
            os.execv(argv[0], argv)
            return 1

        return self._fork("postmaster", run)


def main(fds: list[int]) -> int:
    """Become init. ``fds``: the settings' memfd, the locked lock file, the listening socket."""
    # Before all else: until then a script of our own user, left by the last Bashd, could open the settings as we do.
    linux.prctl(linux.PR_SET_DUMPABLE, 0)
    config_fd, lock_fd, socket_fd = fds
    with open(config_fd, "rb") as file:
        config = Config.from_json(file.read())
    # They came over exec, and must not go over the next one: postgres and scripts hold neither.
    os.set_inheritable(lock_fd, False)
    os.set_inheritable(socket_fd, False)
    os.chdir("/")
    try:
        return Init(config, lock_fd=lock_fd, socket_fd=socket_fd).run()
    except Exception as error:
        Log("init", config.log_format).failed(error)
        return 1
