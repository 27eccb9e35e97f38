"""Tokens beside the operator's own: what each may do, and from when to when."""

from __future__ import annotations

import select
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import httpx
import psycopg
import pytest

from api.app import OPERATIONS
from tests.conftest import StartService
from tests.description import new_token
from tests.postgres import PostgresServer
from tests.processes import TOKEN, Service, eventually, kill

SCOPES = ("read", "run", "admin")


@contextmanager
def client(service: Service, secret: str) -> Iterator[httpx.Client]:
    """Who has nothing but this token."""
    with httpx.Client(
        base_url=service.url, headers={"Authorization": f"Bearer {secret}"}, trust_env=False, timeout=30
    ) as made:
        yield made


def _status(service: Service, secret: str, method: str = "GET", path: str = "/v1/counts", **options: Any) -> int:
    with client(service, secret) as asking:
        return asking.request(method, path, **options).status_code


@pytest.fixture(scope="module")
def of_scope(service: Service) -> dict[str, str]:
    """A secret for each scope."""
    return {scope: new_token(service, scope)["secret"] for scope in SCOPES}


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("operation", [one for one in OPERATIONS if "events" not in one.path], ids=lambda one: one.id)
def test_a_token_reaches_as_far_as_its_scope(
    service: Service, of_scope: dict[str, str], operation: Any, scope: str
) -> None:
    """403 that names what is missing, else any other answer: 404 for what is not there."""
    path = operation.path.replace("{id}", str(2**63 - 1))
    is_open = path in ("/healthz", "/readyz", "/docs", "/docs/style.css", "/openapi.json")
    may = is_open or SCOPES.index(scope) >= SCOPES.index(operation.scope)

    with client(service, of_scope[scope]) as asking:
        answer = asking.request(operation.method, path)

    assert answer.status_code != 401
    assert (answer.status_code != 403) == may
    if not may:
        assert f"needs the scope {operation.scope}" in answer.text
        assert answer.headers["content-type"] == (
            "application/json" if path.startswith(("/command", "/stop")) else "application/problem+json"
        )


def test_what_looks_needs_read_and_what_changes_needs_run() -> None:
    """And tokens and the audit log need admin; no route is without a scope."""
    scopes = {f"{one.method} {one.path}": one.scope for one in OPERATIONS}

    assert {path for path, scope in scopes.items() if scope == "admin"} == {
        "POST /v1/tokens",
        "GET /v1/tokens",
        "DELETE /v1/tokens/{id}",
        "POST /v1/tokens/{id}/rotate",
        "GET /v1/audit",
    }
    reads = {path for path, scope in scopes.items() if scope == "read" and not path.startswith("GET")}
    assert reads == {"POST /v1/session", "DELETE /v1/session"}  # a browser logs in with whatever it has
    assert all(scope == "read" for path, scope in scopes.items() if path.startswith("GET") and scope != "admin")


def test_the_scope_is_looked_at_before_the_body(service: Service, of_scope: dict[str, str]) -> None:
    """Who may not run anything cannot make us read sixteen megabytes of it."""
    with socket.create_connection(("127.0.0.1", service.port), timeout=5) as connection:
        connection.sendall(
            b"POST /v1/commands HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
            b"Authorization: Bearer %s\r\nContent-Length: 4000000000\r\n\r\n{" % of_scope["read"].encode()
        )
        answer = connection.recv(65536)

    assert answer.startswith(b"HTTP/1.1 403")


def test_a_secret_is_shown_once_and_kept_nowhere(own_service: StartService, postgres: PostgresServer) -> None:
    """The list does not show it, the log neither, and the database holds a digest."""
    url = postgres.new_database()
    service = own_service(database_url=url).start()
    made = new_token(service, "run")
    secret = made.pop("secret")

    listed = service.http.get("/v1/tokens").json()["items"]
    with psycopg.connect(url) as connection:
        kept = connection.execute("select tokens::text from tokens").fetchall()

    assert listed == [made]
    assert secret not in str(kept)
    assert secret not in service.log
    assert _status(service, secret) == 200


def test_a_secret_must_not_be_kept_on_its_way(service: Service) -> None:
    """By no cache between us and who asked."""
    made = service.http.post("/v1/tokens", json={"name": "uncached", "scope": "read"})
    rotated = service.http.post(f"/v1/tokens/{made.json()['id']}/rotate")

    assert [one.headers["cache-control"] for one in (made, rotated)] == ["no-store"] * 2


def test_a_revoked_token_is_refused_at_once(service: Service) -> None:
    """Twice is harmless; the list shows when."""
    made = new_token(service)
    assert _status(service, made["secret"]) == 200

    first, second = (service.http.delete(f"/v1/tokens/{made['id']}") for _ in range(2))

    assert _status(service, made["secret"]) == 401
    assert first.json() == second.json()
    assert first.json()["revoked_at"] is not None
    assert first.json() in service.http.get("/v1/tokens").json()["items"]
    assert service.http.post(f"/v1/tokens/{made['id']}/rotate").status_code == 404


def test_who_watches_with_a_revoked_token_is_cut_off(service: Service) -> None:
    """Its answer breaks off, and who watches with another token goes on."""
    made, other = new_token(service), new_token(service)
    command = service.started(service.run("echo ready; read", stdin_open=True))
    path = f"/v1/commands/{command.id}/output?follow=true"
    with (
        client(service, made["secret"]) as one,
        client(service, other["secret"]) as another,
        one.stream("GET", path) as cut,
        another.stream("GET", path) as whole,
    ):
        pieces, more = cut.iter_bytes(), whole.iter_bytes()
        assert (next(pieces), next(more)) == (b"ready\n", b"ready\n")

        assert service.http.delete(f"/v1/tokens/{made['id']}").status_code == 200

        with pytest.raises(httpx.TransportError):
            next(pieces)
        service.http.post(f"/v1/commands/{command.id}/stdin", content=b"\n")
        assert list(more) == []
    service.ended(command)


def test_who_revokes_his_own_token_is_told_so(service: Service) -> None:
    """It is the last that he is told."""
    made = new_token(service, "admin")

    assert _status(service, made["secret"], "DELETE", f"/v1/tokens/{made['id']}") == 200
    assert _status(service, made["secret"]) == 401


def test_a_rotated_token_has_another_secret_at_once(service: Service) -> None:
    """The old one is refused; its end stays unless another one is asked for."""
    made = new_token(service, expires_in_s=1000)

    rotated = service.http.post(f"/v1/tokens/{made['id']}/rotate").json()
    assert [_status(service, one["secret"]) for one in (made, rotated)] == [401, 200]
    for_ever = service.http.post(f"/v1/tokens/{made['id']}/rotate", json={"expires_in_s": None}).json()

    assert rotated["expires_at"] == made["expires_at"]
    assert for_ever["expires_at"] is None
    assert [_status(service, one["secret"]) for one in (rotated, for_ever)] == [401, 200]


def test_an_expired_token_is_refused_and_told_why(service: Service) -> None:
    """It was good until then, and is after a rotation that says for how long."""
    made = new_token(service, expires_in_s=0.5)
    eventually(lambda: _status(service, made["secret"]) == 401)

    with client(service, made["secret"]) as asking:
        said = asking.get("/v1/counts").json()["detail"]
    rotated = service.http.post(f"/v1/tokens/{made['id']}/rotate", json={"expires_in_s": 100}).json()

    assert "expired" in said
    assert _status(service, rotated["secret"]) == 200


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"scope": "run"}, "name"),
        ({"name": "", "scope": "run"}, "name"),
        ({"name": "a b", "scope": "run"}, "name"),
        ({"name": "a\r\nX: 1", "scope": "run"}, "name"),
        ({"name": "-rf", "scope": "run"}, "name"),
        ({"name": "x" * 65, "scope": "run"}, "name"),
        ({"name": "operator", "scope": "run"}, "name"),
        ({"name": "é", "scope": "run"}, "name"),
        ({"name": "a"}, "scope"),
        ({"name": "a", "scope": "root"}, "scope"),
        ({"name": "a", "scope": ["run"]}, "scope"),
        ({"name": "a", "scope": "run", "expires_in_s": 0}, "expires_in_s"),
        ({"name": "a", "scope": "run", "expires_in_s": -1}, "expires_in_s"),
        ({"name": "a", "scope": "run", "expires_in_s": 1e300}, "expires_in_s"),
        ({"name": "a", "scope": "run", "expires_in_s": "1"}, "expires_in_s"),
        ({"name": "a", "scope": "run", "secret": "mine"}, "secret"),
    ],
    ids=str,
)
def test_a_wrong_request_is_refused_and_the_field_named(service: Service, body: dict[str, Any], field: str) -> None:
    """Nothing is made."""
    before = service.http.get("/v1/tokens").json()

    answer = service.http.post("/v1/tokens", json=body)

    assert answer.status_code == 400
    assert [one["field"] for one in answer.json()["errors"]] == [field]
    assert service.http.get("/v1/tokens").json() == before


def test_a_name_belongs_to_one_token_for_ever(service: Service) -> None:
    """The audit log names tokens: one that was revoked must not seem to have done what its successor did."""
    made = new_token(service)
    service.http.delete(f"/v1/tokens/{made['id']}")

    answer = service.http.post("/v1/tokens", json={"name": made["name"], "scope": "read"})

    assert answer.status_code == 409
    assert answer.json()["errors"][0]["field"] == "name"


def test_tokens_survive_whoever_knows_them(own_service: StartService) -> None:
    """The API reads them again when it is started again, and who comes meanwhile waits for it."""
    service = own_service().start()
    good, revoked = new_token(service), new_token(service)
    service.http.delete(f"/v1/tokens/{revoked['id']}")

    kill(service.pid("bashd: api"))

    assert _status(service, good["secret"]) == 200
    assert _status(service, revoked["secret"]) == 401


def test_while_postgres_is_away_known_tokens_go_on(own_service: StartService, server: PostgresServer) -> None:
    """The operator's and those that were read; of another one nobody can say that it is wrong: 503, and no 401."""
    service = own_service(database_url=server.new_database()).start()
    good, revoked = new_token(service), new_token(service)
    service.http.delete(f"/v1/tokens/{revoked['id']}")
    server.end()
    eventually(lambda: _status(service, "unknown") == 503)

    statuses = [_status(service, secret, path="/v1/processes") for secret in (TOKEN, good["secret"])]
    refused = service.http.delete(f"/v1/tokens/{good['id']}")
    server.begin()
    eventually(service.is_ready)

    assert statuses == [200, 200]
    assert refused.status_code == 503
    assert _status(service, good["secret"]) == 200
    assert [_status(service, secret) for secret in ("unknown", revoked["secret"])] == [401, 401]


def test_a_revocation_whose_outcome_nobody_knows_lets_nobody_in(
    own_service: StartService, server: PostgresServer
) -> None:
    """PostgreSQL hangs while it is asked: 503 for both; then what it did is found out."""
    service = own_service(database_url=server.new_database()).start()
    made = new_token(service)
    server.freeze()

    refused = service.http.delete(f"/v1/tokens/{made['id']}")
    meanwhile = _status(service, made["secret"], path="/v1/processes")
    server.thaw()
    eventually(lambda: service.http.get("/v1/tokens").status_code == 200)

    assert (refused.status_code, meanwhile) == (503, 503)
    assert eventually(lambda: service.http.get("/v1/tokens").json()["items"][0]["revoked_at"])
    eventually(lambda: _status(service, made["secret"]) == 401)


def test_who_is_wrong_all_the_time_waits_and_holds_up_nobody(own_service: StartService) -> None:
    """From the same address: while wrong ones wait to be refused, right ones are answered."""
    service = own_service().start()
    secret = new_token(service)["secret"]
    address = ("127.0.0.1", service.port)
    with ExitStack() as stack:
        wrong = [stack.enter_context(socket.create_connection(address)) for _ in range(250)]
        for one in wrong:
            one.sendall(b"GET /v1/counts HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer wrong\r\n\r\n")

        right = [_status(service, secret) for _ in range(3)]
        answered, _, _ = select.select(wrong, [], [], 0)
        every = [one.recv(12) for one in wrong]

    assert right == [200] * 3
    assert len(answered) < len(wrong)
    assert every == [b"HTTP/1.1 401"] * 250
    assert service.log.count(" refused") == 1  # for all of them, until their sum is written


def test_without_authentication_anybody_may_do_everything(own_service: StartService) -> None:
    """On loopback alone; the record says so."""
    service = own_service(auth="none")
    service.token = None
    service.start()

    command = service.done("true")

    assert command.requested_by == "anybody"
    assert service.http.get("/v1/audit").json()["items"][0]["token"] == "anybody"
