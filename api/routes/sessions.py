"""``/v1/session``: a browser shows the token once, and is known by a cookie from then on."""

from __future__ import annotations

from sanic import Blueprint, HTTPResponse, Request, empty

from api.access import Access
from api.operation import Answer, Operation
from api.parameters import Asked
from api.sessions import HEADER, PATH

BEGIN = Operation(
    id="beginSession",
    method="POST",
    path=PATH,
    tag="Service",
    summary="Log a browser in",
    about="With the token in `Authorization`, or `Authorization: Code CODE` with the code of the link that a start in "
    "a terminal prints. The cookie may do what its token may; with it, whatever is no `GET` needs the header "
    f"`{HEADER}`.",
    scope="read",
    answers={204: Answer("The cookie is set.", media_type=None)},
)

END = Operation(
    id="endSession",
    method="DELETE",
    path=PATH,
    tag="Service",
    summary="Log the browser out",
    scope="read",
    answers={204: Answer("The cookie is gone.", media_type=None)},
)

OPERATIONS = (BEGIN, END)


def blueprint(access: Access) -> Blueprint:
    """Who gets here has shown a token, a code or a cookie."""
    routes = Blueprint("session")

    @BEGIN.on(routes)
    async def begin(request: Request, _asked: Asked) -> HTTPResponse:
        cookie = await access.begin_session(request)
        return empty(headers={"Set-Cookie": cookie} if cookie else {})

    @END.on(routes)
    async def end(request: Request, _asked: Asked) -> HTTPResponse:
        return empty(headers={"Set-Cookie": access.end_session(request)})

    return routes
