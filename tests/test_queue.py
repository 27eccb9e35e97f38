"""Who waits, waits in order, as a row and nothing else; and nobody who was accepted is forgotten."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg

from tests.conftest import StartService
from tests.processes import Command, Service, eventually, marked


def _hold(service: Service, mark: str, count: int) -> list[Command]:
    """Commands that run until they are stopped, which take every place there is."""
    return [service.started(service.run(f"sleep {mark}")) for _ in range(count)]


def test_three_hundred_run_at_once(own_service: StartService) -> None:
    """All are running at the same moment, and each ends right with its own output."""
    service = own_service(max_running=300).start()

    with ThreadPoolExecutor(8) as clients:
        commands = list(clients.map(lambda i: service.run(f"sleep 2; echo {i}"), range(300)))
    ended = [service.ended(command) for command in commands]

    assert [one.status for one in ended] == ["succeeded"] * 300
    assert [service.output(one) for one in ended] == [b"%d\n" % i for i in range(300)]
    # At once: the last one started before the first one ended, unless the machine was slower than 2 s a lot.
    assert max(one.started_at for one in ended) < sorted(one.ended_at for one in ended)[-1]


def test_no_more_than_allowed_run_and_the_others_follow_in_order(own_service: StartService, tmp_path: Path) -> None:
    """With four places fifty commands begin in the order of their ids, and all run."""
    order = tmp_path / "order"
    service = own_service(max_running=4).start()
    script = 'echo "$BASHD_COMMAND_ID" >> "$1"; sleep 0.05; echo done'

    commands = [service.run(script, args=[str(order)]) for _ in range(50)]
    seen = eventually(lambda: service.page(status="queued", limit=1000))
    running = len(service.page(status="running", limit=1000))
    ended = [service.ended(command) for command in commands]

    assert [one.status for one in ended] == ["succeeded"] * 50
    assert running <= 4
    assert all(one.started_at is None and one.pid is None and one.worker_pid is None for one in seen)
    # Handed over in order, four are on their way side by side: one may be overtaken while it is slow to begin.
    began = [int(line) for line in order.read_text().split()]
    assert sorted(began) == [one.id for one in commands]
    assert all(abs(began.index(one.id) - place) < 12 for place, one in enumerate(commands))
    starts = [one.started_at for one in ended]
    ends = sorted(one.ended_at for one in ended)
    assert all(start >= ends[place - 4] for place, start in enumerate(sorted(starts)) if place >= 4)


def test_five_hundred_at_once_are_accepted_or_told_to_come_again(own_service: StartService) -> None:
    """From many clients at the same moment: who is accepted runs, the others hear when to try again."""
    service = own_service(max_running=20, max_queued=300).start()

    with ThreadPoolExecutor(64) as clients:
        answers = list(clients.map(lambda i: service.create(f"echo {i}"), range(500)))

    accepted = [(i, Command(answer.json())) for i, answer in enumerate(answers) if answer.status_code == 201]
    refused = [answer for answer in answers if answer.status_code != 201]
    assert len(accepted) >= 300
    assert {answer.status_code for answer in refused} <= {429}
    assert all(int(answer.headers["Retry-After"]) > 0 for answer in refused)
    for i, command in accepted:
        assert service.output(service.ended(command)) == b"%d\n" % i
    assert "Too many open files" not in service.log


def test_a_hundred_thousand_that_wait_hold_up_neither_end_nor_start(
    own_service: StartService, database_url: str, mark: str
) -> None:
    """They are rows and nothing else: the shutdown leaves them as they are, the next start begins with the first."""
    service = own_service(database_url=database_url, max_running=2, max_queued=200_000).start()
    _hold(service, mark, 2)
    first = service.run("echo first")
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(
            """
            insert into commands (id, node_id, status, script, grace_s, leftovers, merge_stderr, output_limit_bytes,
                created_at)
            select id + n, node_id, 'queued', 'true', grace_s, leftovers, merge_stderr, output_limit_bytes, now()
            from commands, generate_series(1000, 101000) n where id = %s
            """,
            [first.id],
        )

    assert service.terminate() == 0

    waiting = "select count(*) from commands where status = 'queued'"
    with psycopg.connect(database_url, autocommit=True) as connection:
        assert connection.execute(waiting).fetchone() == (100_002,)
    service.start()
    assert service.output(service.ended(first)) == b"first\n"
    assert service.terminate() == 0


def test_one_by_one_they_run_exactly_in_order(own_service: StartService, tmp_path: Path) -> None:
    """With a single place the order of the ids is the order of the scripts."""
    order = tmp_path / "order"
    service = own_service(max_running=1).start()

    commands = [service.run('echo "$BASHD_COMMAND_ID" >> "$1"', args=[str(order)]) for _ in range(30)]
    for command in commands:
        service.ended(command)

    assert [int(line) for line in order.read_text().split()] == [one.id for one in commands]


def test_a_queued_command_can_be_stopped(own_service: StartService, mark: str, tmp_path: Path) -> None:
    """It ends without ever having been started, and its place in the queue is gone."""
    service = own_service(max_running=1).start()
    holder = _hold(service, mark, 1)[0]
    queued = service.run('touch "$1"', args=[str(tmp_path / "ran")])
    after = service.run("echo after")

    stopped = service.stop(queued)
    again = service.stop(queued)
    service.stop(holder)

    assert (stopped.status, stopped.reason, stopped.started_at, stopped.exit_code) == ("stopped", "client", None, None)
    assert again.row == stopped.row
    assert service.output(stopped) == b""
    assert service.ended(after).status == "succeeded"
    assert service.get(queued).row == stopped.row
    assert not (tmp_path / "ran").exists()


def test_the_queue_survives_a_restart(own_service: StartService, mark: str) -> None:
    """Twenty that waited when Bashd was told to go wait on, and run after the next start."""
    service = own_service(max_running=2).start()
    _hold(service, mark, 2)
    queued = [service.run(f"echo {i}") for i in range(20)]
    waiting = service.page(status="queued")

    assert service.terminate() == 0
    service.start()

    assert [one.id for one in waiting] == [one.id for one in reversed(queued)]
    for i, command in enumerate(queued):
        ended = service.ended(command)
        assert (ended.status, service.output(ended)) == ("succeeded", b"%d\n" % i)


def test_the_queue_survives_kill(own_service: StartService, mark: str) -> None:
    """So it does when everything but the workers is killed: nothing runs twice, all run."""
    service = own_service(max_running=2).start()
    holders = _hold(service, mark, 2)
    queued = [service.run(f"echo {i}") for i in range(20)]

    service.kill_init()
    service.start()
    assert {service.get(one).status for one in queued} == {"queued"}
    for one in holders:
        service.stop(one)

    assert [service.ended(one).status for one in queued] == ["succeeded"] * 20
    assert [service.output(one) for one in queued] == [b"%d\n" % i for i in range(20)]


def test_a_full_queue_says_so(own_service: StartService, mark: str) -> None:
    """Beyond ``max_queued`` 429 with ``Retry-After``, and no row; when there is room again they are accepted."""
    service = own_service(max_running=1, max_queued=3).start()
    holder = _hold(service, mark, 1)[0]
    queued = [service.run("true") for _ in range(3)]

    refused = service.create("true")

    assert refused.status_code == 429
    assert refused.headers["content-type"].startswith("application/problem+json")
    assert int(refused.headers["retry-after"]) >= 1
    assert service.newest_id() == queued[-1].id

    service.stop(holder)
    for one in queued:
        service.ended(one)
    assert service.done("echo room").status == "succeeded"


def test_others_are_served_while_many_run(own_service: StartService, mark: str) -> None:
    """With every place taken and a queue behind them, every read is answered within a second."""
    service = own_service(max_running=50).start()
    _hold(service, mark, 50)
    for _ in range(50):
        service.run("true")

    for path in ("/healthz", "/readyz", "/v1/commands", f"/v1/commands/{service.newest_id()}"):
        asked = time.monotonic()
        assert service.http.get(path).status_code == 200
        assert time.monotonic() - asked < 1
    assert len(marked(mark)) == 50
