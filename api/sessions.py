"""Sessions of people: a browser that has shown a token once gets a signed cookie, which is that token and no more.

Nothing is kept in memory. A cookie is signed with a key derived from its token's digest, so it outlives every restart
and ends when the token is changed, revoked or rotated. A link with a code may stand for the operator's token once; what
makes it once is that its file goes.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import os
import time
from dataclasses import dataclass
from http.cookies import CookieError, SimpleCookie

from sanic import Request

from api.problems import ForeignOrigin
from protocol.places import CODE_LASTS_S, Places

PATH = "/v1/session"
LASTS_S = 24 * 3600
HEADER = "X-Bashd-Page"  # a form of another site can set no header, and a script there is not allowed to
SAFE_METHODS = frozenset({"GET", "HEAD"})


@dataclass(frozen=True, slots=True)
class Cookie:
    """What a browser has sent: nothing of it is proven yet."""

    token: str  # its name
    expires: str  # seconds since the epoch
    signature: str

    def proves(self, digest: bytes) -> bool:
        """True when it was made for the token with this digest, and its time is not over."""
        signed = hmac.compare_digest(self.signature.encode(), _signature(self.token, digest, self.expires))
        return signed and int(self.expires) > time.time()


class Sessions:
    """Begins and ends them, and reads what browsers send."""

    def __init__(self, places: Places) -> None:
        self._places = places

    def sent_with(self, request: Request) -> Cookie | None:
        """The cookie of a session, if the request has one.

        Raises ``ForeignOrigin`` when it would do something and the page did not send it.
        """
        name, _, rest = _cookies(request).get(_cookie_name(request), "").partition(".")
        expires, _, signature = rest.partition(".")
        try:
            token = bytes.fromhex(name).decode()
        except ValueError:
            return None
        if not token or not (expires.isascii() and expires.isdigit() and len(expires) <= 12):
            return None
        if request.method not in SAFE_METHODS and HEADER not in request.headers:
            raise ForeignOrigin(f"With a cookie alone nothing is changed: the page sends the header {HEADER}, too.")
        return Cookie(token, expires, signature)

    def redeem(self, code: str) -> bool:
        """True once for the code that the start printed, as long as it is young."""
        try:
            with open(self._places.login_code) as file:
                kept = file.read().strip()
                age_s = time.time() - os.fstat(file.fileno()).st_mtime
        except FileNotFoundError:
            return False
        given = hashlib.sha256(code.encode()).hexdigest()
        if not hmac.compare_digest(given.encode(), kept.encode()) or not 0 <= age_s <= CODE_LASTS_S:
            return False
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._places.login_code)  # of several that come at once, one does this
            return True
        return False

    def begin(self, request: Request, token: str, digest: bytes) -> str:
        """A value for Set-Cookie that begins a session of the token with this name and digest."""
        expires = str(int(time.time()) + LASTS_S)
        value = f"{token.encode().hex()}.{expires}.{_signature(token, digest, expires).decode()}"
        return _set_cookie(request, value, LASTS_S)

    def end(self, request: Request) -> str:
        """A value for Set-Cookie that ends the browser's session."""
        return _set_cookie(request, "", 0)


def _signature(token: str, digest: bytes, expires: str) -> bytes:
    key = hmac.digest(digest, b"bashd session of " + token.encode(), "sha256")
    return hmac.digest(key, expires.encode(), "sha256").hex().encode()


def _cookie_name(request: Request) -> str:
    """Of its own for each port: browsers give a cookie to every port of a host."""
    port = request.headers.get("host", "").rpartition(":")[2]
    return f"bashd_{port}" if port.isascii() and port.isdigit() else "bashd"


def _cookies(request: Request) -> dict[str, str]:
    try:
        return {name: one.value for name, one in SimpleCookie(request.headers.get("cookie", "")).items()}
    except CookieError:
        return {}


def _set_cookie(request: Request, value: str, max_age_s: int) -> str:
    # Behind a proxy that speaks TLS only the page's own address says so.
    is_tls = request.scheme == "https" or request.headers.get("origin", "").startswith("https:")
    secure = "; Secure" if is_tls else ""
    return f"{_cookie_name(request)}={value}; Path=/; Max-Age={max_age_s}; HttpOnly; SameSite=Strict{secure}"
