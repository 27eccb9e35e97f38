"""The description of the API is true: every route is in it, it is valid, and so are its examples."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import fields, replace
from datetime import datetime
from typing import Any, get_args

import httpx
import pytest
from openapi_schema_validator import OAS31Validator
from openapi_spec_validator import validate
from pydantic import BaseModel
from sanic import Blueprint, HTTPResponse, Request, Sanic
from sanic.compat import Header

from api import app, describe, openapi
from api.access import OPEN_PATHS
from api.answers import (
    CommandAnswer,
    CommandsAnswer,
    FieldError,
    GapEvent,
    OutputEvent,
    ProblemAnswer,
    SeedCommandAnswer,
    Swept,
    Truncated,
    Usage,
)
from api.command import EPOCH, Command
from api.operation import Answer, Body, Operation
from api.parameters import Asked, Parameter, choice, flag, integer, seconds
from api.problems import Conflict, Malformed, NotFound
from api.routes import seed
from api.routes.examples import ENDED
from protocol.config import Config
from protocol.story import Story
from tests.description import DOCUMENT, validator
from tests.processes import Service


@pytest.fixture
def application() -> Iterator[app.Application]:
    """The routes as they are served; nothing behind them is asked."""
    values: dict[str, Any] = dict.fromkeys(Config.__annotations__)
    values |= {"host": "127.0.0.1", "allowed_hosts": [], "behind_proxy": [], "max_body_bytes": 1000, "secrets_key": ""}
    values |= {"state_dir": "/nonexistent"}
    nothing: Any = dict.fromkeys(field.name for field in fields(app.Parts))
    yield app.build(Config(**values), app.Parts(**nothing))
    Sanic.unregister_app(Sanic.get_app("bashd"))


def _served(application: app.Application) -> set[tuple[str, str]]:
    """Method and path of every route, as the description writes them; the files of the page are no part of the API."""
    return {
        (method.lower(), "/" + re.sub(r"<command_id:str>", "{id}", route.path).strip("/"))
        for route in application.router.routes
        for method in route.methods
        if route.path and not route.path.startswith("web/")
    }


def test_every_route_is_described_and_nothing_else(application: app.Application) -> None:
    """A route that was added without a declaration, or a declaration without a route, is found here."""
    described = {(method, path) for path, methods in DOCUMENT["paths"].items() for method in methods}

    assert described == _served(application)


def test_the_description_is_valid() -> None:
    """As OpenAPI 3.1 has it; and every operation can be called by a name of its own."""
    validate(DOCUMENT)

    names = [operation.id for operation in app.OPERATIONS]
    assert len(names) == len(set(names))


def _examples() -> Iterator[tuple[str, dict[str, Any], Any]]:
    """Each example of the document: where it stands, its schema, its value."""
    for path, methods in DOCUMENT["paths"].items():
        for method, operation in methods.items():
            where = f"{method} {path}"
            for parameter in operation["parameters"]:
                if "example" in parameter:
                    yield f"{where} {parameter['name']}", parameter["schema"], parameter["example"]
                if "default" in parameter["schema"]:
                    yield f"{where} {parameter['name']}", parameter["schema"], parameter["schema"]["default"]
            bodies = [operation["requestBody"]] if "requestBody" in operation else []
            for place in [*bodies, *operation["responses"].values()]:
                yield from _examples_of(where, place)
    for name, response in DOCUMENT["components"]["responses"].items():
        yield from _examples_of(name, response)


def _examples_of(where: str, place: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any], Any]]:
    for content in place.get("content", {}).values():
        if "example" in content:
            yield where, content["schema"], content["example"]
        for about, example in content.get("examples", {}).items():
            yield f"{where} {about}", content["schema"], example["value"]


@pytest.mark.parametrize(("schema", "value"), [one[1:] for one in _examples()], ids=[one[0] for one in _examples()])
def test_an_example_is_what_its_schema_says(schema: dict[str, Any], value: Any) -> None:
    """Bodies, answers, problems, parameters and their defaults."""
    validator(schema).validate(value)


def test_examples_that_are_wrong_would_be_found() -> None:
    """The schemas do refuse something."""
    schema = {"$ref": "#/components/schemas/CommandAnswer"}

    assert validator(schema).is_valid(ENDED)
    assert not validator(schema).is_valid({**ENDED, "status": "sleeping"})
    assert not validator(schema).is_valid({**ENDED, "more": 1})


def test_everything_that_is_sent_or_given_has_an_example() -> None:
    """Parameters, bodies, answers: who reads the description sees what it looks like."""
    for operation in app.OPERATIONS:
        for parameter in (*operation.query, *operation.headers):
            assert parameter.example is not None or parameter.default is not None, parameter.name
        if operation.body is not None:
            assert operation.body.examples, operation.id
        for answer in operation.answers.values():
            assert answer.model is None or answer.example is not None or operation.id == "getDescription"


# Models beside what is really answered


def _full_command() -> Command:
    story = Story()
    story.missing = [{"stream": "stdout", "from": 1, "to": 2, "reason": "disk_full"}]
    command = Command(id=1, script="true", created_at=EPOCH, grace_s=5.0, output_limit_bytes=1)
    return replace(command.told_by(story), evidence={"why": "it died"})


def _members(model: type[BaseModel]) -> list[str]:
    return [field.alias or name for name, field in model.model_fields.items()]


def test_a_command_is_described_key_by_key() -> None:
    """In the order in which the keys come, and the objects in it too."""
    shown = _full_command().to_json()

    assert list(shown) == _members(CommandAnswer)
    assert list(shown["swept"]) == _members(Swept)
    assert list(shown["usage"]) == _members(Usage)
    assert list(shown["truncated"]) == _members(Truncated)
    CommandAnswer.model_validate_json(json.dumps(shown), strict=True)


def test_a_problem_is_described_key_by_key() -> None:
    """With the fields at fault."""
    shown = Malformed("x is wrong.", errors=[("x", "is wrong")]).to_json()

    assert list(shown) == _members(ProblemAnswer)
    assert list(shown["errors"][0]) == _members(FieldError)
    ProblemAnswer.model_validate(shown, strict=True)


def test_the_seeds_statuses_are_described() -> None:
    """All that ours are translated into."""
    assert set(get_args(SeedCommandAnswer.model_fields["status"].annotation)) == set(seed.STATUS.values())


def test_what_is_answered_is_what_the_models_say(service: Service) -> None:
    """Commands in each of their ends, a page, the seed's answers: from the running service."""
    ends = [
        service.done("echo out"),
        service.done("exit 7"),
        service.done("kill -9 $$"),
        service.done("sleep 100", timeout_s=0.1),
        service.done("head -c 5000 /dev/zero", output_limit_bytes=1000),
        service.done("true", cwd="/nonexistent"),
    ]

    assert ends[4].truncated is not None
    for one in ends:
        CommandAnswer.model_validate_json(json.dumps(one.row), strict=True)
        SeedCommandAnswer.model_validate(service.http.get(f"/command/{one.id}").json(), strict=True)
    CommandsAnswer.model_validate_json(service.http.get("/v1/commands", params={"limit": 1}).text, strict=True)


# Serving and keeping it


def test_the_service_gives_its_description_to_everybody(service: Service) -> None:
    """Without a token, as JSON, and it is the document that lies in the repository."""
    answer = httpx.get(f"{service.url}/openapi.json", trust_env=False)

    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/json")
    assert answer.json() == DOCUMENT


@pytest.mark.parametrize("name", describe.files())
def test_what_lies_in_the_repository_is_true(name: str) -> None:
    """``make describe`` writes it anew."""
    assert (describe.DIRECTORY / name).read_text() == describe.files()[name]


def test_open_is_what_says_so(service: Service) -> None:
    """What the description calls open is answered without a token, everything else is not."""
    for path, methods in DOCUMENT["paths"].items():
        for method, operation in methods.items():
            answer = httpx.request(method, service.url + path.replace("{id}", "1"), trust_env=False)
            assert (answer.status_code != 401) == (operation.get("security") == []), (method, path)
            assert ("401" in operation["responses"]) == (answer.status_code == 401)


def test_every_open_path_is_one_that_there_is() -> None:
    """Nothing stays open by mistake when its route has gone. The page at / is to come."""
    assert OPEN_PATHS - {"/"} <= set(DOCUMENT["paths"])


# Declarations


LEVEL = integer("level", "How high.", least=1, most=9, default=5, example=3)
KEY = Parameter("Idempotency-Key", "The same key, the same command.", str, {"type": "string", "maxLength": 9}, None)
INVENTED = Operation(
    id="invented",
    method="POST",
    path="/v1/invented/{id}",
    tag="Commands",
    summary="Show what a declaration becomes",
    query=(LEVEL,),
    headers=(KEY,),
    body=Body(None, {"two bytes": "ab"}, media_type="application/octet-stream"),
    answers={
        200: Answer("Events.", media_type="text/event-stream", events={"output": OutputEvent, "gap": GapEvent}),
    },
    problems=(NotFound, Conflict),
)


def test_a_declaration_says_everything_in_the_description() -> None:
    """Parameters of the query and in headers, bytes that are sent, events that are given, further problems."""
    document = openapi.document([INVENTED])
    described = document["paths"]["/v1/invented/{id}"]["post"]

    validate(document)
    assert [(one["name"], one["in"]) for one in described["parameters"]] == [
        ("id", "path"),
        ("level", "query"),
        ("Idempotency-Key", "header"),
    ]
    assert described["parameters"][1]["schema"] == {"type": "integer", "minimum": 1, "maximum": 9, "default": 5}
    assert list(described["requestBody"]["content"]) == ["application/octet-stream"]
    assert described["responses"]["200"]["content"]["text/event-stream"]["x-events"] == {
        "output": {"$ref": "#/components/schemas/OutputEvent"},
        "gap": {"$ref": "#/components/schemas/GapEvent"},
    }
    assert set(described["responses"]) == {"200", "400", "401", "403", "404", "409", "413", "421", "500"}
    assert set(document["components"]["schemas"]) == {"FieldError", "GapEvent", "OutputEvent", "ProblemAnswer"}


def test_a_declaration_becomes_a_route() -> None:
    """With the method and the path that it says."""
    application: Any = Sanic("invented", configure_logging=False)
    routes = Blueprint("invented", url_prefix="/v1/invented")

    @INVENTED.on(routes)
    async def invented(_request: Request, _asked: Asked, command_id: str) -> HTTPResponse:
        return HTTPResponse(command_id)

    try:
        application.blueprint(routes)
        assert _served(application) == {("post", "/v1/invented/{id}")}
    finally:
        Sanic.unregister_app(application)


def test_what_is_asked_is_looked_up_by_its_declaration() -> None:
    """A parameter that did not come is its default; a header is looked at like a parameter."""
    came = Asked((LEVEL,), {"level": ["7"]}, (KEY,), Header({"idempotency-key": "k"}))
    absent = Asked((LEVEL,), {}, (KEY,), Header())

    assert came[LEVEL] == 7
    assert came[KEY] == "k"
    assert (absent[LEVEL], absent[KEY]) == (5, None)


@pytest.mark.parametrize(
    ("parameter", "good", "wrong", "message"),
    [
        (
            LEVEL,
            {"1": 1, "9": 9, "007": 7},
            ["", "0", "10", "x", "1.0", "+1", "--1", "\u0661", "9" * 30],
            "from 1 to 9",
        ),
        (
            seconds("s", "", most=2),
            {"0": 0, "1.5": 1.5, "2": 2},
            ["", "-1", "2.1", "nan", "1e400", ".5", "x", "\u0661", "1_0"],
            "0 to 2",
        ),
        (choice("c", "", ("a", "b"), default="a"), {"a": "a", "b": "b"}, ["", "A", "ab"], "one of a, b"),
        (flag("f", ""), {"true": True, "false": False}, ["", "1", "True", "yes"], "one of true, false"),
    ],
    ids=lambda value: value.name if isinstance(value, Parameter) else "",
)
def test_a_parameter_refuses_what_it_does_not_describe(
    parameter: Parameter[Any], good: dict[str, Any], wrong: list[str], message: str
) -> None:
    """The schema says yes to what is taken, and the refusal names the parameter and what is allowed."""
    for text, value in good.items():
        assert Asked((parameter,), {parameter.name: [text]})[parameter] == value
        assert OAS31Validator(parameter.schema).is_valid(value)
    for texts in [*([text] for text in wrong), [next(iter(good))] * 2]:
        with pytest.raises(Malformed) as refused:
            Asked((parameter,), {parameter.name: texts})
        ((field, said),) = refused.value.errors
        assert field == parameter.name
        assert message in said or "more than once" in said


def test_times_in_examples_are_times() -> None:
    """As ``date-time`` has them."""
    assert datetime.fromisoformat(ENDED["created_at"]).tzinfo is not None
