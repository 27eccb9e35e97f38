"""Not one kill -9 but many, at random moments and while there is much to do: every outcome stays exact.

The moments follow from a fixed seed, which every failure names; what falls into them is up to the machine.
"""

from __future__ import annotations

import random
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.conftest import StartService
from tests.crowd import Crowd, account, running_through
from tests.processes import (
    Command,
    Service,
    children,
    descendants,
    eventually,
    group_members,
    is_alive,
    kill,
    marked,
    reap_orphans,
    title,
)

SEED = 1

# Two that print as fast as they can: small pieces on both streams, and one that keeps its pipe full all the time.
CHATTER = "setsid sleep MARK & i=0; while :; do echo $i; echo -$i >&2; ((i += 1)); done"
FLOOD = "setsid sleep MARK & exec seq 0 1000000000"
FLOOD_LIMIT_BYTES = 2 * 1024 * 1024

# 3,000 lines in all: some at each tick, and the rest when it is told to finish. $1 is a directory for its private
# account, $2 a pipe that nobody ever writes to, to wait on without forking a sleep, $3 the file that tells it.
THREE_THOUSAND = """
echo "$BASHD_COMMAND_ID $$" >> "$1/$BASHD_COMMAND_ID"
exec 3<> "$2"
for ((i = 0; i < 3000; i += 2)); do
    echo "$BASHD_COMMAND_ID $i"; echo "-$((i + 1))" >&2
    ((i % 10 == 0)) && [ ! -e "$3" ] && read -t 0.05 -u 3
done
while [ ! -e "$3" ]; do read -t 0.05 -u 3; done
exit $((BASHD_COMMAND_ID % 7))
"""


def _replaced(service: Service, prefix: str, before: int) -> None:
    """Wait until another process is what this one was, and serves."""
    eventually(lambda: service.pids(prefix) not in ([], [before]), within_s=30)
    eventually(service.is_ready, within_s=30)


def _adopted_by_another_supervisor(service: Service) -> None:
    supervisor = service.pid("bashd: supervisor")
    kill(supervisor)
    _replaced(service, "bashd: supervisor", supervisor)


def _nothing_but_workers(service: Service) -> list[int]:
    """All of Bashd, init first, without workers and what is theirs.

    A spare one, or one that is being forked, may take a command before it is killed: a worker then, whatever its title
    was. It goes by itself when it sees the forker go.
    """
    assert service.init is not None
    family = descendants(service.init.pid)
    forkers = [pid for pid in children(service.pid("bashd: supervisor")) if title(pid) == "bashd: forker"]
    workers = [pid for pid in family if title(pid).startswith("bashd: worker ")]
    spared = {pid for one in forkers for pid in descendants(one)}
    spared |= {pid for worker in workers for pid in (worker, *descendants(worker))}
    return [service.init.pid, *(pid for pid in family if pid not in spared)]


def _kept(printed: bytes, command: Command, stream: str) -> bytes:
    """What is to be there of a stream that began with ``printed``, by what the record says is missing."""
    kept, here = b"", 0
    for first, to in (command.truncated or {}).get(stream, []):
        kept += printed[here:first]
        here = to
    return kept + printed[here : command.row[f"{stream}_bytes"]]


# Workers


def test_workers_that_die_while_they_write_much_cost_nobody_else_anything(
    own_service: StartService, mark: str, state_dir: Path
) -> None:
    """Sixty of them, at random moments: each ``lost`` with exactly what its output says it kept, and nobody is left.

    Supervisor, forker and API are those of before, and take commands all the while.
    """
    service = own_service(max_running=64).start()
    family = {name: service.pid(f"bashd: {name}") for name in ("supervisor", "forker", "api")}

    def die(number: int) -> tuple[int, Command]:
        chance = random.Random(f"{SEED}/{number}")
        script = (FLOOD if number % 2 else CHATTER).replace("MARK", mark)
        command = service.started(service.run(script, output_limit_bytes=FLOOD_LIMIT_BYTES))
        time.sleep(chance.uniform(0, 0.15))  # the moment to be tried, not a wait
        kill(command.worker_pid)
        return number, service.ended(command, within_s=60)

    with Crowd(service, state_dir.with_name("ran"), clients=1) as crowd, ThreadPoolExecutor(6) as pool:
        fallen = list(pool.map(die, range(60)))

    assert {name: service.pid(f"bashd: {name}") for name in family} == family, f"seed {SEED}"
    eventually(lambda: marked(mark) == [])
    # A number takes at least six bytes here, but for the first of them.
    counted = b"".join(b"%d\n" % i for i in range(max(one.stdout_bytes for _, one in fallen) // 6 + 100_000))
    counted_too = b"".join(b"-%d\n" % i for i in range(400_000))
    for number, ended in fallen:
        which = f"seed {SEED}, round {number}, command {ended.id}"
        assert (ended.status, ended.reason, ended.exit_code) == ("lost", "worker_died", None), which
        assert ended.evidence["worker_signal"] == 9, which
        stdout, stderr = (service.output(ended, stream=stream) for stream in ("stdout", "stderr"))
        assert stdout == _kept(counted, ended, "stdout"), which
        assert stderr == _kept(counted_too, ended, "stderr"), which
        if not ended.truncated:
            assert (len(stdout), len(stderr)) == (ended.stdout_bytes, ended.stderr_bytes), which
        assert group_members(ended.pid) == [], which
    assert any(service.output(ended) for _, ended in fallen), "none of them came to print"
    crowd.assert_all_is_true(SEED)


def test_a_worker_that_dies_after_its_adoption_loses_its_command_and_its_whole_tree(
    own_service: StartService, mark: str
) -> None:
    """Its orphans come to init, not to the new supervisor, and are found: escapees, and those without our mark."""
    service = own_service().start()
    other = service.started(service.run(f"sleep {mark}5"))
    command = service.run(
        f"echo kept; trap '' TERM; sleep {mark} & setsid sleep {mark} & (setsid sleep {mark} &); "
        f"(env -i setsid sleep {mark} &); (sleep {mark} &); echo ready; wait"
    )
    service.says(command, b"ready")
    eventually(lambda: len(marked(mark)) == 5)
    before = service.get(command)
    _adopted_by_another_supervisor(service)

    kill(before.worker_pid)

    ended = service.ended(command)
    assert (ended.status, ended.reason, ended.exit_code) == ("lost", "worker_died", None)
    assert ended.evidence["worker_pid"] == before.worker_pid
    assert service.output(ended) == b"kept\nready\n"
    assert marked(mark) == []
    assert group_members(before.pid) == []
    assert service.get(other).status == "running"
    assert is_alive(other.pid)
    service.stop(other)
    assert service.ended(other).status == "stopped"


@pytest.mark.parametrize("adopted", [False, True], ids=["own worker", "adopted worker"])
def test_a_stop_and_a_timeout_reach_the_command_of_a_worker_that_does_not_react(
    own_service: StartService, mark: str, adopted: bool
) -> None:
    """The supervisor carries them out for a worker that is stopped by SIGSTOP, be it one that it has adopted."""
    service = own_service().start()
    script = f"setsid sleep {mark} & echo said; sleep {mark}"
    to_time_out = service.run(script, grace_s=0.2, timeout_s=3)
    to_stop = service.run(script, grace_s=0.2)
    workers = []
    for command in (to_time_out, to_stop):
        service.says(command, b"said\n")
        workers.append(service.get(command).worker_pid)
        kill(workers[-1], signal.SIGSTOP)
    if adopted:
        _adopted_by_another_supervisor(service)

    service.stop(to_stop)

    for command, end in ((to_stop, ("stopped", "client")), (to_time_out, ("failed", "timeout"))):
        ended = service.ended(command)
        assert (ended.status, ended.reason) == end
        assert ended.evidence["worker"].startswith("silent")
        assert service.output(ended) == b"said\n"
        assert group_members(ended.pid) == []
    assert marked(mark) == []
    assert [worker for worker in workers if is_alive(worker)] == []


def test_a_stop_that_a_dead_worker_never_wrote_down_is_recorded(own_service: StartService, mark: str) -> None:
    """It was asked for, and it was answered: the command of a worker that died over it says so, and never changes."""
    service = own_service().start()
    command = service.started(service.run(f"sleep {mark}", grace_s=60))
    kill(command.worker_pid, signal.SIGSTOP)
    asked = service.stop(command)
    kill(command.worker_pid)

    ended = service.ended(command)
    kill(service.pid("bashd: api"))
    eventually(service.is_ready)

    assert (ended.status, ended.reason) == ("lost", "worker_died")
    assert ended.stop_requested_at == asked.stop_requested_at
    assert service.get(command).row == ended.row


def test_a_worker_that_was_stopped_for_a_moment_goes_on(own_service: StartService, mark: str, tmp_path: Path) -> None:
    """Continued in time it misses nothing: no byte, no stop, no timeout, and the supervisor leaves it alone."""
    service = own_service().start()
    go = tmp_path / "go"
    printing = service.run('echo first; until [ -e "$1" ]; do :; done; seq 100000; exit 3', args=[str(go)])
    last_words = f"trap 'echo bye; exit 6' TERM; echo first; sleep {mark} & wait"
    stopped = service.run(last_words, grace_s=60)
    timed_out = service.run(last_words, grace_s=60, timeout_s=4)
    commands = [printing, stopped, timed_out]
    for command in commands:
        service.says(command, b"first\n")
    workers = [service.get(command).worker_pid for command in commands]
    for worker in workers:
        kill(worker, signal.SIGSTOP)

    go.touch()  # far more comes than a pipe holds
    service.stop(stopped)
    time.sleep(4.5)  # how long they are stopped: beyond the timeout, within the grace
    assert [service.get(command).status for command in commands] == ["running"] * 3
    for worker in workers:
        kill(worker, signal.SIGCONT)

    ends = [service.ended(command) for command in commands]
    assert [(one.status, one.reason, one.exit_code) for one in ends] == [
        ("failed", "exit", 3),
        ("stopped", "client", 6),
        ("failed", "timeout", 6),
    ]
    assert [one.evidence for one in ends] == [None] * 3
    assert service.output(ends[0]) == b"first\n" + b"".join(b"%d\n" % number for number in range(1, 100_001))
    assert [service.output(one) for one in ends[1:]] == [b"first\nbye\n"] * 2


# The supervisor


def test_thirty_commands_do_not_notice_that_the_supervisor_dies_six_times(
    own_service: StartService, tmp_path: Path
) -> None:
    """And PostgreSQL once: the same ids and pids, every line, every exit code, and each script ran once."""
    chance = random.Random(SEED)
    service = own_service(embedded=True).start()
    ran, never, go = account(tmp_path)
    commands = [service.run(THREE_THOUSAND, args=[str(ran), str(never), str(go)]) for _ in range(30)]
    before = [service.started(command) for command in commands]

    for number in range(6):
        supervisor = service.pid("bashd: supervisor")
        time.sleep(chance.uniform(0, 0.8))  # the moment to be tried, not a wait
        if number == 3:
            kill(service.postmaster())
        kill(supervisor)
        eventually(lambda supervisor=supervisor: service.pids("bashd: supervisor") not in ([], [supervisor]))  # type: ignore[misc]
    eventually(service.is_ready, within_s=30)
    go.touch()

    for one in before:
        ended = service.ended(one, within_s=60)
        which = f"seed {SEED}, command {one.id}"
        code = one.id % 7
        end = (ended.status, ended.reason, ended.exit_code, ended.pid, ended.worker_pid)
        assert end == ("failed" if code else "succeeded", "exit", code, one.pid, one.worker_pid), which
        assert service.output(one, stream="stdout") == b"".join(b"%d %d\n" % (one.id, i) for i in range(0, 3000, 2))
        assert service.output(one, stream="stderr") == b"".join(b"-%d\n" % i for i in range(1, 3000, 2)), which
        assert (ran / str(one.id)).read_text() == f"{one.id} {one.pid}\n", which
    assert len(list(ran.iterdir())) == 30


def test_fifty_commands_run_through_ten_restarts(own_service: StartService, tmp_path: Path) -> None:
    """With ``on_shutdown=leave`` they print all the while, and in the end there is every byte, once."""
    service = own_service(embedded=True, on_shutdown="leave").start()
    with running_through(service, tmp_path / "through", 50) as commands:
        for _ in range(10):
            printed = service.get(commands[0]).stdout_bytes
            assert service.terminate(within_s=60) == 0
            service.start()
            now = {one.id: (one.status, one.pid) for one in service.page(limit=100)}
            assert now == {one.id: ("running", one.pid) for one in commands}
            eventually(lambda printed=printed: service.get(commands[0]).stdout_bytes > printed)  # type: ignore[misc]


# While commands come


@pytest.mark.parametrize("victims", [["api"], ["api", "supervisor"]], ids=["API", "API and supervisor together"])
def test_a_crowd_of_clients_meets_the_death_of_who_serves_it(
    own_service: StartService, tmp_path: Path, victims: list[str]
) -> None:
    """Five times in the middle of their requests: nobody is refused a connection, and whatever was answered is true."""
    chance = random.Random(f"{SEED}/{victims}")
    service = own_service(max_running=8).start()

    with running_through(service, tmp_path / "through", 3), Crowd(service, tmp_path / "ran", clients=5) as crowd:
        for _ in range(5):
            crowd.grows()
            time.sleep(chance.uniform(0, 0.3))  # the moment to be tried, not a wait
            pids = {name: service.pid(f"bashd: {name}") for name in victims}
            for pid in pids.values():
                kill(pid)
            for name, pid in pids.items():
                _replaced(service, f"bashd: {name}", pid)
        crowd.grows()

    assert crowd.refused_connections == 0
    crowd.assert_all_is_true(SEED)


def test_all_of_bashd_dies_at_once_while_commands_are_accepted(own_service: StartService, tmp_path: Path) -> None:
    """But the workers, and its PostgreSQL with it, four times: the next start knows of everything that was accepted."""
    chance = random.Random(SEED)
    service = own_service(embedded=True, max_running=12).start()

    with running_through(service, tmp_path / "through", 6), Crowd(service, tmp_path / "ran", clients=4) as crowd:
        for _ in range(4):
            crowd.grows()
            time.sleep(chance.uniform(0, 0.3))  # the moment to be tried, not a wait
            family = _nothing_but_workers(service)
            for pid in family:
                kill(pid)
            service.kill_init()
            reap_orphans()
            service.start(within_s=60)
        crowd.grows()

    crowd.assert_all_is_true(SEED)
