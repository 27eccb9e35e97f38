"""Bashd as an ordinary user has it, though the tests run as root."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.processes import REPOSITORY, Service


@dataclass(frozen=True)
class Ordinary:
    """Somebody without rights, and how he starts Bashd."""

    service: Service
    rights: dict[str, Any]  # for Popen
    python: str  # that he can execute

    def start(self) -> Service:
        return self.service.start(**self.rights)


def python_for(rights: dict[str, Any], place: Path) -> Path | None:
    """An interpreter with everything Bashd needs that an ordinary user can execute: ours, or one like it."""
    name = f"python{sys.version_info.major}.{sys.version_info.minor}"
    candidates = [Path(sys.executable)]
    for found in (Path(directory) / name for directory in ("/usr/bin", "/usr/local/bin")):
        if found.exists():
            candidates.append(_environment(found, place))
    for python in candidates:
        try:
            subprocess.run(
                [python, "-c", "import supervisor.launcher, sanic, psycopg_pool"],
                check=True,
                cwd="/",
                env={},
                capture_output=True,
                **rights,
            )
        except (PermissionError, subprocess.CalledProcessError):
            continue  # its directory, or that of what it imports, is closed to him; or it is another version
        return python
    return None


def _environment(python: Path, place: Path) -> Path:
    """A virtual environment of this interpreter that looks for packages where ours does."""
    top = place / f"environment-{python.parent.parent.name}"
    packages = top / "lib" / python.name / "site-packages"
    if not top.exists():
        packages.mkdir(parents=True)
        (top / "bin").mkdir()
        (top / "pyvenv.cfg").write_text(f"home = {python.parent}\n")
        (top / "bin" / "python").symlink_to(python)
        (packages / "ours.pth").write_text(f"{sysconfig.get_path('purelib')}\n{REPOSITORY}\n")
    return top / "bin" / "python"
