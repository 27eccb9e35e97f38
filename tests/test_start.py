"""Starting Bashd: once for each state directory, as root and as an ordinary user."""

from __future__ import annotations

import shutil
import subprocess
import time
from pathlib import Path

import pytest

from tests.conftest import StartService
from tests.ordinary import Ordinary
from tests.processes import eventually, marked, sockets_below


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


def test_an_ordinary_user_can_have_it_too(ordinary: Ordinary, mark: str) -> None:
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


def test_limits_hold_without_root_too(ordinary: Ordinary) -> None:
    """Limits, their reasons, and the kernel's preference; what we may not have ourselves is not given."""
    service = ordinary.start()
    limits = {"cpu_s": 1, "open_files": 2**20, "processes": 2**20}

    plain = service.done("sleep 0.3; cat /proc/self/oom_score_adj")
    limited = service.done("sleep 0.3; cat /proc/self/oom_score_adj", limits=limits)
    burned = service.done("while :; do :; done", limits=limits)

    assert (service.output(plain), service.output(limited)) == (b"500\n", b"500\n")
    assert (burned.status, burned.reason) == ("failed", "cpu")


def test_a_setuid_program_is_ended_too(ordinary: Ordinary, place: Path, mark: str) -> None:
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


def test_scripts_of_the_same_ordinary_user_see_nothing_of_bashd(ordinary: Ordinary) -> None:
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
