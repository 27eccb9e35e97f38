"""``/v1/counts``: how many commands there are."""

from __future__ import annotations

from sanic import Blueprint, HTTPResponse, Request
from sanic import json as json_response

from api.commands import Commands
from api.models import Parameters


def blueprint(commands: Commands) -> Blueprint:
    """Figures about all commands together."""
    routes = Blueprint("figures")

    @routes.get("/v1/counts")
    async def counts(request: Request) -> HTTPResponse:
        Parameters(request.get_args(keep_blank_values=True)).done()
        return json_response(await commands.counts())

    return routes
