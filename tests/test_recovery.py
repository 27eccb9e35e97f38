"""The table by which a new API decides; every combination, as ARCHITECTURE.md has it."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psycopg
import pytest

from api.command import Command, at
from api.recovery import Action, Journal, decide
from api.store import Store
from protocol import journal
from protocol.config import boot_id
from protocol.places import Places
from tests import processes
from tests.conftest import StartService
from tests.processes import eventually, started_here

TABLE = {
    # journal, row is running: (same boot, another boot)
    (Journal.AT_WORK, False): (Action.FOLLOW, Action.FOLLOW),
    (Journal.AT_WORK, True): (Action.FOLLOW, Action.FOLLOW),
    (Journal.ENDED, False): (Action.FOLLOW, Action.FOLLOW),
    (Journal.ENDED, True): (Action.FOLLOW, Action.FOLLOW),
    (Journal.UNTAKEN, False): (Action.HAND_OVER, Action.HOST_DIED),
    (Journal.UNTAKEN, True): (Action.HAND_OVER, Action.HOST_DIED),
    (Journal.NONE, False): (Action.HAND_OVER, Action.HOST_DIED),
    (Journal.NONE, True): (Action.JOURNAL_GONE, Action.JOURNAL_GONE),
}


@pytest.mark.parametrize("found", Journal)
@pytest.mark.parametrize("row_running", [False, True])
@pytest.mark.parametrize("same_boot", [True, False])
def test_every_combination_is_decided(found: Journal, row_running: bool, same_boot: bool) -> None:
    """Nothing runs twice, nothing stays running for ever."""
    here, elsewhere = TABLE[found, row_running]

    assert decide(found, same_boot=same_boot, row_running=row_running) is (here if same_boot else elsewhere)


# A worker as others can tell: it holds the journal's lock and has written who it is. Told to, it records an end.
WORKER = """
import json, os, sys, time
from protocol import journal, linux
path, boot = sys.argv[1:]
fd = os.open(path, os.O_RDWR)
assert journal.lock(fd)
with journal.Reader(path) as reader:
    list(reader.frames())
    writer = journal.Writer(fd, reader.position)
me = linux.process(os.getpid())
taken = {"pid": me.pid, "start_time": me.start_time, "boot_id": boot}
writer.append_facts(journal.TAKEN, time.time_ns(), taken)
print("taken", flush=True)
sys.stdin.read()
writer.append_facts(journal.ENDED, time.time_ns(), json.loads(os.environ["ENDED"]))
"""
ENDED = {
    "status": "failed",
    "reason": "exit",
    "exit_code": 7,
    "signal": None,
    "swept": {"group": 0, "escaped": 0, "left": 0},
    "usage": None,
    "evidence": None,
    "duration_s": 0.1,
}
BEFORE = "another life of this machine"

# journal, boot of the hand-over → (status, reason), for a row that says queued, and for one that says running
ENDS = {
    ("none", "same"): (("succeeded", "exit"), ("lost", "journal_gone")),
    ("none", "other"): (("lost", "host_died"), ("lost", "journal_gone")),
    ("spec only", "same"): (("succeeded", "exit"), ("succeeded", "exit")),
    ("spec only", "other"): (("lost", "host_died"), ("lost", "host_died")),
    ("taken, dead", "same"): (("lost", "worker_died"), ("lost", "worker_died")),
    ("taken, dead", "other"): (("lost", "host_died"), ("lost", "host_died")),
    ("torn, dead", "same"): (("lost", "worker_died"), ("lost", "worker_died")),
    ("torn, dead", "other"): (("lost", "host_died"), ("lost", "host_died")),
    ("locked", "same"): (("failed", "exit"), ("failed", "exit")),
    ("ended", "same"): (("failed", "exit"), ("failed", "exit")),
    ("ended", "other"): (("failed", "exit"), ("failed", "exit")),
    ("damaged", "same"): (("lost", "journal_gone"), ("lost", "journal_gone")),
    ("damaged", "other"): (("lost", "journal_gone"), ("lost", "journal_gone")),
}


def _write_journal(path: str, kind: str, command: Command, boot: str) -> None:
    journal.create(path, time.time_ns(), command.spec())
    if kind in ("spec only", "locked"):
        return
    with open(path, "r+b") as file:
        if kind == "damaged":
            file.write(b"something else altogether")
            return
        writer = journal.Writer(file.fileno(), os.fstat(file.fileno()).st_size)
        # A process id that nobody has: the numbers end before it (proc_sys_kernel(5), pid_max).
        taken = {"pid": 1 << 23, "start_time": 1, "boot_id": boot}
        writer.append_facts(journal.TAKEN, time.time_ns(), taken)
        writer.append(journal.STDOUT, time.time_ns(), b"kept\n")
        if kind == "ended":
            writer.append_facts(journal.ENDED, time.time_ns(), ENDED)
        if kind == "torn, dead":
            file.seek(0, os.SEEK_END)
            salt = journal.salt_of(file.fileno())
            assert salt is not None
            file.write(journal.encode(journal.STDOUT, time.time_ns(), b"never whole", salt)[:-3])


def test_every_combination_comes_to_its_true_end(own_service: StartService, database_url: str, tmp_path: Path) -> None:
    """Rows and journals as crashes leave them, in every combination: after one start all are final, none ran twice."""
    service = own_service(database_url=database_url).start()
    service.terminate()
    places = Places(str(service.state_dir))
    cases = [(*key, running) for key, running in itertools.product(ENDS, (False, True))]
    commands: list[Command] = []
    for number, (kind, boot, _) in enumerate(cases, start=1):
        created_at = at(time.time_ns())
        assert created_at is not None
        command = Command(
            id=number,
            script='echo "$BASHD_COMMAND_ID" >> "$1"; echo ran',
            args=[str(tmp_path / "ran")],
            created_at=created_at,
            grace_s=1,
            output_limit_bytes=1000,
            handed_boot_id=boot_id() if boot == "same" else BEFORE,
        )
        commands.append(command)
        if kind != "none":
            _write_journal(places.journal(number), kind, command, str(command.handed_boot_id))
    _add_rows(
        database_url, places, commands, running=[one.id for one, case in zip(commands, cases, strict=True) if case[2]]
    )
    workers = [
        _start_worker(places.journal(one.id)) for one, case in zip(commands, cases, strict=True) if case[0] == "locked"
    ]

    service.start()
    for worker in workers:
        assert worker.stdin is not None
        worker.stdin.close()
        worker.wait()
        started_here.discard(worker.pid)

    found: dict[Any, Any] = {}
    for command, case in zip(commands, cases, strict=True):
        ended = service.ended(processes.Command({"id": command.id}))
        found[case] = (ended.status, ended.reason)
        kept = case[0] in ("taken, dead", "torn, dead", "ended")
        assert service.output(ended) == (b"kept\n" if kept else b"ran\n" if ended.status == "succeeded" else b""), case
        assert ended.status != "lost" or ended.exit_code is None
    assert found == {case: ENDS[case[:2]][case[2]] for case in cases}
    ran = (tmp_path / "ran").read_text().split()
    assert sorted(map(int, ran)) == [
        one.id for one, case in zip(commands, cases, strict=True) if found[case][0] == "succeeded"
    ]
    eventually(lambda: [name for name in os.listdir(places.journals) if not name.endswith(".damaged")] == [])


def _add_rows(url: str, places: Places, commands: list[Command], *, running: list[int]) -> None:
    async def add() -> None:
        store = Store(url, Path(places.node_id).read_text().strip())
        await store.open()
        await store.add(commands)
        await store.close()

    asyncio.run(add())
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("update commands set status = 'running', started_at = now() where id = any(%s)", [running])
        connection.execute("select setval(pg_get_serial_sequence('commands', 'id'), %s)", [len(commands)])


def _start_worker(path: str) -> subprocess.Popen[bytes]:
    worker = subprocess.Popen(
        [sys.executable, "-c", WORKER, path, boot_id()],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={"ENDED": json.dumps(ENDED)},
        cwd=processes.REPOSITORY,
    )
    started_here.add(worker.pid)
    assert worker.stdout is not None
    assert worker.stdout.readline() == b"taken\n"
    worker.stdout.close()
    return worker
