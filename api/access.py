"""Who may speak to us: the token, the Host and the Origin, looked at before the route and before the body."""

from __future__ import annotations

import hmac
import ipaddress
from urllib.parse import urlsplit

from sanic import Request

from api.problems import ForeignOrigin, Unauthorized, UnknownHost
from protocol.config import Config

OPEN_PATHS = frozenset({"/healthz", "/readyz", "/docs", "/docs/style.css", "/openapi.json", "/"})  # they hold no data
LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "[::1]"})


class Access:
    """The rules of one configuration."""

    def __init__(self, config: Config) -> None:
        self._token = None if config.token is None else config.token.encode()
        self._any_host = "*" in config.allowed_hosts
        self._hosts = {name.lower() for name in config.allowed_hosts}
        if is_loopback(config.host):
            self._hosts |= LOOPBACK_NAMES
        elif config.host in ("0.0.0.0", "::"):  # noqa: S104  (compared, not bound)
            # Bound to every address there is: without a list of names we cannot tell which are ours.
            self._any_host = self._any_host or not config.allowed_hosts
        self._hosts.add(_bracketed(config.host).lower())

    def check(self, request: Request) -> None:
        """Raises ``UnknownHost``, ``ForeignOrigin`` or ``Unauthorized``."""
        host = request.headers.get("host", "")
        # A page of another site that got its name to point at us (DNS rebinding) sends that name.
        if not self._any_host and _name_of(host) not in self._hosts:
            allowed = ", ".join(sorted(self._hosts))
            raise UnknownHost(f"The host {host!r} is not served here; served are {allowed} (allowed_hosts).")
        origin = request.headers.get("origin")
        if origin is not None and urlsplit(origin).netloc.lower() != host.lower():
            raise ForeignOrigin(f"Requests from {origin!r} are refused: only pages of this service may send any.")
        if self._token is not None and request.path not in OPEN_PATHS:
            self._check_token(request)

    def _check_token(self, request: Request) -> None:
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        assert self._token is not None
        given = token.strip().encode("utf-8", "surrogateescape")
        if scheme.lower() != "bearer" or not hmac.compare_digest(given, self._token):
            detail = "Send the header 'Authorization: Bearer TOKEN'; the start of Bashd says where its token is."
            raise Unauthorized(detail, headers={"WWW-Authenticate": 'Bearer realm="bashd"'})


def is_loopback(host: str) -> bool:
    """True for an address or name that only this machine reaches."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _name_of(host: str) -> str:
    """The name in a Host header, without the port."""
    if host.startswith("["):
        return host.partition("]")[0].lower() + "]"
    return host.partition(":")[0].lower()
