"""The audit log: who changed what and who was refused, whatever became of the rest."""

from __future__ import annotations

import array
import fcntl
import os
import socket
import termios
from typing import Any

import httpx
import psycopg
import pytest

from tests.conftest import StartService
from tests.description import new_token
from tests.postgres import PostgresServer
from tests.processes import TOKEN, Service, eventually, kill
from tests.test_tokens import client


def entries(service: Service, **params: Any) -> list[dict[str, Any]]:
    """The newest entries, the newest first."""
    answer = service.http.get("/v1/audit", params={"limit": 1000, **params})
    assert answer.status_code == 200, answer.text
    items: list[dict[str, Any]] = answer.json()["items"]
    return items


def _of(service: Service, command_id: int) -> list[tuple[str, str, int]]:
    """What was done to a command: by whom, what, with which answer; the first first."""
    found = [one for one in entries(service) if one["command_id"] == command_id]
    return [(one["token"], one["action"], one["status"]) for one in sorted(found, key=lambda one: str(one["at"]))]


def test_what_changes_a_command_is_written_with_its_name(service: Service) -> None:
    """From its beginning to its removal, under the name of each token; what only looks is not."""
    ours, theirs = new_token(service, "run"), new_token(service, "run")
    with client(service, ours["secret"]) as we, client(service, theirs["secret"]) as they:
        made = we.post("/v1/commands", json={"script": "trap '' USR1; cat", "stdin_open": True}).json()
        service.started(service.get(service.page(limit=1)[0]))
        path = f"/v1/commands/{made['id']}"
        assert they.post(f"{path}/stdin", content=b"a").is_success
        assert they.post(f"{path}/signal", json={"signal": "CONT"}).is_success
        assert they.post(f"{path}/stop").is_success
        ended = we.get(path, params={"wait": 20}).json()
        assert we.delete(path).status_code == 204

    assert (ended["requested_by"], ended["stopped_by"]) == (ours["name"], theirs["name"])
    assert sorted(_of(service, made["id"])) == sorted(
        [
            (ours["name"], "addCommand", 201),
            (theirs["name"], "feedCommand", 200),
            (theirs["name"], "signalCommand", 200),
            (theirs["name"], "stopCommand", 200),
            (ours["name"], "removeCommand", 204),
        ]
    )


def test_what_is_asked_for_again_names_who_asked_for_it(service: Service) -> None:
    """Not who asked for the first; also by way of the seed's API."""
    token = new_token(service, "run")
    first = service.done("true")

    with client(service, token["secret"]) as asking:
        again = asking.post(f"/v1/commands/{first.id}/rerun").json()
        seed = asking.post("/command", json={"script": "sleep 100"}).json()
        asking.post(f"/stop/{seed['id']}")
        ended = asking.get(f"/v1/commands/{seed['id']}", params={"wait": 20}).json()

    assert (first.requested_by, again["requested_by"]) == ("operator", token["name"])
    assert (ended["requested_by"], ended["stopped_by"]) == (token["name"], token["name"])
    assert _of(service, again["id"]) == [(token["name"], "rerunCommand", 201)]
    assert [one[1] for one in _of(service, seed["id"])] == ["addSeedCommand", "stopSeedCommand"]


def test_who_stopped_it_survives_api_and_supervisor(own_service: StartService) -> None:
    """It is in the journal, with the stop; so it is known whoever dies before it was recorded."""
    service = own_service().start()
    command = service.started(service.run("trap '' TERM; echo ready; while :; do sleep 0.1; done"))
    service.says(command, b"ready")
    service.stop(command, grace_s=4)

    kill(service.pid("bashd: supervisor"))
    eventually(service.is_ready)

    ended = service.ended(command)
    assert (ended.status, ended.requested_by, ended.stopped_by) == ("stopped", "operator", "operator")


def test_nobody_stopped_what_ended_by_itself(service: Service) -> None:
    """Nor what ran out of time."""
    assert service.done("true").stopped_by is None
    assert service.done("sleep 100", timeout_s=0.2).stopped_by is None


def test_the_stop_of_a_waiting_command_names_who_asked(own_service: StartService) -> None:
    """It is written by the statement that ends it, and once."""
    service = own_service(max_running=1).start()
    service.started(service.run("sleep 100"))
    waiting = service.run("true")

    stopped = service.stop(waiting)

    assert (stopped.status, stopped.stopped_by) == ("stopped", "operator")
    assert _of(service, waiting.id) == [("operator", "addCommand", 201), ("operator", "stopCommand", 200)]


def test_changes_of_tokens_name_the_token(service: Service) -> None:
    """Who made, rotated and revoked which."""
    token = new_token(service)
    service.http.post(f"/v1/tokens/{token['id']}/rotate")
    service.http.delete(f"/v1/tokens/{token['id']}")

    found = [one for one in entries(service) if one["subject"] == token["name"]]

    assert [one["action"] for one in found] == ["revokeToken", "rotateToken", "addToken"]
    assert {(one["token"], one["address"], one["command_id"]) for one in found} == {("operator", "127.0.0.1", None)}


def test_many_refused_attempts_are_few_entries(own_service: StartService) -> None:
    """Without a token, with too small a one, from another page: merged, and counted."""
    service = own_service().start()
    reader = new_token(service)
    with client(service, reader["secret"]) as asking:
        for _ in range(7):
            assert asking.delete("/v1/commands/1").status_code == 403
    for _ in range(30):
        assert httpx.get(f"{service.url}/v1/counts", trust_env=False).status_code == 401
    assert service.http.get("/v1/counts", headers={"Host": "evil.example"}).status_code == 421

    found = [one for one in entries(service) if one["action"] == "refused"]

    assert sorted((one["status"], one["token"], one["attempts"]) for one in found) == [
        (401, None, 30),
        (403, reader["name"], 7),
        (421, None, 1),
    ]


def test_many_addresses_are_few_entries_too(own_service: StartService) -> None:
    """Nobody fills the disk by inventing them: what is too much is counted together."""
    service = own_service(behind_proxy="127.0.0.1").start()
    with httpx.Client(base_url=service.url, trust_env=False) as asking:
        for number in range(90):
            asking.get("/v1/counts", headers={"X-Forwarded-For": f"192.0.2.{number}"})

    found = [one for one in entries(service) if one["action"] == "refused"]

    assert len(found) <= 16
    assert sum(one["attempts"] for one in found) == 90
    assert "others" in {one["address"] for one in found}


def test_pages_hold_while_entries_come(service: Service) -> None:
    """By the cursor each entry is met once, also when there are more every time."""
    for _ in range(5):
        service.done("true")
    want = [one["id"] for one in entries(service)][:5]
    got: list[int] = []
    page = service.http.get("/v1/audit", params={"limit": 2, "cursor": want[0] + 1}).json()
    while len(got) < 5:
        got += [one["id"] for one in page["items"]]
        service.run("true")
        page = service.http.get("/v1/audit", params={"limit": 2, "cursor": page["next"]}).json()

    assert got[:5] == want


def test_nobody_changes_an_entry(own_service: StartService, database_url: str) -> None:
    """The schema refuses it to whoever comes with SQL: change, removal, emptying."""
    service = own_service(database_url=database_url).start()
    service.done("true")
    entries(service)

    for sql in (
        "update audit set token = 'nobody'",
        "delete from audit",
        "truncate audit",
        "set bashd.removes_old_audit = 'on'; delete from audit",  # for its age, and it has none yet
    ):
        with psycopg.connect(database_url) as connection, pytest.raises(psycopg.Error, match="append-only"):
            connection.execute(sql)

    assert [one["action"] for one in entries(service)] == ["addCommand"]


def test_old_entries_go_by_themselves(own_service: StartService, database_url: str) -> None:
    """Those that are older than ``keep_audit_days``, and no other."""
    service = own_service(database_url=database_url, keep_audit_days=2).start()
    with psycopg.connect(database_url) as connection:
        connection.execute(
            "insert into audit (at, action, status) select now() - age * interval '1 day', 'age ' || age, 200"
            " from generate_series(9, 1, -1) as age"
        )
    service.terminate()

    service.start()

    eventually(lambda: [one["action"] for one in entries(service)] == ["age 1"])


def test_what_is_done_while_postgres_is_away_is_written_when_it_is_back(
    own_service: StartService, server: PostgresServer
) -> None:
    """A stop is carried out at once, and its entry follows."""
    service = own_service(database_url=server.new_database()).start()
    command = service.started(service.run("sleep 1000"))
    server.end()
    eventually(lambda: not service.is_ready())

    service.stop(command)
    server.begin()
    eventually(service.is_ready)

    assert service.ended(command).stopped_by == "operator"
    assert ("operator", "stopCommand", 200) in _of(service, command.id)


def test_nobody_gets_past_it_by_hanging_up(service: Service) -> None:
    """What was begun has its entry, though nobody waits for the answer any more."""
    command = service.started(service.run("sleep 1000", stdin_open=True))
    port = service.port
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(
            f"POST /v1/commands/{command.id}/stdin HTTP/1.1\r\nHost: 127.0.0.1\r\n"
            f"Authorization: Bearer {TOKEN}\r\nContent-Length: 300000\r\n\r\n".encode()
            + b"some"
        )
        eventually(lambda: _unread_bytes(command.pid) > 0)

    eventually(lambda: ("operator", "feedCommand", 499) in _of(service, command.id))
    service.stop(command)


def _unread_bytes(pid: int) -> int:
    """What lies in the pipe that is the stdin of this process."""
    fd = os.open(f"/proc/{pid}/fd/0", os.O_RDONLY | os.O_NONBLOCK)
    try:
        found = array.array("i", [0])
        fcntl.ioctl(fd, termios.FIONREAD, found)
        return found[0]
    finally:
        os.close(fd)


def test_a_command_and_its_entry_are_there_together(own_service: StartService, database_url: str) -> None:
    """Whatever moment the API dies at: every row has its entry, and no entry is without its row."""
    service = own_service(database_url=database_url).start()
    for _ in range(20):
        service.create("true")
    kill(service.pid("bashd: api"))
    eventually(service.is_ready)

    with psycopg.connect(database_url) as connection:
        rows = connection.execute("select id from commands order by id").fetchall()
        written = connection.execute("select command_id from audit where action = 'addCommand' order by 1").fetchall()

    assert rows == written
    assert len(rows) == 20
