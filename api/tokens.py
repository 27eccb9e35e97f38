"""The tokens beside the operator's own: made, listed, revoked, rotated; and known without asking PostgreSQL.

One Bashd owns a database, so what is known here is all there is, once it was read. While the database is not ours, and
until it was read, a token that we do not know may be a good one all the same (docs/decisions/0060).
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import secrets
from collections.abc import Callable, Coroutine
from datetime import datetime, timedelta
from typing import Any, cast
from weakref import WeakSet

from sanic import Request
from sanic.http import Http

from api import asker
from api.command import now
from api.commands import Commands
from api.problems import Conflict, NotFound, Unavailable
from api.store import DatabaseAway
from api.store_access import AccessStore, NameTaken, Token

PREFIX = "bashd_"  # so that a secret that leaked is found by those who look for such
MAX_TOKENS = 10_000
KNOWN_WITHIN_S = 1.5  # how long who comes before the tokens were read is kept waiting
TRY_AGAIN_S = 1.0


def digest_of(secret: str) -> bytes:
    """What is kept of a secret of 256 bits: nobody finds such a one by trying, so it needs no salt and no slow hash."""
    return hashlib.sha256(secret.encode("utf-8", "surrogateescape")).digest()


class Tokens:
    """All tokens that are not revoked, by digest, and what is done with them."""

    def __init__(self, store: AccessStore, commands: Commands) -> None:
        self._store = store
        self._commands = commands
        self._by_digest: dict[bytes, Token] = {}
        self._served: dict[int, WeakSet[Request]] = {}  # by id: requests with it, of which some may still be answered
        self._complete = asyncio.Event()  # what we know is all there is
        self._doubted = asyncio.Event()
        self._turn = asyncio.Lock()  # reading all of them and changing one must not overtake each other

    # Knowing them

    async def find(self, secret: str) -> Token | None:
        """The token with this secret, be it expired; None: there is none. Raises ``Unavailable`` if nobody can know."""
        digest = digest_of(secret)
        if digest not in self._by_digest:
            await self._know_all()
        token = self._by_digest.get(digest)
        return token if token is not None and hmac.compare_digest(token.digest, digest) else None

    async def named(self, name: str) -> Token | None:
        """The token with this name; otherwise as ``find``."""
        for complete in (False, True):
            for token in self._by_digest.values():
                if token.name == name:
                    return token
            if not complete:
                await self._know_all()
        return None

    async def _know_all(self) -> None:
        """Returns when what we know is all there is; raises ``Unavailable`` when that cannot be."""
        try:
            async with asyncio.timeout(KNOWN_WITHIN_S):
                await self._complete.wait()
        except TimeoutError as error:
            detail = "Whether this token is a good one cannot be looked up: PostgreSQL is away."
            raise Unavailable(detail, headers={"Retry-After": "2"}) from error

    def serve(self, token: Token, request: Request) -> None:
        """Note that a request with this token is let in: should the token end first, so does the answer."""
        self._served.setdefault(token.id, WeakSet()).add(request)

    async def load(self) -> None:
        """Read them all, now that the database is ours. Raises when PostgreSQL is away."""
        async with self._turn:
            found = await self._store.tokens()
            self._by_digest = {token.digest: token for token in found if token.revoked_at is None}
            self._complete.set()

    def doubt(self) -> None:
        """From now on there may be others, for the database is not ours; those that we know go on."""
        self._complete.clear()

    async def run(self, is_ours: Callable[[], bool]) -> None:
        """Read them again after a change whose outcome nobody knew, for ever."""
        while True:
            await self._doubted.wait()
            self._doubted.clear()
            if not is_ours():
                continue  # they are read when it is ours again
            try:
                await self.load()
            except DatabaseAway:
                await asyncio.sleep(TRY_AGAIN_S)
                self._doubted.set()

    # Changing them

    async def add(self, name: str, scope: str, expires_in_s: float | None) -> tuple[Token, str]:
        """Make a token; returns its secret, which nobody can find out again. Raises ``Conflict``, ``Unavailable``."""
        if len(self._by_digest) >= MAX_TOKENS:
            raise Conflict(f"There are {MAX_TOKENS} tokens already; revoke some.")
        secret = _secret()
        adding = self._store.add_token(name, scope, digest_of(secret), _expiry(expires_in_s), asker=self._asker())
        try:
            return await self._change(None, adding), secret
        except NameTaken as error:
            message = "belongs to another token, or to one that was revoked; names are not used again"
            raise Conflict(f"name {message}.", errors=[("name", message)]) from error

    async def all(self) -> list[Token]:
        """Every token by name, revoked ones too; raises ``Unavailable``."""
        return await self._commands.ask_database(self._store.tokens())

    async def rotate(self, token_id: int, expires_in_s: float | None, *, keep_expiry: bool) -> tuple[Token, str]:
        """Give it a new secret; the old one is nothing from this moment on. Raises ``NotFound``, ``Unavailable``."""
        secret = _secret()
        rotating = self._store.rotate_token(
            token_id, digest_of(secret), _expiry(expires_in_s), keep_expiry=keep_expiry, asker=self._asker()
        )
        return await self._change(token_id, rotating), secret

    async def revoke(self, token_id: int) -> Token:
        """End it at once, for ever; twice is harmless. Raises ``NotFound``, ``Unavailable``."""
        return await self._change(token_id, self._store.revoke_token(token_id, asker=self._asker()))

    def _asker(self) -> asker.Asker:
        found = asker.current()
        assert found is not None, "tokens are changed by requests alone"
        return found

    async def _change(self, token_id: int | None, changing: Coroutine[Any, Any, Token | None]) -> Token:
        if not self._complete.is_set():
            changing.close()
            raise Unavailable("The database is not ours at the moment.", headers={"Retry-After": "2"})
        try:
            token = await self._commands.ask_database(self._changed(token_id, changing))
        except Unavailable:
            # It may have been carried out or not, or be about to: what we knew of it counts no more.
            self._forget(token_id)
            self.doubt()
            self._doubted.set()
            raise
        if token is None:
            raise NotFound(f"There is no token {token_id} that is not revoked.")
        return token

    async def _changed(self, token_id: int | None, changing: Coroutine[Any, Any, Token | None]) -> Token | None:
        # Held to the end of it, also when nobody waits for the answer any more.
        async with self._turn:
            token = await changing
            self._forget(token_id)
            if token is not None and token_id is not None:
                self._cut_off(token_id)
            if token is not None and token.revoked_at is None:
                self._by_digest[token.digest] = token
            return token

    def _cut_off(self, token_id: int) -> None:
        """Break off the answers that are still on their way, some of which would go on for ever."""
        for request in self._served.pop(token_id, ()):
            # Not the connections that serve another by now, nor who ended his own token and is to be told so.
            still = isinstance(request.stream, Http) and request.stream.request is request
            if still and request.ctx.asker is not asker.current():
                cast(asyncio.Transport, request.transport).abort()

    def _forget(self, token_id: int | None) -> None:
        self._by_digest = {digest: one for digest, one in self._by_digest.items() if one.id != token_id}


def _secret() -> str:
    return PREFIX + secrets.token_urlsafe(32)


def _expiry(expires_in_s: float | None) -> datetime | None:
    return None if expires_in_s is None else now() + timedelta(seconds=expires_in_s)
