"""The API process as the supervisor sees it: forked, connected by two queues, forked again when it ends."""

import os
import signal
import sys

from protocol import linux, starts
from protocol.config import Config
from protocol.messages import Order, Report
from protocol.places import Places
from protocol.queue import Queue
from supervisor.log import Log
from supervisor.restart import Restart


class ApiProcess:
    """``pid`` is None while it is down; ``restart`` says when it comes again."""

    def __init__(self, config: Config, *, socket_fd: int, lock_fd: int, title: linux.Title) -> None:
        self._config = config
        self._places = Places(config.state_dir)
        self._socket_fd = socket_fd
        self._lock_fd = lock_fd
        self._title = title
        self.pid: int | None = None
        self.restart = Restart()
        self.orders: Queue[Order] = Queue()
        self.reports: Queue[Report] = Queue()

    def start(self) -> None:
        """Fork it, with new queues: a reader that was killed may have taken a lock with it."""
        self.orders, self.reports = Queue(), Queue()
        self.restart.started()
        supervisor_pid = os.getpid()
        pid = os.fork()
        if pid == 0:
            self._run(supervisor_pid)
        self.orders.keep_reader()
        self.reports.keep_writer()
        self.pid = pid
        starts.count(self._places, "api")

    def ended(self) -> None:
        """Note that it ended."""
        self.pid = None
        self.restart.ended()

    def kill(self) -> None:
        """End it with KILL: it did not go when it was told to."""
        if self.pid is not None:
            os.kill(self.pid, signal.SIGKILL)

    def _run(self, supervisor_pid: int) -> None:
        """In the child: let go of what is the supervisor's, and serve. Never returns."""
        status = 1
        try:
            os.setsid()
            linux.die_with_parent(supervisor_pid)
            self._title.set("bashd: api")
            signal.set_wakeup_fd(-1)
            for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                signal.signal(number, signal.SIG_DFL)
            self.orders.keep_writer()
            self.reports.keep_reader()
            kept = {0, 1, 2, self._socket_fd, self._lock_fd, self.orders.writer_fd, self.reports.reader_fd}
            for name in os.listdir("/proc/self/fd"):
                if int(name) not in kept:
                    os.closerange(int(name), int(name) + 1)
            sys.path[:] = self._config.sys_path
            from api import serve

            status = serve.run(self._config, self._socket_fd, self.orders, self.reports)
        except BaseException as error:
            Log("api", self._config.log_format).failed(error)
        finally:
            os._exit(status)
