"""The description of the API, to hold answers against."""

from __future__ import annotations

import re
import uuid
from typing import Any

import httpx
from openapi_schema_validator import OAS31Validator

from api import openapi
from api.app import OPERATIONS
from api.operation import Operation
from tests.processes import Command, Service

DOCUMENT = openapi.document(OPERATIONS)


def subject(service: Service, path: str) -> Command:
    """A command that an example of this path works with."""
    if "/tokens/" in path:
        return Command({**new_token(service), "status": "succeeded"})
    if path.endswith(("/signal", "/stdin")):
        return service.started(service.run("cat > /dev/null; sleep 1000", stdin_open=True, timeout_s=60))
    return service.done("true")


def new_token(service: Service, scope: str = "read", **fields: Any) -> dict[str, Any]:
    """A token of a name that nobody had."""
    answer = service.http.post("/v1/tokens", json={"name": f"of-{uuid.uuid4()}", "scope": scope, **fields})
    assert answer.status_code == 201, answer.text
    made: dict[str, Any] = answer.json()
    return made


def with_new_name(text: str) -> str:
    """An example of a request for a token, which works once, for a name that nobody had."""
    return re.sub(r'("name": ?)"(ci|dashboard)"', rf'\1"of-{uuid.uuid4()}"', text)


def validator(schema: dict[str, Any]) -> OAS31Validator:
    """For a schema of the document."""
    return OAS31Validator({**schema, "components": DOCUMENT["components"]})  # where its references lead


def assert_described(operation: Operation, answer: httpx.Response) -> None:
    """Status, type and, when it is JSON, content of an answer are among those that the operation describes."""
    responses = DOCUMENT["paths"][operation.path][operation.method.lower()]["responses"]
    assert str(answer.status_code) in responses, f"{answer.status_code} is not described for {operation.id}"
    _assert_is(responses[str(answer.status_code)], answer)


def assert_wrong_method(operation: Operation, answer: httpx.Response) -> None:
    """An answer to a method that is not described: a problem in the form of the route's family, and what is allowed."""
    allowed = {method.upper() for method in DOCUMENT["paths"][operation.path]}
    assert {one.strip() for one in answer.headers["allow"].split(",")} == allowed
    names = [name for name in DOCUMENT["components"]["responses"] if name.endswith("method-not-allowed")]
    family = "seed-method-not-allowed" if operation.tag == "The seed's API" else "method-not-allowed"
    assert family in names
    _assert_is({"$ref": f"#/components/responses/{family}"}, answer)


def _assert_is(response: dict[str, Any], answer: httpx.Response) -> None:
    if "$ref" in response:
        response = DOCUMENT["components"]["responses"][response["$ref"].rpartition("/")[2]]
    if "content" not in response:
        assert "content-type" not in answer.headers
        return
    content_type = answer.headers["content-type"]
    assert content_type in response["content"]
    if content_type.endswith("json"):
        answer.read()
        validator(response["content"][content_type]["schema"]).validate(answer.json())
    for header in response.get("headers", {}):
        assert header in answer.headers, header
