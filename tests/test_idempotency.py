"""A request that comes again with its key makes no second command, whatever happened in between."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from tests.conftest import StartService
from tests.postgres import PostgresServer
from tests.processes import Command, Service, eventually, kill, unique_seconds
from tests.proxy import Cut, Proxy


def _send(service: Service, key: str, body: object = None, *, wait_s: float | None = None) -> httpx.Response:
    """POST a command with a key; ``body`` may be JSON as it stands."""
    text = body if isinstance(body, str) else json.dumps(body or {"script": "true"})
    headers = {"Idempotency-Key": key, "Content-Type": "application/json"}
    params = {} if wait_s is None else {"wait": wait_s}
    return service.http.post("/v1/commands", content=text, headers=headers, params=params)


def _new_key() -> str:
    return f"key-{unique_seconds()}"


def _accepted_at_last(service: Service, key: str, body: object) -> Command:
    """Send it until it is answered with a command, as a client would."""

    def answered() -> httpx.Response | None:
        try:
            answer = _send(service, key, body)
        except httpx.TransportError:
            return None  # the process that was about to answer was killed
        return answer if answer.status_code in (200, 201) else None

    return Command(eventually(answered, within_s=40).json())


def test_the_same_key_and_body_find_the_same_command(service: Service) -> None:
    """While it runs and after its end: 200, the same id, and it ran once; `wait` works for both."""
    key = _new_key()
    body = {"script": "sleep 0.5; echo once"}

    first = _send(service, key, body)
    second = _send(service, key, body)
    third = _send(service, key, body, wait_s=20)
    last = _send(service, key, body)

    assert [one.status_code for one in (first, second, third, last)] == [201, 200, 200, 200]
    assert {one.json()["id"] for one in (first, second, third, last)} == {first.json()["id"]}
    assert {one.headers["Location"] for one in (first, third)} == {f"/v1/commands/{first.json()['id']}"}
    assert (third.json()["status"], last.json()) == ("succeeded", third.json())
    assert service.output(Command(last.json())) == b"once\n"


@pytest.mark.parametrize(
    "body",
    [
        '{"name":"n","script":"true"}',
        '{ "script" : "tru\\u0065",\n "name": "n" }',
        '{"script": "true", "name": "n", "grace_s": 5, "leftovers": "kill", "args": [], "timeout_s": 300}',
    ],
)
def test_what_says_the_same_is_the_same(service: Service, body: str) -> None:
    """White space, the order of members and defaults that are named do not matter."""
    key = _new_key()
    first = _send(service, key, {"script": "true", "name": "n"})

    again = _send(service, key, body)

    assert (again.status_code, again.json()["id"]) == (200, first.json()["id"])


@pytest.mark.parametrize(
    "body",
    [
        {"script": "true", "name": "m"},
        {"script": "true"},
        {"script": "true", "name": "n", "timeout_s": None},
        {"script": "true", "name": "n", "args": [""]},
    ],
)
def test_another_body_is_refused_and_learns_whose_key_it_is(service: Service, body: object) -> None:
    """409 with the id of the command that has the key; nothing runs."""
    key = _new_key()
    first = Command(_send(service, key, {"script": "true", "name": "n"}).json())

    answer = _send(service, key, body)

    problem = answer.json()
    assert (answer.status_code, problem["type"]) == (409, "/problems/conflict")
    assert problem["errors"][0]["field"] == "Idempotency-Key"
    assert f"command {first.id}" in problem["detail"]
    assert service.newest_id() == first.id


@pytest.mark.parametrize("key", ["", "a b", "k" * 256, "ü", "a\x7f"])
def test_a_key_that_is_none_is_refused(service: Service, key: str) -> None:
    """1 to 255 visible ASCII characters, and only one."""
    content = b'{"script": "true"}'
    headers = [(b"Idempotency-Key", key.encode()), (b"Content-Type", b"application/json")]
    answer = service.http.post("/v1/commands", content=content, headers=headers)
    twice = service.http.post("/v1/commands", content=content, headers=[*headers, (b"Idempotency-Key", b"k")])

    assert [(one.status_code, one.json()["errors"][0]["field"]) for one in (answer, twice)] == [
        (400, "Idempotency-Key")
    ] * 2
    assert _send(service, "!" * 255).status_code in (200, 201)


def test_twins_at_the_same_time_make_one_command(service: Service) -> None:
    """One is told 201, the others 200, and all the same id; other keys are not disturbed."""
    keys = [_new_key() for _ in range(5)]

    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(lambda number: _send(service, keys[number % 5], wait_s=10), range(60)))

    for number in range(5):
        mine = answers[number::5]
        assert sorted(one.status_code for one in mine) == [200] * 11 + [201]
        assert len({one.json()["id"] for one in mine}) == 1
        assert {one.json()["status"] for one in mine} == {"succeeded"}


def test_an_accepted_command_is_found_although_the_queue_is_full(own_service: StartService, mark: str) -> None:
    """Who was accepted is not told to come again; and a restart does not make its key forgotten."""
    service = own_service(max_running=1, max_queued=1).start()
    running = _send(service, "running", {"script": f"sleep {mark}"}).json()
    queued = _send(service, "queued").json()
    assert _send(service, "too-many").status_code == 429

    found = [_send(service, key, body) for key, body in (("running", {"script": f"sleep {mark}"}), ("queued", None))]
    assert service.terminate() == 0
    service.start()
    after = [_send(service, key, body) for key, body in (("running", {"script": f"sleep {mark}"}), ("queued", None))]

    assert [(one.status_code, one.json()["id"]) for one in found + after] == [
        (200, running["id"]),
        (200, queued["id"]),
    ] * 2
    assert after[0].json()["reason"] == "shutdown"
    assert service.ended(Command(queued)).status == "succeeded"


@pytest.mark.parametrize("moment", ["before_row", "after_keyed_row", "before_journal", "after_order"])
def test_an_api_that_dies_on_the_way_leaves_one_command(own_service: StartService, tmp_path: Path, moment: str) -> None:
    """The client hears nothing and asks again: whatever became of the first request, it runs once."""
    service = own_service(fault=moment).start()
    ran = tmp_path / "ran"
    body = {"script": f"echo x >> {ran}"}

    command = _accepted_at_last(service, "once", body)

    assert service.ended(command).status == "succeeded"
    assert ran.read_text() == "x\n"
    assert [one.id for one in service.page()] == [command.id]


@pytest.mark.parametrize("moment", list(Cut))
def test_a_retry_after_503_finds_or_creates_it_and_never_two(
    own_service: StartService, server: PostgresServer, tmp_path: Path, moment: Cut
) -> None:
    """The connection is cut around the COMMIT of the insert: the refused one never runs, and its key is free."""
    cuts: list[str] = []

    def cut(what: str) -> Cut | None:
        if not what.startswith("with added as (") or cuts:
            return None
        cuts.append(what)
        return moment

    ran = tmp_path / "ran"
    body = {"script": f"echo x >> {ran}"}
    with Proxy(server.socket_path) as proxy:
        service = own_service(database_url=proxy.through(server.new_database())).start()
        proxy.cut = cut
        refused = _send(service, "once", body)
        command = _accepted_at_last(service, "once", body)

        ended = service.ended(command)
        again = _send(service, "once", body)
        rows = service.page()

        assert (refused.status_code, len(cuts)) == (503, 1)
        assert (ended.status, again.status_code, again.json()["id"]) == ("succeeded", 200, command.id)
        assert ran.read_text() == "x\n"
        assert {(one.status, one.reason) for one in rows if one.id != command.id} <= {("stopped", "not_accepted")}
        assert service.terminate() == 0


def test_while_postgresql_is_frozen_a_key_is_refused_and_used_afterwards(
    own_service: StartService, server: PostgresServer, tmp_path: Path
) -> None:
    """Each try is told 503; after the thaw the next one makes the command, and it runs once, also when the API died."""
    service = own_service(database_url=server.new_database()).start()
    ran = tmp_path / "ran"
    body = {"script": f"echo x >> {ran}"}
    server.freeze()
    refused = [_send(service, "once", body).status_code for _ in range(2)]
    kill(service.pid("bashd: api"))
    server.thaw()

    command = _accepted_at_last(service, "once", body)

    assert refused == [503, 503]
    assert service.ended(command).status == "succeeded"
    assert ran.read_text() == "x\n"
