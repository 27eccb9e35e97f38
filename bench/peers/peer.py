"""What the peers have in common: a server that is installed, started, measured and ended."""

from __future__ import annotations

import http.client
import os
import socket
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, Self

from bench.family import tree_cpu_s
from tests.processes import eventually, started_here

INSTALL_WITHIN_S = 300.0
START_WITHIN_S = 30.0


class Missing(Exception):
    """This peer cannot be had here; the message is the reason in a word or two."""


class Peer(Protocol):
    """One of those that are compared."""

    def measure(self, *, clients: int, count: int) -> tuple[float, float]:
        """Commands a second, and milliseconds of processor time a command, of all its processes and bash."""


def install(command: Sequence[str | Path]) -> None:
    """Have a package client install something; raises ``Missing``."""
    try:
        subprocess.run(command, check=True, capture_output=True, timeout=INSTALL_WITHIN_S)
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        raise Missing("not to be had from an index") from error


class Server:
    """A server of a peer, in a directory of its own that is its home too."""

    def __init__(self, command: Sequence[str | Path], *, home: Path, port: int, alive: str) -> None:
        """Start it; returns when ``GET alive`` is answered with 200. Raises ``Missing``."""
        self.port = port
        with (home / "log").open("ab") as log:
            self._process = subprocess.Popen(
                command,
                cwd=home,
                env={"PATH": os.environ["PATH"], "HOME": str(home)},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        started_here.add(self._process.pid)
        try:
            eventually(lambda: self._process.poll() is not None or self._answers(alive), within_s=START_WITHIN_S)
        except AssertionError:
            pass  # then it does not answer now either
        if not self._answers(alive):
            self.close()
            raise Missing("does not start")

    @property
    def address(self) -> tuple[str, int]:
        return "127.0.0.1", self.port

    def cpu_s(self) -> float:
        """Seconds of processor time so far, of it and of all that it started."""
        return tree_cpu_s(self._process.pid)

    def get(self, path: str) -> tuple[int, bytes]:
        """Status and body; raises ``OSError`` when nobody listens."""
        connection = http.client.HTTPConnection(*self.address, timeout=START_WITHIN_S)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def _answers(self, path: str) -> bool:
        try:
            return self.get(path)[0] == 200
        except OSError:
            return False  # not yet, or not any more

    def close(self) -> None:
        """End it."""
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(10)
        started_here.discard(self._process.pid)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def free_port() -> int:
    """A port of loopback that nobody listens on now."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])
