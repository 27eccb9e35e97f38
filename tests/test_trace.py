"""A command belongs to the trace that its request names, as the W3C has it: shown, logged, and told to the script."""

from __future__ import annotations

import json
import socket

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.trace import TRACEPARENT
from tests.conftest import StartService
from tests.processes import TOKEN, Command, Service

TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
OTHER = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"
SAYS = 'echo "${TRACEPARENT-none} ${TRACESTATE-none}"'


def _run(service: Service, *traceparents: str, **fields: object) -> Command:
    """Run what prints the trace that it finds itself in, to its end."""
    headers = [("traceparent", one) for one in traceparents] + [("tracestate", "vendor=1")]
    answer = service.http.post("/v1/commands", json={"script": SAYS, **fields}, headers=headers)
    assert answer.status_code == 201, answer.text
    return service.ended(Command(answer.json()))


def test_a_script_goes_on_from_the_place_that_its_request_named(service: Service) -> None:
    """Shown in the command, and the script's variable; tracestate is not taken."""
    command = _run(service, TRACE)

    assert command.traceparent == TRACE
    assert service.output(command) == f"{TRACE} none\n".encode()
    assert service.page(limit=1)[0].traceparent == TRACE


def test_without_the_header_there_is_no_trace(service: Service) -> None:
    """The key is there, and the script has no such variable."""
    command = _run(service)

    assert command.row["traceparent"] is None
    assert service.output(command) == b"none none\n"


@pytest.mark.parametrize("field", ["env", "secrets"])
def test_a_variable_of_the_request_is_the_stronger(service: Service, field: str) -> None:
    """Who sets TRACEPARENT for a script means it."""
    command = _run(service, TRACE, **{field: {"TRACEPARENT": "mine"}}, script='test "$TRACEPARENT" = mine')

    assert (command.status, command.traceparent) == ("succeeded", TRACE)


@pytest.mark.parametrize(
    "wrong",
    [
        "",
        "x",
        TRACE.upper(),
        TRACE[:-1],
        TRACE + "-more",
        TRACE.replace("00-", "ff-", 1),
        TRACE.replace("00-", "0x-", 1),
        TRACE.replace("4bf92f3577b34da6a3ce929d0e0e4736", "0" * 32),
        TRACE.replace("00f067aa0ba902b7", "0" * 16),
        TRACE.replace("01", "0g"),
        TRACE + ".",
        TRACE.replace("00-", "01-", 1) + "x",
        TRACE.replace("00-4", "00-\u0664", 1),
    ],
)
def test_what_is_no_traceparent_is_ignored(service: Service, wrong: str) -> None:
    """It is no error: the command runs, without a trace."""
    answer = service.http.post("/v1/commands", json={"script": "true"}, headers=[(b"traceparent", wrong.encode())])

    assert (answer.status_code, answer.json()["traceparent"]) == (201, None)


def test_blanks_around_it_are_not_of_it(service: Service) -> None:
    """HTTP allows them."""
    request = (
        f"POST /v1/commands HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {TOKEN}\r\nConnection: close\r\n"
        f"Content-Type: application/json\r\nContent-Length: 18\r\nTraceParent: \t {TRACE} \t\r\n\r\n"
        '{"script": "true"}'
    )
    url = httpx.URL(service.url)
    with socket.create_connection((url.host, url.port or 80), timeout=20) as connection:
        connection.sendall(request.encode())
        answer = b"".join(iter(lambda: connection.recv(65536), b""))

    assert json.loads(answer.partition(b"\r\n\r\n")[2])["traceparent"] == TRACE


def test_two_are_none(service: Service) -> None:
    """Nobody could tell which one is meant."""
    assert _run(service, TRACE, OTHER).row["traceparent"] is None


@pytest.mark.parametrize(("flags", "kept"), [("01", "01"), ("ff", "01"), ("02", "00")])
def test_of_a_later_version_is_kept_what_this_one_knows(service: Service, flags: str, kept: str) -> None:
    """The two ids, and whether it is sampled; nobody knows yet what the rest will mean."""
    command = _run(service, f"cc{TRACE[2:-2]}{flags}-what-the-future-brings")

    assert command.traceparent == TRACE[:-2] + kept


@given(st.from_regex(r"\A[0-9a-f-]{50,60}\Z") | st.text(max_size=70))
def test_whatever_comes_is_valid_or_ignored(text: str) -> None:
    """What is kept would be taken again as it is."""
    try:
        kept = TRACEPARENT.parse(text)
    except ValueError:
        return
    assert TRACEPARENT.parse(kept) == kept


def test_a_rerun_is_in_the_trace_of_its_own_request(service: Service) -> None:
    """Not in that of the first run, which is somebody else's and long over."""
    first = _run(service, TRACE)
    without = service.http.post(f"/v1/commands/{first.id}/rerun").json()
    within = service.http.post(f"/v1/commands/{first.id}/rerun", headers={"traceparent": OTHER}).json()

    assert (without["traceparent"], within["traceparent"]) == (None, OTHER)
    assert service.output(service.ended(Command(without))) == b"none none\n"
    assert service.output(service.ended(Command(within))) == f"{OTHER} none\n".encode()


def test_a_request_that_is_sent_again_may_come_from_another_trace(service: Service) -> None:
    """It finds the command that the first one made, in the trace of the first one."""
    headers = {"Idempotency-Key": "traced-twice"}
    answers = [
        service.http.post("/v1/commands", json={"script": "true"}, headers={**headers, "traceparent": one})
        for one in (TRACE, OTHER)
    ]

    assert [one.status_code for one in answers] == [201, 200]
    assert [one.json()["traceparent"] for one in answers] == [TRACE, TRACE]
    assert answers[0].json()["id"] == answers[1].json()["id"]


def test_a_trace_survives_who_knew_it(own_service: StartService, mark: str) -> None:
    """In the row of one that waits, and in the journal of one that runs."""
    service = own_service(max_running=1).start()
    headers = {"traceparent": TRACE}
    running = service.http.post("/v1/commands", json={"script": f"echo; sleep {mark}"}, headers=headers).json()
    waiting = service.http.post("/v1/commands", json={"script": SAYS}, headers=headers).json()
    service.started(Command(running))
    service.kill_init()
    service.start()
    service.stop(Command(running))

    assert service.ended(Command(running)).traceparent == TRACE
    ended = service.ended(Command(waiting))
    assert (ended.traceparent, service.output(ended)) == (TRACE, f"{TRACE} none\n".encode())
