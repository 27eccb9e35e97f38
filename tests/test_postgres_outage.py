"""PostgreSQL killed, stopped, frozen, refusing and cut off, again and again, while much is to be recorded."""

from __future__ import annotations

import os
import random
import signal
import time
from collections import Counter
from pathlib import Path

import psycopg
import pytest

from tests.conftest import StartService
from tests.crowd import Crowd, running_through
from tests.postgres import PostgresServer
from tests.processes import Command, Service, descendants, eventually, is_alive, kill, marked, reap_orphans
from tests.proxy import Cut, Proxy

SEED = 1
# What the COMMITs that count end with: accepting, handing over from the queue, recording.
COMMITTED = ("with added as (", "update commands set handed_boot_id", "with progress as (")
ANSWERED_WITHIN_S = 5.0  # a generous bound for "within a second or two", on a machine that others use too


def _assert_rows_are_exact(url: str) -> None:
    """In every row: its output without gap or repeat, as many bytes as it says, each stream by itself and both."""
    with psycopg.connect(url) as connection:
        # Both at one moment: what has just ended is perhaps recorded between the two.
        connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        counted = connection.execute("select id, stdout_bytes, stderr_bytes from commands").fetchall()
        chunks = connection.execute(
            'select command_id, position, stream, "offset", length(bytes) from output order by command_id, position'
        ).fetchall()
    reached: dict[int, dict[int, int]] = {command_id: {1: 0, 2: 0} for command_id, _, _ in counted}
    for command_id, position, stream, offset, length in chunks:
        streams = reached[command_id]
        assert (position, offset) == (sum(streams.values()), streams[stream]), f"command {command_id}"
        streams[stream] += length
    assert {command_id: {1: stdout, 2: stderr} for command_id, stdout, stderr in counted} == reached


def _assert_live(service: Service, commands: list[Command]) -> None:
    """What runs can be read as if nothing was the matter."""
    assert service.http.get("/healthz", timeout=ANSWERED_WITHIN_S).status_code == 200
    for command in commands:
        answer = service.http.get(f"/v1/commands/{command.id}", timeout=ANSWERED_WITHIN_S)
        assert (answer.status_code, answer.json()["status"]) == (200, "running")
        printed = answer.json()["stdout_bytes"]
        eventually(lambda command=command, printed=printed: len(service.output(command, stream="stdout")) > printed)  # type: ignore[misc]


class Embedded:
    """The embedded PostgreSQL of a service, which init starts again."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def crash(self) -> None:
        postmaster = self._service.postmaster()
        self._signal(postmaster, signal.SIGKILL, [postmaster, *descendants(postmaster)])

    def end(self) -> None:
        postmaster = self._service.postmaster()
        self._signal(postmaster, signal.SIGQUIT, [postmaster])

    def _signal(self, postmaster: int, number: int, pids: list[int]) -> None:
        for pid in pids:
            kill(pid, number)
        eventually(lambda: not is_alive(postmaster))
        reap_orphans()

    def begin(self) -> None:
        """It is not for us to do."""


@pytest.mark.parametrize("embedded", [True, False], ids=["embedded", "database of its own"])
def test_nothing_is_lost_or_doubled_when_postgresql_crashes_again_and_again(
    own_service: StartService, server: PostgresServer, tmp_path: Path, embedded: bool
) -> None:
    """Killed with all its processes or stopped at once, in the middle of noise: every byte and every row is exact."""
    chance = random.Random(SEED)
    url = server.new_database()
    service = own_service(**{"embedded": True} if embedded else {"database_url": url}, max_running=12).start()
    if embedded:
        url = f"postgresql://bashd@/bashd?host={service.state_dir / 'postgres'}"
    postgres = Embedded(service) if embedded else server

    with (
        running_through(service, tmp_path / "through", 8, width=5000) as commands,
        Crowd(service, tmp_path / "ran", answered_within_s=ANSWERED_WITHIN_S) as crowd,
    ):
        for number in range(5):
            crowd.grows()
            time.sleep(chance.uniform(0, 1.2))  # the moment to be tried, not a wait; a second is the recorder's pause
            if number % 2:
                postgres.end()
            else:
                postgres.crash()
            if not embedded:
                crowd.is_refused()
            _assert_live(service, commands[:1])
            postgres.begin()
            eventually(service.is_ready, within_s=30)
        crowd.grows()

    crowd.assert_all_is_true(SEED)
    _assert_rows_are_exact(url)


def test_nothing_is_lost_or_doubled_when_postgresql_freezes(
    own_service: StartService, server: PostgresServer, mark: str, tmp_path: Path
) -> None:
    """Frozen for longer than anybody waits for it, twice: reads and stops work meanwhile, then all is recorded."""
    chance = random.Random(SEED)
    url = server.new_database()
    service = own_service(database_url=url, max_running=12).start()
    stopped = []

    with (
        running_through(service, tmp_path / "through", 5, width=5000) as commands,
        Crowd(service, tmp_path / "ran", answered_within_s=ANSWERED_WITHIN_S) as crowd,
    ):
        for _ in range(2):
            to_stop = service.run(
                f"trap 'echo bye; exit 6' TERM; echo ready; setsid sleep {mark} & sleep {mark} & wait"
            )
            service.says(to_stop, b"ready\n")
            crowd.grows()
            time.sleep(chance.uniform(0, 1.2))  # the moment to be tried, not a wait
            server.freeze()
            crowd.is_refused(6)
            _assert_live(service, commands[:1])
            service.stop(to_stop)
            stopped.append(service.ended(to_stop))
            assert marked(mark) == []
            server.thaw()
            eventually(service.is_ready, within_s=30)
        crowd.grows()

    crowd.assert_all_is_true(SEED)
    for ended in stopped:
        assert (ended.status, ended.reason, ended.exit_code) == ("stopped", "client", 6)
        assert service.get(ended).row == ended.row
        assert service.output(ended) == b"ready\nbye\n"
    _assert_rows_are_exact(url)


def test_while_connections_are_refused_commands_run_end_time_out_and_are_stopped(
    own_service: StartService, server: PostgresServer, mark: str, tmp_path: Path
) -> None:
    """All on time and with nobody left; what waits in the queue waits on. The ends appear when the server is back."""
    url = server.new_database()
    service = own_service(database_url=url, max_running=3).start()
    go, ran = tmp_path / "go", tmp_path / "ran"
    to_end = service.run('echo first; until [ -e "$1" ]; do sleep 0.05; done; seq 5000; exit 3', args=[str(go)])
    to_stop = service.run(f"trap 'echo bye; exit 6' TERM; echo first; setsid sleep {mark} & sleep {mark} & wait")
    to_time_out = service.run(f"echo first; setsid sleep {mark} & sleep {mark}", timeout_s=4)
    for command in (to_end, to_stop, to_time_out):
        service.says(command, b"first\n")
    waiting = [service.run('echo "$2" >> "$1"', args=[str(ran), str(number)]) for number in range(3)]
    server.end(signal.SIGINT)

    eventually(lambda: service.http.get("/readyz", timeout=ANSWERED_WITHIN_S).status_code == 503)
    refused = service.http.post("/v1/commands", json={"script": "true"}, timeout=ANSWERED_WITHIN_S)
    go.touch()
    service.stop(to_stop)
    ends = [service.ended(command) for command in (to_end, to_stop, to_time_out)]

    assert refused.status_code == 503
    assert list(service.http.get("/readyz").json()["why"]) == ["postgres"]
    assert [(one.status, one.reason, one.exit_code) for one in ends[:2]] == [
        ("failed", "exit", 3),
        ("stopped", "client", 6),
    ]
    assert (ends[2].status, ends[2].reason) == ("failed", "timeout")
    assert marked(mark) == []
    assert not ran.exists()

    server.begin()
    eventually(lambda: not os.listdir(service.state_dir / "journals"))

    assert [service.get(one).row for one in ends] == [one.row for one in ends]
    counted = b"".join(b"%d\n" % number for number in range(1, 5001))
    assert [service.output(one) for one in ends] == [b"first\n" + counted, b"first\nbye\n", b"first\n"]
    assert {service.ended(one).status for one in waiting} == {"succeeded"}
    assert sorted(ran.read_text().split()) == ["0", "1", "2"]
    assert service.done("echo new").status == "succeeded"
    _assert_rows_are_exact(url)


def test_whether_a_commit_took_place_nobody_knows(
    own_service: StartService, server: PostgresServer, tmp_path: Path
) -> None:
    """Connections are cut at random COMMITs: each accepted command has one row and ran once, a refused one never ran.

    Some COMMITs did not reach the server, some did, and of some the answer was already on its way; now and then all
    connections go with that one.
    """
    chance = random.Random(SEED)
    url = server.new_database()
    cuts: Counter[str] = Counter()
    moments: Counter[Cut] = Counter()

    def cut(what: str) -> Cut | None:
        if chance.random() > 0.15:
            return None
        moment = chance.choice(list(Cut))
        cuts[what] += 1
        moments[moment] += 1
        return moment

    with Proxy(server.socket_path) as proxy:
        service = own_service(database_url=proxy.through(url), max_running=4).start()
        with (
            running_through(service, tmp_path / "through", 3, width=5000),
            Crowd(service, tmp_path / "ran", clients=4, answered_within_s=ANSWERED_WITHIN_S) as crowd,
        ):
            crowd.grows()
            proxy.cut = cut
            for number in range(1, 9):
                crowd.is_refused(2)
                if number % 4 == 0:
                    proxy.cut_all()
            eventually(lambda: min(cuts[what] for what in COMMITTED) >= 5 or crowd.troubles, within_s=60)
            proxy.cut = lambda _what: None
            eventually(service.is_ready, within_s=30)
            crowd.grows()

        assert set(moments) == set(Cut)
        crowd.assert_all_is_true(SEED)
        _assert_rows_are_exact(url)
        assert service.terminate() == 0
