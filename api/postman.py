"""The description as a Postman collection: https://schema.getpostman.com/json/collection/v2.1.0/collection.json"""

from __future__ import annotations

import json
from typing import Any

Document = dict[str, Any]

SCHEMA = "https://schema.getpostman.com/json/collection/v2.1.0/collection.json"


def collection(document: Document) -> Document:
    """A folder for each tag, a request for each operation. The variables ``url`` and ``token`` are to be set."""
    return {
        "info": {
            "name": document["info"]["title"],
            "description": document["info"]["description"],
            "schema": SCHEMA,
        },
        "auth": {"type": "bearer", "bearer": [{"key": "token", "value": "{{token}}", "type": "string"}]},
        "variable": [
            {"key": "url", "value": "http://127.0.0.1:8080", "type": "string"},
            {"key": "token", "value": "", "type": "string"},
        ],
        "item": [
            {
                "name": tag["name"],
                "description": tag["description"],
                "item": [
                    _item(method.upper(), path, operation)
                    for path, methods in document["paths"].items()
                    for method, operation in methods.items()
                    if tag["name"] in operation["tags"]
                ],
            }
            for tag in document["tags"]
        ],
    }


def _item(method: str, path: str, operation: Document) -> Document:
    request: Document = {
        "method": method,
        "header": _headers(operation),
        "url": _url(path, operation["parameters"]),
        "description": operation.get("description", operation["summary"]),
    }
    if operation.get("security") == []:
        request["auth"] = {"type": "noauth"}
    if "requestBody" in operation:
        request["body"] = _body(operation["requestBody"])
    return {"name": operation["summary"], "request": request, "response": []}


def _url(path: str, parameters: list[Document]) -> Document:
    segments = [f":{one[1:-1]}" if one.startswith("{") else one for one in path.strip("/").split("/")]
    return {
        "raw": "{{url}}/" + "/".join(segments),
        "host": ["{{url}}"],
        "path": segments,
        # Switched off: each has a default, and is here to be found.
        "query": [{**_pair(one), "disabled": True} for one in parameters if one["in"] == "query"],
        "variable": [_pair(one) for one in parameters if one["in"] == "path"],
    }


def _headers(operation: Document) -> list[Document]:
    headers = [{**_pair(one), "disabled": True} for one in operation["parameters"] if one["in"] == "header"]
    if "requestBody" in operation:
        headers.insert(0, {"key": "Content-Type", "value": next(iter(operation["requestBody"]["content"]))})
    return headers


def _pair(parameter: Document) -> Document:
    value = parameter.get("example", parameter["schema"].get("default"))
    if isinstance(value, list):
        [value] = value  # of one that may be repeated: once
    text = value if isinstance(value, str) else json.dumps(value)
    return {"key": parameter["name"], "value": text, "description": parameter["description"]}


def _body(body: Document) -> Document:
    media_type, content = next(iter(body["content"].items()))
    example = next(iter(content.get("examples", {}).values()), {"value": ""})["value"]
    raw = example if isinstance(example, str) else json.dumps(example, indent=2, ensure_ascii=False)
    return {
        "mode": "raw",
        "raw": raw,
        "options": {"raw": {"language": "json" if media_type == "application/json" else "text"}},
    }
