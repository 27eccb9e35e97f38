"""The API of the service that Bashd succeeds, translated: its clients work as they are.

A command there has four fields and four statuses; ``output`` is both streams in recorded order.
"""

from __future__ import annotations

from typing import Any

from sanic import Blueprint, HTTPResponse, Request
from sanic import json as json_response

from api.command import Command
from api.commands import Commands
from api.models import MAX_ID, Parameters, parse_command, parse_id
from api.problems import Malformed
from api.routes.commands import require_json
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


def blueprint(commands: Commands, config: Config) -> Blueprint:
    """The four routes."""
    routes = Blueprint("seed")

    @routes.post("/command")
    async def add(request: Request) -> HTTPResponse:
        require_json(request)
        wanted = parse_command(request.body, config)
        if wanted.model_fields_set - {"script", "timeout_s"}:
            raise Malformed("The only field is script.")
        command = await commands.add(wanted)
        return json_response(await _whole(command), 201)

    @routes.get("/command")
    async def page(request: Request) -> HTTPResponse:
        parameters = Parameters(request.get_args(keep_blank_values=True))
        limit = parameters.integer("limit", least=1, most=1000, default=1000)
        offset = parameters.integer("offset", least=0, most=MAX_ID, default=0)
        parameters.done()
        found = await commands.page(limit=limit, offset=offset, ascending=True)
        tails = await commands.output.tails(found, TAIL_IN_LIST_BYTES)
        # Who was removed since has no tail, be it an empty one.
        return json_response([_translated(one, tails[one.id]) for one in found if one.id in tails])

    @routes.get("/command/<command_id:str>")
    async def get(_request: Request, command_id: str) -> HTTPResponse:
        return json_response(await _whole(await commands.get(parse_id(command_id))))

    @routes.post("/stop/<command_id:str>")
    async def stop(_request: Request, command_id: str) -> HTTPResponse:
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
