"""``/v1/counts`` and ``/metrics``: how many commands there are, and how Bashd is doing."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from prometheus_client import CONTENT_TYPE_LATEST
from sanic import Blueprint, HTTPResponse, Request, raw
from sanic import json as json_response

from api.answers import CountsAnswer
from api.commands import Commands
from api.operation import Answer, Operation
from api.parameters import Asked
from api.problems import Unavailable

COUNTS = Operation(
    id="countCommands",
    method="GET",
    path="/v1/counts",
    tag="Commands",
    summary="Count the commands by status",
    answers={
        200: Answer(
            "How many there are.",
            CountsAnswer,
            {"queued": 0, "running": 2, "succeeded": 40, "failed": 1, "stopped": 1, "lost": 0},
        )
    },
    problems=(Unavailable,),
)

METRICS = Operation(
    id="getMetrics",
    method="GET",
    path="/metrics",
    tag="Service",
    summary="Read the figures that Prometheus asks for",
    answers={200: Answer("They, also while PostgreSQL is away.", media_type=CONTENT_TYPE_LATEST)},
)

OPERATIONS = (COUNTS, METRICS)


def blueprint(commands: Commands, scrape: Callable[[], Awaitable[bytes]]) -> Blueprint:
    """Figures about all commands together."""
    routes = Blueprint("figures")

    @COUNTS.on(routes)
    async def counts(_request: Request, _asked: Asked) -> HTTPResponse:
        return json_response(await commands.counts())

    @METRICS.on(routes)
    async def metrics(_request: Request, _asked: Asked) -> HTTPResponse:
        return raw(await scrape(), content_type=CONTENT_TYPE_LATEST)

    return routes
