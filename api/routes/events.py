"""``/v1/commands/{id}/events`` and ``/v1/events``: what happens, as server-sent events, and on from any of them."""

from __future__ import annotations

from collections.abc import AsyncGenerator

from sanic import Blueprint, HTTPResponse, Request

from api.changes import Changes
from api.events import ENDED, Events, Place
from api.models import Parameters, parse_id
from api.routes import streams


def blueprint(events: Events, changes: Changes) -> Blueprint:
    """Both streams."""
    routes = Blueprint("events", url_prefix="/v1")

    @routes.get("/commands/<command_id:str>/events")
    async def of_one(request: Request, command_id: str) -> HTTPResponse | None:
        last = _last_event_id(request)
        place = Place.parse(last) if last is not None else None
        number = parse_id(command_id)
        await events.check(number, place)
        if place is not None and place.rank == ENDED:
            return HTTPResponse(status=204)  # tells an EventSource that there is nothing to come back for
        await _stream(request, events.tell(number, place))
        return None

    @routes.get("/events")
    async def of_all(request: Request) -> None:
        await _stream(request, changes.events(_last_event_id(request)))

    return routes


async def _stream(request: Request, events: AsyncGenerator[bytes, None]) -> None:
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}  # the latter: nginx would hold it back
    await streams.send(request, events, content_type="text/event-stream", headers=headers)


def _last_event_id(request: Request) -> str | None:
    """Where a client wants to go on; None: from the beginning. The header is the newer one when both are given."""
    parameters = Parameters(request.get_args(keep_blank_values=True))
    parameter = parameters.text("last_event_id")
    parameters.done()
    return request.headers.get("last-event-id") or parameter or None
