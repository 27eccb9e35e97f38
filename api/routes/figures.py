"""``/v1/counts`` and ``/metrics``: how many commands there are, and how Bashd is doing."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from prometheus_client import CONTENT_TYPE_LATEST
from sanic import Blueprint, HTTPResponse, Request, raw
from sanic import json as json_response

from api.commands import Commands
from api.models import Parameters


def blueprint(commands: Commands, scrape: Callable[[], Awaitable[bytes]]) -> Blueprint:
    """Figures about all commands together."""
    routes = Blueprint("figures")

    @routes.get("/v1/counts")
    async def counts(request: Request) -> HTTPResponse:
        Parameters(request.get_args(keep_blank_values=True)).done()
        return json_response(await commands.counts())

    @routes.get("/metrics")
    async def metrics(_request: Request) -> HTTPResponse:
        return raw(await scrape(), content_type=CONTENT_TYPE_LATEST)

    return routes
