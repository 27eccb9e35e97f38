"""What is done to a command beside running and stopping it: signals, stdin, its processes, the same again."""

from __future__ import annotations

from sanic import Blueprint, HTTPResponse, Request
from sanic import json as json_response
from sanic.http import Http

from api.commands import Commands
from api.idempotency import HEADER, Once, digest_of, parse_key
from api.models import MAX_WAIT_S, Parameters, parse_id, parse_rerun, parse_signal
from api.processes import Processes
from api.routes.commands import require_json
from api.steering import Steering
from protocol.config import Config


def blueprint(commands: Commands, steering: Steering, processes: Processes, config: Config) -> Blueprint:
    """The routes; they belong to the first API."""
    routes = Blueprint("steering", url_prefix="/v1")

    @routes.post("/commands/<command_id:str>/signal")
    async def signal(request: Request, command_id: str) -> HTTPResponse:
        Parameters(request.get_args(keep_blank_values=True)).done()
        require_json(request)
        wanted = parse_signal(request.body)
        command = await steering.signal(parse_id(command_id), wanted.signal)
        return json_response(command.to_json())

    @routes.post("/commands/<command_id:str>/stdin", stream=True)
    async def stdin(request: Request, command_id: str) -> HTTPResponse:
        parameters = Parameters(request.get_args(keep_blank_values=True))
        close = parameters.flag("close")
        parameters.done()
        assert isinstance(request.stream, Http), "the only kind that we serve"
        taken_bytes = await steering.feed(parse_id(command_id), request.stream.read, close=close)
        return json_response({"taken_bytes": taken_bytes, "closed": close})

    @routes.post("/commands/<command_id:str>/rerun")
    async def rerun(request: Request, command_id: str) -> HTTPResponse:
        parameters = Parameters(request.get_args(keep_blank_values=True))
        wait_s = parameters.seconds("wait", most=MAX_WAIT_S)
        parameters.done()
        key = parse_key(request.headers.getall(HEADER, []))
        if request.body.strip():
            require_json(request)
        parse_rerun(request.body)
        first_id = parse_id(command_id)
        once = None if key is None else Once(key, digest_of("POST /v1/commands/{id}/rerun", {"id": first_id}))
        command, new = await commands.rerun(first_id, config, once)
        if wait_s:
            command = await commands.wait(command, wait_s)
        headers = {"Location": f"/v1/commands/{command.id}"}
        return json_response(command.to_json(), 201 if new else 200, headers=headers)

    @routes.get("/commands/<command_id:str>/processes")
    async def of_command(request: Request, command_id: str) -> HTTPResponse:
        Parameters(request.get_args(keep_blank_values=True)).done()
        return json_response(await processes.of(parse_id(command_id)))

    @routes.get("/processes")
    async def of_all(request: Request) -> HTTPResponse:
        Parameters(request.get_args(keep_blank_values=True)).done()
        return json_response({"items": await processes.of_all()})

    return routes
