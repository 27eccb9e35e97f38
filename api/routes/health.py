"""``/healthz`` and ``/readyz``: are we alive, and can we take commands."""

from __future__ import annotations

from sanic import Blueprint, HTTPResponse, Request
from sanic import json as json_response

from api.answers import HealthAnswer, ReadyAnswer
from api.commands import Commands
from api.operation import Answer, Operation
from api.parameters import Asked
from protocol.config import Config

HEALTH = Operation(
    id="isAlive",
    method="GET",
    path="/healthz",
    tag="Service",
    summary="Ask whether it is alive",
    answers={200: Answer("It is.", HealthAnswer, {"status": "ok", "version": "0.1.0"})},
)

CGROUPS = {"commands": "limited", "controllers": ["memory", "pids", "cpu"], "why_not": None}

READY = Operation(
    id="isReady",
    method="GET",
    path="/readyz",
    tag="Service",
    summary="Ask whether it accepts commands",
    answers={
        200: Answer("It does.", ReadyAnswer, {"ready": True, "version": "0.1.0", "why": {}, "cgroups": CGROUPS}),
        503: Answer(
            "It does not, and why.",
            ReadyAnswer,
            {
                "ready": False,
                "version": "0.1.0",
                "why": {"postgres": "PostgreSQL does not answer."},
                "cgroups": CGROUPS,
            },
        ),
    },
)

OPERATIONS = (HEALTH, READY)


def blueprint(commands: Commands, config: Config) -> Blueprint:
    """Open to everybody: they hold no data."""
    routes = Blueprint("health")
    which = "none" if config.groups is None else "all" if config.cgroups == "always" else "limited"
    cgroups = {"commands": which, "controllers": config.controllers, "why_not": config.no_groups}

    @HEALTH.on(routes)
    async def healthz(_request: Request, _asked: Asked) -> HTTPResponse:
        return json_response({"status": "ok", "version": config.version})

    @READY.on(routes)
    async def readyz(_request: Request, _asked: Asked) -> HTTPResponse:
        why = await commands.ready()
        body = {"ready": not why, "version": config.version, "why": why, "cgroups": cgroups}
        return json_response(body, 503 if why else 200)

    return routes
