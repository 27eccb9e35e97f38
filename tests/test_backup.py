"""What docs/operations.md says of backups: both kinds give the same history, and new ids go on after the old."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from supervisor.cluster import find_binaries
from tests.postgres import PostgresServer
from tests.processes import Command, Service, eventually

EVERY_BYTE = r"for i in {0..255}; do printf \\x$(printf %02x $i); done; echo wrong >&2; exit 3"


@pytest.fixture
def new_server(state_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[PostgresServer]:
    """A server of the version that Bashd embeds: a dump goes into no older one."""
    monkeypatch.setenv("PG_BINDIR", find_binaries()[0].directory)
    state_dir.parent.chmod(0o755)
    server = PostgresServer(state_dir.parent / "pg")
    yield server
    server.close()


def _history(service: Service) -> list[tuple[dict[str, Any], bytes, bytes]]:
    """Every command as it is shown, with both of its streams."""
    return [
        (
            service.get(command).row,
            service.output(command, stream="stdout"),
            service.output(command, stream="stderr"),
        )
        for command in service.page(limit=1000)
    ]


def _fill(service: Service) -> None:
    """Commands that came to different ends, all of them recorded: then their journals are gone."""
    service.done(EVERY_BYTE, name="bytes", labels={"team": "infra"})
    service.done("head -c 200000 /dev/urandom")
    service.done("kill -9 $$")
    eventually(lambda: not list((service.state_dir / "journals").iterdir()))


def _dumped_and_restored(state_dir: Path, server: PostgresServer) -> str:
    """The address of a new database with what the running Bashd has; ``other`` is the state directory for it."""
    dump = state_dir.with_name("dump.sql")
    binaries = find_binaries()[0]
    with dump.open("wb") as file:
        subprocess.run(
            [binaries.path("pg_dump"), "-h", state_dir / "postgres", "-U", "bashd", "--no-owner", "bashd"],
            check=True,
            stdout=file,
        )
    url = server.new_database()
    subprocess.run(
        [binaries.path("psql"), "--quiet", "--set=ON_ERROR_STOP=1", "--single-transaction", "-f", dump, url],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    other = state_dir.with_name("other")
    other.mkdir(mode=0o711)
    shutil.copy2(state_dir / "node_id", other / "node_id")
    return url


def test_a_copy_of_the_state_directory_is_a_backup(state_dir: Path, services: list[Service]) -> None:
    """Copied while Bashd does not run, it is the same Bashd somewhere else."""
    service = Service(state_dir)
    services.append(service.start())
    _fill(service)
    before = _history(service)
    assert service.terminate() == 0
    subprocess.run(["cp", "-a", state_dir, state_dir.with_name("copy")], check=True)
    shutil.rmtree(state_dir)

    restored = Service(state_dir.with_name("copy"))
    services.append(restored.start())

    assert len(before) == 3
    assert _history(restored) == before
    assert restored.done("true").id > before[0][0]["id"]


def test_a_dump_is_a_backup_while_bashd_runs(
    state_dir: Path, new_server: PostgresServer, services: list[Service]
) -> None:
    """pg_dump of the embedded database, restored into another one, with ``node_id`` on a new state directory."""
    service = Service(state_dir)
    services.append(service.start())
    _fill(service)
    before = _history(service)
    url = _dumped_and_restored(state_dir, new_server)

    restored = Service(state_dir.with_name("other"), database_url=url)
    services.append(restored.start())

    assert len(before) == 3
    assert _history(restored) == before
    assert restored.done("true").id > before[0][0]["id"]
    with psycopg.connect(url) as connection:
        owners = connection.execute("select distinct node_id::text from commands").fetchall()
    assert owners == [((state_dir / "node_id").read_text().strip(),)]


def _recorded_status(state_dir: Path, command: Command) -> str:
    """What the row says, which is behind what the API shows."""
    with psycopg.connect(host=str(state_dir / "postgres"), user="bashd", dbname="bashd") as connection:
        row = connection.execute("select status from commands where id = %s", [command.id]).fetchone()
    assert row is not None
    return str(row[0])


def test_what_was_not_final_in_a_dump_is_lost_or_runs(
    mark: str, state_dir: Path, new_server: PostgresServer, services: list[Service]
) -> None:
    """What was running has no journal there; what was queued waits on, and so runs there too."""
    service = Service(state_dir, max_running=1)
    services.append(service.start())
    running = service.started(service.run(f"exec sleep {mark}"))
    queued = service.run("echo waited")
    eventually(lambda: _recorded_status(state_dir, running) == "running")
    url = _dumped_and_restored(state_dir, new_server)

    restored = Service(state_dir.with_name("other"), database_url=url)
    services.append(restored.start())

    lost, waited = restored.ended(running), restored.ended(queued)
    service.stop(running)
    assert (lost.status, lost.reason) == ("lost", "journal_gone")
    assert (waited.status, waited.reason) == ("succeeded", "exit")
    assert restored.output(waited) == b"waited\n"
