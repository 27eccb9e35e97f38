"""``/v1/tokens``: make, list, revoke, rotate. For who has the scope admin."""

from __future__ import annotations

from typing import Any

from sanic import Blueprint, HTTPResponse, Request
from sanic import json as json_response

from api.answers_access import NewTokenAnswer, TokenAnswer, TokensAnswer
from api.command import iso
from api.models import parse_id
from api.models_access import RotateRequest, TokenRequest, parse_rotation, parse_token
from api.operation import Answer, Body, Operation
from api.parameters import Asked
from api.problems import Conflict, NotFound, Unavailable
from api.store_access import Token
from api.tokens import Tokens

SHOWN: dict[str, Any] = {
    "id": 7,
    "name": "ci",
    "scope": "run",
    "created_at": "2026-01-31T12:00:00.123456Z",
    "created_by": "operator",
    "rotated_at": None,
    "expires_at": "2026-03-02T12:00:00.123456Z",
    "revoked_at": None,
}
MADE = {**SHOWN, "secret": "bashd_LxZkW2QmBf1mJq8sT0vYdR4uHn7cPa9eGi3oXwKyUsE"}
NOT_KEPT = {"Cache-Control": "no-store: nobody may keep the secret on its way."}

ADD = Operation(
    id="addToken",
    method="POST",
    path="/v1/tokens",
    tag="Access",
    summary="Make a token",
    about="Its secret is in this answer and nowhere else: Bashd keeps a digest alone.",
    scope="admin",
    body=Body(
        TokenRequest,
        {
            "for a month": {"name": "ci", "scope": "run", "expires_in_s": 2_592_000},
            "only to look": {"name": "dashboard", "scope": "read"},
        },
    ),
    answers={201: Answer("It is made.", NewTokenAnswer, MADE, headers=NOT_KEPT)},
    problems=(Conflict, Unavailable),
)

LIST = Operation(
    id="listTokens",
    method="GET",
    path="/v1/tokens",
    tag="Access",
    summary="List the tokens by name",
    about="Revoked ones too, and no secrets. The operator's own token is not among them.",
    scope="admin",
    answers={200: Answer("All there are.", TokensAnswer, {"items": [SHOWN]})},
    problems=(Unavailable,),
)

REVOKE = Operation(
    id="revokeToken",
    method="DELETE",
    path="/v1/tokens/{id}",
    tag="Access",
    summary="Revoke a token",
    about="It is refused from this moment on. Twice is harmless. Its name stays taken, for the audit log names it.",
    scope="admin",
    answers={200: Answer("The token.", TokenAnswer, {**SHOWN, "revoked_at": "2026-02-01T08:30:00.000000Z"})},
    problems=(NotFound, Unavailable),
)

ROTATE = Operation(
    id="rotateToken",
    method="POST",
    path="/v1/tokens/{id}/rotate",
    tag="Access",
    summary="Give a token a new secret",
    about="The old one is refused from this moment on. The body may be left out: then it expires when it did.",
    scope="admin",
    body=Body(RotateRequest, {"for another month": {"expires_in_s": 2_592_000}}, required=False),
    answers={
        200: Answer(
            "The token and its new secret.",
            NewTokenAnswer,
            {**MADE, "rotated_at": "2026-02-01T08:30:00.000000Z"},
            headers=NOT_KEPT,
        )
    },
    problems=(NotFound, Unavailable),
)

OPERATIONS = (ADD, LIST, REVOKE, ROTATE)


def blueprint(tokens: Tokens) -> Blueprint:
    """The four routes."""
    routes = Blueprint("tokens", url_prefix="/v1/tokens")

    @ADD.on(routes)
    async def add(request: Request, _asked: Asked) -> HTTPResponse:
        wanted = parse_token(request.body)
        token, secret = await tokens.add(wanted.name, wanted.scope, wanted.expires_in_s)
        return _with_secret(token, secret, 201)

    @LIST.on(routes)
    async def page(_request: Request, _asked: Asked) -> HTTPResponse:
        return json_response({"items": [_shown(one) for one in await tokens.all()]})

    @REVOKE.on(routes)
    async def revoke(_request: Request, _asked: Asked, token_id: str) -> HTTPResponse:
        return json_response(_shown(await tokens.revoke(parse_id(token_id))))

    @ROTATE.on(routes)
    async def rotate(request: Request, _asked: Asked, token_id: str) -> HTTPResponse:
        wanted = parse_rotation(request.body)
        keep_expiry = "expires_in_s" not in wanted.model_fields_set
        token, secret = await tokens.rotate(parse_id(token_id), wanted.expires_in_s, keep_expiry=keep_expiry)
        return _with_secret(token, secret, 200)

    return routes


def _with_secret(token: Token, secret: str, status: int) -> HTTPResponse:
    return json_response({**_shown(token), "secret": secret}, status, headers={"Cache-Control": "no-store"})


def _shown(token: Token) -> dict[str, Any]:
    return {
        "id": token.id,
        "name": token.name,
        "scope": token.scope,
        "created_at": iso(token.created_at),
        "created_by": token.created_by,
        "rotated_at": None if token.rotated_at is None else iso(token.rotated_at),
        "expires_at": None if token.expires_at is None else iso(token.expires_at),
        "revoked_at": None if token.revoked_at is None else iso(token.revoked_at),
    }
