"""sandbox-agent: ``POST /v1/processes/run`` with ``{"command": "bash", "args": ["-c", "echo hi"]}``.

It runs the command to its end and answers with its exit code and what it printed. ``sandbox-agent server`` without
token and without telemetry, otherwise as it is.
"""

from __future__ import annotations

import platform
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench import load
from bench.peers.peer import Missing, Server, free_port, install

NAME = "sandbox-agent"
VERSION = "0.4.2"
PACKAGE = "@sandbox-agent/cli-linux-x64"
POST = load.Post(
    "/v1/processes/run",
    {"command": "bash", "args": ["-c", "echo hi"]},
    expected={"exitCode": 0, "stdout": "hi\n"},
    id_field=None,
)


class SandboxAgent:
    """A running one."""

    def __init__(self, server: Server) -> None:
        self._server = server

    def measure(self, *, clients: int, count: int) -> tuple[float, float]:
        """Commands a second, and milliseconds of processor time a command."""
        before_s = self._server.cpu_s()
        done = load.send(self._server.address, POST, clients=clients, count=count)
        seconds = time.monotonic() - done.began_s
        if done.refused:
            raise RuntimeError(f"sandbox-agent did not run {done.refused} of {count}: {done.complaint}")
        return count / seconds, (self._server.cpu_s() - before_s) / count * 1000


@contextmanager
def started(installed: Path, home: Path) -> Iterator[SandboxAgent]:
    """A running one, installed into ``installed`` unless it is there; raises ``Missing``."""
    program = installed / "node_modules" / PACKAGE / "bin" / "sandbox-agent"
    if platform.machine() != "x86_64":
        raise Missing("not for this machine")
    if not program.exists():
        npm = shutil.which("npm")
        if npm is None:
            raise Missing("no npm")
        quiet = ["--ignore-scripts", "--no-audit", "--no-fund"]
        install([npm, "install", *quiet, "--prefix", installed, f"{PACKAGE}@{VERSION}"])
        program.chmod(0o755)  # all that its install script does
    port = free_port()
    command: list[str | Path] = [program, "server", "--no-token", "--no-telemetry"]
    command += ["--host", "127.0.0.1", "--port", str(port)]
    with Server(command, home=home, port=port, alive="/v1/health") as server:
        yield SandboxAgent(server)
