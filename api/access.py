"""Who may speak to us, and for what: Host, Origin and token, looked at before the route and before the body."""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import time
from urllib.parse import urlsplit

from sanic import Request

from api import asker, sessions
from api.asker import ANYBODY, OPERATOR, Asker
from api.command import now
from api.problems import ForeignOrigin, MissingScope, Unauthorized, UnknownHost
from api.proxies import Proxies
from api.sessions import Sessions
from api.slowdown import Slowdown
from api.store_access import Token
from api.tokens import Tokens, digest_of
from protocol.config import Config
from protocol.places import Places

OPEN_PATHS = frozenset({"/healthz", "/readyz", "/docs", "/docs/style.css", "/openapi.json", "/"})  # they hold no data
OPEN_PREFIX = "/web/"  # the files of the page hold none either
LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "[::1]"})
MOST_HELD_BACK = 256  # refusals that wait to be answered; more are answered at once, and cost us nothing


class Access:
    """The rules of one configuration."""

    def __init__(self, config: Config, tokens: Tokens) -> None:
        self._operator = None if config.token is None else digest_of(config.token)
        self._tokens = tokens
        self._proxies = Proxies(config.behind_proxy)
        self._own_scheme = "https" if config.tls_cert is not None else None
        self._slowdown = Slowdown(time.monotonic)
        self._held_back = 0
        self._sessions = Sessions(Places(config.state_dir))
        self._any_host = "*" in config.allowed_hosts
        self._hosts = {name.lower() for name in config.allowed_hosts}
        if is_loopback(config.host):
            self._hosts |= LOOPBACK_NAMES
        elif config.host in ("0.0.0.0", "::"):  # noqa: S104  (compared, not bound)
            # Bound to every address there is: without a list of names we cannot tell which are ours.
            self._any_host = self._any_host or not config.allowed_hosts
        self._hosts.add(_bracketed(config.host).lower())

    async def let_in(self, request: Request) -> None:
        """Find out who asks. Raises ``UnknownHost``, ``ForeignOrigin``, ``Unauthorized`` or ``Unavailable``."""
        who = Asker(self._proxies.client(request.ip, request.headers))
        request.ctx.asker = who
        asker.enter(who)
        self._check_host_and_origin(request)
        if request.path in OPEN_PATHS or request.path.startswith(OPEN_PREFIX):
            return
        try:
            await self._identify(request, who)
        except Unauthorized:
            await self._hold_back(who.address)
            raise

    def check_scope(self, request: Request, scope: str) -> None:
        """Raises ``MissingScope`` when who asks may not ask for this."""
        who: Asker = request.ctx.asker
        if request.path not in OPEN_PATHS and not who.may(scope):
            raise MissingScope(f"The token {who.token!r} has the scope {who.scope}; this needs the scope {scope}.")

    def _check_host_and_origin(self, request: Request) -> None:
        host = request.headers.get("host", "")
        # A page of another site that got its name to point at us (DNS rebinding) sends that name.
        if not self._any_host and _name_of(host) not in self._hosts:
            allowed = ", ".join(sorted(self._hosts))
            raise UnknownHost(f"The host {host!r} is not served here; served are {allowed} (allowed_hosts).")
        origin = request.headers.get("origin")
        if origin is None:
            return
        page = urlsplit(origin)
        # Behind a proxy that does not say how it was asked we cannot know the scheme.
        scheme = self._own_scheme or self._proxies.scheme(request.ip, request.headers) or page.scheme
        if (page.scheme.lower(), page.netloc.lower()) != (scheme.lower(), host.lower()):
            raise ForeignOrigin(f"Requests from {origin!r} are refused: only pages of this service may send any.")

    async def _identify(self, request: Request, who: Asker) -> None:
        if self._operator is None:
            who.token, who.scope = ANYBODY, "admin"
            return
        scheme, _, secret = request.headers.get("authorization", "").partition(" ")
        secret = secret.strip()
        if not scheme and await self._has_session(request, who):
            return
        if request.path == sessions.PATH and scheme.lower() == "code" and self._sessions.redeem(secret):
            who.token, who.scope = OPERATOR, "admin"
            return
        if scheme.lower() != "bearer" or not secret:
            raise _unauthorized("Send the header 'Authorization: Bearer TOKEN'; the start of Bashd says where one is.")
        # Digests are compared, which are all of one length, and in a time that does not depend on what they are.
        if hmac.compare_digest(digest_of(secret), self._operator):
            who.token, who.scope = OPERATOR, "admin"
            return
        token = await self._tokens.find(secret)
        if token is None:
            raise _unauthorized("This token is unknown: it is wrong, or was revoked or rotated.")
        self._enter(token, request, who)

    def _enter(self, token: Token, request: Request, who: Asker) -> None:
        who.token = token.name
        if token.expires_at is not None and token.expires_at <= now():
            raise _unauthorized(f"The token {token.name!r} has expired; rotate it, or make another one.")
        who.scope = token.scope
        self._tokens.serve(token, request)

    async def _has_session(self, request: Request, who: Asker) -> bool:
        """Find out who asks by the cookie of a session; false when there is none, or none that is good any more."""
        assert self._operator is not None
        cookie = self._sessions.sent_with(request)
        if cookie is None:
            return False
        if cookie.token == OPERATOR:
            if not cookie.proves(self._operator):
                return False
            who.token, who.scope = OPERATOR, "admin"
            return True
        token = await self._tokens.named(cookie.token)
        if token is None or not cookie.proves(token.digest):
            return False
        self._enter(token, request, who)
        return True

    async def begin_session(self, request: Request) -> str | None:
        """A value for Set-Cookie for who was let in; None where no token is needed."""
        who: Asker = request.ctx.asker
        if self._operator is None or who.token is None:
            return None
        if who.token == OPERATOR:
            return self._sessions.begin(request, OPERATOR, self._operator)
        token = await self._tokens.named(who.token)
        return self._sessions.begin(request, token.name, token.digest) if token is not None else None

    def end_session(self, request: Request) -> str:
        """A value for Set-Cookie that takes the browser's cookie away."""
        return self._sessions.end(request)

    async def _hold_back(self, address: str) -> None:
        """Let who was wrong too often wait for his answer."""
        delay_s = self._slowdown.wrong(address)
        if not delay_s or self._held_back >= MOST_HELD_BACK:
            return
        self._held_back += 1
        try:
            await asyncio.sleep(delay_s)
        finally:
            self._held_back -= 1


def _unauthorized(detail: str) -> Unauthorized:
    return Unauthorized(detail, headers={"WWW-Authenticate": 'Bearer realm="bashd"'})


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
