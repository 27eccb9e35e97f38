"""``/docs``: a page that is whole without a script, without the network, and without a token."""

from __future__ import annotations

import copy
import html
import re
import subprocess
from collections import Counter
from html.parser import HTMLParser

import httpx
import pytest

from api import docs_page
from api.routes.docs import STYLE
from tests.description import DOCUMENT, subject, with_new_name
from tests.processes import FINAL, TOKEN, Service

PAGE = docs_page.render(DOCUMENT)
VOID = {"meta", "link", "br"}


class _Reader(HTMLParser):
    """Knows which elements are open, and what there is to lead somewhere."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.elements: Counter[str] = Counter()
        self.ids: list[str] = []
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.attributes: set[str] = set()
        self.text = ""
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements[tag] += 1
        self.attributes |= {name for name, _ in attrs}
        values = dict(attrs)
        if values.get("id"):
            self.ids.append(str(values["id"]))
        if "href" in values:
            (self.links if tag == "a" else self.loaded).append(str(values["href"]))
        if "src" in values:
            self.loaded.append(str(values["src"]))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_everybody_gets_the_page_under_a_strict_policy(service: Service) -> None:
    """Nothing but our own style sheet may be loaded by it, and it may be shown in no frame."""
    page = httpx.get(f"{service.url}/docs", trust_env=False)
    sheet = httpx.get(f"{service.url}/docs/style.css", trust_env=False)

    policy = dict(part.strip().split(" ", 1) for part in page.headers["content-security-policy"].split(";"))
    assert (page.status_code, sheet.status_code) == (200, 200)
    assert page.text == PAGE
    assert sheet.content == STYLE.read_bytes()
    assert policy == {
        "default-src": "'none'",
        "style-src": "'self'",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
    }


def test_it_needs_nothing_from_elsewhere() -> None:
    """No script, no style within it, nothing that is loaded but the sheet, which loads nothing more."""
    page = _Reader(PAGE)

    assert page.loaded == ["/docs/style.css"]
    assert not set(page.elements) & {"script", "style", "img", "iframe", "form", "object"}
    assert not {name for name in page.attributes if name.startswith("on") or name == "style"}
    assert "url(" not in STYLE.read_text()
    assert "@import" not in STYLE.read_text()


def test_it_is_well_formed_and_every_link_leads_somewhere() -> None:
    """What is opened is closed, every name is there once, and what is linked is there."""
    page = _Reader(PAGE)

    assert page.open == []
    assert [name for name, count in Counter(page.ids).items() if count > 1] == []
    assert {link.removeprefix("#") for link in page.links if link.startswith("#")} <= set(page.ids)
    assert {link for link in page.links if not link.startswith("#")} == {"/openapi.json"}


def test_it_says_all_that_the_description_says() -> None:
    """Every route, parameter, field and problem stands in it, to be found by the browser's own search."""
    text = _Reader(PAGE).text

    for path, methods in DOCUMENT["paths"].items():
        for method, operation in methods.items():
            assert f"{method.upper()} {path} {operation['summary']}" in text
            assert all(parameter["description"].replace("`", "") in text for parameter in operation["parameters"])
    for name, schema in DOCUMENT["components"]["schemas"].items():
        assert name in text
        assert all(member in text for member in schema.get("properties", {}))
    assert all(name in text for name in DOCUMENT["components"]["responses"])


def test_what_a_description_holds_is_text() -> None:
    """Markup in it is shown, not obeyed."""
    document = copy.deepcopy(DOCUMENT)
    evil = "</code><script>alert(1)</script> & `<b>`"
    document["info"]["title"] = evil
    document["info"]["description"] = evil
    document["tags"][0]["description"] = evil
    operation = document["paths"]["/v1/commands"]["post"]
    operation["summary"] = operation["description"] = operation["parameters"][0]["description"] = evil
    operation["requestBody"]["content"]["application/json"]["examples"]["only-a-script"]["value"] = {"script": evil}
    document["components"]["schemas"]["CommandAnswer"]["description"] = evil
    document["components"]["schemas"]["CommandAnswer"]["properties"]["id"]["description"] = evil

    page = _Reader(docs_page.render(document))

    assert page.elements["script"] == 0
    assert page.elements["b"] == 0
    assert page.open == []


def test_it_suits_dark_rooms_and_small_screens() -> None:
    """As far as a style sheet can promise."""
    sheet = STYLE.read_text()

    assert "prefers-color-scheme: dark" in sheet
    assert ":focus-visible" in sheet
    assert 'name="viewport" content="width=device-width' in PAGE


CURLS = [html.unescape(one) for one in re.findall(r"<code>(curl .*?)</code>", PAGE, re.DOTALL)]


@pytest.mark.parametrize("line", CURLS)
def test_an_example_works_as_it_stands(service: Service, line: str) -> None:
    """Pasted into a shell, each is answered with what was asked for."""
    path = re.match(r'curl "\$URL([^"]*)"', line)
    assert path is not None
    command = subject(service, path[1])
    line = re.sub(r"^(curl .*?/(commands|command|stop|tokens)/)1\b", rf"\g<1>{command.id}", line)
    line = with_new_name(line)
    # What lasts for ever is cut, which curl calls 28.
    for_ever = path[1] == "/v1/events"
    curl = 'curl() { command curl --silent --show-error --fail-with-body --max-time 20 "$@"; }'
    if for_ever:
        curl = f"{curl.replace(' 20 ', ' 1 ')}; trap '[ $? = 28 ] && exit 0' EXIT"

    run = subprocess.run(
        ["bash", "-euc", f"{curl}\n{line}"],
        env={"PATH": "/usr/local/bin:/usr/bin:/bin", "URL": service.url, "TOKEN": TOKEN, "no_proxy": "*"},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )

    assert run.returncode == 0, run.stdout + run.stderr
    if command.status not in FINAL:
        service.stop(command)


def test_every_operation_has_an_example() -> None:
    """At least one line for a shell."""
    operations = [operation for methods in DOCUMENT["paths"].values() for operation in methods.values()]

    assert len(CURLS) >= len(operations)
