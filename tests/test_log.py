"""What the processes write to stderr: one line for each event, in one form, whatever happens."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.line import MAX_FACT, line
from tests.conftest import StartService
from tests.postgres import PostgresServer
from tests.processes import BASHD, REPOSITORY, Command, Service, eventually, kill

OPERATIONS = (REPOSITORY / "docs" / "operations.md").read_text()
LOGS = OPERATIONS[OPERATIONS.index("## Logs") : OPERATIONS.index("## Many who watch")]
DOCUMENTED = set(re.findall(r"`([a-zA-Z][\w.-]*(?: [^`]+)?)`", re.sub(r"(?s)```.*?```", "", LOGS)))
PROCESSES = {"launcher", "init", "supervisor", "forker", "api", "postgres"}
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z")
TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
OTHER = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"
NUMBERS = {
    "command",
    "exit_code",
    "signal",
    "duration_s",
    "pid",
    "commands",
    "took_s",
    "stdout_bytes",
    "stderr_bytes",
    "shutdown_timeout_s",
}


def _lines(log: str) -> list[dict[str, Any]]:
    """Every line of a log, each of which is one JSON object in the documented form."""
    lines = [json.loads(text) for text in log.splitlines()]
    for one in lines:
        assert list(one)[:4] == ["time", "level", "process", "message"], one
        assert TIME.fullmatch(one["time"]), one
        assert one["level"] in ("info", "warning", "error"), one
        assert one["process"] in PROCESSES, one
        assert "logger" in one or one["message"] in DOCUMENTED, one
        assert set(one) <= DOCUMENTED, one
        for name, value in one.items():
            kind = int | float if name in NUMBERS else str
            assert value is None or (isinstance(value, kind) and not isinstance(value, bool)), (name, one)
    return lines


def _traced(service: Service, script: str, trace: str, **fields: Any) -> Command:
    answer = service.http.post("/v1/commands", json={"script": script, **fields}, headers={"traceparent": trace})
    assert answer.status_code == 201, answer.text
    return Command(answer.json())


def _said(service: Service, message: str, **facts: Any) -> list[dict[str, Any]]:
    """The lines about this, as soon as there is one."""

    def found() -> list[dict[str, Any]]:
        return [
            one
            for one in _lines(service.log)
            if one["message"] == message and all(one.get(name) == value for name, value in facts.items())
        ]

    return eventually(found)


def test_every_line_of_a_session_with_crashes_is_json(own_service: StartService, mark: str) -> None:
    """Whoever dies and whoever says so: the launcher, init, the supervisor, the API, PostgreSQL."""
    service = own_service(embedded=True, log="json").start()
    _said(service, "creating a PostgreSQL database", process="launcher")
    _said(service, "serving", process="launcher", url=service.url)
    service.done("exit 3")
    for name in ("api", "supervisor", "postmaster"):
        running = service.started(service.run(f"sleep {mark}"))
        kill(service.postmaster() if name == "postmaster" else service.pid(f"bashd: {name}"))
        _said(service, "a process ended", name=name, how="signal 9")
        eventually(service.is_ready)
        service.stop(running)
        service.ended(running)
    kill(service.pid("bashd: forker"))
    _said(service, "this process fails and ends", process="supervisor")
    eventually(service.is_ready)
    lost = service.started(service.run(f"sleep {mark}"))
    kill(lost.worker_pid)
    service.ended(lost)
    _said(service, "a command ended", command=lost.id, status="lost", level="error")
    _said(service, "PostgreSQL says", process="postgres", level="error")
    assert service.terminate() == 0

    assert [one["message"] for one in _lines(service.log)][-1] == "ended"
    assert _said(service, "shutting down")[0]["signal"] == signal.SIGTERM


def test_a_command_has_one_line_about_its_end(own_service: StartService, mark: str) -> None:
    """As the API shows it, however it came to that; also of one that never began."""
    service = own_service(log="json", max_running=1).start()
    ended = [service.done(script) for script in ("true", "exit 7", "kill -9 $$")]
    running, waiting = service.started(service.run(f"sleep {mark}")), service.run("true")
    for one in (waiting, running):
        service.stop(one)
        ended.append(service.ended(one))

    names = ("status", "reason", "exit_code", "signal", "duration_s")
    for one in ended:
        (said,) = _said(service, "a command ended", command=one.id)
        assert {name: said[name] for name in names} == {name: one.row[name] for name in names}
        assert "traceparent" not in said


def test_lines_about_a_command_name_its_trace(own_service: StartService, mark: str) -> None:
    """Those of the API, and those of the supervisor, which has it from the journal."""
    service = own_service(log="json").start()
    first = service.ended(_traced(service, "true", TRACE))
    second = service.started(_traced(service, f"sleep {mark}", OTHER))
    kill(second.worker_pid)
    service.ended(second)
    eventually(lambda: not os.listdir(service.state_dir / "journals"))
    assert service.http.delete(f"/v1/commands/{first.id}").status_code == 204

    _said(service, "a command ended", command=first.id, traceparent=TRACE)
    _said(service, "a command was removed by a client", command=first.id, traceparent=TRACE)
    _said(service, "a worker died before its command's end", command=second.id, traceparent=OTHER)
    _said(service, "a command ended", command=second.id, traceparent=OTHER, status="lost")


def test_an_outage_of_postgresql_has_a_beginning_and_an_end(own_service: StartService, server: PostgresServer) -> None:
    """Who reads the log sees when nothing was recorded, and since when it is again."""
    service = own_service(database_url=server.new_database(), log="json").start()
    command = service.started(service.run("while :; do echo more; sleep 0.05; done"))
    server.end()
    _said(service, "PostgreSQL is away; journals keep what is to be recorded")
    server.begin()
    service.stop(command)
    service.ended(command)

    _said(service, "PostgreSQL takes what is to be recorded again")
    eventually(lambda: len(_said(service, "ready")) == 2)


def test_a_request_that_fails_through_us_is_one_line(own_service: StartService, database_url: str) -> None:
    """Its traceback is a member of the line, and not lines of its own."""
    service = own_service(log="json", database_url=database_url).start()
    command = service.done("true")
    eventually(lambda: not os.listdir(service.state_dir / "journals"))
    with psycopg.connect(database_url) as connection:
        connection.execute("alter table commands alter labels drop default, alter labels type text using 'no object'")

    answer = service.http.get(f"/v1/commands/{command.id}")

    assert answer.status_code == 500
    (said,) = _said(service, "a request failed", method="GET", path=f"/v1/commands/{command.id}", level="error")
    assert said["traceback"].startswith(("Traceback", "…"))
    assert "AttributeError" in said["error"]


def test_text_says_the_same(own_service: StartService) -> None:
    """In the order of the JSON, what is not there left out."""
    service = own_service().start()
    command = service.ended(_traced(service, "exit 7", TRACE))

    end = f"command={command.id} traceparent={TRACE} status=failed reason=exit exit_code=7 duration_s="
    eventually(lambda: re.search(rf"(?m)^{TIME.pattern} info  api: a command ended {end}\d", service.log))


def test_what_keeps_it_from_starting_is_a_line_too(state_dir: Path) -> None:
    """With exit status 2; a wrong setting, found before the form is known, is told in text."""

    def start(*flags: str) -> tuple[int, str]:
        command = [BASHD, "serve", "--state-dir", str(state_dir), "--port", "0", "--log", "json", *flags]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        return ended.returncode, ended.stderr

    code, said = start("--host", "192.0.2.1", "--plain-http")
    (only,) = _lines(said)
    assert (code, only["message"]) == (2, "cannot start")
    assert "cannot listen on 192.0.2.1" in only["error"]
    code, said = start("--max-running", "none")
    assert (code, said.startswith("bashd: "), said.count("\n")) == (2, True, 1)


def _written() -> Iterator[str]:
    """The message of every call that logs."""
    for package in ("api", "supervisor"):
        for path in (REPOSITORY / package).rglob("*.py"):
            text = path.read_text()
            yield from re.findall(r'(?:\b_?log|Log\(.*\))\.(?:info|error|failed)\(\s*"([^"]*)"', text)
            yield from re.findall(r'\bsay\(\s*"([^"]*)"', text)


def test_every_message_is_documented() -> None:
    """docs/operations.md lists all there are, and none that there is not."""
    written = set(_written())
    events = set(re.findall(r"(?m)^\| `([^`]+)` \|", LOGS[LOGS.index("| message | from") :]))

    assert len(written) > 30
    assert written == events


TEXT = st.text() | st.text(st.characters(categories=["Cs", "Cc"]))


@pytest.mark.parametrize("log_format", ["json", "text"])
@given(facts=st.dictionaries(st.from_regex(r"\A[a-z_]{1,9}\Z"), TEXT | st.integers() | st.floats() | st.none()))
def test_whatever_a_fact_holds_it_is_one_line(log_format: str, facts: dict[str, Any]) -> None:
    """Nobody can write a line of ours by way of a path or an error."""
    facts.pop("traceback", None)
    written = line(log_format, "api", "info", "a message", facts)

    assert len(written.splitlines()) == 1
    assert written.isascii()
    if log_format == "json":
        assert set(json.loads(written)) == {"time", "level", "process", "message", *facts}


@given(st.text(), st.text())
def test_in_text_a_traceback_stands_below_its_line(message: str, traceback: str) -> None:
    """Indented, so that whatever an error says cannot be taken for a line of ours; nor what a library says."""
    first, *rest = line("text", "api", "error", message, {"traceback": traceback}).split("\n")

    assert TIME.match(first)
    assert all(one.startswith("    ") for one in rest)
    assert [one.strip() for one in traceback.splitlines()] == [one.strip() for one in rest]


def test_what_is_long_is_cut() -> None:
    """So that a line goes through a pipe at once; of a traceback the end tells most."""
    written = line("json", "api", "error", "a message", {"traceback": "x" * 10_000 + "the reason"})

    assert len(written) < MAX_FACT + 200
    assert json.loads(written)["traceback"].endswith("the reason")
