"""Starting Bashd: once for each state directory, as root and as an ordinary user."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import StartService
from tests.processes import REPOSITORY, Service, eventually, marked, sockets_below


def test_a_second_one_on_the_same_state_directory_is_refused(own_service: StartService) -> None:
    """At once, with one clear line; the first one does not notice."""
    first = own_service().start()
    second = own_service()
    already_logged = len(first.log)
    asked = time.monotonic()

    process = second.launch()

    assert process.wait(20) != 0
    assert time.monotonic() - asked < 5
    lines = [line for line in first.log[already_logged:].splitlines() if str(first.state_dir) in line]
    assert len(lines) == 1
    assert "Traceback" not in first.log
    assert first.done("echo undisturbed").status == "succeeded"


def test_after_kill_it_starts_again_at_once(own_service: StartService) -> None:
    """The lock of a dead owner hinders nobody, though its children may live a moment longer."""
    service = own_service(embedded=True).start()
    command = service.done("echo kept")

    service.kill_init()
    service.start()

    assert service.get(command).row == command.row
    assert service.output(command) == b"kept\n"


@dataclass(frozen=True)
class _Ordinary:
    """Somebody without rights, and how he starts Bashd."""

    service: Service
    rights: dict[str, Any]  # for Popen

    def start(self) -> Service:
        return self.service.start(**self.rights)


def _python_for(rights: dict[str, Any], place: Path) -> Path | None:
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


@pytest.fixture
def ordinary(place: Path, mark: str) -> Iterator[_Ordinary]:  # noqa: ARG001  the mark is looked for after our end
    """A service of an ordinary user, with the embedded PostgreSQL."""
    if os.getuid() != 0:
        pytest.skip("every other test runs as an ordinary user already")
    user = next(entry for entry in pwd.getpwall() if entry.pw_name in ("nobody", "daemon"))
    rights = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
    python = _python_for(rights, place)
    if python is None:
        pytest.skip(f"no other user can execute {sys.executable} or read {REPOSITORY}: they lie in a closed directory")
    home = Path(tempfile.mkdtemp(prefix="ordinary-", dir=place))
    shutil.chown(home, user.pw_uid)
    with Service(home / "state", command=[str(python), "-m", "supervisor.launcher"]) as service:
        yield _Ordinary(service, rights)


def test_an_ordinary_user_can_have_it_too(ordinary: _Ordinary, mark: str) -> None:
    """Start, run, stop with escapees, embedded PostgreSQL, end: all without root."""
    service = ordinary.start()
    ended = service.done("echo out; echo err >&2; exit 7")
    command = service.run(f"setsid sleep {mark} & sleep {mark}")
    eventually(lambda: len(marked(mark)) == 2)

    service.stop(command)

    assert (ended.status, ended.exit_code) == ("failed", 7)
    assert service.ended(command).swept == {"group": 1, "escaped": 1, "left": 0}
    assert service.create("true", run_as="root").status_code == 400
    assert service.terminate() == 0
    assert sockets_below(service.state_dir) == []


def test_a_setuid_program_is_ended_too(ordinary: _Ordinary, place: Path, mark: str) -> None:
    """Without more it would run as root, and a Bashd that is not root could not signal it: scripts gain no rights."""
    sleep = place / "sleep-as-root"
    shutil.copy("/bin/sleep", sleep)
    sleep.chmod(0o4755)
    with subprocess.Popen([sleep, mark], cwd="/", **ordinary.rights) as plain:
        effective = [line.split()[2] for line in _status(plain.pid) if line.startswith("Uid:")]
        plain.kill()
    if effective != ["0"]:
        pytest.skip(f"{place} is on a file system without setuid")
    service = ordinary.start()
    command = service.run(f"{sleep} {mark} & setsid {sleep} {mark} & wait")
    eventually(lambda: len(marked(mark)) == 2)

    service.stop(command)

    ended = service.ended(command)
    assert (ended.status, ended.swept) == ("stopped", {"group": 1, "escaped": 1, "left": 0})
    assert marked(mark) == []


def _status(pid: int) -> list[str]:
    """/proc/<pid>/status once the program runs: until then it is still ours."""
    eventually(lambda: "sleep" in Path(f"/proc/{pid}/comm").read_text())
    return Path(f"/proc/{pid}/status").read_text().splitlines()


def test_scripts_of_the_same_ordinary_user_see_nothing_of_bashd(ordinary: _Ordinary) -> None:
    """Its descriptors, memory and environment are closed even to the same user."""
    service = ordinary.start()
    command = service.done(
        """
        for place in /proc/[0-9]*; do
            title=$(tr '\\0' ' ' < "$place/cmdline") 2> /dev/null
            [[ $title == "bashd: "* ]] || continue
            seen=$((seen + 1))
            ls "$place/fd" > /dev/null 2>&1 && echo "$title: fd"
            head -c 1 "$place/environ" > /dev/null 2>&1 && echo "$title: environ"
            (: < "$place/mem") 2> /dev/null && echo "$title: mem"
        done
        (( seen >= 4 )) && echo looked
        """
    )

    assert service.output(command, stream="stdout") == b"looked\n"
