"""The command line as a person meets it: its words as processes, with pipes or on a pseudo-terminal."""

from __future__ import annotations

import fcntl
import os
import pty
import struct
import subprocess
import termios
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from tests.processes import BASHD, Service, eventually, started_here


def environment(service: Service | None = None, **more: str) -> dict[str, str]:
    """Variables with which the words find ``service``, and no other."""
    found = {"PATH": f"{os.path.dirname(BASHD)}:{os.environ['PATH']}", "HOME": "/nonexistent", "TERM": "xterm-256color"}
    if service is not None:
        found |= {"BASHD_URL": service.url, "BASHD_TOKEN": service.token or ""}
    return {**found, "BASHD_STATE_DIR": "/nonexistent", **more}


def bashd(
    service: Service | None, *words: str, env: dict[str, str] | None = None, **run: Any
) -> subprocess.CompletedProcess[bytes]:
    """Run one word to its end."""
    return subprocess.run(
        [BASHD, *words],
        env=env or environment(service),
        **{"capture_output": True, "timeout": 60, "check": False, **run},
    )


@contextmanager
def begun(
    service: Service, *words: str, env: dict[str, str] | None = None, **popen: Any
) -> Iterator[subprocess.Popen[bytes]]:
    """A word that is still at it; ended afterwards."""
    process = subprocess.Popen(
        [BASHD, *words],
        env=env or environment(service),
        **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **popen},
    )
    started_here.add(process.pid)
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout, process.stderr):
            if pipe is not None:
                pipe.close()
        started_here.discard(process.pid)


class Terminal:
    """A pseudo-terminal of 120 columns with a program on it, which is the leader of its session."""

    def __init__(self, argv: list[str], env: dict[str, str]) -> None:
        self._shown = bytearray()
        self.pid, self._fd = pty.fork()
        if self.pid == 0:
            os.execve(argv[0], argv, env)
        started_here.add(self.pid)
        fcntl.ioctl(self._fd, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 120, 0, 0))
        os.set_blocking(self._fd, False)
        self._status: int | None = None

    def type(self, keys: bytes) -> None:
        """Press these."""
        os.write(self._fd, keys)

    @property
    def screen(self) -> str:
        """All that was shown so far, with its escapes."""
        with suppress(BlockingIOError, OSError):  # nothing new; EIO: nobody is there any more
            while piece := os.read(self._fd, 65536):
                self._shown += piece
        return self._shown.decode(errors="replace")

    def shows(self, text: str) -> None:
        """Wait until it has shown this."""
        eventually(lambda: text in self.screen)

    def ended(self) -> int | None:
        """Its exit status; None while it runs."""
        _ = self.screen  # who fills the terminal must not wait for us
        if self._status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self._status = os.waitstatus_to_exitcode(status)
        return self._status

    def exit_status(self) -> int:
        """Its exit status, as soon as it has ended."""
        eventually(lambda: self.ended() is not None)
        assert self._status is not None
        return self._status

    def close(self) -> None:
        """End it."""
        if self.ended() is None:
            os.kill(self.pid, 9)
            os.waitpid(self.pid, 0)
        started_here.discard(self.pid)
        os.close(self._fd)


@contextmanager
def terminal(service: Service, *words: str) -> Iterator[Terminal]:
    """One word on a pseudo-terminal."""
    one = Terminal([BASHD, *words], environment(service))
    try:
        yield one
    finally:
        one.close()
