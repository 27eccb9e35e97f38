"""``/v1/commands/{id}/events`` and ``/v1/events``: what happens, as server-sent events, and on from any of them."""

from __future__ import annotations

from collections.abc import AsyncGenerator

from sanic import Blueprint, HTTPResponse, Request

from api.answers import CommandAnswer, GapEvent, NothingEvent, OutputEvent
from api.changes import Changes
from api.events import ENDED, Events, Place
from api.models import parse_id
from api.operation import Answer, Operation
from api.parameters import Asked, Parameter
from api.problems import NotFound, Unavailable
from api.routes import streams

STREAM = "text/event-stream"


def _any(text: str) -> str:
    return text


LAST_IN_QUERY: Parameter[str | None] = Parameter(
    "last_event_id", "As the header, for who cannot set one.", _any, {"type": "string"}, None, "1-0-0"
)
LAST: Parameter[str | None] = Parameter(
    "Last-Event-ID", "Go on after the event with this id.", _any, {"type": "string"}, None, "1-0-0"
)

OF_ONE = Operation(
    id="watchCommand",
    method="GET",
    path="/v1/commands/{id}/events",
    tag="Output",
    summary="Watch a command",
    about="What it becomes and prints, from its beginning or from any event on, until its end. An id depends on what "
    "came before it alone, so one goes on after a cut, an end or a restart without a gap or a repeat.",
    query=(LAST_IN_QUERY,),
    headers=(LAST,),
    answers={
        200: Answer(
            "Server-sent events.",
            media_type=STREAM,
            events={"status": CommandAnswer, "output": OutputEvent, "gap": GapEvent, "end": CommandAnswer},
        ),
        204: Answer("There is nothing after the event with this id.", media_type=None),
    },
    problems=(NotFound, Unavailable),
)

OF_ALL = Operation(
    id="watchAll",
    method="GET",
    path="/v1/events",
    tag="Output",
    summary="Watch what becomes of all commands",
    about="After `reset` more has changed than is known here: load the list again.",
    query=(LAST_IN_QUERY,),
    headers=(LAST,),
    answers={
        200: Answer("Server-sent events.", media_type=STREAM, events={"status": CommandAnswer, "reset": NothingEvent})
    },
)

OPERATIONS = (OF_ONE, OF_ALL)


def blueprint(events: Events, changes: Changes) -> Blueprint:
    """Both streams."""
    routes = Blueprint("events", url_prefix="/v1")

    @OF_ONE.on(routes)
    async def of_one(request: Request, asked: Asked, command_id: str) -> HTTPResponse | None:
        last = _last_event_id(asked)
        place = Place.parse(last) if last is not None else None
        number = parse_id(command_id)
        await events.check(number, place)
        if place is not None and place.rank == ENDED:
            return HTTPResponse(status=204)  # tells an EventSource that there is nothing to come back for
        await _stream(request, events.tell(number, place))
        return None

    @OF_ALL.on(routes)
    async def of_all(request: Request, asked: Asked) -> None:
        await _stream(request, changes.events(_last_event_id(asked)))

    return routes


async def _stream(request: Request, events: AsyncGenerator[bytes, None]) -> None:
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}  # the latter: nginx would hold it back
    await streams.send(request, events, content_type=STREAM, headers=headers)


def _last_event_id(asked: Asked) -> str | None:
    """Where a client wants to go on; None: from the beginning. The header is the newer one when both are given."""
    return asked[LAST] or asked[LAST_IN_QUERY] or None
