"""What Bashd takes while it does nothing: memory, wake-ups; and how it shows in ps."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from tests.conftest import StartService
from tests.processes import Service, eventually, process, title

MEGABYTE = 1024 * 1024
needs_root = pytest.mark.skipif(os.getuid() != 0, reason="only root can read the memory map of Bashd's processes")


def _memory(pid: int, *names: str) -> int:
    """The sum of these figures of smaps_rollup, in bytes (proc_pid_smaps(5))."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    return sum(int(line.split()[1]) * 1024 for line in lines if line.split(":")[0] in names)


def _sleeps(pid: int) -> int:
    """How often the threads of ``pid`` gave up the processor to wait for something."""
    statuses = [path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/status")]
    lines = [line for status in statuses for line in status.splitlines()]
    return sum(int(line.split()[1]) for line in lines if line.startswith("voluntary_ctxt_switches"))


@pytest.fixture
def idle(own_service: StartService) -> Service:
    """A service that has done some work and has nothing to do."""
    service = own_service().start()
    for _ in range(20):
        service.done("echo warm")
    return service


def _family(service: Service) -> list[int]:
    assert service.init is not None
    return [service.init.pid, *service.pids("bashd: ")]


@needs_root
def test_idle_it_is_small(idle: Service, mark: str) -> None:
    """All processes of Bashd but PostgreSQL's are under 130 MB, and a worker's own are under 3 MB."""
    total = sum(_memory(pid, "Pss") for pid in _family(idle))
    command = idle.started(idle.run(f"sleep {mark}"))
    worker = _memory(command.worker_pid, "Private_Clean", "Private_Dirty")

    parts = [title(pid).split()[1] for pid in _family(idle)]
    assert sorted(part for part in parts if part != "spare") == ["api", "forker", "init", "supervisor", "worker"]
    assert parts.count("spare") <= len(os.sched_getaffinity(0))  # workers forked ahead of the demand
    assert total < 130 * MEGABYTE
    assert worker < 3 * MEGABYTE


def _wakes_often(pids: list[int], watched_s: float = 3.0) -> dict[str, int]:
    """Who woke up more than once a second while it was watched."""
    before = {pid: _sleeps(pid) for pid in pids}
    time.sleep(watched_s)  # what is measured is a time
    woken = {title(pid): _sleeps(pid) - before[pid] for pid in pids}
    return {name: count for name, count in woken.items() if count > watched_s}


def test_idle_it_sleeps(idle: Service) -> None:
    """When the work is done no process wakes up by itself more than once a second."""
    eventually(lambda: not _wakes_often(_family(idle)), within_s=15)


def test_a_worker_whose_command_is_silent_sleeps(idle: Service, mark: str) -> None:
    """Nor do the processes between Bashd and a command that does nothing; the API may look after it."""
    command = idle.started(idle.run(f"sleep {mark}"))
    pids = [command.worker_pid, idle.pid("bashd: supervisor"), idle.pid("bashd: forker")]

    eventually(lambda: not _wakes_often(pids), within_s=15)


def test_every_process_shows_what_it_is(idle: Service, mark: str) -> None:
    """ps and /proc show the titles; and those whom Ctrl-C in a terminal must not reach have sessions of their own."""
    command = idle.started(idle.run(f"sleep {mark}"))
    assert idle.init is not None
    pids = {name: idle.pid(f"bashd: {name}") for name in ("supervisor", "forker", "api", f"worker {command.id}")}

    assert title(idle.init.pid) == "bashd: init"
    assert title(command.pid) == f"bashd-{command.id}"
    for name, pid in pids.items():
        assert title(pid).startswith(f"bashd: {name}")
    for name in ("supervisor", "api", f"worker {command.id}"):
        one = process(pids[name])
        assert one is not None
        assert one.sid == one.pid
