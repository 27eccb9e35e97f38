"""The live tree of a command over HTTP, compared with what the kernel says."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from api.command import EPOCH
from api.command import Command as Known
from api.processes import MAX_PROCESSES, _trees
from protocol import journal, linux
from protocol.config import boot_id
from protocol.places import Places
from tests.conftest import StartService
from tests.processes import (
    REPOSITORY,
    Command,
    Service,
    descendants,
    eventually,
    kill,
    marked,
    process,
    started_here,
    unique_seconds,
)

FIELDS = {
    "pid", "ppid", "pgid", "sid", "state", "uid", "user", "escaped", "cpu_s", "rss_bytes", "age_s", "command_line",
}  # fmt: skip
EMPTY: dict[str, Any] = {"worker_pid": None, "group": None, "complete": True, "processes": []}


def tree(service: Service, command: Command) -> dict[str, Any]:
    answer = service.http.get(f"/v1/commands/{command.id}/processes")
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    assert found["command"] == command.id
    return found


def test_a_tree_shows_everybody_in_the_group_and_who_escaped(service: Service, mark: str) -> None:
    """Children, another session, a double fork whose parent is gone: each with its place and what it is."""
    command = service.started(
        service.run(f"sleep {mark} & setsid sleep {mark} & (setsid sleep {mark} & exit) & wait; sleep {mark}")
    )
    eventually(lambda: len(marked(mark)) == 3 and len(descendants(command.worker_pid)) == 4)

    found = tree(service, command)

    assert (found["worker_pid"], found["group"], found["complete"]) == (command.worker_pid, command.pid, True)
    rows = {one["pid"]: one for one in found["processes"]}
    assert set(rows) == set(descendants(command.worker_pid))
    assert all(set(one) == FIELDS for one in rows.values())
    for pid, row in rows.items():
        now = process(pid)
        assert now is not None
        assert (row["ppid"], row["pgid"], row["sid"]) == (now.ppid, now.pgid, now.sid)
        assert row["escaped"] == (now.pgid != command.pid)
        assert (row["uid"], row["state"]) == (os.getuid(), "S")
        assert 0 <= row["age_s"] < 60
        assert row["rss_bytes"] > 0
        assert row["cpu_s"] >= 0
    assert sum(one["escaped"] for one in rows.values()) == 2
    assert rows[command.pid]["command_line"].startswith(f"bashd-{command.id} ")
    assert {rows[pid]["command_line"] for pid in marked(mark)} == {f"sleep {mark}"}
    order = [one["pid"] for one in found["processes"]]
    assert all(
        one["ppid"] == command.worker_pid or order.index(one["ppid"]) < order.index(one["pid"])
        for one in found["processes"]
    ), "parents come before their children"
    service.stop(command)
    service.ended(command)


def test_all_trees_come_at_once(service: Service, mark: str) -> None:
    """One for each running command, by id; a command that has ended is not among them."""
    over = service.done("true")
    running = [service.started(service.run(f"sleep {mark}; true")) for _ in range(3)]
    eventually(lambda: len(marked(mark)) == 3)

    items = service.http.get("/v1/processes").json()["items"]

    ids = [one["command"] for one in items]
    assert ids == sorted(ids)
    assert over.id not in ids
    for command in running:
        found = items[ids.index(command.id)]
        assert {one["pid"] for one in found["processes"]} == set(descendants(command.worker_pid))
    for command in running:
        service.stop(command)
        service.ended(command)


def test_a_command_line_is_exact_text(service: Service) -> None:
    """Arguments as a shell would take them; what is no UTF-8 is replaced, what is long is cut."""
    command = service.run(
        "(exec -a $'odd \\'name\\xff' sleep 1000) & (exec -a \"$(head -c 5000 /dev/zero | tr '\\0' a)\" sleep 1000) & "
        "(exec -a '' sleep 1000) & echo ready; wait"
    )
    service.says(command, b"ready")

    expected = {"'odd '\"'\"'name\ufffd' 1000", "a" * 1024, "'' 1000"}
    eventually(lambda: expected < {one["command_line"] for one in tree(service, command)["processes"]})
    service.stop(command)
    service.ended(command)


@pytest.mark.skipif(os.getuid() != 0, reason="only root can be another user")
def test_another_user_is_named(service: Service) -> None:
    """The user that it runs as, whoever looks."""
    command = service.started(service.run("sleep 1000; true", run_as="nobody"))

    users = eventually(lambda: [one["user"] for one in tree(service, command)["processes"]])

    assert set(users) == {"nobody"}
    service.stop(command)
    service.ended(command)


def test_who_has_no_processes_shows_none(own_service: StartService) -> None:
    """A waiting and a final command have an empty tree; an unknown one is 404; parameters are refused."""
    service = own_service(max_running=1).start()
    over = service.done("true")
    running = service.started(service.run("sleep 1000"))
    waiting = service.run("true")

    assert tree(service, over) == {"command": over.id, **EMPTY}
    assert tree(service, waiting) == {"command": waiting.id, **EMPTY}
    assert service.http.get("/v1/commands/999999/processes").status_code == 404
    assert service.http.get("/v1/commands/x/processes").status_code == 400
    assert service.http.get("/v1/processes", params={"limit": 1}).status_code == 400
    service.stop(waiting)
    service.stop(running)
    service.ended(running)
    assert service.http.get("/v1/processes").json() == {"items": []}


def test_what_a_final_command_left_is_shown_as_long_as_it_lives(service: Service, mark: str) -> None:
    """Below the worker that stayed as its parent, which is found by the lock it holds."""
    ended = service.done(f"sleep {mark} & setsid sleep {mark} & sleep 0.1", leftovers="leave")
    assert ended.swept["left"] == 2

    found = tree(service, ended)

    assert found["worker_pid"] == ended.worker_pid
    assert sorted(one["pid"] for one in found["processes"]) == sorted(marked(mark))
    assert sorted(one["escaped"] for one in found["processes"]) == [False, True]
    for pid in marked(mark):
        kill(pid)
    eventually(lambda: tree(service, ended) == {"command": ended.id, **EMPTY})


def test_it_shows_a_tree_after_crashes(own_service: StartService, mark: str) -> None:
    """The journal tells a new API who the worker is."""
    service = own_service().start()
    command = service.started(service.run(f"sleep {mark} & sleep {mark}"))
    eventually(lambda: len(marked(mark)) == 2)
    service.kill_init()
    service.start()

    found = tree(service, command)

    assert {one["pid"] for one in found["processes"]} == {command.pid, *marked(mark)}
    service.stop(command)
    service.ended(command)


@pytest.fixture
def places(tmp_path: Path) -> Places:
    places = Places(str(tmp_path))
    os.mkdir(places.journals)
    return places


def _known(command_id: int, group: int, **fields: Any) -> Known:
    return Known(command_id, "true", EPOCH, 5.0, 1000, pid=group, **fields)


def test_who_got_the_pid_of_a_dead_worker_is_no_worker(places: Places) -> None:
    """Another start time is another process; and one that let go of the journal may be at work on another command."""
    with subprocess.Popen(["sleep", "1000"]) as stranger:
        started_here.add(stranger.pid)
        try:
            now = linux.process(os.getpid())
            assert now is not None
            command = _known(1, stranger.pid)
            journal.create(places.journal(1), 1, command.spec())
            worker = {"pid": now.pid, "start_time": now.start_time, "boot_id": boot_id()}
            held = os.open(places.journal(1), os.O_RDWR)
            assert journal.lock(held)

            (ours,) = _trees([(command, worker)], places)
            (reused,) = _trees([(command, worker | {"start_time": now.start_time - 1})], places)
            os.close(held)
            (let_go,) = _trees([(command, worker)], places)

            assert stranger.pid in [one["pid"] for one in ours["processes"]]
            assert reused == let_go == {"command": 1, **EMPTY}
        finally:
            stranger.kill()
            started_here.discard(stranger.pid)


@pytest.mark.skipif(os.getuid() != 0, reason="only root can make a pid namespace")
def test_strangers_with_the_pids_of_worker_and_bash_are_not_shown(state_dir: Path, database_url: str) -> None:
    """The whole service, in a pid namespace where every pid can be given again."""
    namespace = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"]
    scene = [sys.executable, "-m", "tests.pid_reuse", "shown_to_nobody", str(state_dir), database_url]
    with subprocess.Popen(
        [*namespace, *scene],
        cwd=REPOSITORY,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as inside:
        started_here.add(inside.pid)
        try:
            said, _ = inside.communicate(timeout=120)
        finally:
            inside.kill()
            started_here.discard(inside.pid)

    log = state_dir.with_name(state_dir.name + ".log")
    assert inside.returncode == 0, f"{said}\n{log.read_text() if log.exists() else ''}"


def test_a_crowd_is_shown_while_others_are_served(service: Service) -> None:
    """Hundreds of processes: each is there, and other requests are answered meanwhile."""
    mark = unique_seconds()
    command = service.run(f"for i in $(seq 300); do sleep {mark} & done; echo ready; wait")
    service.says(command, b"ready")
    eventually(lambda: len(marked(mark)) == 300)

    found = tree(service, command)

    assert {one["pid"] for one in found["processes"]} == {found["group"], *marked(mark)}
    assert found["complete"] is True
    service.stop(command)
    service.ended(command)


def test_an_answer_has_an_end(service: Service, monkeypatch: pytest.MonkeyPatch, mark: str) -> None:
    """What does not fit is left out, and the answer says so."""
    assert MAX_PROCESSES >= 1000
    monkeypatch.setattr("api.processes.MAX_PROCESSES", 3)
    command = service.started(service.run(f"for i in 1 2 3 4 5; do sleep {mark} & done; wait"))
    eventually(lambda: len(marked(mark)) == 5)
    worker = linux.process(command.worker_pid)
    assert worker is not None
    asked = (_known(command.id, command.pid), {"pid": worker.pid, "start_time": worker.start_time})

    cut, none = _trees([asked, asked], Places(str(service.state_dir)))

    assert (len(cut["processes"]), cut["complete"]) == (3, False)
    assert (none["processes"], none["complete"]) == ([], False)
    service.stop(command)
    service.ended(command)
