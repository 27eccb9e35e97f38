"""A worker that serves many commands, one by one: only while it proves to be as it was, and nothing is handed on."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import StartService
from tests.processes import Command, Service, eventually, is_alive, kill, marked, process, title

needs_root = pytest.mark.skipif(os.getuid() != 0, reason="only root may do this to a worker")

# What a script finds: everything that a script before it might have left behind in a worker.
LOOK = """
umask; ulimit -a; dirname "$PWD"; ls -A; env | sed -E 's/^(BASHD_COMMAND_ID|PWD)=.*/\\1/' | sort
grep -E '^(Sig[BIC]|NoNewPrivs|Cpus_allowed:|Seccomp)' /proc/self/status; cat /proc/self/oom_score_adj
grep -c . /proc/self/environ; ls /proc/$$/fd; nice; jobs; trap
"""
# What a script may do to itself, for all of which its bash is gone afterwards.
MESS = """
umask 077; ulimit -n 64 -f 100 -c unlimited; export LEFT=1 PATH=/nowhere; exec 9</dev/null; trap '' TERM HUP
echo left > left; cd /; set -m; alias ls=false
"""


@pytest.fixture(scope="module")
def reusing(place: Path) -> Iterator[Service]:
    """A service whose workers may serve a thousand commands."""
    with Service(place / "reusing", commands_per_worker=1000).start() as service:
        yield service


def _worker_of_two(service: Service) -> int:
    """The pid of a worker that has just served two commands, and waits for the next."""

    def twice() -> int | None:
        first, second = (service.done("true").worker_pid for _ in range(2))
        return int(second) if first == second else None

    return eventually(twice)


def _in_a_proven_worker(service: Service, script: str, **fields: float) -> Command:
    """``script``, when it has run in a worker that had served others before; which one is free is not ours to say."""

    def ran() -> Command | None:
        worker = _worker_of_two(service)
        command = service.done(script, **fields)
        return command if command.worker_pid == worker else None

    return eventually(ran)


def _retires(worker_pid: int) -> bool:
    now = process(worker_pid)
    return now is None or not now.alive


def test_a_worker_serves_the_number_it_is_allowed_to(own_service: StartService) -> None:
    """Three commands, then another worker; none of them serves a fourth."""
    service = own_service(commands_per_worker=3).start()

    pids = [service.done("true").worker_pid for _ in range(12)]

    assert max(pids.count(pid) for pid in pids) == 3
    assert all(eventually(lambda pid=pid: _retires(pid)) for pid in pids if pids.count(pid) == 3)  # type: ignore[misc]


def test_a_worker_serves_one_command_unless_it_is_told_otherwise(service: Service) -> None:
    """The default: what served one command is gone."""
    pids = [service.done("true").worker_pid for _ in range(4)]

    assert len(set(pids)) == 4
    assert all(eventually(lambda pid=pid: _retires(pid)) for pid in pids)  # type: ignore[misc]


def test_a_waiting_worker_says_so(reusing: Service) -> None:
    """Between two commands its title names neither of them."""
    worker = _worker_of_two(reusing)

    assert eventually(lambda: title(worker) == "bashd: spare")


def test_a_script_finds_nothing_of_the_one_before(reusing: Service) -> None:
    """Descriptors, variables, umask, limits, directory, signals: the same as the very first found, in one worker."""
    first = reusing.done(LOOK)

    def in_one_worker() -> bytes | None:
        messy, after = reusing.done(MESS), reusing.done(LOOK)
        return reusing.output(after) if messy.worker_pid == after.worker_pid else None

    assert eventually(in_one_worker) == reusing.output(first)


@needs_root
@pytest.mark.parametrize(
    "script",
    [
        "prlimit --pid $PPID --nofile=200:200",
        "prlimit --pid $PPID --cpu=1000",
        "prlimit --pid $PPID --core=0:0 --fsize=1000000",
        "renice -n 11 -p $PPID",
        "chrt --batch -p 0 $PPID",
        "taskset -p 1 $PPID",
        "ionice -c 3 -p $PPID",
        "echo 300 > /proc/$PPID/oom_score_adj",
        "kill -USR1 $PPID",
    ],
)
def test_a_worker_that_was_changed_from_outside_ends(reusing: Service, script: str) -> None:
    """A script reaches for its worker: that one serves nobody else, and the next finds all as it should be."""
    before = reusing.output(reusing.done(LOOK))

    touched = _in_a_proven_worker(reusing, f"{{ {script}; }} >&2")
    after = reusing.done(LOOK)

    assert after.worker_pid != touched.worker_pid
    assert reusing.output(after) == before
    eventually(lambda: _retires(touched.worker_pid))


@pytest.mark.parametrize(
    ("script", "fields"),
    [
        ("sleep {mark} &", {}),
        ("setsid sleep {mark} & sleep 0.1", {}),
        ("(setsid sleep {mark} &) ; exit 3", {}),
        ("sleep {mark}", {"timeout_s": 0.2, "grace_s": 0}),
    ],
)
def test_a_worker_that_had_to_kill_somebody_ends(
    reusing: Service, mark: str, script: str, fields: dict[str, float]
) -> None:
    """Leftovers, escapees, a timeout: whatever was swept, the next command has a worker that never saw it."""
    swept = _in_a_proven_worker(reusing, script.format(mark=mark), **fields)

    assert reusing.done("true").worker_pid != swept.worker_pid
    eventually(lambda: _retires(swept.worker_pid))
    assert not marked(mark)


def test_a_worker_that_was_told_to_stop_ends(reusing: Service, mark: str) -> None:
    """A stop leaves nothing behind that the next command could meet."""
    _worker_of_two(reusing)
    command = reusing.started(reusing.run(f"sleep {mark}"))

    reusing.stop(command)

    assert reusing.ended(command).status == "stopped"
    assert reusing.done("true").worker_pid != command.worker_pid
    eventually(lambda: _retires(command.worker_pid))


def test_a_worker_that_stays_for_the_left_takes_no_command(reusing: Service, mark: str) -> None:
    """With leftovers it is their parent until they are gone, and nothing else."""
    command = reusing.done(f"sleep {mark} & echo $!", leftovers="leave")
    left = int(reusing.output(command))

    others = {reusing.done("true").worker_pid for _ in range(4)}

    assert command.worker_pid not in others
    assert title(command.worker_pid) == f"bashd: left {command.id}"
    kill(left)
    eventually(lambda: _retires(command.worker_pid))


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_waiting_worker_that_is_killed_costs_no_command(reusing: Service, number: int) -> None:
    """Its number is up between two commands, perhaps with the next already in its pipe: that one runs once."""
    for _ in range(10):
        worker = _worker_of_two(reusing)
        kill(worker, number)
        command = reusing.done("echo once")
        assert (command.status, reusing.output(command)) == ("succeeded", b"once\n")
        eventually(lambda worker=worker: _retires(worker))  # type: ignore[misc]


def test_waiting_workers_go_with_their_forker(own_service: StartService) -> None:
    """Nobody could give them a command any more; the supervisor that comes next has its own."""
    service = own_service(commands_per_worker=1000).start()
    waiting = {service.done("true").worker_pid for _ in range(3)}
    eventually(lambda: all(title(pid) == "bashd: spare" for pid in waiting))

    kill(service.pid("bashd: forker"))

    eventually(lambda: not any(is_alive(pid) for pid in waiting))
    eventually(service.is_ready)
    assert service.done("true").status == "succeeded"
