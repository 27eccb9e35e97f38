"""Every route in every situation: the table says which status is answered, the description must know each answer.

A new route needs a row here; one without is found by ``test_every_route_has_its_row``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from api.app import OPERATIONS
from api.operation import Operation
from tests.description import assert_described, assert_wrong_method, new_token
from tests.postgres import PostgresServer
from tests.processes import Command, Service, eventually

# finished, queued, running: of the command whose id is in the path; where there is none, "finished" is the plain case.
TABLE = """
                                finished queued running  wrong-id unknown-id  no-token wrong-token  too-large wrong-type  parameter method  database-away
POST   /v1/commands                201      -      -         -         -         401       401         413        415        400      405       503
GET    /v1/commands                200      -      -         -         -         401       401         413        200        400      405       503
GET    /v1/commands/{id}           200     200    200       400       404        401       401         413        200        400      405       503
POST   /v1/commands/{id}/stop      200     200    200       400       404        401       401         413        415        400      405       503
GET    /v1/commands/{id}/output    200     200    200       400       404        401       401         413        200        400      405       503
GET    /v1/commands/{id}/events          200      200      200      400      404      401      401      413      200      400      405      503
GET    /v1/events                        200        -        -        -        -      401      401      413      200      400      405      200
POST   /v1/commands/{id}/signal          409      409      200      400      404      401      401      413      415      400      405      503
POST   /v1/commands/{id}/stdin           409      409      409      400      404      401      401      409      409      400      405      503
POST   /v1/commands/{id}/rerun           201      201      201      400      404      401      401      413      415      400      405      503
GET    /v1/commands/{id}/processes       200      200      200      400      404      401      401      413      200      400      405      503
GET    /v1/processes                     200        -        -        -        -      401      401      413      200      400      405      200
DELETE /v1/commands/{id}                 204      409      409      400      404      401      401      413      204      400      405      503
GET    /v1/counts                        200        -        -        -        -      401      401      413      200      400      405      503
POST   /v1/tokens                        201        -        -        -        -      401      401      413      415      400      405      503
GET    /v1/tokens                        200        -        -        -        -      401      401      413      200      400      405      503
DELETE /v1/tokens/{id}                   200        -        -      400      404      401      401      413      200      400      405      503
POST   /v1/tokens/{id}/rotate            200        -        -      400      404      401      401      413      415      400      405      503
GET    /v1/audit                         200        -        -        -        -      401      401      413      200      400      405      503
GET    /metrics                          200        -        -        -        -      401      401      413      200      400      405      200
POST   /v1/session               204      -      -         -         -         401       401         413        204        400      405       204
DELETE /v1/session               204      -      -         -         -         401       401         413        204        400      405       204
GET    /healthz                    200      -      -         -         -         200       200         413        200        400      405       200
GET    /readyz                     200      -      -         -         -         200       200         413        200        400      405       503
GET    /openapi.json               200      -      -         -         -         200       200         413        200        400      405       200
GET    /docs                       200      -      -         -         -         200       200         413        200        400      405       200
GET    /docs/style.css             200      -      -         -         -         200       200         413        200        400      405       200
POST   /command                    201      -      -         -         -         401       401         400        415        400      405       503
GET    /command                    200      -      -         -         -         401       401         400        200        400      405       503
GET    /command/{id}               200     200    200       400       404        401       401         400        200        400      405       503
POST   /stop/{id}                  200     200    200       400       404        401       401         400        200        400      405       503
"""  # noqa: E501  a table is read by its columns

MAX_BODY_BYTES = 2 * 1024 * 1024
UNKNOWN_ID = 2**63 - 1


def _rows() -> dict[str, dict[str, int]]:
    """Route → situation → status, without those that cannot be."""
    head, *lines = TABLE.strip().splitlines()
    rows = {}
    for line in lines:
        method, path, *statuses = line.split()
        cells = zip(head.split(), statuses, strict=True)
        rows[f"{method} {path}"] = {situation: int(status) for situation, status in cells if status != "-"}
    return rows


ROWS = _rows()
DECLARED = {f"{one.method} {one.path}": one for one in OPERATIONS}


@dataclass
class Scene:
    """Two services: one at whose commands is looked, and one whose PostgreSQL has gone."""

    service: Service
    away: Service
    finished: Command
    finished_away: Command

    def finished_for(self, operation: Operation) -> Command:
        """One that has ended: of its own for what removes it. Or a token."""
        if operation.path.startswith("/v1/tokens/"):
            return Command(new_token(self.service))
        return self.service.done("true") if operation.method == "DELETE" else self.finished

    def running(self) -> Command:
        """The one command that there is room for, running."""
        return self.service.started(self.service.run("sleep 1000"))

    def queued(self) -> Command:
        """One that waits behind another."""
        self.running()
        return self.service.run("true")

    def clear(self) -> None:
        """End what a situation left behind."""
        for status in ("queued", "running"):
            for one in self.service.page(limit=1000, status=status):
                self.service.stop(one)
                self.service.ended(one)


@pytest.fixture(scope="module")
def made(place: Path, postgres: PostgresServer) -> Iterator[Scene]:
    """Both services, the second without its PostgreSQL already."""
    directory = place / "routes"
    directory.mkdir(mode=0o711)

    def start(name: str, database_url: str) -> Service:
        return Service(
            directory / name, database_url=database_url, max_running=1, max_body_bytes=MAX_BODY_BYTES
        ).start()

    with (
        closing(PostgresServer(directory / "pg")) as gone,
        start("here", postgres.new_database()) as service,
        start("away", gone.new_database()) as away,
    ):
        scene = Scene(service, away, service.done("echo done"), away.done("echo done"))
        # While it has its journal it is told of without the database.
        eventually(lambda: not (away.state_dir / "journals" / str(scene.finished_away.id)).exists())
        gone.end()
        yield scene


@pytest.fixture
def scene(made: Scene) -> Iterator[Scene]:
    """As it was made, whatever the test before did."""
    yield made
    made.clear()


Ask = Callable[[Scene, Operation], AbstractContextManager[httpx.Response]]


def _ask(
    service: Service,
    operation: Operation,
    command_id: object,
    *,
    method: str | None = None,
    query: str = "",
    **options: Any,
) -> AbstractContextManager[httpx.Response]:
    """Ask for an operation with the first body that it shows, without waiting for the end of the answer."""
    sent: dict[str, Any] = {}
    if operation.body is not None:
        value = next(iter(operation.body.examples.values()))
        sent = {"json": value} if operation.body.model else {"content": value}
    path = operation.path.replace("{id}", str(command_id))
    service.http.cookies.clear()  # one request begins a session, which the others are not to have
    return service.http.stream(method or operation.method, path + query, **{**sent, **options})


def _with_body(content: bytes, content_type: str) -> Ask:
    def ask(scene: Scene, operation: Operation) -> AbstractContextManager[httpx.Response]:
        headers = {"Content-Type": content_type}
        finished = scene.finished_for(operation)
        return _ask(scene.service, operation, finished.id, json=None, content=content, headers=headers)

    return ask


SITUATIONS: dict[str, Ask] = {
    "finished": lambda scene, one: _ask(scene.service, one, scene.finished_for(one).id),
    "queued": lambda scene, one: _ask(scene.service, one, scene.queued().id),
    "running": lambda scene, one: _ask(scene.service, one, scene.running().id),
    "wrong-id": lambda scene, one: _ask(scene.service, one, "0"),
    "unknown-id": lambda scene, one: _ask(scene.service, one, UNKNOWN_ID),
    "no-token": lambda scene, one: _ask(scene.service, one, scene.finished.id, headers={"Authorization": ""}),
    "wrong-token": lambda scene, one: _ask(
        scene.service, one, scene.finished.id, headers={"Authorization": "Bearer x"}
    ),
    "too-large": _with_body(b" " * (MAX_BODY_BYTES + 1), "application/json"),
    "wrong-type": _with_body(b"script=true", "application/x-www-form-urlencoded"),
    "parameter": lambda scene, one: _ask(scene.service, one, scene.finished.id, query="?no_such=1"),
    "method": lambda scene, one: _ask(scene.service, one, scene.finished.id, method="PATCH"),
    "database-away": lambda scene, one: _ask(scene.away, one, scene.finished_away.id),
}


@pytest.mark.parametrize(
    ("route", "situation"), [(route, situation) for route, row in ROWS.items() for situation in row]
)
def test_each_route_in_each_situation(scene: Scene, route: str, situation: str) -> None:
    """The status is that of the table, and status, type and content are as described."""
    operation = DECLARED[route]

    with SITUATIONS[situation](scene, operation) as answer:
        assert answer.status_code == ROWS[route][situation], answer.read()
        if situation == "method":
            assert_wrong_method(operation, answer)
        else:
            assert_described(operation, answer)


def test_every_route_has_its_row() -> None:
    """In every situation that its path allows."""
    of_a_command = {"queued", "running"}
    with_id = {"wrong-id", "unknown-id"}

    assert set(ROWS) == set(DECLARED)
    for route, row in ROWS.items():
        assert set(row) == set(SITUATIONS) - (
            (set() if "{id}" in route else with_id)
            | (set() if "{id}" in route and "/tokens/" not in route else of_a_command)
        ), route


def test_what_is_nowhere_is_described_too(scene: Scene) -> None:
    """404 for a path that does not exist, as a problem."""
    answer = scene.service.http.get("/v1/no-such-thing")

    assert answer.status_code == 404
    assert answer.headers["content-type"] == "application/problem+json"
