"""pywebexec: ``POST /commands/bash`` with ``{"params": ["-c", "'echo hi'"]}``, then ``GET /commands``.

It runs the executables of a directory, here a link to bash, each in a terminal of its own, and answers at once. So the
end is seen by asking for the list, every 50 ms from when the last was accepted, until none is running. It joins
the parameters and splits them again as a shell would: hence the quotes. Default settings: gunicorn with one process of
four threads, no authentication.
"""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench import load
from bench.peers.peer import Missing, Server, free_port, install

NAME = "pywebexec"
VERSION = "2.4.28"
POST = load.Post("/commands/bash", {"params": ["-c", "'echo hi'"]}, id_field="command_id")
ASK_EVERY_S = 0.05
END_WITHIN_S = 120.0


class Pywebexec:
    """A running one."""

    def __init__(self, server: Server) -> None:
        self._server = server

    def measure(self, *, clients: int, count: int) -> tuple[float, float]:
        """Commands a second, and milliseconds of processor time a command."""
        before_s = self._server.cpu_s()
        done = load.send(self._server.address, POST, clients=clients, count=count)
        if done.refused:
            raise RuntimeError(f"pywebexec refused {done.refused} of {count}: {done.complaint}")
        while "running" in (found := self._statuses()).values():
            if time.monotonic() > done.began_s + END_WITHIN_S:
                raise RuntimeError(f"pywebexec has not run {count} commands in {END_WITHIN_S} s")
            time.sleep(ASK_EVERY_S)
        seconds = time.monotonic() - done.began_s
        failed = [one for one in done.ids if found.get(one) != "success"]
        if failed:
            raise RuntimeError(f"pywebexec failed to run {len(failed)} of {count}")
        return count / seconds, (self._server.cpu_s() - before_s) / count * 1000

    def _statuses(self) -> dict[str, str]:
        status, body = self._server.get("/commands")
        if status != 200:
            raise RuntimeError(f"pywebexec answered its list with {status}: {body[:500]!r}")
        return {one["command_id"]: one["status"] for one in json.loads(body)["commands"]}


@contextmanager
def started(installed: Path, home: Path) -> Iterator[Pywebexec]:
    """A running one, installed into ``installed`` unless it is there; raises ``Missing``."""
    program = installed / "bin" / "pywebexec"
    if not program.exists():
        install([sys.executable, "-m", "venv", installed])
        install([installed / "bin" / "pip", "install", "--quiet", f"pywebexec=={VERSION}"])
    bash = shutil.which("bash")
    if bash is None:
        raise Missing("no bash")
    scripts = home / "scripts"
    scripts.mkdir()
    (scripts / "bash").symlink_to(bash)
    port = free_port()
    command: list[str | Path] = [program, "--listen", "127.0.0.1", "--port", str(port), "--dir", scripts]
    with Server(command, home=home, port=port, alive="/commands") as server:
        yield Pywebexec(server)
