"""The seed's four routes: its clients work as they are, with its fields, its statuses and its errors."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from tests.conftest import StartService
from tests.processes import Service, eventually


def _final(service: Service, command_id: int) -> dict[str, Any]:
    def final() -> dict[str, Any] | None:
        found: dict[str, Any] = service.http.get(f"/command/{command_id}").json()
        return None if found["status"] == "started" else found

    return eventually(final)


def _create(service: Service, script: str) -> dict[str, Any]:
    answer = service.http.post("/command", json={"script": script})
    assert answer.status_code == 201
    created: dict[str, Any] = answer.json()
    return created


def test_a_command_has_the_seeds_fields(service: Service) -> None:
    """``id``, ``script``, ``status``, ``output`` and no other, in all four answers."""
    created = _create(service, "sleep 0.2; echo hello")
    ended = _final(service, created["id"])

    assert set(created) == {"id", "script", "status", "output"}
    assert (created["status"], created["script"]) == ("started", "sleep 0.2; echo hello")
    assert ended == {"id": created["id"], "script": created["script"], "status": "success", "output": "hello\n"}
    assert service.http.post(f"/stop/{created['id']}").json() == ended


@pytest.mark.parametrize(
    ("script", "status", "output"),
    [
        ("echo out", "success", "out\n"),
        ("echo out; sleep 0.05; echo err >&2; sleep 0.05; exit 1", "error", "out\nerr\n"),
        ("kill -9 $$", "error", ""),
        (r"printf 'a\377b\0c'", "success", "a\ufffdb\0c"),
    ],
)
def test_how_it_ended_is_said_in_the_seeds_words(service: Service, script: str, status: str, output: str) -> None:
    """What failed is an ``error``; the output is both streams as they came, U+FFFD for what is no text."""
    ended = _final(service, _create(service, script)["id"])

    assert (ended["status"], ended["output"]) == (status, output)


def test_a_running_command_shows_its_output_and_can_be_stopped(service: Service, mark: str) -> None:
    """``started`` with what it wrote so far, ``stopped`` after ``POST /stop/{id}``, which needs no body."""
    created = _create(service, f"echo so far; sleep {mark}")
    eventually(lambda: service.http.get(f"/command/{created['id']}").json()["output"] == "so far\n")

    answer = service.http.post(f"/stop/{created['id']}")

    assert answer.status_code == 200
    assert set(answer.json()) == {"id", "script", "status", "output"}
    assert _final(service, created["id"]) == {**created, "status": "stopped", "output": "so far\n"}


def test_the_list_is_an_array_by_id(service: Service) -> None:
    """Oldest first; ``limit`` and ``offset`` are optional; beyond the end it is empty."""
    made = [_create(service, "true")["id"] for _ in range(3)]
    for command_id in made:
        _final(service, command_id)

    everything = service.http.get("/command").json()
    first = service.http.get("/command", params={"limit": 2}).json()
    second = service.http.get("/command", params={"limit": 2, "offset": 2}).json()
    beyond = service.http.get("/command", params={"offset": 10**6})

    ids = [one["id"] for one in everything]
    assert ids == sorted(ids)
    assert all(set(one) == {"id", "script", "status", "output"} for one in everything)
    assert [one["id"] for one in first + second] == ids[:4]
    assert (beyond.status_code, beyond.json()) == (200, [])


def test_the_list_shows_the_last_part_of_a_long_output(service: Service) -> None:
    """64 KiB of it in the list, all of it by id."""
    created = _create(service, "head -c 200000 /dev/zero | tr '\\0' x; echo end")
    whole = _final(service, created["id"])["output"]
    last = service.http.get("/v1/commands", params={"limit": 1000}).json()["items"]
    position = sum(1 for one in last if one["id"] < created["id"])
    listed: dict[int, str] = {}
    for offset in range(max(0, position - 5), 100_000, 1000):
        page = service.http.get("/command", params={"limit": 1000, "offset": offset}).json()
        listed |= {one["id"]: one["output"] for one in page}
        if created["id"] in listed or not page:
            break

    assert whole == "x" * 200_000 + "end\n"
    assert listed[created["id"]] == whole[-65536:]


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("POST", "/command", {"script": ""}, 400),
        ("POST", "/command", {"script": 5}, 400),
        ("POST", "/command", {}, 400),
        ("POST", "/command", {"script": "true", "timeout_s": 5}, 400),
        ("POST", "/command", [], 400),
        ("GET", "/command/x", None, 400),
        ("GET", "/command/0", None, 400),
        ("GET", "/command/-1", None, 400),
        ("GET", "/command?limit=-1", None, 400),
        ("GET", "/command?limit=1001", None, 400),
        ("GET", "/command?limit=x", None, 400),
        ("GET", "/command?offset=-1", None, 400),
        ("GET", "/command/999999999", None, 404),
        ("POST", "/stop/999999999", None, 404),
        ("POST", "/stop/x", None, 400),
    ],
)
def test_errors_have_the_seeds_shape(service: Service, method: str, path: str, body: object, status: int) -> None:
    """``{"error": "…"}`` with the seed's status, and nothing is created."""
    before = service.newest_id()

    answer = service.http.request(method, path, json=body)

    assert (answer.status_code, set(answer.json())) == (status, {"error"})
    assert answer.json()["error"]
    assert service.newest_id() == before


def test_a_body_that_is_not_json_is_415(service: Service) -> None:
    """As the seed has it."""
    answer = service.http.post("/command", content=b"script=true", headers={"Content-Type": "text/plain"})

    assert (answer.status_code, set(answer.json())) == (415, {"error"})


def test_its_clients_work_as_they_are_without_authentication(own_service: StartService) -> None:
    """With ``BASHD_AUTH=none`` on loopback no token is needed; an empty list is ``[]``."""
    service = own_service(auth="none")
    service.token = None
    service.start()

    empty = httpx.get(f"{service.url}/command", trust_env=False)
    created = httpx.post(f"{service.url}/command", json={"script": "echo hi"}, trust_env=False)

    assert (empty.status_code, empty.json()) == (200, [])
    assert created.status_code == 201
    assert _final(service, created.json()["id"])["output"] == "hi\n"


def test_both_apis_show_the_same_commands(service: Service) -> None:
    """The same ids, whoever created them."""
    by_seed = _create(service, "echo seed")["id"]
    by_v1 = service.done("echo v1").id

    assert service.http.get(f"/v1/commands/{by_seed}").json()["script"] == "echo seed"
    assert _final(service, by_v1)["output"] == "v1\n"
