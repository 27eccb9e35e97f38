"""``/v1/commands``: run, look, wait, stop."""

from __future__ import annotations

from sanic import Blueprint, HTTPResponse, Request
from sanic import json as json_response

from api.command import SCRIPT_IN_LIST
from api.commands import Commands
from api.models import MAX_ID, MAX_WAIT_S, Parameters, parse_command, parse_id, parse_stop
from api.problems import Malformed, NotJson
from protocol.config import Config
from protocol.status import STATUSES


def blueprint(commands: Commands, config: Config) -> Blueprint:
    """The routes of the first API."""
    routes = Blueprint("commands", url_prefix="/v1/commands")

    @routes.post("/")
    async def add(request: Request) -> HTTPResponse:
        parameters = Parameters(request.get_args(keep_blank_values=True))
        wait_s = parameters.seconds("wait", most=MAX_WAIT_S)
        parameters.done()
        refuse_idempotency_key(request)
        require_json(request)
        command = await commands.add(parse_command(request.body, config))
        if wait_s:
            command = await commands.wait(command, wait_s)
        return json_response(command.to_json(), 201, headers={"Location": f"/v1/commands/{command.id}"})

    @routes.get("/")
    async def page(request: Request) -> HTTPResponse:
        parameters = Parameters(request.get_args(keep_blank_values=True))
        limit = parameters.integer("limit", least=1, most=1000, default=50)
        offset = parameters.integer("offset", least=0, most=MAX_ID, default=0)
        cursor = parameters.integer("cursor", least=1, most=MAX_ID, default=0) or None
        status = parameters.text("status", tuple(STATUSES))
        parameters.done()
        # One more than asked for tells whether there is a next page.
        found = await commands.page(limit=limit + 1, offset=offset, before_id=cursor, status=status)
        # Who has gone on to another status since the database looked is left out of a page of this one.
        shown = [command for command in found[:limit] if status in (None, command.status)]
        items = [command.to_json(script_at_most=SCRIPT_IN_LIST) for command in shown]
        return json_response({"items": items, "next": str(found[limit - 1].id) if len(found) > limit else None})

    @routes.get("/<command_id:str>")
    async def get(request: Request, command_id: str) -> HTTPResponse:
        parameters = Parameters(request.get_args(keep_blank_values=True))
        wait_s = parameters.seconds("wait", most=MAX_WAIT_S)
        parameters.done()
        command = await commands.get(parse_id(command_id))
        if wait_s:
            command = await commands.wait(command, wait_s)
        return json_response(command.to_json())

    @routes.post("/<command_id:str>/stop")
    async def stop(request: Request, command_id: str) -> HTTPResponse:
        Parameters(request.get_args(keep_blank_values=True)).done()
        if request.body.strip():
            require_json(request)
        wanted = parse_stop(request.body)
        command = await commands.stop(parse_id(command_id), wanted.signal, wanted.grace_s)
        return json_response(command.to_json())

    return routes


def refuse_idempotency_key(request: Request) -> None:
    """Raises ``Malformed`` when the client believes that sending it twice would be once."""
    if "idempotency-key" in request.headers:
        message = "is not supported by this version"
        raise Malformed(f"Idempotency-Key {message}.", errors=[("Idempotency-Key", message)])


def require_json(request: Request) -> None:
    """Raises ``NotJson`` unless the body says that it is JSON."""
    content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if content_type != "application/json":
        raise NotJson(f"The content type is {content_type or 'not given'}, it must be application/json.")
