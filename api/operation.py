"""How a route is declared: once, beside its code; what is declared is checked, and is what the description says."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel
from sanic import Blueprint, HTTPResponse, Request

from api import asker
from api.answers import ProblemAnswer, SeedErrorAnswer
from api.parameters import Asked, Parameter
from api.problems import Forbidden, Malformed, NotJson, Problem, TooLarge, Unauthorized, UnknownHost

JSON = "application/json"
Handler = Callable[..., Awaitable[HTTPResponse | None]]


@dataclass(frozen=True)
class Body:
    """What is sent: JSON of a model, or with ``model`` None bytes of another type, which nobody looks into."""

    model: type[BaseModel] | None
    examples: dict[str, Any] = field(default_factory=dict)  # a few words about it → the value
    required: bool = True
    media_type: str = JSON


@dataclass(frozen=True)
class Answer:
    """What is answered. ``model`` may be a list of one model; None: bytes, or text of another type, or nothing."""

    about: str
    model: type[BaseModel] | list[type[BaseModel]] | None = None
    example: Any = None
    media_type: str | None = JSON  # None: no body
    or_media_types: tuple[str, ...] = ()  # others, of which the client chooses with Accept
    headers: dict[str, str] = field(default_factory=dict)  # name → what it says
    events: dict[str, type[BaseModel]] = field(default_factory=dict)  # of text/event-stream: name → its data


@dataclass(frozen=True)
class Errors:
    """In which form a family of routes tells problems."""

    model: type[BaseModel]
    media_type: str
    told_as: dict[int, int]  # statuses that this family does not know → the one it uses instead


PROBLEMS = Errors(ProblemAnswer, "application/problem+json", {})
SEED_ERRORS = Errors(SeedErrorAnswer, JSON, {413: 400})

# What any route may answer; 401 unless it is open.
ANYWHERE: tuple[type[Problem], ...] = (Malformed, Unauthorized, Forbidden, TooLarge, UnknownHost, Problem)


@dataclass(frozen=True, kw_only=True)
class Operation:
    """One method on one path. ``{id}`` in the path is given to its code behind the rest, unread."""

    id: str  # a name for programs that are made from the description
    method: str
    path: str
    tag: str
    summary: str
    about: str = ""
    query: tuple[Parameter[Any], ...] = ()
    headers: tuple[Parameter[Any], ...] = ()
    body: Body | None = None
    answers: dict[int, Answer]
    problems: tuple[type[Problem], ...] = ()  # beside those of ANYWHERE
    errors: Errors = PROBLEMS
    scope: str = ""  # that a token needs; left out: read for what only looks, run for the rest

    def __post_init__(self) -> None:
        if not self.scope:
            object.__setattr__(self, "scope", "run" if self.changes else "read")

    @property
    def changes(self) -> bool:
        """Whether it is there to change something."""
        return self.method != "GET"

    @property
    def all_problems(self) -> tuple[type[Problem], ...]:
        """The kinds of problem that it may answer, by status."""
        found = {*ANYWHERE, *self.problems, *([NotJson] if self.body and self.body.media_type == JSON else [])}
        return tuple(sorted(found, key=lambda one: one.status))

    def on(self, routes: Blueprint) -> Callable[[Handler], Handler]:
        """Make the decorated function answer this operation.

        It is called with the request, what was ``Asked``, and the id if the path has one. By then every
        parameter is checked, and a body that must be JSON says that it is.
        """

        def decorate(handler: Handler) -> Handler:
            @functools.wraps(handler)
            async def answer(request: Request, **path: str) -> HTTPResponse | None:
                args = request.get_args(keep_blank_values=True)
                asked = Asked(self.query, args, self.headers, request.headers)
                self._check_body(request)
                try:
                    return await handler(request, asked, *path.values())
                except asyncio.CancelledError:
                    # What was begun is not undone by that, so nobody gets past the audit log by hanging up.
                    if (who := asker.current()) is not None:
                        who.on_gone(who)
                    raise

            path = self.path.removeprefix(routes.url_prefix or "").replace("{id}", "<command_id:str>")
            # Bytes that nobody looks into are not gathered before they are passed on.
            streamed = self.body is not None and self.body.model is None
            routes.add_route(answer, path or "/", methods=[self.method], name=self.id, stream=streamed)
            return handler

        return decorate

    def _check_body(self, request: Request) -> None:
        if self.body is None or self.body.media_type != JSON:
            return
        if self.body.required or request.body.strip():
            content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
            if content_type != JSON:
                raise NotJson(f"The content type is {content_type or 'not given'}, it must be {JSON}.")
