"""``/healthz`` and ``/readyz``: are we alive, and can we take commands."""

from __future__ import annotations

from sanic import Blueprint, HTTPResponse, Request
from sanic import json as json_response

from api.commands import Commands
from protocol.config import Config


def blueprint(commands: Commands, config: Config) -> Blueprint:
    """Open to everybody: they hold no data."""
    routes = Blueprint("health")

    @routes.get("/healthz")
    async def healthz(_request: Request) -> HTTPResponse:
        return json_response({"status": "ok", "version": config.version})

    @routes.get("/readyz")
    async def readyz(_request: Request) -> HTTPResponse:
        why = await commands.ready()
        body = {"ready": not why, "version": config.version, "why": why}
        return json_response(body, 503 if why else 200)

    return routes
