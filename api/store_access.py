"""The SQL about tokens and the audit log; the other half of ``store.py``, whose pool and whose promises it shares."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any

from psycopg import AsyncConnection
from psycopg.errors import UniqueViolation
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from api.asker import Asker


@dataclass(frozen=True, slots=True)
class Token:
    """A row of ``tokens``. Its secret is nowhere, only the digest of it."""

    id: int
    name: str
    scope: str
    digest: bytes
    created_at: datetime
    created_by: str | None
    rotated_at: datetime | None
    expires_at: datetime | None  # None: never
    revoked_at: datetime | None


@dataclass(frozen=True, slots=True)
class Entry:
    """A row of ``audit``."""

    at: datetime
    token: str | None  # the name; None: none that we know was sent
    action: str
    command_id: int | None
    subject: str | None  # the name of the token that was made or changed
    address: str | None
    status: int
    attempts: int = 1  # for how many refused requests it stands
    id: int = 0  # until it is written


_TOKEN = ", ".join(one.name for one in fields(Token))
_ENTRY = ", ".join(one.name for one in fields(Entry))


class NameTaken(Exception):
    """There is a token of this name, or there was one."""


class AccessStore:
    """Tokens and audit in the database. Raises what ``Store`` raises."""

    def __init__(self, connection: Callable[[], AbstractAsyncContextManager[AsyncConnection[Any]]]) -> None:
        self._connection = connection

    # Tokens

    async def tokens(self) -> list[Token]:
        """All there are, revoked ones too, in the order of their names."""
        sql = f"select {_TOKEN} from tokens order by name"  # noqa: S608  (our own column names)
        async with self._connection() as connection, connection.cursor(row_factory=dict_row) as cursor:
            await cursor.execute(sql)
            return [Token(**row) for row in await cursor.fetchall()]

    async def add_token(
        self, name: str, scope: str, digest: bytes, expires_at: datetime | None, *, asker: Asker
    ) -> Token:
        """Keep a new token, and write who made it; raises ``NameTaken``."""
        sql = """
            insert into tokens (name, scope, digest, created_by, expires_at) values (%s, %s, %s, %s, %s) returning *
        """
        try:
            token = await self._change(sql, [name, scope, digest, asker.token, expires_at], asker, status=201)
        except UniqueViolation as error:
            raise NameTaken(name) from error
        assert token is not None
        return token

    async def rotate_token(
        self, token_id: int, digest: bytes, expires_at: datetime | None, *, keep_expiry: bool, asker: Asker
    ) -> Token | None:
        """Give it another secret, and write who did; None when there is none with this id that is not revoked."""
        sql = """
            update tokens set digest = %s, rotated_at = now(),
                expires_at = case when %s then expires_at else %s end
            where id = %s and revoked_at is null returning *
        """
        return await self._change(sql, [digest, keep_expiry, expires_at, token_id], asker, status=200)

    async def revoke_token(self, token_id: int, *, asker: Asker) -> Token | None:
        """End it, and write who did; twice changes nothing. None when there is none with this id."""
        sql = "update tokens set revoked_at = coalesce(revoked_at, now()) where id = %s returning *"
        return await self._change(sql, [token_id], asker, status=200)

    async def _change(self, sql: str, values: list[Any], asker: Asker, *, status: int) -> Token | None:
        """A change of one token and its line in the audit log, in one statement."""
        both = f"""
            with changed as ({sql}), audited as (
                insert into audit (token, action, subject, address, status)
                select %s, %s, name, %s, %s from changed
            )
            select {_TOKEN} from changed
        """  # noqa: S608  (statements and columns of ours)
        values = [*values, asker.token, asker.action, asker.address, status]
        async with self._connection() as connection, connection.cursor(row_factory=dict_row) as cursor:
            row = await (await cursor.execute(both, values)).fetchone()
            asker.recorded = row is not None
            return Token(**row) if row else None

    # Audit

    async def append(self, entries: list[Entry]) -> None:
        """Write these. When the connection is lost meanwhile they may be there, and then they are there twice."""
        sql = """
            insert into audit (at, token, action, command_id, subject, address, status, attempts)
            select at, token, action, command_id, subject, address, status, attempts
            from jsonb_to_recordset(%s) as x (
                at timestamptz, token text, action text, command_id bigint, subject text, address text, status int,
                attempts int)
        """
        rows = [
            {one.name: getattr(entry, one.name) for one in fields(Entry)} | {"at": entry.at.isoformat()}
            for entry in entries
        ]
        async with self._connection() as connection:
            await connection.execute(sql, [Jsonb(rows)])

    async def audit_page(self, *, limit: int, before_id: int | None) -> list[Entry]:
        """The newest entries, or those before this one, the newest first."""
        where = "" if before_id is None else "where id < %s"
        sql = f"select {_ENTRY} from audit {where} order by id desc limit {limit}"  # noqa: S608  (words of ours)
        async with self._connection() as connection, connection.cursor(row_factory=dict_row) as cursor:
            await cursor.execute(sql, [] if before_id is None else [before_id])
            return [Entry(**row) for row in await cursor.fetchall()]

    async def remove_audit(self, before: datetime, count: int) -> int:
        """Remove those of the ``count`` oldest entries that are older; returns how many.

        The schema lets nobody remove an entry who does not say that it is for its age, nor any of the last day.
        """
        sql = """
            with oldest as (select id, at from audit order by id limit %s)
            delete from audit using oldest where audit.id = oldest.id and oldest.at < %s
        """
        async with self._connection() as connection, connection.transaction():
            await connection.execute("select set_config('bashd.removes_old_audit', 'on', true)")
            return (await connection.execute(sql, [count, before])).rowcount


# What ``Store`` adds to a statement whose ``{rows}`` gives the ids of what was changed: a line for each, by who asked.
AUDITED = """
    audited as (
        insert into audit (token, action, command_id, address, status)
        select asked.token, asked.action, asked.id, asked.address, asked.status
        from {rows} join jsonb_to_recordset(%s) as asked (
            id bigint, token text, action text, address text, status int) using (id)
    )
"""


def asked(askers: dict[int, Asker], status: int) -> Jsonb:
    """The value that ``AUDITED`` takes."""
    return Jsonb(
        [
            {"id": one, "token": asker.token, "action": asker.action, "address": asker.address, "status": status}
            for one, asker in askers.items()
        ]
    )
