"""``bashd doctor`` says what works on a machine and what does not, before and while Bashd runs, and changes nothing."""

from __future__ import annotations

import json
import os
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import StartService
from tests.processes import BASHD


def _doctor(*arguments: str, state_dir: Path, **popen: Any) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": os.environ["PATH"], "BASHD_STATE_DIR": str(state_dir), **popen.pop("env", {})}
    return subprocess.run(
        [BASHD, "doctor", *arguments], env=environment, cwd="/", capture_output=True, text=True, timeout=60, **popen
    )


def _findings(*arguments: str, state_dir: Path, status: int = 0, **options: Any) -> dict[str, dict[str, str | None]]:
    """By subject; ``status`` is the exit status that is expected."""
    ended = _doctor("--json", "--port=0", *arguments, state_dir=state_dir, **options)
    assert ended.returncode == status, ended
    assert ended.stderr == ""
    found = json.loads(ended.stdout)
    assert len({one["subject"] for one in found}) == len(found)
    return {one["subject"]: one for one in found}


def _failed(found: dict[str, dict[str, str | None]]) -> list[str]:
    return [subject for subject, one in found.items() if one["verdict"] == "failed"]


@pytest.fixture
def taken_port() -> Iterator[int]:
    """A port on which somebody else listens."""
    with socket.create_server(("127.0.0.1", 0)) as one:
        yield one.getsockname()[1]


def test_a_machine_that_bashd_runs_on_is_found_well(state_dir: Path) -> None:
    """Nothing has failed, everything that is not well has a remedy, and nothing is left behind."""
    found = _findings(state_dir=state_dir)

    assert _failed(found) == []
    assert all((one["verdict"] == "ok") == (one["remedy"] is None) for one in found.values())
    assert {
        "kernel",
        "pidfd",
        "bash",
        "embedded PostgreSQL",
        "file locks",
        "disk",
        "address",
        "cgroups",
    } <= found.keys()
    assert not state_dir.exists()
    assert not list(state_dir.parent.glob("bashd-doctor-*"))


def test_it_is_a_page_for_people_that_says_what_to_do(state_dir: Path, taken_port: int) -> None:
    """One line a finding, the remedy below it, the sum at the end, and exit status 1 when something has failed."""
    ended = _doctor(f"--port={taken_port}", state_dir=state_dir)

    assert ended.returncode == 1
    lines = ended.stdout.splitlines()
    at = next(number for number, line in enumerate(lines) if line.startswith("failed   address: "))
    assert f"127.0.0.1 port {taken_port}: Address already in use" in lines[at]
    assert lines[at + 1].strip().startswith("→ set host or port")
    assert lines[-1].startswith("Bashd cannot run here as it should: ")
    assert "\033" not in ended.stdout  # it is no terminal


def test_a_reader_who_has_seen_enough_is_no_error(state_dir: Path) -> None:
    """``bashd doctor | head -1`` ends well."""
    ended = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {BASHD} doctor --port=0 --state-dir={state_dir} | head -1"],
        env={"PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (ended.returncode, ended.stderr) == (0, "")


def test_a_running_service_is_found(own_service: StartService, state_dir: Path) -> None:
    """Its lock and its address are no faults, and nothing of it is disturbed."""
    service = own_service(embedded=True).start()
    command = service.started(service.run("sleep 60"))
    assert service.init is not None
    port = service.url.rpartition(":")[2]

    found = _findings(f"--port={port}", state_dir=state_dir)

    assert _failed(found) == []
    assert f"process {service.init.pid}" in str(found["service"]["says"])
    assert found["address"]["says"] == f"127.0.0.1 port {port}: Bashd answers"
    assert service.get(command).status == "running"


@pytest.mark.parametrize(
    ("environment", "subject", "says"),
    [
        ({"PG_BINDIR": "/nowhere"}, "embedded PostgreSQL", "PG_BINDIR=/nowhere holds no initdb"),
        ({"BASHD_DATABASE_URL": "no url"}, "database", "malformed"),
        ({"BASHD_MIN_FREE_BYTES": str(2**60)}, "disk", "no new command would be accepted"),
        ({"BASHD_HOST": "192.0.2.1", "BASHD_PLAIN_HTTP": "true"}, "address", "Cannot assign requested address"),
    ],
    ids=["no binaries", "malformed URL", "no room", "not our address"],
)
def test_what_would_keep_it_from_starting_is_named(
    environment: dict[str, str], subject: str, says: str, state_dir: Path
) -> None:
    """That alone, and exit status 1."""
    found = _findings(state_dir=state_dir, status=1, env=environment)

    assert _failed(found) == [subject]
    assert says in str(found[subject]["says"])


def test_a_database_that_is_silent_is_a_warning(state_dir: Path) -> None:
    """``bashd serve`` starts without it, too."""
    found = _findings("--database-url=postgresql://nobody@127.0.0.1:1/none", state_dir=state_dir)

    assert found["database"]["verdict"] == "warning"
    assert "does not answer" in str(found["database"]["says"])


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a directory away")
def test_a_state_directory_that_is_not_ours_is_named(state_dir: Path) -> None:
    """Another's, or a file."""
    state_dir.mkdir()
    os.chown(state_dir, 12345, 12345)
    assert _failed(_findings(state_dir=state_dir, status=1)) == ["state directory"]

    state_dir.rmdir()
    state_dir.write_text("")
    assert "is no directory" in str(_findings(state_dir=state_dir, status=1)["state directory"]["says"])


def test_a_setting_that_is_wrong_ends_it_as_it_ends_the_service(state_dir: Path) -> None:
    """In one line, with exit status 2."""
    ended = _doctor("--port=x", state_dir=state_dir)

    assert ended.returncode == 2
    assert ended.stderr.startswith("bashd: port: ")


def test_too_little_room_is_said_in_commands(state_dir: Path) -> None:
    """A limit on open files is a number of commands at once."""
    found = _findings("--max-running=100000", state_dir=state_dir)

    assert found["open files"]["verdict"] == "warning"
    assert "max_running is 100000" in str(found["open files"]["says"])


@pytest.mark.skipif(os.getuid() != 0, reason="only root can run scripts as others")
def test_a_default_user_ends_the_warning_about_root(state_dir: Path) -> None:
    """As root it warns that scripts are root too, until there is a user for them."""
    assert _findings(state_dir=state_dir)["user"]["verdict"] == "warning"
    assert _findings("--default-run-as=daemon", state_dir=state_dir)["user"]["verdict"] == "ok"
