"""``/v1/audit``: who changed what, and who was refused. For who has the scope admin."""

from __future__ import annotations

from typing import Any

from sanic import Blueprint, HTTPResponse, Request
from sanic import json as json_response

from api.answers_access import AuditAnswer
from api.audit import Audit
from api.command import iso
from api.models import MAX_ID
from api.operation import Answer, Operation
from api.parameters import Asked, integer
from api.problems import Unavailable
from api.store_access import Entry

ENTRY: dict[str, Any] = {
    "id": 1207,
    "at": "2026-01-31T12:00:00.123456Z",
    "token": "ci",
    "action": "addCommand",
    "command_id": 42,
    "subject": None,
    "address": "192.0.2.7",
    "status": 201,
    "attempts": 1,
}

LIMIT = integer("limit", "How many at most.", least=1, most=1000, default=50)
CURSOR = integer(
    "cursor",
    "Where the page before said that it goes on: its `next`.",
    least=1,
    most=MAX_ID,
    default=None,
    example=1207,
)

PAGE = Operation(
    id="listAudit",
    method="GET",
    path="/v1/audit",
    tag="Access",
    summary="Read the audit log, the newest entries first",
    about="An entry for everything that was changed by a request. Refused requests are merged, a minute at a time.",
    scope="admin",
    query=(LIMIT, CURSOR),
    answers={200: Answer("A page of it.", AuditAnswer, {"items": [ENTRY], "next": 1207})},
    problems=(Unavailable,),
)

OPERATIONS = (PAGE,)


def blueprint(audit: Audit) -> Blueprint:
    """The one route."""
    routes = Blueprint("audit", url_prefix="/v1/audit")

    @PAGE.on(routes)
    async def page(_request: Request, asked: Asked) -> HTTPResponse:
        limit = asked[LIMIT]
        # One more than asked for tells whether there is a next page.
        found = await audit.page(limit=limit + 1, before_id=asked[CURSOR])
        following = found[limit - 1].id if len(found) > limit else None
        return json_response({"items": [_shown(one) for one in found[:limit]], "next": following})

    return routes


def _shown(entry: Entry) -> dict[str, Any]:
    return {
        "id": entry.id,
        "at": iso(entry.at),
        "token": entry.token,
        "action": entry.action,
        "command_id": entry.command_id,
        "subject": entry.subject,
        "address": entry.address,
        "status": entry.status,
        "attempts": entry.attempts,
    }
