"""An external database, asked once before the start: an answer that cannot work ends the start, silence does not."""

from __future__ import annotations

import psycopg
from psycopg import conninfo as conninfos

from api import migrations

CONNECT_TIMEOUT_S = 3
OLDEST = 140000  # server_version_num of PostgreSQL 14

# SQLSTATE classes of answers that no waiting will change.
_CANNOT_WORK = ("28", "3D", "42")  # invalid authorization, no such database, no permission

# libpq gives no SQLSTATE for a refused connection, only words: the server's, or its own about a wrong parameter.
_FINAL_WORDS = (
    "authentication failed",
    "does not exist",
    "no password supplied",
    "pg_hba.conf",
    "permission denied",
    "not permitted to log in",
    "invalid ",
)


class DatabaseError(Exception):
    """The database cannot be used: one line that says why."""


def check(conninfo: str) -> str | None:
    """Ask the database. Raises ``DatabaseError`` for an answer that cannot work; returns why, when none came."""
    try:
        conninfos.conninfo_to_dict(conninfo)
    except psycopg.Error as error:
        # libpq's own words quote it, with its password.
        raise DatabaseError(
            "database_url: malformed; it has to look like postgresql://USER:PASSWORD@HOST:PORT/DATABASE"
        ) from error
    try:
        with psycopg.connect(
            conninfos.make_conninfo(conninfo, connect_timeout=CONNECT_TIMEOUT_S), autocommit=True
        ) as connection:
            _check_server(connection)
            if migrations.pending(conninfo):
                _check_right_to_create(connection)
    except migrations.SchemaTooNew as error:
        raise DatabaseError(str(error)) from error
    except psycopg.Error as error:
        if (error.sqlstate or "").startswith(_CANNOT_WORK) or any(words in str(error) for words in _FINAL_WORDS):
            raise DatabaseError(f"database_url: {_line(error)}") from error
        return _line(error)
    return None


def migrate(conninfo: str, *, check_only: bool) -> list[str]:
    """The names of the migrations that were applied, or with ``check_only`` that would be."""
    try:
        return migrations.pending(conninfo) if check_only else migrations.apply(conninfo)
    except (migrations.SchemaTooNew, psycopg.Error) as error:
        raise DatabaseError(_line(error)) from error


def _check_server(connection: psycopg.Connection) -> None:
    if connection.info.server_version < OLDEST:
        raise DatabaseError("the database is older than PostgreSQL 14")
    encoding = connection.info.parameter_status("server_encoding")
    if encoding != "UTF8":
        raise DatabaseError(
            f"the database has the encoding {encoding}, which cannot hold every script; it must be UTF8"
        )


def _check_right_to_create(connection: psycopg.Connection) -> None:
    row = connection.execute(
        "select current_user, current_schema(), has_schema_privilege(current_schema(), 'create')"
    ).fetchone()
    assert row is not None
    user, schema, may_create = row
    if not may_create:
        raise DatabaseError(
            f"database user {user} may not create tables in schema {schema or '(none)'}, and there are some to create: "
            "grant create on it, or run bashd migrate as its owner"
        )


def _line(error: Exception) -> str:
    return " ".join(str(error).split())
