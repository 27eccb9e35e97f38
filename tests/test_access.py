"""Who may ask: a token, a known Host, no foreign Origin; and what is open because it holds no data."""

from __future__ import annotations

import hashlib
import os
import re
import socket
import stat
import time

import httpx
import pytest

from tests.conftest import StartService
from tests.processes import TOKEN, Service

PROTECTED = [
    ("GET", "/v1/commands"),
    ("POST", "/v1/commands"),
    ("GET", "/v1/commands/1"),
    ("GET", "/v1/commands/not-an-id"),
    ("POST", "/v1/commands/1/stop"),
    ("GET", "/v1/commands/1/output"),
    ("GET", "/command"),
    ("POST", "/command"),
    ("POST", "/stop/1"),
    ("GET", "/no/such/route"),
    ("DELETE", "/v1/commands"),
]


@pytest.mark.parametrize(("method", "path"), PROTECTED)
@pytest.mark.parametrize(
    "authorization",
    [None, "Bearer wrong", "Bearer", f"Basic {TOKEN}", TOKEN, f"Bearer {TOKEN}x", f"Bearer {TOKEN[:-1]}", "Bearer ü"],
)
def test_without_the_token_nothing_is_told(service: Service, method: str, path: str, authorization: str | None) -> None:
    """401 before the route is looked up and before the body is read, so it tells nothing of either."""
    headers = httpx.Headers() if authorization is None else httpx.Headers({b"Authorization": authorization.encode()})
    before = service.newest_id()

    with httpx.Client(base_url=service.url, trust_env=False) as stranger:
        answer = stranger.request(method, path, headers=headers, content=b"{ no json")

    assert answer.status_code == 401
    assert "www-authenticate" in answer.headers
    if path.startswith("/v1"):
        assert answer.headers["content-type"].startswith("application/problem+json")
    assert service.newest_id() == before


def test_a_stranger_cannot_make_us_read_a_body(service: Service) -> None:
    """The 401 comes though a body of gigabytes was announced and none of it was sent."""
    port = service.port

    with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
        connection.sendall(
            b"POST /v1/commands HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
            b"Content-Length: 4000000000\r\n\r\n{"
        )
        answer = connection.recv(65536)

    assert answer.startswith(b"HTTP/1.1 401")


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
def test_probes_need_no_token(service: Service, path: str) -> None:
    """They hold no data."""
    answer = httpx.get(f"{service.url}{path}", trust_env=False)

    assert answer.status_code == 200


def test_health_says_which_version(service: Service) -> None:
    """Liveness comes with the version."""
    assert service.http.get("/healthz").json()["version"]


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8080", "127.0.0.1.evil.example", "0x7f000001", ""])
@pytest.mark.parametrize("path", ["/v1/commands", "/healthz", "/command"])
def test_an_unknown_host_is_refused(service: Service, host: str, path: str) -> None:
    """421: a page that rebinds its name to our address gets nothing, with or without a token."""
    answer = service.http.get(path, headers={"Host": host})

    assert answer.status_code in ((421, 400) if host == "" else (421,))


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "LOCALHOST:1", "[::1]:80"])
def test_loopback_names_are_known(service: Service, host: str) -> None:
    """Bound to loopback, loopback names are ours, whatever the port: a tunnel may lie between."""
    assert service.http.get("/v1/commands", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    "origin", ["http://evil.example", "https://127.0.0.1.evil.example", "null", "http://localhost:1"]
)
def test_a_foreign_page_is_refused(service: Service, origin: str) -> None:
    """403 for another origin, whatever it wants."""
    before = service.newest_id()

    asked = service.http.get("/v1/commands", headers={"Origin": origin})
    sent = service.http.post("/v1/commands", json={"script": "true"}, headers={"Origin": origin})

    assert (asked.status_code, sent.status_code) == (403, 403)
    assert service.newest_id() == before


def test_our_own_page_is_let_in(service: Service) -> None:
    """An origin that is this very address."""
    assert service.http.get("/v1/commands", headers={"Origin": service.url}).status_code == 200


def test_a_token_is_made_at_the_first_start_and_kept(own_service: StartService) -> None:
    """In a file for the owner alone, whose place is told and whose content is not."""
    service = own_service()
    service.token = None
    service.start()
    path = service.state_dir / "token"
    token = path.read_text().strip()

    with httpx.Client(base_url=service.url, trust_env=False) as client:
        refused = client.get("/v1/commands")
        let_in = client.get("/v1/commands", headers={"Authorization": f"Bearer {token}"})
    assert service.terminate() == 0
    service.start()

    assert (refused.status_code, let_in.status_code) == (401, 200)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert len(token) >= 32
    assert path.read_text().strip() == token
    assert str(path) in service.log
    assert token not in service.log


def test_without_authentication_only_loopback_is_served(own_service: StartService) -> None:
    """``BASHD_AUTH=none`` on another address is one clear line and exit code 2."""
    service = own_service(auth="none", host="0.0.0.0")
    service.token = None

    process = service.launch()

    assert process.wait(20) == 2
    assert "none" in service.log
    assert "Traceback" not in service.log


def test_names_can_be_allowed(own_service: StartService) -> None:
    """``allowed_hosts`` are answered beside our own."""
    service = own_service(allowed_hosts="bashd.example").start()

    answers = [
        service.http.get("/v1/commands", headers={"Host": host}).status_code
        for host in ("bashd.example", "bashd.example:443", "other.example", "127.0.0.1")
    ]

    assert answers == [200, 200, 421, 200]


def test_the_log_names_no_secret(service: Service) -> None:
    """What was sent as a token is in no line."""
    assert TOKEN not in service.log


# Sessions of browsers


def _cookie(service: Service, **headers: str) -> str:
    answer = httpx.post(
        f"{service.url}/v1/session", headers={"Authorization": f"Bearer {TOKEN}", **headers}, trust_env=False
    )
    assert answer.status_code == 204
    return answer.headers["set-cookie"]


def test_a_cookie_stands_for_the_token(service: Service) -> None:
    """It is kept from scripts and from other sites, opens what the token opens, and a changed one opens nothing."""
    cookie = _cookie(service)
    value = cookie.partition(";")[0]

    def status(sent: str) -> int:
        return httpx.get(f"{service.url}/v1/commands", headers={"Cookie": sent}, trust_env=False).status_code

    name, _, rest = value.partition("=")
    token, expires, signature = rest.split(".")
    assert {"HttpOnly", "SameSite=Strict", "Path=/"} <= set(cookie.split("; "))
    assert "Secure" not in cookie
    assert TOKEN not in cookie
    assert status(value) == 200
    assert status(f"{name}={token}.{int(expires) + 1}.{signature}") == 401
    assert status(f"{name}=other.{expires}.{signature}") == 401
    assert status(f"{name}={token}.{expires}.") == 401
    assert status(f"{name}=") == 401


def test_where_the_page_came_by_tls_the_cookie_stays_there(service: Service) -> None:
    """Behind a proxy the page's own address says so."""
    assert "Secure" in _cookie(service, Origin=service.url.replace("http:", "https:"))


def test_a_cookie_alone_changes_nothing(service: Service) -> None:
    """403 for what a form of another site could send; with the page's header it is done."""
    cookie = _cookie(service).partition(";")[0]
    before = service.newest_id()

    def create(**headers: str) -> int:
        return httpx.post(
            f"{service.url}/v1/commands",
            json={"script": "true"},
            headers={"Cookie": cookie, **headers},
            trust_env=False,
        ).status_code

    assert create() == 403
    assert service.newest_id() == before
    assert create(**{"X-Bashd-Page": "1"}) == 201
    assert create(**{"X-Bashd-Page": "1", "Origin": "http://evil.example"}) == 403


def test_a_cookie_outlives_a_restart_and_ends_with_its_token(own_service: StartService) -> None:
    """Nothing of it is kept; another token ends it."""
    first = own_service().start()
    value = _cookie(first).partition(";")[0].partition("=")[2]
    first.terminate()

    def status(service: Service) -> int:
        port = service.url.rpartition(":")[2]
        headers = {"Cookie": f"bashd_{port}={value}"}
        return httpx.get(f"{service.url}/v1/commands", headers=headers, trust_env=False).status_code

    again = own_service().start()
    assert status(again) == 200
    again.terminate()
    assert status(own_service(token="another-token-of-the-tests").start()) == 401


def test_a_code_opens_a_session_once_and_nothing_else(service: Service) -> None:
    """Not another route, not when it is wrong, too old or used."""
    kept = service.state_dir / "login_code"

    def status(code: str, path: str = "/v1/session") -> int:
        headers = {"Authorization": f"Code {code}"}
        return httpx.post(f"{service.url}{path}", headers=headers, trust_env=False).status_code

    assert status("young") == 401
    kept.write_text(hashlib.sha256(b"young").hexdigest() + "\n")
    assert status("wrong") == 401
    assert status("young", "/v1/commands") == 401
    os.utime(kept, (time.time() - 3600,) * 2)
    assert status("young") == 401
    os.utime(kept)
    assert status("young") == 204
    assert status("young") == 401


def test_the_page_is_open_and_strict(service: Service) -> None:
    """Its files need no token, say their type and revision, and may load nothing from elsewhere."""
    with httpx.Client(base_url=service.url, trust_env=False) as stranger:
        index = stranger.get("/")
        scripts = re.findall(r'(?:src|href)="(/web/[^"]+)"', index.text)
        files = [stranger.get(path) for path in scripts]
        again = stranger.get("/", headers={"If-None-Match": index.headers["etag"]})
        foreign = stranger.get(f"{scripts[0].rpartition('/')[0]}/../../access.py")
        old = stranger.get("/web/0123456789abcdef/app.js")

    assert "default-src 'none'" in index.headers["content-security-policy"]
    assert "unsafe" not in index.headers["content-security-policy"]
    assert index.headers["cache-control"] == "no-cache"
    assert [one.status_code for one in files] == [200] * 3
    assert all("immutable" in one.headers["cache-control"] for one in files)
    assert all(one.headers["x-content-type-options"] == "nosniff" for one in (index, *files))
    assert (again.status_code, again.content) == (304, b"")
    assert foreign.status_code in (401, 404)
    assert old.status_code == 404
