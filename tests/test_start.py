"""Starting Bashd: once for each state directory, as root and as an ordinary user."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import StartService
from tests.processes import BASHD, REPOSITORY, Service, eventually, marked, sockets_below


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


def _ordinary_user() -> str | None:
    """Somebody without rights who can execute this installation; None when nobody can."""
    for user in ("nobody", "daemon"):
        if user in {entry.pw_name for entry in pwd.getpwall()}:
            answer = subprocess.run(
                [*_as_user(user), BASHD, "--version"], cwd="/", env={"PATH": os.environ["PATH"]}, capture_output=True
            )
            if answer.returncode == 0:
                return user
    return None


def _as_user(user: str) -> list[str]:
    entry = pwd.getpwnam(user)
    return ["setpriv", f"--reuid={entry.pw_uid}", f"--regid={entry.pw_gid}", "--clear-groups"]


@pytest.fixture
def ordinary(place: Path) -> Iterator[Service]:
    """A service of an ordinary user, with the embedded PostgreSQL."""
    if os.getuid() != 0:
        pytest.skip("every other test runs as an ordinary user already")
    if shutil.which("setpriv") is None:
        pytest.skip("there is no setpriv")
    user = _ordinary_user()
    if user is None:
        pytest.skip(f"no other user can execute {BASHD}: {REPOSITORY} or its Python lies in a closed directory")
    home = place / "ordinary"
    home.mkdir(exist_ok=True)
    shutil.chown(home, user)
    with Service(home / "state", command=[*_as_user(user), BASHD]) as service:
        yield service


def test_an_ordinary_user_can_have_it_too(ordinary: Service, mark: str) -> None:
    """Start, run, stop with escapees, embedded PostgreSQL, end: all without root."""
    ordinary.start()
    ended = ordinary.done("echo out; echo err >&2; exit 7")
    command = ordinary.run(f"setsid sleep {mark} & sleep {mark}")
    eventually(lambda: len(marked(mark)) == 2)

    ordinary.stop(command)

    assert (ended.status, ended.exit_code) == ("failed", 7)
    assert ordinary.ended(command).swept == {"group": 1, "escaped": 1, "left": 0}
    assert ordinary.create("true", run_as="root").status_code == 400
    assert ordinary.terminate() == 0
    assert sockets_below(ordinary.state_dir) == []


def test_scripts_of_the_same_ordinary_user_see_nothing_of_bashd(ordinary: Service) -> None:
    """Its descriptors, memory and environment are closed even to the same user."""
    ordinary.start()
    command = ordinary.done(
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

    assert ordinary.output(command, stream="stdout") == b"looked\n"
