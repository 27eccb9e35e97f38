"""What is not to be kept goes, whole and for good; what is to be kept stays, and nobody has to wait for it."""

from __future__ import annotations

import asyncio
import uuid

import httpx
import psycopg
import pytest

from api import migrations
from api.store import CommandRemoved, Store
from tests.conftest import StartService
from tests.postgres import PostgresServer
from tests.processes import Command, Service, eventually, kill


def _delete(service: Service, command: Command) -> httpx.Response:
    return service.http.delete(f"/v1/commands/{command.id}")


def _rows(url: str) -> dict[str, int]:
    """How many rows there are in each table that knows of commands."""
    with psycopg.connect(url) as connection:
        found = {}
        for table in ("commands", "output", "labels", "removed"):
            row = connection.execute(f"select count(*) from {table}").fetchone()
            assert row is not None
            found[table] = row[0]
        return found


def _age(url: str, ids: list[int], interval: str) -> None:
    """Let these have been created and ended that much earlier."""
    with psycopg.connect(url) as connection:
        connection.execute(
            "update commands set created_at = created_at - %s::interval, ended_at = ended_at - %s::interval"
            " where id = any(%s)",
            [interval, interval, ids],
        )


def test_a_final_command_can_be_removed_at_once(own_service: StartService, database_url: str) -> None:
    """As soon as it is seen to have ended: row, output, labels and key are gone, and all routes say so."""
    service = own_service(database_url=database_url).start()
    headers = {"Idempotency-Key": "again"}
    body = {"script": "echo said; echo more >&2", "labels": {"a": "b"}}
    command = Command(service.http.post("/v1/commands?wait=20", json=body, headers=headers).json())
    kept = service.done("echo kept")

    answer = _delete(service, command)

    assert (answer.status_code, answer.content) == (204, b"")
    for path in (f"/v1/commands/{command.id}", f"/v1/commands/{command.id}/output", f"/command/{command.id}"):
        assert service.http.get(path).status_code == 404
    assert [_delete(service, command).status_code, service.http.delete("/v1/commands/0").status_code] == [404, 400]
    assert [one.id for one in service.page()] == [kept.id]
    assert service.page(label="a:b") == []
    assert service.http.get("/v1/counts").json()["succeeded"] == 1
    eventually(lambda: _rows(database_url) == {"commands": 1, "output": 1, "labels": 0, "removed": 0})
    assert service.output(kept) == b"kept\n"
    again = service.http.post("/v1/commands", json=body, headers=headers)
    assert (again.status_code, again.json()["id"]) == (201, eventually(service.newest_id))
    assert again.json()["id"] > kept.id


def test_what_is_not_final_stays(own_service: StartService, mark: str) -> None:
    """409 for a running and a queued one, which do not notice."""
    service = own_service(max_running=1).start()
    running = service.started(service.run(f"sleep {mark}"))
    queued = service.run("true")

    answers = [_delete(service, one) for one in (running, queued)]

    assert [(one.status_code, one.json()["type"]) for one in answers] == [(409, "/problems/conflict")] * 2
    assert ["running" in answers[0].text, "queued" in answers[1].text] == [True, True]
    service.stop(running)
    assert service.ended(queued).status == "succeeded"


def test_an_end_that_is_not_recorded_yet_is_waited_for(own_service: StartService, server: PostgresServer) -> None:
    """While PostgreSQL is away 503, and the command is as it was; afterwards it goes, and does not come again."""
    service = own_service(database_url=server.new_database()).start()
    command = service.started(service.run("sleep 0.5; echo said"))
    server.end()
    ended = service.ended(command)

    refused = _delete(service, command)

    assert refused.status_code == 503
    assert service.get(command).row == ended.row
    server.begin()
    eventually(lambda: _delete(service, command).status_code == 204)
    kill(service.pid("bashd: api"))
    eventually(service.is_ready)
    assert service.http.get(f"/v1/commands/{command.id}").status_code == 404
    assert not (service.state_dir / "journals" / str(command.id)).exists()


def test_what_ended_too_long_ago_goes(own_service: StartService, database_url: str, mark: str) -> None:
    """Ends count, not beginnings: what runs stays however old it is; and there is a line in the log."""
    service = own_service(database_url=database_url, on_shutdown="leave", keep_days="1.5").start()
    running = service.started(service.run(f"sleep {mark}"))
    old = [service.done("echo old; echo old >&2", labels={"a": "b"}) for _ in range(3)]
    young = [service.done("echo young") for _ in range(2)]
    eventually(lambda: _rows(database_url)["output"] == 8)
    _age(database_url, [one.id for one in (running, *old)], "37 hours")
    _age(database_url, [one.id for one in young], "35 hours")
    assert service.terminate() == 0

    service.start()

    eventually(lambda: _rows(database_url) == {"commands": 3, "output": 2, "labels": 0, "removed": 0})
    assert [one.id for one in service.page()] == [young[1].id, young[0].id, running.id]
    assert [service.output(one) for one in young] == [b"young\n"] * 2
    eventually(lambda: "removed what is not to be kept commands=3" in service.log)
    assert service.log.count("removed what") == 1
    service.stop(running)
    assert service.ended(running).status == "stopped"


def test_only_so_many_are_kept(own_service: StartService, database_url: str) -> None:
    """The newest ones; of the others those go that ended more than a minute ago."""
    service = own_service(database_url=database_url, keep_commands=2).start()
    made = [service.done("true") for _ in range(5)]
    eventually(lambda: service.http.get("/v1/counts").json()["succeeded"] == 5)
    _age(database_url, [one.id for one in (*made[:2], made[4])], "2 minutes")
    service.terminate()

    service.start()

    eventually(lambda: len(service.page()) == 3)
    assert [one.id for one in service.page()] == [one.id for one in reversed(made[2:])]
    assert service.http.get("/v1/counts").json()["succeeded"] == 3


def test_nothing_goes_unless_it_is_asked_for(own_service: StartService, database_url: str) -> None:
    """By default everything is kept for ever."""
    service = own_service(database_url=database_url).start()
    command = service.done("echo said")
    eventually(lambda: _rows(database_url)["output"] == 1)
    _age(database_url, [command.id], "100 years")
    service.terminate()
    service.start()
    other = service.done("true")
    assert _delete(service, other).status_code == 204  # so it has looked
    eventually(lambda: _rows(database_url)["removed"] == 0)

    assert service.output(command) == b"said\n"


def test_a_big_history_goes_while_others_run(own_service: StartService, database_url: str) -> None:
    """Thousands of commands and megabytes of output are removed; what runs meanwhile is recorded as ever.

    The API is killed in the middle: the next one goes on, and the counts are right.
    """
    service = own_service(database_url=database_url, keep_days=1).start()
    service.done("true")
    service.terminate()
    with psycopg.connect(database_url) as connection:
        connection.execute(
            """
            insert into commands (id, node_id, status, reason, exit_code, script, grace_s, leftovers, merge_stderr,
                output_limit_bytes, created_at, ended_at, stdout_bytes)
            select 1000 + n, node_id, 'succeeded', 'exit', 0, 'true', 5, 'kill', false, 1000,
                '2025-01-01Z', '2025-01-02Z', 3
            from generate_series(1, 4000) n, commands
            """
        )
        connection.execute(
            "insert into output select id, 0, 1, 0, created_at, '\\x616263' from commands where id > 1000"
        )
        connection.execute("update commands set stdout_bytes = 3 + 1000 * 30000 where id = 1001")
        connection.execute(
            "insert into output select 1001, 3 + n * 30000, 1, 3 + n * 30000, now(),"
            " convert_to(repeat('x', 30000), 'UTF8') from generate_series(0, 999) n"
        )
        connection.execute("insert into ends values ('succeeded', 4000)")
        connection.execute("select setval(pg_get_serial_sequence('commands', 'id'), 10000)")
    service.start()

    made = [service.done("echo said") for _ in range(10)]
    kill(service.pid("bashd: api"))
    eventually(service.is_ready)
    made += [service.done("echo said") for _ in range(10)]
    eventually(lambda: _rows(database_url) == {"commands": 21, "output": 20, "labels": 0, "removed": 0}, within_s=60)

    assert [service.output(one) for one in made] == [b"said\n"] * 20
    assert service.http.get("/v1/counts").json()["succeeded"] == 21


def test_who_reads_what_is_removed_is_told(database_url: str) -> None:
    """Not that there was less of it: the row goes first, and a reading that comes after it fails."""
    migrations.apply(database_url)

    async def scene() -> None:
        store = Store(database_url, str(uuid.uuid4()))
        await store.open()
        with psycopg.connect(database_url) as connection:
            connection.execute(
                """
                insert into commands (id, node_id, status, reason, script, grace_s, leftovers, merge_stderr,
                    output_limit_bytes, created_at, ended_at, stdout_bytes)
                values (1, gen_random_uuid(), 'stopped', 'client', 'true', 5, 'kill', false, 9, now(), now(), 2)
                """
            )
            connection.execute("insert into output select 1, n, 1, n, now(), 'x' from generate_series(0, 1) n")
        read = await store.output(1, from_position=0, stream=None, count=1)
        assert [chunk.bytes for chunk in read] == [b"x"]

        assert await store.remove(1)

        with pytest.raises(CommandRemoved):
            await store.output(1, from_position=1, stream=None, count=1)
        with pytest.raises(CommandRemoved):
            await store.first_position(1, stream=None, offset=1)
        assert await store.tails([1], 10) == {}
        assert [await store.remove_output(1) for _ in range(4)] == [1, 1, 1, 0]
        await store.close()

    asyncio.run(scene())
    assert _rows(database_url) == {"commands": 0, "output": 0, "labels": 0, "removed": 0}


def test_an_answer_whose_command_is_removed_breaks_off(own_service: StartService) -> None:
    """It has begun with 200, and must not look as if it was all: a client notices that it is not."""
    service = own_service().start()
    # Far more than sockets on both sides take in, so that most of it is read from PostgreSQL after the removal.
    command = service.done("head -c 64000000 /dev/zero", output_limit_bytes=128_000_000)
    eventually(lambda: not (service.state_dir / "journals" / str(command.id)).exists(), within_s=60)

    with service.http.stream("GET", f"/v1/commands/{command.id}/output") as answer:
        pieces = answer.iter_raw()
        next(pieces)
        assert _delete(service, command).status_code == 204
        with pytest.raises((httpx.RemoteProtocolError, httpx.ReadError)):
            list(pieces)

    assert answer.status_code == 200
    assert "is cut short" in service.log
    assert "Traceback" not in service.log
    assert service.done("echo on").status == "succeeded"


def test_a_refusal_is_kept_as_long_as_its_insert_may_come(database_url: str) -> None:
    """Else the insert of a command whose client was told 503 would find its place free, and run."""
    migrations.apply(database_url)

    async def removed() -> bool:
        store = Store(database_url, str(uuid.uuid4()))
        await store.open()
        await store.refuse([1])
        found = await store.remove(1)
        await store.close()
        return found

    assert not asyncio.run(removed())
    _age(database_url, [1], "2 minutes")
    assert asyncio.run(removed())


@pytest.mark.parametrize("setting", [{"keep_days": 0}, {"keep_days": "nan"}, {"keep_commands": 0}])
def test_limits_that_would_keep_nothing_are_refused(own_service: StartService, setting: dict[str, object]) -> None:
    """One line that names the setting, before anything is started."""
    service = own_service(**setting)

    assert service.launch().wait(20) == 2

    assert next(iter(setting)) in service.log
