"""``/v1/commands``: run, look, wait, stop, remove."""

from __future__ import annotations

from sanic import Blueprint, HTTPResponse, Request, empty
from sanic import json as json_response

from api.answers import CommandAnswer, CommandsAnswer
from api.command import SCRIPT_IN_LIST
from api.commands import Commands
from api.idempotency import KEY, Once, digest_of_command
from api.models import MAX_OFFSET, MAX_WAIT_S, CommandRequest, StopRequest, parse_command, parse_id, parse_stop
from api.operation import Answer, Body, Operation
from api.parameters import Asked, integer, seconds
from api.problems import Conflict, NotFound, QueueFull, Unavailable
from api.routes.examples import ENDED, RUNNING, STOPPING
from api.selection import PARAMETERS, SEARCHED, selection
from api.trace import TRACEPARENT
from protocol.config import Config
from protocol.status import STATUSES

WAIT = seconds(
    "wait", "Answer when the command has ended, or when so many seconds are over.", most=MAX_WAIT_S, example=10
)

LOCATION = {"Location": "Where the command is."}

ADD = Operation(
    id="addCommand",
    method="POST",
    path="/v1/commands",
    tag="Commands",
    summary="Run a script",
    about="Once this is answered with 201 the command is recorded and will run, whatever dies in between.",
    query=(WAIT,),
    headers=(KEY, TRACEPARENT),
    body=Body(
        CommandRequest,
        examples={
            "only a script": {"script": "echo hello"},
            "arguments, variables, input": {
                "script": 'echo "$1 $GREETING"; cat',
                "args": ["first"],
                "env": {"GREETING": "hello"},
                "stdin": "a line\n",
            },
            "with limits and labels": {
                "script": "true",
                "name": "nightly",
                "labels": {"team": "infra"},
                "timeout_s": 60,
                "grace_s": 2,
                "leftovers": "wait",
                "merge_stderr": True,
                "output_limit_bytes": 1_000_000,
                "limits": {"cpu_s": 30, "file_bytes": 1_000_000_000},
            },
        },
    ),
    answers={
        201: Answer("It is accepted.", CommandAnswer, RUNNING, headers=LOCATION),
        200: Answer("It was accepted before, with this key.", CommandAnswer, RUNNING, headers=LOCATION),
    },
    problems=(Conflict, QueueFull, Unavailable),
)

LIMIT = integer("limit", "How many at most.", least=1, most=1000, default=50)
OFFSET = integer("offset", "How many to pass over.", least=0, most=MAX_OFFSET, default=0)

PAGE = Operation(
    id="listCommands",
    method="GET",
    path="/v1/commands",
    tag="Commands",
    summary="List commands, the newest first",
    query=(LIMIT, OFFSET, *PARAMETERS),
    answers={200: Answer("A page of them.", CommandsAnswer, {"items": [ENDED], "next": "42"})},
    problems=(Unavailable,),
)

GET = Operation(
    id="getCommand",
    method="GET",
    path="/v1/commands/{id}",
    tag="Commands",
    summary="Look at a command",
    query=(WAIT,),
    answers={200: Answer("The command as it is now.", CommandAnswer, ENDED)},
    problems=(NotFound, Unavailable),
)

STOP = Operation(
    id="stopCommand",
    method="POST",
    path="/v1/commands/{id}/stop",
    tag="Commands",
    summary="Stop a command and everything that it started",
    about="One that waits ends without being started, one that has ended stays as it is; twice is harmless. The body "
    "may be left out: then TERM, and the grace of the command.",
    body=Body(StopRequest, {"INT, and KILL after a second": {"signal": "INT", "grace_s": 1}}, required=False),
    answers={200: Answer("The command; usually it still runs, with `stop_requested_at`.", CommandAnswer, STOPPING)},
    problems=(NotFound, Unavailable),
)

REMOVE = Operation(
    id="removeCommand",
    method="DELETE",
    path="/v1/commands/{id}",
    tag="Commands",
    summary="Remove a command that has ended",
    about="With all that it printed, and its key.",
    answers={204: Answer("It is gone.", media_type=None)},
    problems=(NotFound, Conflict, Unavailable),
)

OPERATIONS = (ADD, PAGE, GET, STOP, REMOVE)


def blueprint(commands: Commands, config: Config) -> Blueprint:
    """The routes of the first API."""
    routes = Blueprint("commands", url_prefix="/v1/commands")

    @ADD.on(routes)
    async def add(request: Request, asked: Asked) -> HTTPResponse:
        wanted, key, traceparent = parse_command(request.body, config), asked[KEY], asked[TRACEPARENT]
        if key is None:
            command, new = await commands.add(wanted, traceparent), True
        else:
            once = Once(key, digest_of_command(wanted, config))
            command, new = await commands.add_once(wanted, once, traceparent)
        if wait_s := asked[WAIT]:
            command = await commands.wait(command, wait_s)
        headers = {"Location": f"/v1/commands/{command.id}"}
        return json_response(command.to_json(), 201 if new else 200, headers=headers)

    @PAGE.on(routes)
    async def page(_request: Request, asked: Asked) -> HTTPResponse:
        limit, selected = asked[LIMIT], selection(asked)
        # One more than asked for tells whether there is a next page.
        found = await commands.page(limit=limit + 1, offset=asked[OFFSET], selection=selected)
        # Who has gone on to another status since the database looked is left out of a page of this one.
        wanted = selected.statuses or STATUSES
        items = [one.to_json(script_at_most=SCRIPT_IN_LIST) for one in found[:limit] if one.status in wanted]
        following = selected.cursor(found[limit - 1]) if len(found) > limit else None
        searched = {} if selected.text is None else {"searched": SEARCHED}
        return json_response({"items": items, "next": following, **searched})

    @GET.on(routes)
    async def get(_request: Request, asked: Asked, command_id: str) -> HTTPResponse:
        command = await commands.get(parse_id(command_id))
        if wait_s := asked[WAIT]:
            command = await commands.wait(command, wait_s)
        return json_response(command.to_json())

    @STOP.on(routes)
    async def stop(request: Request, _asked: Asked, command_id: str) -> HTTPResponse:
        wanted = parse_stop(request.body)
        command = await commands.stop(parse_id(command_id), wanted.signal, wanted.grace_s)
        return json_response(command.to_json())

    @REMOVE.on(routes)
    async def remove(_request: Request, _asked: Asked, command_id: str) -> HTTPResponse:
        await commands.remove(parse_id(command_id))
        return empty()

    return routes
