"""PostgreSQL away, frozen, or not there yet: what runs goes on, what lives can be read and stopped, nothing is lost."""

from __future__ import annotations

import json
import signal
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import psycopg

from tests.conftest import StartService
from tests.postgres import PostgresServer
from tests.processes import TOKEN, Command, Service, eventually


def _refused(service: Service, script: str) -> float:
    """POST a script; it is refused with 503 and a time to come again. Returns how long that took."""
    asked = time.monotonic()
    answer = service.create(script)
    took_s = time.monotonic() - asked
    assert answer.status_code == 503, answer.text
    assert answer.json()["type"] == "/problems/unavailable"
    assert int(answer.headers["Retry-After"]) > 0
    return took_s


def _assert_counted(service: Service, command: Command, count: int) -> None:
    assert service.ended(command).status == "succeeded"
    assert service.output(command) == b"".join(b"%d\n" % number for number in range(1, count + 1))


def _count(service: Service, url: str, command: Command) -> Command:
    """A command as soon as its row is final."""

    def final() -> bool:
        with psycopg.connect(url) as connection:
            row = connection.execute("select ended_at from commands where id = %s", [command.id]).fetchone()
            return row is not None and row[0] is not None

    eventually(final, within_s=5)
    return service.get(command)


def test_while_postgresql_is_frozen_everything_live_works(
    own_service: StartService, server: PostgresServer, mark: str, tmp_path: Path
) -> None:
    """Reads and stops answer within a second; new commands are refused within two or so, and never run."""
    url = server.new_database()
    service = own_service(database_url=url).start()
    command = service.started(service.run(f"echo said; sleep {mark}"))
    service.says(command, b"said\n")
    ran = tmp_path / "ran"
    server.freeze()

    with ThreadPoolExecutor(12) as pool:
        refused = list(pool.map(lambda _: _refused(service, f"touch {ran}"), range(12)))
    asked = time.monotonic()
    now = service.get(command)
    output = service.output(command)
    health = service.http.get("/healthz")
    stopped = service.stop(command)
    took_s = time.monotonic() - asked
    why = service.http.get("/readyz")
    ended = service.ended(command)

    assert max(refused) < 3
    assert (now.status, output, health.status_code) == ("running", b"said\n", 200)
    assert stopped.stop_requested_at is not None
    assert took_s < 1
    assert why.status_code == 503
    assert list(why.json()["why"]) == ["postgres"]
    assert (ended.status, ended.reason) == ("stopped", "client")

    server.thaw()
    eventually(service.is_ready, within_s=10)
    assert _count(service, url, command).row == ended.row
    assert service.done("echo new").status == "succeeded"
    assert not ran.exists()
    late = [one for one in service.page() if str(ran) in one.script]
    assert {(one.status, one.reason) for one in late} <= {("stopped", "not_accepted")}


def test_a_command_that_was_refused_before_it_had_an_id_never_runs(
    own_service: StartService, server: PostgresServer, tmp_path: Path
) -> None:
    """The first one of a service, whose ids PostgreSQL has yet to reserve when it freezes; nor after another start."""
    service = own_service(database_url=server.new_database()).start()
    ran = tmp_path / "ran"
    server.freeze()
    _refused(service, f"touch {ran}")
    server.thaw()
    eventually(service.is_ready, within_s=10)

    assert service.done("echo new").status == "succeeded"
    assert service.terminate() == 0
    service.start()
    assert service.done("echo newer").status == "succeeded"
    late = [one for one in service.page() if str(ran) in one.script]
    assert {(one.status, one.reason) for one in late} <= {("stopped", "not_accepted")}
    assert not ran.exists()


def test_a_client_that_hangs_up_while_its_row_is_written_disturbs_nobody(
    own_service: StartService, database_url: str, tmp_path: Path
) -> None:
    """What was asked for is accepted, as it may have been the moment before, unless it took too long to hang up."""
    service = own_service(database_url=database_url).start()
    api = service.pid("bashd: api")
    ran = tmp_path / "ran"
    body = json.dumps({"script": f"touch {ran}"})
    waiting = "select count(*) from pg_locks where not granted and relation = 'commands'::regclass"
    with psycopg.connect(database_url) as holder, psycopg.connect(database_url, autocommit=True) as onlooker:
        holder.execute("lock table commands in share mode")
        with socket.create_connection(("127.0.0.1", service.port), timeout=10) as connection:
            connection.sendall(
                f"POST /v1/commands HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {TOKEN}\r\n"
                f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode()
            )
            eventually(lambda: onlooker.execute(waiting).fetchone() == (1,))
            from_port = connection.getsockname()[1]
        eventually(lambda: not _has_connection(from_port, service.port))
        holder.rollback()

    assert service.done("echo next").status == "succeeded"
    [asked] = [one for one in service.page() if str(ran) in one.script]
    eventually(lambda: (service.get(asked).status, ran.exists()) in [("succeeded", True), ("stopped", False)])
    assert service.pid("bashd: api") == api


def _has_connection(from_port: int, to_port: int) -> bool:
    """True while the server has its end of this connection (proc_pid_net(5))."""
    ends = [line.split()[1:3] for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return [to_port, from_port] in [[int(end.rpartition(":")[2], 16) for end in pair] for pair in ends]


def test_what_ends_while_postgresql_is_away_is_written_when_it_is_back(
    own_service: StartService, server: PostgresServer
) -> None:
    """Within five seconds, each once; and the database is owned again, so that nobody else can take it."""
    url = server.new_database()
    service = own_service(database_url=url).start()
    commands = [service.run("for i in {1..40}; do echo $i; sleep 0.05; done") for _ in range(5)]
    time.sleep(1.2)  # now a part of each is written
    server.end()
    eventually(lambda: not service.is_ready())
    assert _refused(service, "true") < 3
    ended = [service.ended(one) for one in commands]

    server.begin()

    for command, final in zip(commands, ended, strict=True):
        assert _count(service, url, command).row == final.row
        _assert_counted(service, command, 40)
    eventually(service.is_ready, within_s=10)
    with psycopg.connect(url) as connection:
        owners = connection.execute("select count(*) from pg_locks where locktype = 'advisory'").fetchone()
    assert owners == (1,)
    assert service.done("echo new").status == "succeeded"


def test_without_postgresql_it_starts_and_says_why_it_is_not_ready(own_service: StartService, state_dir: Path) -> None:
    """And it is ready as soon as the server is there, without a restart."""
    state_dir.parent.chmod(0o755)
    directory = state_dir.parent / "pg"
    service = own_service(database_url=f"postgresql://tests@/tests_1?host={directory}").start(ready=False)
    eventually(lambda: service.http.get("/readyz").status_code == 503)

    _refused(service, "true")
    answer = service.http.get("/readyz")
    listed = service.http.get("/v1/commands")

    assert answer.json()["why"]["postgres"]
    assert listed.status_code == 503
    server = PostgresServer(directory)
    try:
        assert server.new_database().endswith(f"/tests_1?host={directory}")
        eventually(service.is_ready, within_s=10)
        assert service.done("echo new").status == "succeeded"
    finally:
        assert service.terminate() == 0
        server.close()


def test_a_second_bashd_does_not_get_the_same_database(
    own_service: StartService, server: PostgresServer, place: Path
) -> None:
    """One Bashd owns a database; another one on it says why it is not ready, and takes over when the first is gone."""
    url = server.new_database()
    first = own_service(database_url=url).start()
    directory = place / "second"
    directory.mkdir(mode=0o711)
    with Service(directory / "bashd", database_url=url).start(ready=False) as second:
        eventually(lambda: "another Bashd" in second.http.get("/readyz").text)
        _refused(second, "true")

        assert first.terminate() == 0

        eventually(second.is_ready, within_s=10)
        assert second.done("true").status == "succeeded"


def test_clients_that_wait_for_queued_commands_are_answered_at_the_end(own_service: StartService, mark: str) -> None:
    """They learn that their command is queued, which it stays; no connection breaks."""
    service = own_service(max_running=1).start()
    service.started(service.run(f"sleep {mark}"))

    def client() -> httpx.Response:
        return service.create("true", wait_s=60)

    with ThreadPoolExecutor(3) as pool:
        answers = [pool.submit(client) for _ in range(3)]
        eventually(lambda: len(service.page(status="queued")) == 3)
        assert service.init is not None
        service.init.send_signal(signal.SIGTERM)

        found = [answer.result(20) for answer in answers]

    assert [(one.status_code, one.json()["status"]) for one in found] == [(201, "queued")] * 3
    assert service.wait() == 0


def test_a_final_command_with_gaps_is_equal_byte_for_byte(service: Service) -> None:
    """Told by its journal at the end, and by its row ever after."""
    first = service.create("head -c 100 /dev/zero; head -c 100 /dev/zero >&2", wait_s=20, output_limit_bytes=10)
    command = Command(first.json())

    eventually(lambda: not (service.state_dir / "journals" / str(command.id)).exists())  # the row answers now
    second = service.http.get(f"/v1/commands/{command.id}")

    assert command.truncated == {"stdout": [[5, 95]], "stderr": [[5, 95]], "reason": "output_limit"}
    assert first.content == second.content
