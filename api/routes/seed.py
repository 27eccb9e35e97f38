"""The API of the service that Bashd succeeds, translated: its clients work as they are.

A command there has four fields and four statuses; ``output`` is both streams in recorded order.
"""

from __future__ import annotations

from typing import Any

from sanic import Blueprint, HTTPResponse, Request
from sanic import json as json_response

from api.answers import SeedCommandAnswer
from api.command import Command
from api.commands import Commands
from api.models import MAX_OFFSET, SeedRequest, parse_id, parse_seed_command
from api.operation import SEED_ERRORS, Answer, Body, Operation
from api.parameters import Asked, integer
from api.problems import NotFound, QueueFull, Unavailable
from protocol.config import Config

STATUS = {
    "queued": "started",
    "running": "started",
    "succeeded": "success",
    "stopped": "stopped",
    "failed": "error",
    "lost": "error",
}
TAIL_IN_LIST_BYTES = 64 * 1024
PATHS = ("/command", "/stop")

STARTED = {"id": 42, "script": "echo hello", "status": "started", "output": ""}
ENDED = {**STARTED, "status": "success", "output": "hello\n"}

ADD = Operation(
    id="addSeedCommand",
    method="POST",
    path="/command",
    tag="The seed's API",
    summary="Run a script",
    body=Body(SeedRequest, {"a script": {"script": "echo hello"}}),
    answers={201: Answer("It is accepted.", SeedCommandAnswer, STARTED)},
    problems=(QueueFull, Unavailable),
    errors=SEED_ERRORS,
)

LIMIT = integer("limit", "How many at most.", least=1, most=1000, default=1000)
OFFSET = integer("offset", "How many to pass over.", least=0, most=MAX_OFFSET, default=0)

PAGE = Operation(
    id="listSeedCommands",
    method="GET",
    path="/command",
    tag="The seed's API",
    summary="List commands, the oldest first",
    query=(LIMIT, OFFSET),
    answers={200: Answer("A page of them.", [SeedCommandAnswer], [ENDED])},
    problems=(Unavailable,),
    errors=SEED_ERRORS,
)

GET = Operation(
    id="getSeedCommand",
    method="GET",
    path="/command/{id}",
    tag="The seed's API",
    summary="Look at a command",
    answers={200: Answer("The command as it is now.", SeedCommandAnswer, ENDED)},
    problems=(NotFound, Unavailable),
    errors=SEED_ERRORS,
)

STOP = Operation(
    id="stopSeedCommand",
    method="POST",
    path="/stop/{id}",
    tag="The seed's API",
    summary="Stop a command",
    answers={200: Answer("The command; usually it still runs.", SeedCommandAnswer, STARTED)},
    problems=(NotFound, Unavailable),
    errors=SEED_ERRORS,
)

OPERATIONS = (ADD, PAGE, GET, STOP)


def blueprint(commands: Commands, config: Config) -> Blueprint:
    """The four routes."""
    routes = Blueprint("seed")

    @ADD.on(routes)
    async def add(request: Request, _asked: Asked) -> HTTPResponse:
        command = await commands.add(parse_seed_command(request.body, config))
        return json_response(await _whole(command), 201)

    @PAGE.on(routes)
    async def page(_request: Request, asked: Asked) -> HTTPResponse:
        found = await commands.page(limit=asked[LIMIT], offset=asked[OFFSET], ascending=True)
        tails = await commands.output.tails(found, TAIL_IN_LIST_BYTES)
        # Who was removed since has no tail, be it an empty one.
        return json_response([_translated(one, tails[one.id]) for one in found if one.id in tails])

    @GET.on(routes)
    async def get(_request: Request, _asked: Asked, command_id: str) -> HTTPResponse:
        return json_response(await _whole(await commands.get(parse_id(command_id))))

    @STOP.on(routes)
    async def stop(_request: Request, _asked: Asked, command_id: str) -> HTTPResponse:
        return json_response(await _whole(await commands.stop(parse_id(command_id), 15, None)))

    async def _whole(command: Command) -> dict[str, Any]:
        pieces = commands.output.read(command, stream=None, offset=0, limit=None, follow=False)
        return _translated(command, b"".join([piece async for piece in pieces]))

    return routes


def _translated(command: Command, output: bytes) -> dict[str, Any]:
    return {
        "id": command.id,
        "script": command.script,
        "status": STATUS[command.status],
        "output": output.decode("utf-8", "replace"),
    }
