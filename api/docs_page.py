"""The page at ``/docs``: the description as HTML, whole, without a script, to be read and searched anywhere.

Everything is visible at once: what a browser has folded away it does not find.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Sequence
from html import escape
from typing import Any

Document = dict[str, Any]


def render(document: Document) -> str:
    """The page of a description that ``openapi.document`` made."""
    return _Page(document).render()


class _Page:
    def __init__(self, document: Document) -> None:
        self._document = document
        self._components = document["components"]
        self._exemplified: list[Document] = []  # schemas of which an example has been shown

    def render(self) -> str:
        info = self._document["info"]
        title = f"{info['title']} {info['version']}"
        return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{escape(title)}: the API</title>
<link rel="stylesheet" href="/docs/style.css">
</head>
<body>
<a class="skip" href="#content">To the content</a>
<header>
<h1>{escape(title)}</h1>
<p>{_text(info["description"])}</p>
</header>
<nav aria-label="Contents">
{self._contents()}
</nav>
<main id="content">
<section>
<h2 id="access">Access</h2>
<p>Send the header <code>Authorization: Bearer TOKEN</code>. The start of Bashd says where its token is. What is open is
said below. In the examples <code>$URL</code> is where Bashd listens, as <code>http://127.0.0.1:8080</code>, and
<code>$TOKEN</code> is the token. The same description for programs: <a href="/openapi.json">/openapi.json</a>.</p>
</section>
{"".join(self._tag(tag) for tag in self._document["tags"])}
<section>
<h2 id="problems">Problems</h2>
{self._problems()}
</section>
<section>
<h2 id="schemas">Schemas</h2>
{"".join(self._model(name) for name in self._components["schemas"])}
</section>
</main>
</body>
</html>
"""

    def _operations(self, tag: str) -> list[tuple[str, str, Document]]:
        return [
            (method.upper(), path, operation)
            for path, methods in self._document["paths"].items()
            for method, operation in methods.items()
            if tag in operation["tags"]
        ]

    def _contents(self) -> str:
        parts = []
        for tag in self._document["tags"]:
            links = "".join(
                f'<li><a href="#{one["operationId"]}">{_method(method)} {_path(path)}</a></li>'
                for method, path, one in self._operations(tag["name"])
            )
            parts.append(f"<h2>{escape(tag['name'])}</h2><ul>{links}</ul>")
        rest = "".join(f'<li><a href="#{name.lower()}">{name}</a></li>' for name in ("Access", "Problems", "Schemas"))
        return f"{''.join(parts)}<h2>Read on</h2><ul>{rest}</ul>"

    def _tag(self, tag: Document) -> str:
        articles = "".join(self._operation(*one) for one in self._operations(tag["name"]))
        return f"<section><h2>{escape(tag['name'])}</h2><p>{_text(tag['description'])}</p>{articles}</section>"

    def _operation(self, method: str, path: str, one: Document) -> str:
        is_open = one.get("security") == []
        return (
            f'<article id="{one["operationId"]}">'
            f'<h3>{_method(method)} {_path(path)} <a class="here" href="#{one["operationId"]}">'
            f"{escape(one['summary'])}</a></h3>"
            + (f"<p>{_text(one['description'])}</p>" if "description" in one else "")
            + ("<p>Open: no token is needed.</p>" if is_open else "")
            + self._parameters(one["parameters"])
            + self._body(one)
            + "".join(_code(curl, about) for about, curl in _curls(method, path, one, with_token=not is_open))
            + self._responses(one["responses"])
            + "</article>"
        )

    def _parameters(self, parameters: list[Document]) -> str:
        if not parameters:
            return ""
        rows = [
            (_code_word(one["name"]), one["in"], self._type(one["schema"]), _text(one["description"]))
            for one in parameters
        ]
        return "<h4>Parameters</h4>" + _table(("name", "in", "type", "meaning"), rows)

    def _body(self, one: Document) -> str:
        if "requestBody" not in one:
            return ""
        body = one["requestBody"]
        media_type, content = next(iter(body["content"].items()))
        need = "required" if body["required"] else "may be left out"
        head = f"<h4>Body</h4><p>{_code_word(media_type)}, {need}.</p>"
        return head + (self._members(self._resolved(content["schema"])) if "$ref" in content["schema"] else "")

    def _responses(self, responses: Document) -> str:
        rows: list[tuple[str, str, str]] = []
        examples: list[str] = []
        for status, response in responses.items():
            if "$ref" in response:
                name = response["$ref"].rpartition("/")[2]
                about = f'<a href="#problem-{name}">{escape(self._resolved(response)["description"])}</a>'
                rows.append((status, about, ""))
                continue
            if "content" not in response:
                rows.append((status, _text(response["description"]), ""))
                continue
            media_type, content = next(iter(response["content"].items()))
            rows.append((status, _text(response["description"]), f"{_code_word(media_type)} {self._content(content)}"))
            if "example" in content and content["schema"] not in self._exemplified:
                self._exemplified.append(content["schema"])
                examples.append(
                    _code(json.dumps(content["example"], indent=2, ensure_ascii=False), f"Example: {status}")
                )
        return "<h4>Answers</h4>" + _table(("status", "meaning", "content"), rows) + "".join(examples)

    def _content(self, content: Document) -> str:
        events = content.get("x-events", {})
        told = "".join(f"<br>event {_code_word(name)}: {self._type(schema)}" for name, schema in events.items())
        return ("" if content["schema"] == {"type": "string"} else self._type(content["schema"])) + told

    def _problems(self) -> str:
        rows = []
        for name, response in self._components["responses"].items():
            content = next(iter(response["content"].values()))
            headers = ", ".join(_code_word(header) for header in response.get("headers", {}))
            anchor = f'<span id="problem-{name}">{_code_word(name)}</span>'
            rows.append((anchor, _text(response["description"]), self._type(content["schema"]), headers))
        return _table(("name", "meaning", "content", "headers"), rows)

    def _model(self, name: str) -> str:
        schema = self._components["schemas"][name]
        about = f"<p>{_text(schema['description'])}</p>" if "description" in schema else ""
        return f'<article id="schema-{name}"><h3>{escape(name)}</h3>{about}{self._members(schema)}</article>'

    def _members(self, schema: Document) -> str:
        required = schema.get("required", [])
        rows = []
        for name, member in schema.get("properties", {}).items():
            default = "required" if name in required else _default(member)
            rows.append((_code_word(name), self._type(member), default, _text(member.get("description", ""))))
        return _table(("field", "type", "default", "meaning"), rows)

    def _type(self, schema: Document) -> str:
        """A schema in words."""
        if "$ref" in schema:
            name = schema["$ref"].rpartition("/")[2]
            return f'<a href="#schema-{name}">{escape(name)}</a>'
        if "anyOf" in schema:
            return " or ".join(self._type(one) for one in schema["anyOf"])
        if "enum" in schema:
            return " | ".join(_code_word(str(one)) for one in schema["enum"])
        if "const" in schema:
            return _code_word(str(schema["const"]))
        kind = schema.get("type", "anything")
        if kind == "array":
            return f"list of {self._type(schema.get('items', {}))}"
        if kind == "object" and isinstance(schema.get("additionalProperties"), dict):
            return f"object of {self._type(schema['additionalProperties'])}"
        return escape(" ".join([str(schema.get("format", kind)), _limits(schema)]).strip())

    def _resolved(self, schema: Document) -> Document:
        _, _, kind, name = schema["$ref"].split("/")
        found: Document = self._components[kind][name]
        return found


def _curls(method: str, path: str, one: Document, *, with_token: bool) -> list[tuple[str, str]]:
    """Each example of an operation: a few words about it, and the line for a shell."""
    line = f'curl "$URL{path.replace("{id}", "1")}"'
    if method != "GET":
        line += f" -X {method}"
    if with_token:
        line += ' \\\n  -H "Authorization: Bearer $TOKEN"'
    if "requestBody" not in one:
        return [("Example", line)]
    media_type, content = next(iter(one["requestBody"]["content"].items()))
    return [
        (
            f"Example: {example['summary']}",
            f"{line} \\\n  -H 'Content-Type: {media_type}' \\\n  -d {shlex.quote(_sent(example['value']))}",
        )
        for example in content.get("examples", {}).values()
    ]


def _sent(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _limits(schema: Document) -> str:
    words = [f"above {_number(schema['exclusiveMinimum'])}"] if "exclusiveMinimum" in schema else []
    for lowest, highest, unit in (
        ("minimum", "maximum", ""),
        ("minLength", "maxLength", " characters"),
        ("minItems", "maxItems", " items"),
    ):
        least, most = schema.get(lowest), schema.get(highest)
        if least is not None and most is not None:
            words.append(f"{_number(least)} to {_number(most)}{unit}")
        elif least is not None:
            words.append("not empty" if (lowest, least) == ("minLength", 1) else f"from {_number(least)}{unit}")
        elif most is not None:
            words.append(f"at most {_number(most)}{unit}")
    return ", ".join(words)


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else str(value)


def _default(member: Document) -> str:
    return _code_word(json.dumps(member["default"])) if "default" in member else ""


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    # A column in which nothing stands only takes room.
    shown = [number for number in range(len(head)) if any(row[number] for row in rows)]
    cells = "".join(f'<th scope="col">{head[number]}</th>' for number in shown)
    body = "".join(
        "<tr>" + "".join(f'<td data-head="{head[number]}">{row[number]}</td>' for number in shown) + "</tr>"
        for row in rows
    )
    return f'<div class="wide" tabindex="0"><table><thead><tr>{cells}</tr></thead><tbody>{body}</tbody></table></div>'


def _code(text: str, about: str) -> str:
    return (
        f'<figure><figcaption>{escape(about)}</figcaption><pre tabindex="0"><code>{escape(text)}</code></pre></figure>'
    )


def _code_word(text: str) -> str:
    return f"<code>{escape(text)}</code>"


def _method(method: str) -> str:
    return f'<span class="method {method.lower()}">{method}</span>'


def _path(path: str) -> str:
    return f'<code class="path">{escape(path)}</code>'


def _text(text: str) -> str:
    """Text in which words stand between backticks."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(text, quote=False))
