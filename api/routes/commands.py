"""``/v1/commands``: run, look, wait, stop, read the output."""

from __future__ import annotations

from sanic import Blueprint, HTTPResponse, Request
from sanic import json as json_response

from api.answers import CommandAnswer, CommandsAnswer
from api.command import SCRIPT_IN_LIST
from api.commands import Commands
from api.models import MAX_ID, MAX_WAIT_S, CommandRequest, StopRequest, parse_command, parse_id, parse_stop
from api.operation import Answer, Body, Operation
from api.parameters import Asked, choice, flag, integer, seconds
from api.problems import Malformed, NotFound, QueueFull, Unavailable
from api.routes.examples import ENDED, RUNNING, STOPPING
from api.store import STREAMS
from protocol.config import Config
from protocol.status import STATUSES

WAIT = seconds(
    "wait", "Answer when the command has ended, or when so many seconds are over.", most=MAX_WAIT_S, example=10
)

ADD = Operation(
    id="addCommand",
    method="POST",
    path="/v1/commands",
    tag="Commands",
    summary="Run a script",
    about="Once this is answered with 201 the command is recorded and will run, whatever dies in between.",
    query=(WAIT,),
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
            },
        },
    ),
    answers={201: Answer("It is accepted.", CommandAnswer, RUNNING, headers={"Location": "Where the command is."})},
    problems=(QueueFull, Unavailable),
)

LIMIT = integer("limit", "How many at most.", least=1, most=1000, default=50)
OFFSET = integer("offset", "How many to pass over.", least=0, most=MAX_ID, default=0)
CURSOR = integer(
    "cursor",
    "Where the page before said that it goes on: its `next`.",
    least=1,
    most=MAX_ID,
    default=None,
    example=42,
)
STATUS = choice("status", "Only those that are so now.", tuple(STATUSES), default=None, example="running")

PAGE = Operation(
    id="listCommands",
    method="GET",
    path="/v1/commands",
    tag="Commands",
    summary="List commands, the newest first",
    query=(LIMIT, CURSOR, OFFSET, STATUS),
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

STREAM = choice("stream", "Which of the two, or both as they were recorded.", ("both", *STREAMS), default="both")
FROM = integer("offset", "The first byte wanted; counts every byte that was written.", least=0, most=MAX_ID, default=0)
BYTES = integer("limit", "How many bytes at most.", least=1, most=MAX_ID, default=None, example=65536)
FOLLOW = flag("follow", "Go on until the command has ended.")

OUTPUT = Operation(
    id="getOutput",
    method="GET",
    path="/v1/commands/{id}/output",
    tag="Commands",
    summary="Read what a command printed, byte for byte",
    query=(STREAM, FROM, BYTES, FOLLOW),
    answers={200: Answer("The bytes as they were written.", media_type="application/octet-stream")},
    problems=(NotFound, Unavailable),
)

OPERATIONS = (ADD, PAGE, GET, STOP, OUTPUT)


def blueprint(commands: Commands, config: Config) -> Blueprint:
    """The routes of the first API."""
    routes = Blueprint("commands", url_prefix="/v1/commands")

    @ADD.on(routes)
    async def add(request: Request, asked: Asked) -> HTTPResponse:
        if "idempotency-key" in request.headers:
            message = "is not supported by this version"
            raise Malformed(f"Idempotency-Key {message}.", errors=[("Idempotency-Key", message)])
        command = await commands.add(parse_command(request.body, config))
        if wait_s := asked[WAIT]:
            command = await commands.wait(command, wait_s)
        return json_response(command.to_json(), 201, headers={"Location": f"/v1/commands/{command.id}"})

    @PAGE.on(routes)
    async def page(_request: Request, asked: Asked) -> HTTPResponse:
        limit, status = asked[LIMIT], asked[STATUS]
        # One more than asked for tells whether there is a next page.
        found = await commands.page(limit=limit + 1, offset=asked[OFFSET], before_id=asked[CURSOR], status=status)
        # Who has gone on to another status since the database looked is left out of a page of this one.
        shown = [command for command in found[:limit] if status in (None, command.status)]
        items = [command.to_json(script_at_most=SCRIPT_IN_LIST) for command in shown]
        return json_response({"items": items, "next": str(found[limit - 1].id) if len(found) > limit else None})

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

    @OUTPUT.on(routes)
    async def output(request: Request, asked: Asked, command_id: str) -> None:
        command = await commands.get(parse_id(command_id))
        if asked[FOLLOW]:
            command = await commands.started(command)
        response = await request.respond(content_type="application/octet-stream")
        async for piece in commands.output.read(
            command,
            stream=STREAMS.get(asked[STREAM]),
            offset=asked[FROM],
            limit=asked[BYTES],
            follow=asked[FOLLOW],
        ):
            await response.send(piece)
        await response.eof()

    return routes
