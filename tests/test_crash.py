"""kill -9 of each process: what runs does not notice, what was accepted is not forgotten, what is shown is true."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from tests.conftest import StartService
from tests.postgres import PostgresServer
from tests.processes import (
    Command,
    Service,
    descendants,
    eventually,
    group_members,
    is_alive,
    kill,
    marked,
    titled,
    zombies,
)

# Counts for about four seconds on both streams, so that every chunk border of a crash falls somewhere into it.
COUNT = "for ((i = 0; i < 400; i++)); do echo $i; echo -$i >&2; sleep 0.01; done; exit 3"
COUNTED = b"".join(b"%d\n" % i for i in range(400))
COUNTED_TOO = b"".join(b"-%d\n" % i for i in range(400))


def _assert_counted(service: Service, before: list[Command]) -> None:
    for command in before:
        ended = service.ended(command)
        assert (ended.status, ended.exit_code, ended.pid) == ("failed", 3, command.pid)
        assert service.output(ended, stream="stdout") == COUNTED
        assert service.output(ended, stream="stderr") == COUNTED_TOO
        assert ended.swept == {"group": 0, "escaped": 0, "left": 0}


def _counting(service: Service, count: int) -> list[Command]:
    commands = [service.run(COUNT) for _ in range(count)]
    for command in commands:
        service.says(command, b"5\n")
    return [service.get(command) for command in commands]


@contextmanager
def _clients(service: Service) -> Iterator[list[Exception]]:
    """Clients that come all the time; gives the connections that were refused, which may be none."""
    refused: list[Exception] = []
    over = threading.Event()

    def come() -> None:
        with httpx.Client(base_url=service.url, trust_env=False, timeout=20) as client:
            while not over.is_set():
                try:
                    client.get("/healthz", headers={"Connection": "close"})
                except httpx.ConnectError as error:
                    refused.append(error)
                except httpx.TransportError:
                    pass  # it was being answered by the process that was killed
                over.wait(0.01)

    threads = [threading.Thread(target=come) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        yield refused
    finally:
        over.set()
        for thread in threads:
            thread.join()


def test_nobody_notices_that_the_api_died(own_service: StartService) -> None:
    """Another one comes, three times over; ids, pids and bytes are the same, and no client is refused."""
    service = own_service().start()
    commands = _counting(service, 6)

    with _clients(service) as refused:
        for _ in range(3):
            api = service.pid("bashd: api")
            kill(api)
            eventually(lambda api=api: service.pids("bashd: api") not in ([], [api]))  # type: ignore[misc]
            eventually(service.is_ready)

    assert refused == []
    _assert_counted(service, commands)
    assert service.done("echo new").id > commands[-1].id


def test_a_command_in_the_queue_is_not_forgotten_when_the_api_dies(own_service: StartService, mark: str) -> None:
    """What waited runs, what ran is stopped by the new one."""
    service = own_service(max_running=1).start()
    running = service.started(service.run(f"sleep {mark}"))
    queued = [service.run("echo queued") for _ in range(5)]

    kill(service.pid("bashd: api"))
    eventually(service.is_ready)
    service.stop(running)

    assert service.ended(running).status == "stopped"
    assert [service.output(service.ended(one)) for one in queued] == [b"queued\n"] * 5


def test_commands_that_end_while_there_is_no_api_are_recorded(own_service: StartService) -> None:
    """The journal holds the end until somebody writes it down."""
    service = own_service().start()
    api = service.pid("bashd: api")
    commands = [service.started(service.run("sleep 0.3; echo out; exit 4")) for _ in range(5)]

    # Held where it is, then killed: nothing was recorded by it.
    os.kill(api, 19)
    eventually(lambda: not any(is_alive(one.worker_pid) for one in commands))
    kill(api)
    eventually(service.is_ready)

    for command in commands:
        ended = service.ended(command)
        assert (ended.status, ended.exit_code, service.output(ended)) == ("failed", 4, b"out\n")


def test_commands_survive_the_supervisor(own_service: StartService) -> None:
    """Init starts another; the same workers are adopted, and end with their true code and every byte."""
    service = own_service().start()
    commands = _counting(service, 6)
    supervisor = service.pid("bashd: supervisor")

    with _clients(service) as refused:
        kill(supervisor)
        eventually(lambda: service.pids("bashd: supervisor") not in ([], [supervisor]))
        eventually(service.is_ready)

    assert refused == []
    _assert_counted(service, commands)
    assert service.done("echo new").status == "succeeded"


def test_an_adopted_command_can_be_stopped(own_service: StartService, mark: str) -> None:
    """By the new supervisor, with its last words, its escapees and its grace; and its timeout still holds."""
    service = own_service().start()
    polite = service.run(f"trap 'echo bye; exit 6' TERM; setsid sleep {mark} & echo ready; sleep {mark} & wait")
    deaf = service.run(f"trap '' TERM; echo ready; sleep {mark}; sleep {mark}", grace_s=0.5)
    slow = service.run(f"echo ready; sleep {mark}", timeout_s=3)
    for command in (polite, deaf, slow):
        service.says(command, b"ready")
    supervisor = service.pid("bashd: supervisor")

    kill(supervisor)
    eventually(lambda: service.pids("bashd: supervisor") not in ([], [supervisor]))
    eventually(service.is_ready)
    service.stop(polite)
    service.stop(deaf)

    ended = service.ended(polite)
    assert (ended.status, ended.exit_code, ended.swept["escaped"]) == ("stopped", 6, 1)
    assert service.output(ended) == b"ready\nbye\n"
    assert (service.ended(deaf).status, service.get(deaf).signal) == ("stopped", 9)
    assert service.ended(slow).reason == "timeout"


def test_the_forker_is_replaced(own_service: StartService, mark: str) -> None:
    """Without it no command could start; those that run do not notice."""
    service = own_service().start()
    command = service.started(service.run(f"sleep {mark}"))
    forker = service.pid("bashd: forker")

    kill(forker)
    eventually(lambda: service.pids("bashd: forker") not in ([], [forker]))
    eventually(service.is_ready)

    assert service.done("echo new").status == "succeeded"
    assert is_alive(command.pid)
    service.stop(command)
    assert service.ended(command).status == "stopped"


def test_the_postmaster_is_replaced(own_service: StartService) -> None:
    """The embedded PostgreSQL comes back; what ended meanwhile is written then, once."""
    service = own_service(embedded=True).start()
    commands = _counting(service, 3)
    postmaster = service.postmaster()

    kill(postmaster)
    eventually(lambda: not is_alive(postmaster))
    eventually(service.is_ready)

    _assert_counted(service, commands)
    assert service.done("echo new").status == "succeeded"


def _postgres(service: Service) -> list[int]:
    """The embedded server's processes, the postmaster first."""
    postmaster = service.postmaster()
    return [postmaster, *descendants(postmaster)]


def test_a_frozen_postgresql_holds_up_no_shutdown(own_service: StartService) -> None:
    """It cannot hear that it should end; it is ended all the same, and the next start finds everything."""
    service = own_service(embedded=True).start()
    command = service.done("echo kept")
    for pid in _postgres(service):
        os.kill(pid, signal.SIGSTOP)

    assert service.terminate(within_s=40) == 0

    service.start()
    assert service.output(command) == b"kept\n"


@pytest.mark.parametrize("postmaster_dies", [False, True], ids=["whole", "without its postmaster"])
def test_a_frozen_postgresql_of_a_bashd_that_died_is_cleared_away(
    own_service: StartService, postmaster_dies: bool
) -> None:
    """It can neither end nor serve, and lies on the data directory: the next start ends it, and recovers."""
    service = own_service(embedded=True).start()
    command = service.done("echo kept")
    frozen = _postgres(service)
    for pid in frozen:
        os.kill(pid, signal.SIGSTOP)
    if postmaster_dies:
        kill(frozen[0])

    service.kill_init()
    service.start(within_s=60)

    assert not any(is_alive(pid) for pid in frozen)
    assert service.output(command) == b"kept\n"
    assert service.done("echo new").status == "succeeded"


@pytest.mark.parametrize("embedded", [True, False], ids=["embedded", "database of its own"])
def test_commands_survive_the_death_of_everything_above_them(own_service: StartService, embedded: bool) -> None:
    """``kill -9`` of the first process ends all but the workers; the next start goes on with the same commands."""
    service = own_service(embedded=embedded).start()
    commands = _counting(service, 6)
    assert service.init is not None
    workers = {one.worker_pid for one in commands}
    scripts = {pid for worker in workers for pid in titled("", worker)}
    family = [pid for pid in service.pids("") if pid not in workers | scripts]
    family = [pid for pid in family if not any(pid in titled("", worker) for worker in workers)]

    service.kill_init()
    eventually(lambda: not any(is_alive(pid) for pid in family if pid not in scripts), within_s=10)
    assert all(is_alive(pid) for pid in workers)
    service.start()

    _assert_counted(service, commands)


def test_an_end_without_witnesses_is_recorded_by_the_next_start(own_service: StartService) -> None:
    """Commands that ended while nobody was there are final after the start, with all they wrote."""
    service = own_service().start()
    commands = [service.started(service.run("sleep 0.5; echo out; exit 4")) for _ in range(3)]

    service.kill_init()
    eventually(lambda: not any(is_alive(one.worker_pid) for one in commands))
    service.start()

    for command in commands:
        ended = service.ended(command)
        assert (ended.status, ended.exit_code, service.output(ended)) == ("failed", 4, b"out\n")


def test_a_worker_that_dies_loses_its_command_and_nothing_else(own_service: StartService, mark: str) -> None:
    """``lost``/``worker_died`` with evidence and its output; its whole tree is dead, others are untouched."""
    service = own_service().start()
    other = service.started(service.run(f"echo other; sleep {mark}5"))
    command = service.run(
        f"echo kept; setsid sleep {mark} & (setsid sleep {mark} &); sleep {mark} & trap '' TERM; echo ready; wait"
    )
    service.says(command, b"ready")
    eventually(lambda: len(marked(mark)) == 3)

    kill(service.get(command).worker_pid)

    ended = service.ended(command)
    assert (ended.status, ended.reason, ended.exit_code) == ("lost", "worker_died", None)
    assert ended.evidence
    assert service.output(ended) == b"kept\nready\n"
    eventually(lambda: marked(mark) == [], within_s=3)
    assert group_members(command.pid or ended.pid) == []
    assert service.get(other).status == "running"
    assert service.get(command).row == ended.row

    service.stop(other)
    assert service.ended(other).status == "stopped"


def test_a_thousand_orphans_of_a_dead_worker_leave_no_zombie(own_service: StartService, mark: str) -> None:
    """They come to the supervisor or, after a re-adoption, to init: killed and collected by both."""
    service = own_service().start()
    crowd = f"for i in {{1..500}}; do setsid sleep {mark} & sleep {mark} & done; echo ready; wait"
    ours = service.run(crowd, timeout_s=None)
    adopted = service.run(crowd, timeout_s=None)
    for command in (ours, adopted):
        service.says(command, b"ready")
    assert service.init is not None

    kill(service.get(ours).worker_pid)
    assert service.ended(ours).status == "lost"
    first = service.pid("bashd: supervisor")
    kill(first)
    eventually(lambda: service.pids("bashd: supervisor") not in ([], [first]))
    eventually(service.is_ready)
    kill(service.get(adopted).worker_pid)

    assert service.ended(adopted).status == "lost"
    assert marked(mark) == []
    assert service.get(adopted).swept["group"] + service.get(adopted).swept["escaped"] >= 1000
    for parent in (service.init.pid, service.pid("bashd: supervisor")):
        eventually(lambda parent=parent: zombies(parent) == [])  # type: ignore[misc]


def test_a_worker_that_dies_unseen_loses_its_command_at_the_next_start(own_service: StartService, mark: str) -> None:
    """Worker and supervisors killed together: the command ends ``lost`` and its group does not live on."""
    service = own_service().start()
    command = service.run(f"echo kept; sleep {mark} & trap '' TERM; wait")
    service.says(command, b"kept\n")
    worker = service.get(command).worker_pid

    service.kill_init()
    kill(worker)
    service.start()

    ended = service.ended(command)
    assert (ended.status, ended.reason) == ("lost", "worker_died")
    assert service.output(ended) == b"kept\n"
    eventually(lambda: marked(mark) == [], within_s=5)


def test_a_worker_that_does_not_react_is_noticed(own_service: StartService, mark: str) -> None:
    """A stop reaches the command of a worker that was SIGSTOPped: the supervisor carries it out."""
    service = own_service().start()
    command = service.started(service.run(f"setsid sleep {mark} & sleep {mark}", grace_s=0.5))
    eventually(lambda: len(marked(mark)) == 2)
    os.kill(command.worker_pid, 19)

    service.stop(command)

    ended = service.ended(command)
    assert (ended.status, ended.reason) == ("stopped", "client")
    eventually(lambda: marked(mark) == [], within_s=5)
    eventually(lambda: not is_alive(command.worker_pid))


@pytest.mark.parametrize(
    ("moment", "status", "output"),
    [
        ("before_started", "lost", b""),
        ("before_started_frame", "lost", None),
        ("after_started", "lost", None),
        ("before_ended", "lost", b"out\n"),
        ("after_ended", "failed", b"out\n"),
    ],
)
def test_a_worker_that_dies_at_a_bad_moment_leaves_a_true_record(
    own_service: StartService, mark: str, moment: str, status: str, output: bytes | None
) -> None:
    """Whenever it dies, the script ran once or not at all, the record says what is known, and nobody is left."""
    service = own_service(fault=moment).start()

    ended = service.done(f"echo out; sleep {mark} & exit 4")

    assert ended.status == status
    assert ended.exit_code == (4 if status == "failed" else None)
    content = service.output(ended)
    assert content == output or (output is None and b"out\n".startswith(content))
    eventually(lambda: marked(mark) == [], within_s=3)


def test_a_crash_in_the_middle_of_many_loses_none(own_service: StartService) -> None:
    """API and supervisor are killed while many short commands come: what was accepted runs once, all else not twice."""
    service = own_service(max_running=16).start()
    ran = service.state_dir.with_name("ran")
    ran.mkdir()
    accepted: dict[int, Command] = {}
    for number in range(120):
        command = _try_to_run(service, f'echo x >> "$1/{number}"; echo {number}', str(ran))
        if command is not None:
            accepted[number] = command
        if number in (40, 80):
            kill(service.pid("bashd: api" if number == 40 else "bashd: supervisor"))

    ended = {number: service.ended(command) for number, command in accepted.items()}

    assert len(accepted) >= 100
    assert {one.status for one in ended.values()} == {"succeeded"}
    assert all(service.output(one) == b"%d\n" % number for number, one in ended.items())
    assert all((ran / str(number)).exists() for number in accepted)
    assert {path.read_text() for path in ran.iterdir()} == {"x\n"}
    for name in ("journals", "controls", "work"):
        eventually(lambda name=name: not os.listdir(service.state_dir / name))  # type: ignore[misc]


def _try_to_run(service: Service, script: str, argument: str) -> Command | None:
    """Hand a script in until it is accepted; None when the answer never came."""

    def answered() -> httpx.Response | None:
        answer = service.create(script, args=[argument])
        return None if answer.status_code == 503 else answer

    try:
        answer = eventually(answered, within_s=10)
    except (httpx.ReadError, httpx.RemoteProtocolError):
        return None  # the process that was about to answer was killed
    assert answer.status_code == 201, answer.text
    return Command(answer.json())


def test_another_database_does_not_cost_a_running_command_its_journal(
    own_service: StartService, postgres: PostgresServer, tmp_path: Path
) -> None:
    """Started by mistake on another database, Bashd leaves what runs alone; back on its own it records the end."""
    go = tmp_path / "go"
    service = own_service().start()
    command = service.run(
        'echo once >> "$2"; echo before; while [ ! -e "$1" ]; do sleep 0.05; done; echo after; exit 3',
        args=[str(go), str(tmp_path / "runs")],
    )
    service.says(command, b"before")
    service.kill_init()
    mistaken = own_service(database_url=postgres.new_database()).start()
    mistaken.kill_init()

    service.start()
    go.touch()

    assert service.ended(command).exit_code == 3
    assert service.output(command) == b"before\nafter\n"
    assert (tmp_path / "runs").read_text() == "once\n"


@pytest.mark.parametrize(
    "moment",
    [
        *("before_row", "before_journal", "before_order", "after_order", "before_fork"),
        *("after_worker", "before_commit", "after_commit"),
    ],
)
def test_between_any_two_steps_a_crash_costs_nothing(own_service: StartService, tmp_path: Path, moment: str) -> None:
    """API or supervisor die between row, journal, order, fork, end and final row: it ran once, and all is recorded.

    Only a command whose row was not yet there is unknown, and never runs.
    """
    service = own_service(fault=moment).start()
    ran = tmp_path / "ran"

    with contextlib.suppress(httpx.TransportError):
        service.create('echo once >> "$1"; echo out; echo err >&2; exit 4', args=[str(ran)], wait_s=20)
    eventually(lambda: (service.state_dir / "fault").exists())
    eventually(service.is_ready)

    if moment == "before_row":
        assert service.page() == []
        assert not ran.exists()
    else:
        [command] = service.page()
        ended = service.ended(command)
        assert (ended.status, ended.exit_code) == ("failed", 4)
        assert (service.output(ended, stream="stdout"), service.output(ended, stream="stderr")) == (b"out\n", b"err\n")
        assert ran.read_text() == "once\n"
    assert service.done("exit 0").status == "succeeded"
    eventually(lambda: not os.listdir(service.state_dir / "journals"))
