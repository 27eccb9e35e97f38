"""``/v1/commands``: run, look, wait, stop, remove."""

from __future__ import annotations

from sanic import Blueprint, HTTPResponse, Request, empty
from sanic import json as json_response

from api.command import SCRIPT_IN_LIST
from api.commands import Commands
from api.idempotency import HEADER, Once, digest_of_command, parse_key
from api.models import MAX_ID, MAX_WAIT_S, Parameters, parse_command, parse_id, parse_stop
from api.problems import NotJson
from api.selection import SEARCHED, parse_selection
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
        key = parse_key(request.headers.getall(HEADER, []))
        require_json(request)
        wanted = parse_command(request.body, config)
        if key is None:
            command, new = await commands.add(wanted), True
        else:
            once = Once(key, digest_of_command(wanted, config.default_timeout_s))
            command, new = await commands.add_once(wanted, once)
        if wait_s:
            command = await commands.wait(command, wait_s)
        headers = {"Location": f"/v1/commands/{command.id}"}
        return json_response(command.to_json(), 201 if new else 200, headers=headers)

    @routes.get("/")
    async def page(request: Request) -> HTTPResponse:
        parameters = Parameters(request.get_args(keep_blank_values=True))
        limit = parameters.integer("limit", least=1, most=1000, default=50)
        offset = parameters.integer("offset", least=0, most=MAX_ID, default=0)
        selection = parse_selection(parameters)
        parameters.done()
        # One more than asked for tells whether there is a next page.
        found = await commands.page(limit=limit + 1, offset=offset, selection=selection)
        # Who has gone on to another status since the database looked is left out of a page of this one.
        wanted = selection.statuses or STATUSES
        items = [one.to_json(script_at_most=SCRIPT_IN_LIST) for one in found[:limit] if one.status in wanted]
        searched = {} if selection.text is None else {"searched": SEARCHED}
        following = selection.cursor(found[limit - 1]) if len(found) > limit else None
        return json_response({"items": items, "next": following, **searched})

    @routes.get("/<command_id:str>")
    async def get(request: Request, command_id: str) -> HTTPResponse:
        parameters = Parameters(request.get_args(keep_blank_values=True))
        wait_s = parameters.seconds("wait", most=MAX_WAIT_S)
        parameters.done()
        command = await commands.get(parse_id(command_id))
        if wait_s:
            command = await commands.wait(command, wait_s)
        return json_response(command.to_json())

    @routes.delete("/<command_id:str>")
    async def remove(request: Request, command_id: str) -> HTTPResponse:
        Parameters(request.get_args(keep_blank_values=True)).done()
        await commands.remove(parse_id(command_id))
        return empty()

    @routes.post("/<command_id:str>/stop")
    async def stop(request: Request, command_id: str) -> HTTPResponse:
        Parameters(request.get_args(keep_blank_values=True)).done()
        if request.body.strip():
            require_json(request)
        wanted = parse_stop(request.body)
        command = await commands.stop(parse_id(command_id), wanted.signal, wanted.grace_s)
        return json_response(command.to_json())

    return routes


def require_json(request: Request) -> None:
    """Raises ``NotJson`` unless the body says that it is JSON."""
    content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if content_type != "application/json":
        raise NotJson(f"The content type is {content_type or 'not given'}, it must be application/json.")
