"""Bashd in containers of a real engine, asked by its command-line client as operators ask it."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
from pathlib import Path
from typing import Any, Self

from tests.processes import REPOSITORY, Service, eventually

IMAGE = f"bashd-tests-{os.getpid()}"
_numbers = itertools.count(1)


def docker(*arguments: str, check: bool = True, within_s: float = 120) -> str:
    """What the engine answers; with ``check`` a refusal fails."""
    done = subprocess.run(["docker", *arguments], capture_output=True, text=True, timeout=within_s)
    assert not check or done.returncode == 0, f"docker {' '.join(arguments)}: {done.stderr}"
    return done.stdout


def build() -> None:
    """Make the image from the working tree."""
    docker("build", "--quiet", "--tag", IMAGE, str(REPOSITORY), within_s=1200)


class Container(Service):
    """``init`` is the client, which shows the container's log and ends with its exit code."""

    def __init__(self, place: Path, *options: str, **settings: object) -> None:
        """``options`` are those of ``docker create``; ``settings`` become ``BASHD_*``."""
        self.name = f"{IMAGE}-{next(_numbers)}"
        super().__init__(place / self.name)
        given = {"token": self.token, **settings}
        variables = [f"--env=BASHD_{name.upper()}={value}" for name, value in given.items()]
        docker("create", f"--name={self.name}", "--publish=127.0.0.1::8080", *variables, *options, IMAGE)

    def launch(self, **popen: Any) -> subprocess.Popen[bytes]:
        with self.log_path.open("ab") as log:
            return subprocess.Popen(
                ["docker", "start", "--attach", self.name], stdin=subprocess.DEVNULL, stdout=log, stderr=log, **popen
            )

    def _address(self, already_logged: int) -> str | None:
        if " on http://" not in self.log[already_logged:]:
            return None
        return f"http://{docker('port', self.name, '8080').strip()}"

    def tell(self, number: int = signal.SIGTERM) -> None:
        docker("kill", f"--signal={signal.Signals(number).name}", self.name)

    def stop_container(self) -> int:
        """``docker stop``, which kills after ten seconds; returns the exit code."""
        docker("stop", self.name)
        return self.wait()

    def inspect(self, template: str) -> Any:
        """What the engine knows of the container."""
        return json.loads(docker("inspect", f"--format={{{{json {template}}}}}", self.name))

    def inside(self, script: str) -> str:
        """What a shell beside Bashd prints (``docker exec``)."""
        return docker("exec", self.name, "sh", "-c", script)

    def rows(self) -> list[tuple[str, str]]:
        """State and arguments of each process, as the engine sees them from outside."""
        lines = docker("top", self.name, "-eo", "pid,stat,args").splitlines()[1:]
        return [(fields[1], fields[2]) for line in lines if (fields := line.split(None, 2))]

    def marked_inside(self, mark: str) -> int:
        """How many processes have ``mark`` as their last argument."""
        return sum(arguments.endswith(" " + mark) for _, arguments in self.rows())

    def close(self) -> None:
        """Remove it with its volumes, whatever it does."""
        docker("rm", "--force", "--volumes", self.name)
        if self.init is not None:
            self.wait()

    def __enter__(self) -> Self:
        return self


def healthy(container: Container) -> None:
    """Wait until the image's own check is content."""
    eventually(lambda: container.inspect(".State.Health.Status") == "healthy", within_s=60)
