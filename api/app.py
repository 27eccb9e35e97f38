"""The Sanic application: routes, access, and one place where problems become answers."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from sanic import HTTPResponse, Request, Sanic
from sanic import exceptions as sanic_exceptions
from sanic import json as json_response
from sanic.response import BaseHTTPResponse

from api import openapi, problems
from api.access import Access
from api.audit import Audit
from api.changes import Changes
from api.commands import Commands
from api.events import Events
from api.handover import first_line
from api.log import Log
from api.metrics import Metrics
from api.operation import Operation
from api.processes import Processes
from api.routes import audit as audit_routes
from api.routes import commands as command_routes
from api.routes import docs, figures, health, page, seed
from api.routes import events as event_routes
from api.routes import output as output_routes
from api.routes import sessions as session_routes
from api.routes import steering as steering_routes
from api.routes import tokens as token_routes
from api.steering import Steering
from api.store import CommandRemoved, DatabaseAway
from api.tokens import Tokens
from protocol.config import Config

log = Log()

Application = Sanic[Any, Any]
Hook = Callable[..., Coroutine[Any, Any, None]]

# Every route there is, as its module declares it.
OPERATIONS = (
    *command_routes.OPERATIONS,
    *output_routes.OPERATIONS,
    *event_routes.OPERATIONS,
    *steering_routes.OPERATIONS,
    *figures.OPERATIONS,
    *token_routes.OPERATIONS,
    *audit_routes.OPERATIONS,
    *session_routes.OPERATIONS,
    *health.OPERATIONS,
    *docs.OPERATIONS,
    *seed.OPERATIONS,
)

BY_ID = {operation.id: operation for operation in OPERATIONS}

# No limit of Sanic's own on how long an answer may be silent: `follow` lasts as long as a command.
QUIET_S = 20 * 365 * 24 * 3600


@dataclass(frozen=True, kw_only=True)
class Parts:
    """What stands behind the routes."""

    commands: Commands
    steering: Steering
    processes: Processes
    events: Events
    changes: Changes
    metrics: Metrics
    scrape: Callable[[], Awaitable[bytes]]
    tokens: Tokens
    audit: Audit


class _App(Sanic[Any, Any]):
    """Calls its hooks without Sanic's router of signals, which takes a twentieth of what a request costs."""

    def hook(self, event: str) -> Callable[[Hook], Hook]:
        """Have the decorated function called with what Sanic says of this event; what it raises is answered."""

        def decorate(hook: Hook) -> Hook:
            self.signal(event)(hook)  # else Sanic leaves the event out
            setattr(self.ctx, event, hook)
            return hook

        return decorate

    def dispatch(self, event: str, *, context: dict[str, Any] | None = None, **how: Any) -> Any:
        """Give what is to be awaited: see the base class."""
        hook: Hook | None = getattr(self.ctx, event, None)
        return hook(**context) if hook and context else super().dispatch(event, context=context, **how)


def build(config: Config, parts: Parts) -> Application:
    """The application; it starts nothing."""
    Sanic.test_mode = False
    app = _App("bashd", configure_logging=False)
    app.config.REQUEST_MAX_SIZE = config.max_body_bytes
    app.config.RESPONSE_TIMEOUT = QUIET_S
    app.config.REQUEST_TIMEOUT = 60
    app.config.KEEP_ALIVE_TIMEOUT = 120
    app.config.GRACEFUL_SHUTDOWN_TIMEOUT = 1.0
    app.config.ACCESS_LOG = False
    access = Access(config, parts.tokens)

    # Before the route is looked for and the body is read: a stranger learns nothing and costs little.
    @app.hook("http.routing.before")
    async def let_in(request: Request, **_: object) -> None:
        await access.let_in(request)

    # And now that the route is known, still before the body.
    @app.hook("http.routing.after")
    async def check_scope(request: Request, **_: object) -> None:
        operation, who = _operation_of(request), request.ctx.asker
        if operation is None:
            return  # a file of the page, which is open
        who.action, who.changes = operation.id, operation.changes
        # Ids of what only an admin may touch are not those of commands.
        text = "" if operation.scope == "admin" else request.match_info.get("command_id", "")
        who.command_id = int(text) if text.isascii() and text.isdigit() and len(text) < 19 else None
        access.check_scope(request, operation.scope)
        who.on_gone = parts.audit.note_gone

    async def count(request: Request, response: BaseHTTPResponse) -> None:
        parts.metrics.answered(request, response.status)
        if (who := getattr(request.ctx, "asker", None)) is not None:  # else it could not be understood
            parts.audit.note(who, response.status)

    app.register_middleware(count, "response")

    app.blueprint(command_routes.blueprint(parts.commands, config))
    app.blueprint(steering_routes.blueprint(parts.commands, parts.steering, parts.processes, config))
    app.blueprint(output_routes.blueprint(parts.commands))
    app.blueprint(event_routes.blueprint(parts.events, parts.changes))
    app.blueprint(figures.blueprint(parts.commands, parts.scrape))
    app.blueprint(token_routes.blueprint(parts.tokens))
    app.blueprint(audit_routes.blueprint(parts.audit))
    app.blueprint(session_routes.blueprint(access))
    app.blueprint(page.blueprint())
    app.blueprint(health.blueprint(parts.commands, config))
    app.blueprint(docs.blueprint(lambda: openapi.document(OPERATIONS)))
    app.blueprint(seed.blueprint(parts.commands, config))
    app.exception(Exception)(answer_problem)
    return app


def _operation_of(request: Request) -> Operation | None:
    """What the route of a request is declared as; its name is made of those of application, blueprint, operation.

    None: the files of the page are the only ones that are not.
    """
    assert request.route is not None
    _, blueprint, name = request.route.name.rsplit(".", 2)
    return None if blueprint == page.NAME else BY_ID[name]


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


def _allowed(request: Request) -> str:
    """The methods of a path that is declared; Sanic names those of one route alone."""
    parts = request.path.rstrip("/").split("/")

    def fits(path: str) -> bool:
        declared = path.split("/")
        return len(declared) == len(parts) and all(
            one in ("{id}", other) for one, other in zip(declared, parts, strict=True)
        )

    return ", ".join(sorted({one.method for one in OPERATIONS if fits(one.path)})) or "GET"  # the page's files


def _translated(request: Request, error: Exception) -> problems.Problem:
    """Sanic's own refusals and our own failures as problems."""
    match error:
        case sanic_exceptions.NotFound():
            return problems.NotFound(f"There is nothing at {request.path}.")
        case sanic_exceptions.MethodNotAllowed():
            allowed = _allowed(request)
            return problems.MethodNotAllowed(f"{request.method} is not for {request.path}.", headers={"Allow": allowed})
        case sanic_exceptions.PayloadTooLarge():
            return problems.TooLarge("The request is larger than allowed (max_body_bytes).")
        case sanic_exceptions.RequestTimeout() | sanic_exceptions.SanicException() if error.status_code < 500:
            return problems.Malformed(str(error) or "The request cannot be understood.")
        case CommandRemoved():
            return problems.NotFound(str(error))
        case _ if isinstance(error, DatabaseAway):
            return problems.Unavailable(f"PostgreSQL is away: {first_line(error)}", headers={"Retry-After": "2"})
        case _:
            log.failed("a request failed", error, method=request.method, path=request.path)
            return problems.Problem("The log of Bashd says more.")
