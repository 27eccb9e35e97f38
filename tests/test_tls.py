"""Other machines: what an address that they reach needs, HTTPS, and proxies whose word is taken."""

from __future__ import annotations

import ssl
import subprocess
from pathlib import Path
from typing import Any

import httpx
import pytest
from sanic.compat import Header

from api.proxies import Proxies
from supervisor.settings import SettingsError, load
from tests.conftest import StartService
from tests.processes import TOKEN, Service, eventually
from tests.test_audit import entries


@pytest.fixture(scope="module")
def pair(place: Path) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 that its own key has signed, and the key."""
    cert, key = place / "cert.pem", place / "key.pem"
    _openssl(
        *("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"),
        *("-keyout", str(key), "-out", str(cert), "-days", "2"),
        *("-subj", "/CN=bashd", "-addext", "subjectAltName=IP:127.0.0.1"),
    )
    return cert, key


def _openssl(*arguments: str) -> None:
    subprocess.run(["openssl", *arguments], check=True, capture_output=True, timeout=60)


# Which address may be listened on


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "bashd.example"])
def test_an_address_that_others_reach_needs_a_word_about_it(host: str) -> None:
    """One line that says what to set; each of the three is enough."""
    with pytest.raises(SettingsError, match=r"tls_cert and tls_key, or behind_proxy .* or plain_http"):
        load({"host": host})
    assert load({"host": host, "plain_http": "true"}).speaks_plainly
    assert not load({"host": host, "behind_proxy": "10.0.0.7"}).speaks_plainly
    assert not load({"host": host, "tls_cert": "/c", "tls_key": "/k"}).speaks_plainly


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1"])
def test_loopback_needs_no_word(host: str) -> None:
    """Nobody else is on that line."""
    assert not load({"host": host}).speaks_plainly


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ({"tls_cert": "/c"}, "belong together"),
        ({"tls_key": "/k"}, "belong together"),
        ({"tls_cert": "", "tls_key": ""}, "tls_cert: is empty"),
        ({"behind_proxy": "proxy.example"}, "neither an address nor a network"),
        ({"behind_proxy": "0.0.0.0/0"}, "is everybody"),
        ({"behind_proxy": "10.0.0.1,::/0"}, "is everybody"),
        ({"plain_http": "perhaps"}, "plain_http: "),
        ({"keep_audit_days": "0"}, "keep_audit_days: "),
    ],
    ids=str,
)
def test_a_wrong_word_is_refused(flags: dict[str, Any], said: str) -> None:
    """And named."""
    with pytest.raises(SettingsError, match=said):
        load(flags)


def _refused(service: Service) -> str:
    process = service.launch()
    assert process.wait(20) == 2
    [line] = service.log.strip().splitlines()
    return line


def test_without_a_word_nothing_is_started(own_service: StartService) -> None:
    """Exit code 2."""
    assert "plain_http" in _refused(own_service(host="0.0.0.0"))


def test_plain_http_is_said_once(own_service: StartService) -> None:
    """In the log of the start."""
    service = own_service(host="0.0.0.0", plain_http="true")

    process = service.launch()
    eventually(lambda: "launcher: plain HTTP" in service.log)
    process.terminate()

    assert process.wait(20) == 0
    assert service.log.count("plain HTTP") == 1
    assert "host=0.0.0.0" in service.log


def test_on_loopback_there_is_nothing_to_say(own_service: StartService) -> None:
    """Also when it was allowed elsewhere."""
    assert "plain HTTP" not in own_service(plain_http="true").start().log


@pytest.mark.parametrize("what", ["no file", "no PEM", "another key", "a key with a password", "no right to read"])
def test_a_wrong_pair_is_one_clear_line(
    own_service: StartService, pair: tuple[Path, Path], place: Path, what: str
) -> None:
    """Exit code 2, before anything is started, and no question for a password."""
    cert, key = pair
    wrong = place / f"{what.replace(' ', '-')}.pem"
    match what:
        case "no PEM":
            wrong.write_text("certificate")
        case "another key":
            _openssl("genrsa", "-out", str(wrong), "2048")
        case "a key with a password":
            _openssl("ec", "-in", str(key), "-aes128", "-passout", "pass:sesame", "-out", str(wrong))
        case "no right to read":
            wrong.mkdir()

    said = _refused(own_service(tls_cert=cert, tls_key=wrong))

    assert "tls_key" in said
    assert str(wrong) in said


# HTTPS


def test_https_is_served_and_nothing_else(own_service: StartService, pair: tuple[Path, Path]) -> None:
    """A client that trusts the certificate runs a command; plain HTTP on the same port gets nothing."""
    service = own_service(tls_cert=pair[0], tls_key=pair[1]).start(ready=False)
    context = ssl.create_default_context(cafile=str(pair[0]))
    headers = {"Authorization": f"Bearer {TOKEN}"}

    with httpx.Client(base_url=service.url, headers=headers, verify=context, trust_env=False, timeout=30) as client:
        eventually(lambda: client.get("/readyz").status_code == 200)
        ran = client.post("/v1/commands", json={"script": "echo secret"}, params={"wait": 10})
        ours = client.get("/v1/commands", headers={"Origin": service.url})
        foreign = client.get("/v1/commands", headers={"Origin": service.url.replace("https", "http")})
    with pytest.raises(httpx.TransportError):
        httpx.get(service.url.replace("https", "http") + "/healthz", trust_env=False)

    assert ran.json()["status"] == "succeeded"
    assert (ours.status_code, foreign.status_code) == (200, 403)


# Proxies


@pytest.mark.parametrize(
    ("peer", "forwarded", "client"),
    [
        ("192.0.2.9", [], "192.0.2.9"),
        ("192.0.2.9", ["198.51.100.1"], "192.0.2.9"),
        ("10.0.0.1", [], "10.0.0.1"),
        ("10.0.0.1", ["198.51.100.1"], "198.51.100.1"),
        ("10.0.0.1", ["1.1.1.1, 198.51.100.1"], "198.51.100.1"),
        ("10.0.0.1", ["1.1.1.1", "198.51.100.1, 10.0.0.2"], "198.51.100.1"),
        ("10.0.0.1", ["10.0.0.3, 10.0.0.2"], "10.0.0.3"),
        ("10.0.0.1", ["nonsense"], "10.0.0.1"),
        ("10.0.0.1", ["1.1.1.1, nonsense, 10.0.0.2"], "10.0.0.2"),
        ("10.0.0.1", ["198.51.100.1:4711"], "198.51.100.1"),
        ("10.0.0.1", ["[2001:db8::1]:4711"], "2001:db8::1"),
        ("10.0.0.1", ["2001:db8::1"], "2001:db8::1"),
        ("::ffff:10.0.0.1", ["198.51.100.1"], "198.51.100.1"),
        ("fd00::1", ["198.51.100.1"], "198.51.100.1"),
        ("10.0.0.1", [", ".join(["1.1.1.1"] * 100_000 + ["198.51.100.1"])], "198.51.100.1"),
        ("10.0.0.1", [", ".join(["10.0.0.2"] * 100_000)], "10.0.0.2"),
    ],
)
def test_the_client_is_the_last_whom_no_proxy_of_ours_is(peer: str, forwarded: list[str], client: str) -> None:
    """What stands before it may be an invention, and what others than our proxies say is not looked at."""
    headers = Header([("X-Forwarded-For", one) for one in forwarded])

    assert Proxies(["10.0.0.0/8", "fd00::1"]).client(peer, headers) == client


@pytest.mark.parametrize(
    ("peer", "said", "scheme"),
    [("10.0.0.1", "https", "https"), ("10.0.0.1", "http, HTTPS", "https"), ("10.0.0.1", "gopher", None),
     ("10.0.0.1", "", None), ("192.0.2.1", "https", None)],
)  # fmt: skip
def test_the_scheme_is_what_our_proxy_says(peer: str, said: str, scheme: str | None) -> None:
    """Of others it is nothing."""
    assert Proxies(["10.0.0.0/8"]).scheme(peer, Header([("X-Forwarded-Proto", said)])) == scheme


@pytest.mark.parametrize(("trusted", "address"), [("127.0.0.1", "198.51.100.1"), ("192.0.2.1", "127.0.0.1")])
def test_the_audit_log_names_the_client(own_service: StartService, trusted: str, address: str) -> None:
    """The one behind our proxy; and nobody writes another address there by a header of his own."""
    service = own_service(behind_proxy=trusted).start()

    command = service.http.post(
        "/v1/commands", json={"script": "true"}, headers={"X-Forwarded-For": "203.0.113.9, 198.51.100.1"}
    ).json()

    [entry] = [one for one in entries(service) if one["command_id"] == command["id"]]
    assert entry["address"] == address


def test_behind_a_proxy_our_own_page_is_let_in(own_service: StartService) -> None:
    """Its origin is https, as the proxy says that it was asked; http on the same host is another site."""
    service = own_service(behind_proxy="127.0.0.1", allowed_hosts="bashd.example").start()
    headers = {"Host": "bashd.example", "X-Forwarded-Proto": "https"}

    statuses = [
        service.http.get("/v1/counts", headers={**headers, "Origin": origin}).status_code
        for origin in ("https://bashd.example", "http://bashd.example")
    ]

    assert statuses == [200, 403]
