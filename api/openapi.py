"""The description of the API (OpenAPI 3.1), made from what the routes declare and from the models they name.

https://spec.openapis.org/oas/v3.1.0
"""

from __future__ import annotations

from collections.abc import Iterable
from importlib import metadata
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from api.access import OPEN_PATHS
from api.models import MAX_ID
from api.operation import PROBLEMS, Answer, Body, Errors, Operation
from api.parameters import Parameter
from api.problems import MethodNotAllowed, NotFound, Problem, QueueFull, Unauthorized, Unavailable

Document = dict[str, Any]

ABOUT = (
    "Bashd runs bash scripts over HTTP. It starts them, streams what they print, stops them together with everything "
    "they started, and keeps the record in PostgreSQL."
)
TAGS = {
    "Commands": "A command is one script and its life.",
    "Output": "What commands print and become, as it is or as it comes.",
    "Steering": "What can be done to a command while it runs, and what there is of it.",
    "Access": "Who may ask, and who did: tokens and the audit log. For tokens with the scope `admin`.",
    "Service": "Whether Bashd is alive and ready, and this description. Open to everybody: no token is needed.",
    "The seed's API": "The API of the service that Bashd succeeds: its clients need nothing but the token.",
}
ID = {
    "name": "id",
    "in": "path",
    "required": True,
    "description": "Of the command, or of what the path names.",
    "schema": {"type": "integer", "minimum": 1, "maximum": MAX_ID},
    "example": 1,
}
OUTSIDE: tuple[type[Problem], ...] = (NotFound, MethodNotAllowed)  # what is answered where there is no operation
RETRY_AFTER = {"description": "Seconds after which to try again.", "schema": {"type": "integer", "minimum": 1}}
AUTHENTICATE = {"description": "How to say who one is.", "schema": {"type": "string"}}


def document(operations: Iterable[Operation]) -> Document:
    """The description of these operations; the same for the same code."""
    operations = list(operations)
    paths: dict[str, Any] = {}
    for operation in operations:
        paths.setdefault(operation.path, {})[operation.method.lower()] = _operation(operation)
    used = {operation.tag for operation in operations}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Bashd",
            "version": metadata.version("bashd"),
            "description": ABOUT,
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "servers": [{"url": "/", "description": "Where this description comes from."}],
        "security": [{"token": []}],
        "tags": [{"name": name, "description": about} for name, about in TAGS.items() if name in used],
        "paths": paths,
        "components": {
            "securitySchemes": {
                "token": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "The start of Bashd says where its own token is; `/v1/tokens` makes others. Each "
                    "has a scope: `read`, `run` or `admin`, each of which includes those before it.",
                }
            },
            "responses": {
                _response_name(problem, operation.errors): _problem(problem, operation.errors)
                for operation in operations
                for problem in (*operation.all_problems, *OUTSIDE)
                if problem.status not in operation.errors.told_as
            },
            "schemas": _schemas(operations),
        },
    }


def _operation(one: Operation) -> Document:
    path_parameters = [ID] if "{id}" in one.path else []
    described: Document = {
        "operationId": one.id,
        "tags": [one.tag],
        "summary": one.summary,
        "parameters": [
            *path_parameters,
            *(_parameter(parameter, "query") for parameter in one.query),
            *(_parameter(parameter, "header") for parameter in one.headers),
        ],
        "responses": {str(status): _answer(answer) for status, answer in one.answers.items()},
    }
    if one.about:
        described["description"] = one.about
    if one.body is not None:
        described["requestBody"] = _body(one.body)
    # Roles, as OpenAPI 3.1 has them for schemes that are not OAuth.
    described["security"] = [] if one.path in OPEN_PATHS else [{"token": [one.scope]}]
    for problem in one.all_problems:
        status = str(one.errors.told_as.get(problem.status, problem.status))
        if problem is not Unauthorized or one.path not in OPEN_PATHS:
            # An answer of the same status that the route itself declares says more.
            described["responses"].setdefault(status, _ref("responses", _response_name(problem, one.errors)))
    described["responses"] = dict(sorted(described["responses"].items()))
    return described


def _parameter(parameter: Parameter[Any], place: str) -> Document:
    schema = dict(parameter.schema)
    if parameter.at_most > 1:
        schema = {"type": "array", "items": schema, "maxItems": parameter.at_most}
    elif parameter.default is not None:
        schema["default"] = parameter.default
    described = {"name": parameter.name, "in": place, "description": parameter.about, "schema": schema}
    if parameter.example is not None:
        described["example"] = parameter.example
    return described


def _body(body: Body) -> Document:
    content: Document = {"schema": _schema(body.model)}
    if body.examples:
        content["examples"] = {
            about.replace(" ", "-").replace(",", ""): {"summary": about, "value": value}
            for about, value in body.examples.items()
        }
    return {"required": body.required, "content": {body.media_type: content}}


def _answer(answer: Answer) -> Document:
    described: Document = {"description": answer.about}
    if answer.headers:
        described["headers"] = {
            name: {"description": about, "schema": {"type": "string"}} for name, about in answer.headers.items()
        }
    if answer.media_type is not None:
        content: Document = {"schema": _schema(answer.model)}
        if answer.example is not None:
            content["example"] = answer.example
        if answer.events:
            # OpenAPI has no words for a stream of events: here is what each carries.
            content["x-events"] = {name: _schema(model) for name, model in answer.events.items()}
        described["content"] = dict.fromkeys((answer.media_type, *answer.or_media_types), content)
    return described


def _problem(problem: type[Problem], errors: Errors) -> Document:
    said = problem("A sentence about it.").to_json()
    example = said if errors is PROBLEMS else {"error": said["detail"]}
    described: Document = {
        "description": problem.title,
        "content": {errors.media_type: {"schema": _schema(errors.model), "example": example}},
    }
    if issubclass(problem, QueueFull | Unavailable):
        described["headers"] = {"Retry-After": RETRY_AFTER}
    if issubclass(problem, Unauthorized):
        described["headers"] = {"WWW-Authenticate": AUTHENTICATE}
    return described


def _response_name(problem: type[Problem], errors: Errors) -> str:
    return problem.code if errors is PROBLEMS else f"seed-{problem.code}"


def _schema(model: type[BaseModel] | list[type[BaseModel]] | None) -> Document:
    if model is None:
        return {"type": "string"}
    if isinstance(model, list):
        return {"type": "array", "items": _schema(model[0])}
    return _ref("schemas", model.__name__)


def _ref(kind: str, name: str) -> Document:
    return {"$ref": f"#/components/{kind}/{name}"}


def _schemas(operations: list[Operation]) -> Document:
    """The schemas of all models that are named, and of those that they name."""
    sent = [one.body.model for one in operations if one.body is not None and one.body.model is not None]
    given: list[type[BaseModel]] = []
    for one in operations:
        given.append(one.errors.model)
        for answer in one.answers.values():
            given += answer.model if isinstance(answer.model, list) else [answer.model] if answer.model else []
            given += answer.events.values()
    modes: list[tuple[type[BaseModel], Any]] = [(model, "validation") for model in dict.fromkeys(sent + given)]
    _, schemas = models_json_schema(modes, ref_template="#/components/schemas/{model}")
    found: Document = {name: _plain(schema) for name, schema in sorted(schemas["$defs"].items())}
    return found


def _plain(schema: Any) -> Any:
    """Without the titles that pydantic makes from names, and with docstrings as Markdown."""
    if isinstance(schema, list):
        return [_plain(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    plain = {key: _plain(value) for key, value in schema.items() if key != "title" or isinstance(value, dict)}
    if isinstance(plain.get("description"), str):
        plain["description"] = " ".join(plain["description"].replace("``", "`").split())
    return plain
