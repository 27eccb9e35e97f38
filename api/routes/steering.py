"""What is done to a command beside running and stopping it: signals, stdin, its processes, the same again."""

from __future__ import annotations

from typing import Any

from sanic import Blueprint, HTTPResponse, Request
from sanic import json as json_response
from sanic.http import Http

from api.answers import AllProcessesAnswer, CommandAnswer, FedAnswer, ProcessesAnswer
from api.commands import Commands
from api.idempotency import KEY, Once, digest_of
from api.models import RerunRequest, SignalRequest, parse_id, parse_rerun, parse_signal
from api.operation import Answer, Body, Operation
from api.parameters import Asked, flag
from api.problems import Conflict, NotFound, QueueFull, Unavailable
from api.processes import Processes
from api.routes.commands import LOCATION, WAIT
from api.routes.examples import RUNNING
from api.steering import Steering
from api.trace import TRACEPARENT
from protocol.config import Config

SIGNAL = Operation(
    id="signalCommand",
    method="POST",
    path="/v1/commands/{id}/signal",
    tag="Steering",
    summary="Send a signal to the group of a command",
    about="It is no stop: the command ends as the signal has it. After STOP it is `paused`, until CONT.",
    body=Body(SignalRequest, {"USR1": {"signal": "USR1"}}),
    answers={200: Answer("The command. Its worker has the signal, or had it.", CommandAnswer, RUNNING)},
    problems=(NotFound, Conflict, Unavailable),
)

CLOSE = flag("close", "Its stdin ends behind these bytes.")

STDIN = Operation(
    id="feedCommand",
    method="POST",
    path="/v1/commands/{id}/stdin",
    tag="Steering",
    summary="Send bytes to the stdin of a command",
    about="For one that was started with `stdin_open`. The body is passed on as it comes and held back as long as the "
    "script does not read; bodies for one command come one after the other.",
    query=(CLOSE,),
    body=Body(None, {"two lines": "first\nsecond\n"}, required=False, media_type="application/octet-stream"),
    answers={200: Answer("Bash's pipe has them.", FedAnswer, {"taken_bytes": 13, "closed": False})},
    problems=(NotFound, Conflict, Unavailable),
)

RERUN = Operation(
    id="rerunCommand",
    method="POST",
    path="/v1/commands/{id}/rerun",
    tag="Steering",
    summary="Run the same again",
    about="As a new command that names this one in `rerun_of`. Nothing can be changed; its trace is that of this "
    "request, or none.",
    query=(WAIT,),
    headers=(KEY, TRACEPARENT),
    body=Body(RerunRequest, {"nothing": {}}, required=False),
    answers={
        201: Answer("It is accepted.", CommandAnswer, {**RUNNING, "id": 43, "rerun_of": 42}, headers=LOCATION),
        200: Answer(
            "It was accepted before, with this key.",
            CommandAnswer,
            {**RUNNING, "id": 43, "rerun_of": 42},
            headers=LOCATION,
        ),
    },
    problems=(NotFound, Conflict, QueueFull, Unavailable),
)

_TREE: dict[str, Any] = {
    "command": 42,
    "worker_pid": 4710,
    "group": 4711,
    "complete": True,
    "processes": [
        {
            "pid": 4711,
            "ppid": 4710,
            "pgid": 4711,
            "sid": 4710,
            "state": "S",
            "uid": 1000,
            "user": "ops",
            "escaped": False,
            "cpu_s": 0.01,
            "rss_bytes": 3_506_176,
            "age_s": 12.5,
            "command_line": "bashd-42 /dev/fd/250",
        }
    ],
}

OF_COMMAND = Operation(
    id="getProcesses",
    method="GET",
    path="/v1/commands/{id}/processes",
    tag="Steering",
    summary="Look at the processes of a command",
    answers={200: Answer("Its tree as it is now; empty when it waits or has ended.", ProcessesAnswer, _TREE)},
    problems=(NotFound, Unavailable),
)

OF_ALL = Operation(
    id="getAllProcesses",
    method="GET",
    path="/v1/processes",
    tag="Steering",
    summary="Look at the processes of all commands",
    answers={200: Answer("The trees of those that run.", AllProcessesAnswer, {"items": [_TREE]})},
    problems=(Unavailable,),
)

OPERATIONS = (SIGNAL, STDIN, RERUN, OF_COMMAND, OF_ALL)


def blueprint(commands: Commands, steering: Steering, processes: Processes, config: Config) -> Blueprint:
    """The routes; they belong to the first API."""
    routes = Blueprint("steering", url_prefix="/v1")

    @SIGNAL.on(routes)
    async def signal(request: Request, _asked: Asked, command_id: str) -> HTTPResponse:
        wanted = parse_signal(request.body)
        command = await steering.signal(parse_id(command_id), wanted.signal)
        return json_response(command.to_json())

    @STDIN.on(routes)
    async def stdin(request: Request, asked: Asked, command_id: str) -> HTTPResponse:
        close = asked[CLOSE]
        assert isinstance(request.stream, Http), "the only kind that we serve"
        taken_bytes = await steering.feed(parse_id(command_id), request.stream.read, close=close)
        return json_response({"taken_bytes": taken_bytes, "closed": close})

    @RERUN.on(routes)
    async def rerun(request: Request, asked: Asked, command_id: str) -> HTTPResponse:
        parse_rerun(request.body)
        first_id, key = parse_id(command_id), asked[KEY]
        once = None if key is None else Once(key, digest_of("POST /v1/commands/{id}/rerun", {"id": first_id}))
        command, new = await commands.rerun(first_id, config, once, asked[TRACEPARENT])
        if wait_s := asked[WAIT]:
            command = await commands.wait(command, wait_s)
        headers = {"Location": f"/v1/commands/{command.id}"}
        return json_response(command.to_json(), 201 if new else 200, headers=headers)

    @OF_COMMAND.on(routes)
    async def of_command(_request: Request, _asked: Asked, command_id: str) -> HTTPResponse:
        return json_response(await processes.of(parse_id(command_id)))

    @OF_ALL.on(routes)
    async def of_all(_request: Request, _asked: Asked) -> HTTPResponse:
        return json_response({"items": await processes.of_all()})

    return routes
