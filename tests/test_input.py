"""Bad input: each gets a 4xx that says what is wrong, and nothing is created."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.processes import Command, Service


@pytest.fixture(scope="module")
def command(service: Service) -> Command:
    """A command that is there and final."""
    return service.done("true")


@pytest.fixture(autouse=True)
def nothing_created(service: Service, command: Command) -> Iterator[None]:
    """However the request ends, there is no new command, and the one that is there is as it was."""
    before = service.newest_id()
    yield
    assert service.newest_id() == before
    assert service.get(command).row == command.row


def _assert_problem(answer: Any, status: int, field: str | None = None) -> None:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"].startswith("application/problem+json")
    problem = answer.json()
    assert set(problem) >= {"type", "title", "status", "detail"}
    assert problem["status"] == status
    assert problem["type"].startswith("/problems/")
    assert problem["detail"]
    if field is not None:
        assert field in [error["field"] for error in problem["errors"]], problem
        assert all(error["message"] for error in problem["errors"])


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "script"),
        ({"script": ""}, "script"),
        ({"script": None}, "script"),
        ({"script": 7}, "script"),
        ({"script": ["true"]}, "script"),
        ({"script": "echo a\0b"}, "script"),
        ({"script": "echo a\r\necho b\r\n"}, "script"),
        ({"script": "\ufeffecho"}, "script"),
        ({"script": "true", "sript": "x"}, "sript"),
        ({"script": "true", "args": "x"}, "args"),
        ({"script": "true", "args": [1]}, "args.0"),
        ({"script": "true", "args": ["a\0"]}, "args.0"),
        ({"script": "true", "env": {"A": 1}}, "env.A"),
        ({"script": "true", "env": {"A=B": "1"}}, "env"),
        ({"script": "true", "env": {"": "1"}}, "env"),
        ({"script": "true", "env": {"A": "\0"}}, "env.A"),
        ({"script": "true", "env": []}, "env"),
        ({"script": "true", "cwd": 1}, "cwd"),
        ({"script": "true", "cwd": "relative"}, "cwd"),
        ({"script": "true", "stdin": 1}, "stdin"),
        ({"script": "true", "timeout_s": "1"}, "timeout_s"),
        ({"script": "true", "timeout_s": 0}, "timeout_s"),
        ({"script": "true", "timeout_s": -1}, "timeout_s"),
        ({"script": "true", "timeout_s": True}, "timeout_s"),
        ({"script": "true", "timeout_s": 1e300}, "timeout_s"),
        ({"script": "true", "grace_s": -0.1}, "grace_s"),
        ({"script": "true", "grace_s": None}, "grace_s"),
        ({"script": "true", "leftovers": "keep"}, "leftovers"),
        ({"script": "true", "merge_stderr": "yes"}, "merge_stderr"),
        ({"script": "true", "run_as": "no-such-user"}, "run_as"),
        ({"script": "true", "labels": {"a": 1}}, "labels.a"),
        ({"script": "true", "output_limit_bytes": -1}, "output_limit_bytes"),
        ({"script": "true", "output_limit_bytes": 1.5}, "output_limit_bytes"),
        ({"script": "true", "limits": None}, "limits"),
        ({"script": "true", "limits": [1]}, "limits"),
        ({"script": "true", "limits": {"memory": 1}}, "limits.memory"),
        ({"script": "true", "limits": {"memory_bytes": 1000}}, "limits.memory_bytes"),
        ({"script": "true", "limits": {"cpu_s": 0}}, "limits.cpu_s"),
        ({"script": "true", "limits": {"cpu_s": 1.5}}, "limits.cpu_s"),
        ({"script": "true", "limits": {"file_bytes": -1}}, "limits.file_bytes"),
        ({"script": "true", "limits": {"open_files": "20"}}, "limits.open_files"),
        ({"script": "true", "limits": {"processes": True}}, "limits.processes"),
    ],
    ids=lambda value: json.dumps(value)[:60],
)
def test_a_wrong_field_is_named(service: Service, body: dict[str, Any], field: str) -> None:
    """400, and the problem names the field and what is wrong with it."""
    _assert_problem(service.http.post("/v1/commands", json=body), 400, field)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b'"script"',
        b'{"script": "true"',
        b"{'script': 'true'}",
        b'{"script": "true",}',
        b'{"script": "true", "timeout_s": NaN}',
        b'{"script": "true", "timeout_s": Infinity}',
        b'{"script": "true", "timeout_s": 1e999}',
        b'{"script": "true", "script": "false"}',
        b'{"script": "\xff"}',
        b'{"script": "\\ud800"}',
        b"[" * 100_000,
        b'{"script": ' * 50_000,
        b'{"script": "true", "labels": ' + b'{"a": ' * 5_000 + b"1" + b"}" * 5_001,
        b"\0" * 100,
    ],
    ids=lambda value: repr(value[:40]),
)
def test_a_body_that_is_no_command_is_refused(service: Service, body: bytes) -> None:
    """400, whatever it is instead of JSON that describes a command."""
    _assert_problem(service.http.post("/v1/commands", content=body, headers={"Content-Type": "application/json"}), 400)


@pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""])
def test_a_body_that_is_not_json_is_refused(service: Service, content_type: str) -> None:
    """415: so no form of a foreign page can start a command."""
    answer = service.http.post("/v1/commands", content=b'{"script": "true"}', headers={"Content-Type": content_type})

    _assert_problem(answer, 415)


def test_json_may_say_its_character_set(service: Service) -> None:
    """``application/json; charset=utf-8`` is JSON: what is wrong here is the script alone."""
    answer = service.http.post(
        "/v1/commands", content=b'{"script": ""}', headers={"Content-Type": "application/json; charset=utf-8"}
    )

    _assert_problem(answer, 400, "script")


def test_a_script_over_the_limit_is_refused(service: Service) -> None:
    """413 for a script that is too long, and for a body that is."""
    _assert_problem(service.create("# " + "x" * (1024 * 1024)), 413)
    _assert_problem(service.create("# " + "x" * 30_000_000), 413)


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/v1/commands/0", 400),
        ("/v1/commands/-1", 400),
        ("/v1/commands/x", 400),
        ("/v1/commands/1.5", 400),
        ("/v1/commands/9223372036854775808", 400),
        ("/v1/commands/99999999999999999999999999999", 400),
        ("/v1/commands/%00", 400),
        ("/v1/commands/9223372036854775807", 404),
        ("/v1/commands/9223372036854775807/output", 404),
        ("/v1/commands/x/output", 400),
        ("/v1/no-such-thing", 404),
    ],
)
def test_ids_that_cannot_be_are_told_from_unknown_ones(service: Service, path: str, status: int) -> None:
    """400 for what is no id, 404 for an id that no command has."""
    _assert_problem(service.http.get(path), status)


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("limit=0", "limit"),
        ("limit=-1", "limit"),
        ("limit=1001", "limit"),
        ("limit=99999999999999999999", "limit"),
        ("limit=x", "limit"),
        ("limit=", "limit"),
        ("limit=1&limit=2", "limit"),
        ("limit=NaN", "limit"),
        ("limit=--1", "limit"),
        ("offset=-1", "offset"),
        ("offset=99999999999999999999", "offset"),
        ("offset=1.5", "offset"),
        ("cursor=nonsense!", "cursor"),
        ("status=sleeping", "status"),
        ("sort=id", "sort"),
    ],
)
def test_a_wrong_parameter_of_the_list_is_named(service: Service, query: str, field: str) -> None:
    """400 for numbers out of range and for what is no parameter."""
    _assert_problem(service.http.get(f"/v1/commands?{query}"), 400, field)


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("stream=stdin", "stream"),
        ("offset=-1", "offset"),
        ("offset=x", "offset"),
        ("limit=-1", "limit"),
        ("follow=perhaps", "follow"),
        ("from=1", "from"),
    ],
)
def test_a_wrong_parameter_of_the_output_is_named(service: Service, command: Command, query: str, field: str) -> None:
    """400, though the command exists."""
    _assert_problem(service.http.get(f"/v1/commands/{command.id}/output?{query}"), 400, field)


@pytest.mark.parametrize("wait", ["-1", "301", "x", "NaN", "inf", "1e9", "1_0", "1 ", "\u0661"])
def test_a_wait_out_of_range_is_refused(service: Service, command: Command, wait: str) -> None:
    """0 to 300 seconds can be waited, for a new command too: a wrong wait creates none."""
    _assert_problem(service.http.get(f"/v1/commands/{command.id}", params={"wait": wait}), 400, "wait")
    _assert_problem(service.http.post("/v1/commands", json={"script": "true"}, params={"wait": wait}), 400, "wait")


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"signal": "NOPE"}, "signal"),
        ({"signal": 0}, "signal"),
        ({"signal": 999}, "signal"),
        ({"grace_s": -1}, "grace_s"),
        ({"grace_s": "soon"}, "grace_s"),
        ({"why": "because"}, "why"),
    ],
    ids=str,
)
def test_a_wrong_stop_is_refused(service: Service, command: Command, body: dict[str, Any], field: str) -> None:
    """400 with the field, even of a command that is final already."""
    _assert_problem(service.http.post(f"/v1/commands/{command.id}/stop", json=body), 400, field)


def test_a_method_that_does_not_exist_is_refused(service: Service) -> None:
    """405 as a problem like the others."""
    _assert_problem(service.http.delete("/v1/commands"), 405)
    _assert_problem(service.http.put("/v1/commands/1", json={}), 405)
