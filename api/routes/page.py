"""``/``: the page for people. Its files hold no data and are open; what it shows it asks the API for."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from sanic import Blueprint, HTTPResponse, Request, empty, raw

from api.problems import NotFound

NAME = "page"  # of the blueprint: its routes are not declared
FILES = Path(__file__).parent.parent / "web"
TYPES = {
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
}
FOR_EVER = "public, max-age=31536000, immutable"


@dataclass(frozen=True)
class Files:
    """The page's files as they were at the start. Their addresses name the revision, so they never change."""

    revision: str
    index: bytes
    contents: dict[str, bytes]


def read_files() -> Files:
    """Everything the page is made of."""
    contents = {
        str(path.relative_to(FILES)): path.read_bytes()
        for path in sorted(FILES.rglob("*"))
        if path.suffix in TYPES and path.name != "docs.css"
    }
    index = (FILES / "index.html").read_bytes()
    revision = hashlib.sha256(b"".join((index, *contents.values()))).hexdigest()[:16]
    return Files(revision, index.replace(b"REVISION", revision.encode()), contents)


def blueprint() -> Blueprint:
    """Open to everybody."""
    routes = Blueprint(NAME)
    files = read_files()

    @routes.get("/")
    async def index(request: Request) -> HTTPResponse:
        return _file(request, files.index, "text/html; charset=utf-8", files.revision, "no-cache")

    @routes.get("/web/<revision:str>/<name:path>")
    async def file(request: Request, revision: str, name: str) -> HTTPResponse:
        if revision != files.revision or name not in files.contents:
            raise NotFound(f"There is nothing at {request.path}.")
        return _file(request, files.contents[name], TYPES[Path(name).suffix], files.revision, FOR_EVER)

    return routes


def _file(request: Request, content: bytes, content_type: str, revision: str, caching: str) -> HTTPResponse:
    headers = {**HEADERS, "ETag": f'"{revision}"', "Cache-Control": caching}
    if f'"{revision}"' in request.headers.get("if-none-match", ""):
        return empty(304, headers=headers)
    return raw(content, content_type=content_type, headers=headers)
