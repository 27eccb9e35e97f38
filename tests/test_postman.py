"""The Postman collection: made from the description, of the form v2.1, and its requests work."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from api import postman
from tests.description import DOCUMENT, subject, with_new_name
from tests.processes import FINAL, TOKEN, Service

COLLECTION = postman.collection(DOCUMENT)
ITEMS = [item for folder in COLLECTION["item"] for item in folder["item"]]


def _filled(text: str, variables: dict[str, str]) -> str:
    for name, value in variables.items():
        text = text.replace("{{" + name + "}}", value)
    return text


def test_it_has_the_form_of_a_collection() -> None:
    """What the schema of v2.1 requires, and no member that Postman would not know."""
    assert set(COLLECTION["info"]) == {"name", "description", "schema"}
    assert COLLECTION["info"]["schema"].endswith("/collection/v2.1.0/collection.json")
    assert [one["key"] for one in COLLECTION["variable"]] == ["url", "token"]
    assert COLLECTION["auth"]["bearer"] == [{"key": "token", "value": "{{token}}", "type": "string"}]
    assert [folder["name"] for folder in COLLECTION["item"]] == [tag["name"] for tag in DOCUMENT["tags"]]
    for item in ITEMS:
        request = item["request"]
        assert set(item) == {"name", "request", "response"}
        assert {"method", "header", "url", "description"} <= set(request)
        assert set(request) <= {"method", "header", "url", "description", "auth", "body"}
        assert request["url"]["raw"] == "/".join([*request["url"]["host"], *request["url"]["path"]])
        assert [one["key"] for one in request["url"]["variable"]] == [
            one[1:] for one in request["url"]["path"] if one.startswith(":")
        ]
        assert all(isinstance(one["value"], str) for one in request["url"]["query"] + request["url"]["variable"])


def test_it_has_every_operation_once() -> None:
    """By method and path."""
    found = [
        (item["request"]["method"].lower(), "/" + "/".join(item["request"]["url"]["path"]).replace(":id", "{id}"))
        for item in ITEMS
    ]

    assert sorted(found) == sorted((method, path) for path, methods in DOCUMENT["paths"].items() for method in methods)


@pytest.mark.parametrize("item", ITEMS, ids=[item["name"] for item in ITEMS])
@pytest.mark.parametrize("with_parameters", [False, True])
def test_a_request_of_it_works(service: Service, item: dict[str, Any], with_parameters: bool) -> None:
    """As Postman would send it, also with every parameter switched on."""
    request = item["request"]
    command = subject(service, request["url"]["raw"])
    url = _filled(request["url"]["raw"], {"url": service.url})
    for one in request["url"]["variable"]:
        url = url.replace(":" + one["key"], str(command.id))
    headers = {one["key"]: one["value"] for one in request["header"] if not one.get("disabled")}
    if request.get("auth", COLLECTION["auth"])["type"] == "bearer":
        headers["Authorization"] = f"Bearer {TOKEN}"
    query = {one["key"]: one["value"] for one in request["url"]["query"]} if with_parameters else {}
    # Of these only one can be asked for: a place from the beginning or the end, a page by id or by time.
    for one, other in (("tail", "offset"), ("since", "cursor")):
        if one in query:
            del query[other]
    if "ansi" in query:
        headers["Accept"] = "text/plain"
    body = request.get("body", {"raw": None})["raw"]
    body = None if body is None else with_new_name(body)

    sent = httpx.stream(request["method"], url, params=query, headers=headers, content=body, trust_env=False)
    with sent as answer:
        assert answer.is_success, answer.read()

    if headers.get("Content-Type") == "application/json":
        assert json.loads(body or "null") is not None
    if command.status not in FINAL:
        service.stop(command)
