"""``/openapi.json`` and ``/docs``: what can be asked of Bashd, for programs and for people."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

from sanic import Blueprint, HTTPResponse, Request, html, raw
from sanic import json as json_response

from api import docs_page
from api.answers import DescriptionAnswer
from api.openapi import Document
from api.operation import Answer, Operation
from api.parameters import Asked

STYLE = Path(__file__).parent.parent / "web" / "docs.css"

# The page is text and one style sheet of our own: whatever else got into it would not be loaded.
POLICY = "default-src 'none'; style-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}

DESCRIPTION = Operation(
    id="getDescription",
    method="GET",
    path="/openapi.json",
    tag="Service",
    summary="Read this description as OpenAPI 3.1",
    answers={200: Answer("It.", DescriptionAnswer)},
)

PAGE = Operation(
    id="getDocs",
    method="GET",
    path="/docs",
    tag="Service",
    summary="Read this description as a page",
    answers={200: Answer("It.", media_type="text/html; charset=utf-8")},
)

SHEET = Operation(
    id="getDocsStyle",
    method="GET",
    path="/docs/style.css",
    tag="Service",
    summary="Get the style sheet of the page",
    answers={200: Answer("It.", media_type="text/css; charset=utf-8")},
)

OPERATIONS = (DESCRIPTION, PAGE, SHEET)


def blueprint(describe: Callable[[], Document]) -> Blueprint:
    """Open to everybody. ``describe`` is called when somebody asks, not at the start, and then never again."""
    routes = Blueprint("docs")
    document = functools.cache(describe)

    @functools.cache
    def page() -> str:
        return docs_page.render(document())

    @functools.cache
    def sheet() -> bytes:
        return STYLE.read_bytes()

    @DESCRIPTION.on(routes)
    async def description(_request: Request, _asked: Asked) -> HTTPResponse:
        return json_response(document())

    @PAGE.on(routes)
    async def docs(_request: Request, _asked: Asked) -> HTTPResponse:
        return html(page(), headers=HEADERS)

    @SHEET.on(routes)
    async def style(_request: Request, _asked: Asked) -> HTTPResponse:
        return raw(sheet(), content_type="text/css; charset=utf-8", headers=HEADERS)

    return routes
