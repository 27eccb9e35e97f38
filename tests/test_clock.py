"""The clock on the wall may be set while a command runs; its times and durations stay in order all the same."""

from __future__ import annotations

import os
import time
from itertools import chain, repeat
from pathlib import Path
from typing import Any

import pytest

from protocol import journal, linux, story
from protocol.config import boot_id
from protocol.fault import Fault
from protocol.places import Places
from supervisor.fallen import Fallen, conclude
from worker import bash
from worker.group import Groups
from worker.outset import Outset
from worker.serve import serve

HOUR_NS = 3600 * 10**9
SPEC: dict[str, Any] = {
    "id": 1,
    "script": "echo one; sleep 0.2; echo two; sleep 0.2; exit 3",
    "args": [],
    "env": {},
    "cwd": "/",
    "stdin": None,
    "run_as": None,
    "timeout_s": None,
    "grace_s": 1.0,
    "leftovers": "kill",
    "merge_stderr": False,
    "output_limit_bytes": 1000,
}


@pytest.fixture
def places(tmp_path: Path) -> Places:
    places = Places(str(tmp_path))
    for directory in (places.journals, places.controls, places.left, places.work):
        os.mkdir(directory)
    os.mkfifo(places.reports)
    return places


def _work(places: Places, jump_ns: int) -> int:
    """A worker in a process of its own, whose wall clock is set by ``jump_ns`` once it has been looked at; its end."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            true = time.time_ns
            jumps = chain([0], repeat(jump_ns))
            time.time_ns = lambda: true() + next(jumps)
            surroundings = bash.Surroundings(bash="/bin/bash", pass_env={})
            fault = Fault(None, places)
            outset = Outset(
                places=places,
                surroundings=surroundings,
                title=linux.Title(),
                fault=fault,
                commands_per_worker=1,
                secrets_key=bytes(32),
                groups=Groups(None, [], always=False),
            )
            os.closerange(3, 250)
            linux.wake_on_signals()
            status = serve(outset, 0, linux.ticks(), 1, -1, -1)
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@pytest.mark.parametrize("jump_ns", [-HOUR_NS, HOUR_NS], ids=["back", "forward"])
def test_a_clock_that_is_set_changes_no_order_and_no_duration(places: Places, jump_ns: int) -> None:
    """Every frame is later than the one before it, and the command took as long as it took."""
    journal.create(places.journal(1), time.time_ns(), SPEC)

    assert _work(places, jump_ns) == 0

    with journal.Reader(places.journal(1)) as reader:
        times = [frame.time_ns for frame in reader.frames()]
    facts, _ = story.read(places.journal(1))
    assert times == sorted(times)
    assert times[-1] - times[0] < HOUR_NS / 2
    assert facts.ended is not None
    assert facts.ended["exit_code"] == 3
    assert 0.4 <= facts.ended["duration_s"] < 1800


@pytest.mark.parametrize("jump_ns", [-HOUR_NS, HOUR_NS], ids=["back", "forward"])
def test_the_end_of_a_dead_worker_knows_how_long_it_ran(places: Places, jump_ns: int) -> None:
    """The supervisor concludes by the clock that nobody sets."""
    started_at_ns = time.time_ns()
    journal.create(places.journal(1), started_at_ns, SPEC)
    fd = os.open(places.journal(1), os.O_RDWR)
    writer = journal.Writer(fd, os.fstat(fd).st_size)
    taken = {"pid": 1 << 23, "start_time": 1, "boot_id": boot_id(), "monotonic_s": 100.0}
    writer.append_facts(journal.TAKEN, started_at_ns, taken)
    writer.append_facts(journal.STARTED, started_at_ns, {"pid": 1 << 23, "start_time": 1, "monotonic_s": 100.5})
    os.close(fd)
    facts, _ = story.read(places.journal(1))
    fallen = Fallen(1, facts, adopted=True, host_died=False, status=None)

    assert conclude(fallen, places.journal(1), started_at_ns + jump_ns, 112.75)

    facts, _ = story.read(places.journal(1))
    assert facts.ended is not None
    assert facts.ended["duration_s"] == 12.25
    assert facts.ended_at_ns == started_at_ns + 12_250_000_000
