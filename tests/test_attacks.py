"""Attacks: each is refused or contained, the service answers afterwards, and nothing is left behind."""

from __future__ import annotations

import contextlib
import json
import os
import re
import resource
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from tests.conftest import StartService
from tests.description import new_token
from tests.postgres import PostgresServer
from tests.processes import TOKEN, Service, eventually

JSON = "Content-Type: application/json\r\n"
GOOD = f"Authorization: Bearer {TOKEN}\r\n"
SCRIPT = '{"script": "true"}'
MAX_BODY_BYTES = 2 * 1024 * 1024


@pytest.fixture(scope="module")
def attacked(place: Path, postgres: PostgresServer) -> Iterator[Service]:
    """A service that stands all of it, one after the other."""
    directory = place / "attacked"
    directory.mkdir(mode=0o711)
    url = postgres.new_database()
    with Service(directory / "bashd", database_url=url, max_body_bytes=MAX_BODY_BYTES).start() as service:
        yield service


@pytest.fixture(autouse=True)
def unharmed(attacked: Service) -> Iterator[None]:
    """Whatever was done: it is the same process that answers, nothing runs, and nothing was accepted by the way."""
    api, before = attacked.pid("bashd: api"), attacked.newest_id()
    yield
    assert attacked.is_ready()
    assert attacked.pid("bashd: api") == api
    assert attacked.page(status="running") == []
    assert "Traceback" not in attacked.log
    ours = [one for one in attacked.page(limit=1000) if one.id > before]
    assert all(one.requested_by == "operator" for one in ours)


def _sent(service: Service, request: str) -> bytes:
    """What is answered to these bytes; all that comes until the connection is closed, or nothing more comes."""
    port = service.port
    received = b""
    with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
        with contextlib.suppress(ConnectionError):  # it may be refused before it was read to its end
            connection.sendall(request.encode())
        with contextlib.suppress(ConnectionError, TimeoutError):
            while piece := connection.recv(65536):
                received += piece
    return received


def _request(
    *headers: str, method: str = "POST", path: str = "/v1/commands", host: str = "127.0.0.1", body: str = SCRIPT
) -> str:
    lines = "".join(headers)
    return (
        f"{method} {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n{lines}"
        f"Content-Length: {len(body.encode())}\r\n\r\n{body}"
    )


FORM = "Content-Type: application/x-www-form-urlencoded\r\n"
DEEP = '{"script": "true", "labels": ' + '{"a":' * 100_000 + "1" + "}" * 100_000 + "}"
DIGITS = "9" * 10**6
TWICE = '{"script": "true", "script": "false"}'

# What is sent, and the statuses it may be answered with. None of it makes a command.
ATTACKS: dict[str, tuple[Callable[[], str], set[int]]] = {
    "no token": (lambda: _request(JSON), {401}),
    "a wrong token": (lambda: _request(JSON, "Authorization: Bearer wrong\r\n"), {401}),
    "the name of a token": (lambda: _request(JSON, "Authorization: Bearer operator\r\n"), {401}),
    "a token of a megabyte": (lambda: _request(JSON, f"Authorization: Bearer {'x' * 2**20}\r\n"), {400, 413, 431}),
    "a token that is the beginning": (lambda: _request(JSON, f"Authorization: Bearer {TOKEN[:-1]}\r\n"), {401}),
    "a token in the query string": (lambda: _request(JSON, path=f"/v1/commands?token={TOKEN}"), {401}),
    "an access_token in the query": (lambda: _request(JSON, path=f"/v1/commands?access_token={TOKEN}"), {401}),
    "a token in a cookie": (lambda: _request(JSON, f"Cookie: token={TOKEN}; Authorization=Bearer {TOKEN}\r\n"), {401}),
    "a token as a password": (lambda: _request(JSON, f"Authorization: Basic {TOKEN}\r\n"), {401}),
    "two tokens": (lambda: _request(JSON, "Authorization: Bearer wrong\r\n", GOOD), {401}),
    "a rebound name": (lambda: _request(JSON, GOOD, host="evil.example"), {421}),
    "a rebound name with our port": (lambda: _request(JSON, GOOD, host="evil.example:8080"), {421}),
    "a name that begins like ours": (lambda: _request(JSON, GOOD, host="127.0.0.1.evil.example"), {421}),
    "a page of another site": (lambda: _request(JSON, GOOD, "Origin: http://evil.example\r\n"), {403}),
    "a page from a file": (lambda: _request(JSON, GOOD, "Origin: null\r\n"), {403}),
    "a form of another site": (lambda: _request(FORM, "Origin: http://evil.example\r\n", body="script=true"), {403}),
    "a form": (lambda: _request(FORM, GOOD, body="script=true"), {415}),
    "a form that looks like JSON": (lambda: _request("Content-Type: text/plain\r\n", GOOD), {415}),
    "no type": (lambda: _request(GOOD), {415}),
    "the seed's form": (lambda: _request(FORM, GOOD, path="/command", body="script=true"), {415}),
    "a body that is too long": (lambda: _request(JSON, GOOD, body=" " * (MAX_BODY_BYTES + 1)), {413}),
    "ten thousand headers": (lambda: _request(*(f"X-{n}: {'x' * 20}\r\n" for n in range(10_000))), {400, 413, 431}),
    "a header of a megabyte": (lambda: _request(JSON, GOOD, f"X: {'x' * 2**20}\r\n"), {400, 413, 431}),
    "a path of a megabyte": (lambda: _request(JSON, GOOD, path="/" + "x" * 2**20), {400, 413, 414, 431}),
    "dots in the path": (lambda: _request(GOOD, method="GET", path="/v1/../../../etc/passwd", body=""), {400, 404}),
    "dots that are escaped": (lambda: _request(GOOD, method="GET", path="/docs/%2e%2e/etc/passwd", body=""), {404}),
    "slashes that are escaped": (lambda: _request(method="GET", path="/v1%2Fcommands", body=""), {401}),
    "an open path as a prefix": (lambda: _request(JSON, path="/healthz/../v1/commands"), {400, 401, 404}),
    "two slashes": (lambda: _request(JSON, path="//v1/commands"), {400, 401, 404}),
    "another form of the path": (lambda: _request(JSON, path="/v1/commands/"), {401}),
    "NUL in the path": (lambda: _request(GOOD, method="GET", path="/v1/commands/1%00", body=""), {400, 404}),
    "a whole URL": (lambda: _request(JSON, path="http://127.0.0.1/v1/commands"), {400, 401, 404}),
    "an id of another script": (lambda: _request(GOOD, method="GET", path="/v1/commands/%D9%A1", body=""), {400}),
    "SQL in the query": (lambda: _request(GOOD, method="GET", path="/v1/commands?q=%27;drop+table+x", body=""), {200}),
    "lines in the Location": (lambda: _request(GOOD, path="/v1/commands/1%0d%0aX:1/rerun", body=""), {400}),
    "JSON that is deep": (lambda: _request(JSON, GOOD, body=DEEP), {400}),
    "a number that is huge": (lambda: _request(JSON, GOOD, body='{"script": "true", "grace_s": 1e999999}'), {400}),
    "a number of many digits": (lambda: _request(JSON, GOOD, body=f'{{"script": "a", "grace_s": {DIGITS}}}'), {400}),
    "no number": (lambda: _request(JSON, GOOD, body='{"script": "true", "grace_s": NaN}'), {400}),
    "a member twice": (lambda: _request(JSON, GOOD, body=TWICE), {400}),
    "a member that is nobody's": (lambda: _request(JSON, GOOD, body='{"script": "true", "requested_by": "x"}'), {400}),
    "a name for us": (lambda: _request(JSON, GOOD, body='{"script": "true", "env": {"BASHD_COMMAND_ID": "1"}}'), {400}),
    "a method by header": (lambda: _request(GOOD, "X-HTTP-Method-Override: DELETE\r\n", path="/v1/tokens/1"), {405}),
    "TRACE": (lambda: _request(GOOD, method="TRACE", body=""), {400, 405}),
    "a body twice as long as said": (lambda: _request(JSON).replace("Content-Length: 18", "Content-Length: 9"), {401}),
    "two lengths": (lambda: _request(JSON, GOOD, "Content-Length: 0\r\n", "Transfer-Encoding: chunked\r\n"), {400}),
}  # fmt: skip


@pytest.mark.parametrize("name", ATTACKS)
def test_it_is_refused(attacked: Service, name: str) -> None:
    """By one of the statuses that suit, and it runs nothing."""
    build, statuses = ATTACKS[name]
    before = attacked.newest_id()

    answer = _sent(attacked, build())

    status = re.match(rb"HTTP/1\.1 (\d+) ", answer)
    assert status is not None, "no answer"
    assert int(status[1]) in statuses, answer[:300]
    assert b"root:" not in answer
    assert attacked.newest_id() == before


def test_a_token_that_reaches_less_far_gets_no_further(attacked: Service) -> None:
    """Nor does one that expired, was rotated or was revoked, whatever it is used for."""
    reader, ended, rotated, revoked = (
        new_token(attacked, scope, expires_in_s=seconds)
        for scope, seconds in (("read", 1000), ("admin", 0.001), ("admin", None), ("admin", None))
    )
    attacked.http.post(f"/v1/tokens/{rotated['id']}/rotate")
    attacked.http.delete(f"/v1/tokens/{revoked['id']}")

    statuses = {
        (one["name"], path): int(
            _sent(attacked, _request(JSON, f"Authorization: Bearer {one['secret']}\r\n", path=path))[9:12]
        )
        for one in (reader, ended, rotated, revoked)
        for path in ("/v1/commands", "/command", "/stop/1", "/v1/tokens", "/v1/commands/1/stop")
    }

    assert {status for (name, _), status in statuses.items() if name == reader["name"]} == {403}
    assert {status for (name, _), status in statuses.items() if name != reader["name"]} == {401}


NASTY = "a\r\nSet-Cookie: stolen=1\r\n\r\n<script>alert(1)</script>\x1b[2J\u2028"


def test_names_and_labels_reach_no_header(attacked: Service) -> None:
    """What a client calls a command comes back as JSON, and only there."""
    made = attacked.create("true", name=NASTY, labels={"a": NASTY}, wait_s=10)
    command = made.json()
    answers = [
        made,
        attacked.http.get(f"/v1/commands/{command['id']}"),
        attacked.http.get("/v1/commands", params={"name": NASTY}),
        attacked.http.get(f"/v1/commands/{command['id']}/events"),
        attacked.http.get("/metrics"),
    ]

    assert [one.status_code for one in answers] == [201, 200, 200, 200, 200]
    assert command["name"] == NASTY
    for one in answers:
        assert "stolen" not in str(one.headers)
        assert "html" not in one.headers["content-type"]
    assert "stolen" not in answers[-1].text
    assert not any(line.startswith("Set-Cookie") for line in attacked.log.splitlines())


@pytest.mark.parametrize("value", ["a\r\nX: 1", "a\nX: 1", "a\0b", "ü" * 10])
def test_what_a_refusal_repeats_breaks_out_of_nothing(attacked: Service, value: str) -> None:
    """Details name what was wrong; as JSON, in one line of no header."""
    answer = attacked.http.get("/v1/commands", params={"status": value, value: "1"})

    assert answer.status_code == 400
    assert json.loads(answer.content)["status"] == 400
    assert "x" not in answer.headers


def test_slow_bodies_and_half_open_connections_hold_up_nobody(attacked: Service) -> None:
    """A thousand of them: others are served meanwhile, and the memory stays within bounds."""
    port = attacked.port
    api = attacked.pid("bashd: api")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    head = "POST /v1/commands HTTP/1.1\r\nHost: 127.0.0.1\r\n"
    beginnings = [
        "",
        "POST /v1/comm",
        f"{head}X-Slow: ",
        f"{head}{GOOD}{JSON}Content-Length: 1000\r\n\r\n{{",
        f"{head}{GOOD}{JSON}Transfer-Encoding: chunked\r\n\r\n1\r\n{{",
    ]
    before = _resident_bytes(api)
    try:
        with ExitStack() as stack:
            for number in range(1000):
                one = stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=10))
                one.sendall(beginnings[number % len(beginnings)].encode())

            command = attacked.done("echo served")

            assert attacked.output(command) == b"served\n"
            assert _resident_bytes(api) - before < 100 * 1024 * 1024
        eventually(lambda: _sockets(api) < 100)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def _resident_bytes(pid: int) -> int:
    found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert found is not None
    return int(found[1]) * 1024


def _sockets(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


SEARCH = """
for place in "$1"/token "$1"/journals/* "$1"/controls/* "$1"/postgres /proc/"$PPID"/environ /proc/"$PPID"/mem; do
    [ -r "$place" ] && [ -s "$place" ] && ! [ -d "$place" ] && head -c 1 "$place" > /dev/null 2>&1 && echo "read $place"
done
for place in /proc/[0-9]*; do
    title=$(tr '\\\\0' ' ' < "$place/cmdline") 2> /dev/null
    case $title in "bashd: "*) ;; *) continue ;; esac
    seen=1
    for fd in "$place"/fd/*; do [ -e "$fd" ] && echo "looked into $title"; done
    head -c 1 "$place/environ" 2> /dev/null
done
echo "searched ${seen:-nothing}"
"""


def test_a_script_finds_no_secret_and_no_journal_of_another(own_service: StartService) -> None:
    """Neither the token, nor the database, nor what another command was asked, when it runs as another user."""
    if os.getuid() != 0:
        pytest.skip("only root can run scripts as others")
    service = own_service(embedded=True)
    service.token = None
    service.start(ready=False)
    token = eventually(lambda: (service.state_dir / "token").read_text().strip())
    service.http.headers["Authorization"] = f"Bearer {token}"
    eventually(service.is_ready)
    other = service.started(service.run("# a secret of its own\nsleep 1000", env={"PASSWORD": "4711"}))

    searched = service.done(SEARCH, args=[str(service.state_dir)], run_as="daemon")
    service.stop(other)

    assert service.output(searched, stream="stdout") == b"searched 1\n"


def test_a_script_without_a_token_gets_nothing_from_us(attacked: Service) -> None:
    """It reaches our address as everybody on this machine does, and is refused as everybody is."""
    port = attacked.url.rpartition(":")[2]
    command = attacked.done(
        "exec 3<> /dev/tcp/127.0.0.1/$1; printf 'GET /v1/commands HTTP/1.1\\r\\nHost: 127.0.0.1\\r\\n"
        "Connection: close\\r\\n\\r\\n' >&3; head -n 1 <&3",
        args=[port],
    )

    assert attacked.output(command).startswith(b"HTTP/1.1 401")


def test_probes_tell_no_stranger_what_is_inside(attacked: Service) -> None:
    """Neither a path nor a name nor a version of anything but ours."""
    said = "".join(httpx.get(attacked.url + path, trust_env=False).text for path in ("/healthz", "/readyz"))

    assert str(attacked.state_dir) not in said
    assert "postgres" not in said.lower()
