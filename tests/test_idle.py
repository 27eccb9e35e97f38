"""What Bashd takes while it does nothing: memory, wake-ups; and how it shows in ps."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from tests.conftest import StartService
from tests.processes import Command, Service, process, title

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
def idle(own_service: StartService, mark: str) -> tuple[Service, Command]:
    """A service that has done some work, with one command that sleeps."""
    service = own_service().start()
    for _ in range(20):
        service.done("echo warm")
    return service, service.started(service.run(f"sleep {mark}"))


@needs_root
def test_idle_it_is_small(idle: tuple[Service, Command]) -> None:
    """All processes of Bashd but PostgreSQL's are under 130 MB, and a worker's own are under 3 MB."""
    service, command = idle
    assert service.init is not None
    family = [service.init.pid, *service.pids("bashd: ")]

    total = sum(_memory(pid, "Pss") for pid in family)
    worker = _memory(command.worker_pid, "Private_Clean", "Private_Dirty")

    assert len(family) == 5  # init, supervisor, forker, api, worker
    assert total < 130 * MEGABYTE
    assert worker < 3 * MEGABYTE


def test_idle_it_sleeps(idle: tuple[Service, Command]) -> None:
    """No process wakes up by itself more than once a second."""
    service, _ = idle
    assert service.init is not None
    family = [service.init.pid, *service.pids("bashd: ")]
    watched_s = 5.0

    before = {pid: _sleeps(pid) for pid in family}
    time.sleep(watched_s)  # what is measured is a time
    woken = {title(pid): _sleeps(pid) - before[pid] for pid in family}

    # One more than the rate allows: the window may begin and end at a wake-up.
    assert {name: count for name, count in woken.items() if count > watched_s + 1} == {}


def test_every_process_shows_what_it_is(idle: tuple[Service, Command]) -> None:
    """ps and /proc show the titles, and each but the workers is in a session of its own."""
    service, command = idle
    assert service.init is not None
    pids = {name: service.pid(f"bashd: {name}") for name in ("supervisor", "forker", "api", f"worker {command.id}")}

    assert title(service.init.pid) == "bashd: init"
    assert title(command.pid) == f"bashd-{command.id}"
    for name, pid in pids.items():
        assert title(pid).startswith(f"bashd: {name}")
    for name in ("supervisor", "api", f"worker {command.id}"):
        one = process(pids[name])
        assert one is not None
        assert one.sid == one.pid
