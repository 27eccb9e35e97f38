"""The Sanic application: routes, access, and one place where problems become answers."""

from __future__ import annotations

import logging
from typing import Any

from sanic import HTTPResponse, Request, Sanic
from sanic import exceptions as sanic_exceptions
from sanic import json as json_response

from api import openapi, problems
from api.access import Access
from api.commands import Commands
from api.handover import first_line
from api.routes import commands as command_routes
from api.routes import docs, health, seed
from api.store import DatabaseAway
from protocol.config import Config

log = logging.getLogger("bashd.api")

Application = Sanic[Any, Any]

# Every route there is, as its module declares it.
OPERATIONS = (*command_routes.OPERATIONS, *health.OPERATIONS, *docs.OPERATIONS, *seed.OPERATIONS)

# No limit of Sanic's own on how long an answer may be silent: `follow` lasts as long as a command.
QUIET_S = 20 * 365 * 24 * 3600


def build(config: Config, commands: Commands) -> Application:
    """The application; it starts nothing."""
    Sanic.test_mode = False
    app = Sanic("bashd", configure_logging=False)
    app.config.REQUEST_MAX_SIZE = config.max_body_bytes
    app.config.RESPONSE_TIMEOUT = QUIET_S
    app.config.REQUEST_TIMEOUT = 60
    app.config.KEEP_ALIVE_TIMEOUT = 120
    app.config.GRACEFUL_SHUTDOWN_TIMEOUT = 1.0
    app.config.ACCESS_LOG = False
    access = Access(config)

    # Before the route is looked for and the body is read: a stranger learns nothing and costs little.
    @app.signal("http.routing.before")
    async def check_access(request: Request, **_: object) -> None:
        access.check(request)

    app.blueprint(command_routes.blueprint(commands, config))
    app.blueprint(health.blueprint(commands, config))
    app.blueprint(docs.blueprint(lambda: openapi.document(OPERATIONS)))
    app.blueprint(seed.blueprint(commands, config))
    app.exception(Exception)(answer_problem)
    return app


async def answer_problem(request: Request, error: Exception) -> HTTPResponse:
    """Every answer that is not what was asked for comes from here."""
    problem = error if isinstance(error, problems.Problem) else _translated(request, error)
    if request.path.startswith(seed.PATHS):
        status = problem.status if problem.status in (400, 401, 403, 404, 405, 415, 421, 429, 503) else 500
        status = 400 if problem.status == 413 else status
        return json_response({"error": problem.detail}, status, headers=problem.headers)
    return json_response(
        problem.to_json(), problem.status, headers=problem.headers, content_type="application/problem+json"
    )


def _translated(request: Request, error: Exception) -> problems.Problem:
    """Sanic's own refusals and our own failures as problems."""
    match error:
        case sanic_exceptions.NotFound():
            return problems.NotFound(f"There is nothing at {request.path}.")
        case sanic_exceptions.MethodNotAllowed():
            allowed = str(error.headers.get("Allow", ""))
            return problems.MethodNotAllowed(f"{request.method} is not for {request.path}.", headers={"Allow": allowed})
        case sanic_exceptions.PayloadTooLarge():
            return problems.TooLarge("The request is larger than allowed (max_body_bytes).")
        case sanic_exceptions.RequestTimeout() | sanic_exceptions.SanicException() if error.status_code < 500:
            return problems.Malformed(str(error) or "The request cannot be understood.")
        case _ if isinstance(error, DatabaseAway):
            return problems.Unavailable(f"PostgreSQL is away: {first_line(error)}", headers={"Retry-After": "2"})
        case _:
            log.error("a request failed: %s %s", request.method, request.path, exc_info=error)
            return problems.Problem("The log of Bashd says more.")
