"""The server of the embedded PostgreSQL as processes: found, asked to end, made to end. Starting it is init's."""

import os
import signal
import time

from protocol import linux
from supervisor.log import Log

STRONGER_AFTER_S = 2.0  # from one signal to the next stronger one; PostgreSQL recovers at its next start
# Fast shutdown, immediate shutdown (the manual's chapter on shutting down the server), and then no more asking.
SIGNALS = (signal.SIGINT, signal.SIGQUIT, signal.SIGKILL)

SEVERE = ("ERROR:", "FATAL:", "PANIC:")
MAX_LINE_BYTES = 8192

SOCKETS = "unix_socket_directories="


class Server:
    """A server by what it is started with: its data directory and the directory of its socket."""

    def __init__(self, argv: "list[str]") -> None:
        self._data = argv[argv.index("-D") + 1]
        quoted = next(one for one in argv if one.startswith(SOCKETS)).removeprefix(SOCKETS)
        sockets = quoted[1:-1].replace('""', '"')
        self._lock_files = [
            os.path.join(self._data, "postmaster.pid"),
            os.path.join(sockets, ".s.PGSQL.5432.lock"),
        ]

    def processes(self) -> "list[linux.Process]":
        """Every process of a server on this data directory, as far as we may look.

        Backends may outlive their postmaster, for a moment or when they are frozen. A postmaster has the directory
        among its arguments; it is the current directory of all of them, which only root and their own user can see.
        """
        found = [linux.process(pid) for pid in linux.all_pids()]
        servers = [one for one in found if one is not None and one.alive and one.comm.startswith("postgres")]
        return linux.descendants([one.pid for one in servers if self._has(one.pid)])

    def _has(self, pid: int) -> bool:
        try:
            return os.path.samefile(f"/proc/{pid}/cwd", self._data)
        except OSError:
            return os.fsencode(self._data) in linux.command_line(pid).split(b"\0")

    def clear_lock_files(self) -> None:
        """Remove lock files that would stop the next postmaster though no server is there.

        Those that name a living process (of somebody who got that pid since), or nobody (the machine died before they
        were written). All others are left to PostgreSQL, which reads more from them than the pid.
        """
        for path in self._lock_files:
            try:
                with open(path, "rb") as file:
                    pid = abs(int(file.readline()))  # negative: of the single-user mode
            except FileNotFoundError:
                continue
            except ValueError:
                pid = os.getpid()  # alive, and no postmaster
            if linux.process(pid) is not None and not self.processes():
                try:
                    os.unlink(path)
                except FileNotFoundError:
                    pass  # the last act of a server that was there when we read it


class Said:
    """What a server writes on its stderr: lines of our log."""

    def __init__(self, log_format: str) -> None:
        self.reader_fd, self.writer_fd = os.pipe()
        for fd in (self.reader_fd, self.writer_fd):
            # The server's end too: rather a lost line than a database that waits for us.
            os.set_blocking(fd, False)
        self._log = Log("postgres", log_format)
        self._rest = b""

    def take(self) -> None:
        """Log the lines that are there. What is left of one that is not whole waits for its end, if it is not long."""
        try:
            read = os.read(self.reader_fd, 64 * 1024)
        except BlockingIOError:
            return
        *whole, self._rest = (self._rest + read).split(b"\n")
        if len(self._rest) > MAX_LINE_BYTES:
            whole, self._rest = [*whole, self._rest], b""
        for one in whole:
            text = one.decode(errors="replace").strip()
            if text:
                say = self._log.error if text.startswith(SEVERE) else self._log.info
                say("PostgreSQL says", text=text)

    def close(self) -> None:
        """In a process that is not the server's and does not listen."""
        os.close(self.reader_fd)
        os.close(self.writer_fd)


class Ending:
    """A server on its way to its end: each ``urge`` sends the signal whose time has come."""

    def __init__(self, server: Server, log: Log) -> None:
        self._server = server
        self._log = log
        self._sent = 0
        self._next_at = 0.0  # monotonic

    def urge(self) -> "float | None":
        """Send the next signal if it is due; returns when (monotonic) there is more to do, None when nobody is left.

        The first is for the postmaster, which ends its children. All get CONT, for a server that was frozen.
        """
        processes = self._server.processes()
        if not processes:
            return None
        now = time.monotonic()
        if now < self._next_at:
            return self._next_at
        number = SIGNALS[min(self._sent, len(SIGNALS) - 1)]
        if self._sent:
            states = ", ".join(f"{one.pid} {one.state} below {one.ppid}" for one in processes)
            self._log.error("PostgreSQL does not end", signal=int(number), processes=states)
        pids = {one.pid for one in processes}
        for one in processes:
            if number == signal.SIGKILL or one.ppid not in pids:
                _send(one.pid, number)
            _send(one.pid, signal.SIGCONT)
        self._sent += 1
        self._next_at = now + STRONGER_AFTER_S
        return self._next_at


class Predecessor:
    """What is left of a server that belonged to an init that died, or of a postmaster that died."""

    def __init__(self, server: Server, log: Log) -> None:
        self._server = server
        self._log = log
        self._ending: Ending | None = None

    def end(self) -> None:
        """Returns when nothing of it is there. Raises ``OSError`` while it is: then try again in a moment."""
        if self._ending is None:
            self._ending = Ending(self._server, self._log)
        if self._ending.urge() is not None:
            raise OSError("the PostgreSQL of before has not ended yet")
        self._ending = None
        self._server.clear_lock_files()


def _send(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass  # it has just ended, which is what is wanted
