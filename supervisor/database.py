"""An external database, asked once before the start: an answer that cannot work ends the start, silence does not."""

from __future__ import annotations

import psycopg
from psycopg import conninfo as conninfos

from api import migrations

CONNECT_TIMEOUT_S = 3

# SQLSTATE classes of answers that no waiting will change.
_CANNOT_WORK = ("28", "3D", "42")  # invalid authorization, no such database, no permission


class DatabaseError(Exception):
    """The database cannot be used: one line that says why."""


def check(conninfo: str) -> str | None:
    """Ask the database. Raises ``DatabaseError`` for an answer that cannot work; returns why, when none came."""
    try:
        conninfos.conninfo_to_dict(conninfo)
    except psycopg.Error as error:
        raise DatabaseError(f"database_url is malformed: {_line(error)}") from error
    try:
        with psycopg.connect(
            conninfos.make_conninfo(conninfo, connect_timeout=CONNECT_TIMEOUT_S), autocommit=True
        ) as connection:
            row = connection.execute("show server_version_num").fetchone()
            if row is not None and int(row[0]) < 140000:
                raise DatabaseError("the database is older than PostgreSQL 14")
        migrations.pending(conninfo)
    except migrations.SchemaTooNew as error:
        raise DatabaseError(str(error)) from error
    except psycopg.OperationalError as error:
        # libpq gives no SQLSTATE for a refused connection, only the server's words.
        text = _line(error)
        final = ("authentication failed", "does not exist", "no password supplied", "no pg_hba.conf entry")
        if any(words in str(error) for words in final):
            raise DatabaseError(text) from error
        return text
    except psycopg.Error as error:
        if (error.sqlstate or "").startswith(_CANNOT_WORK):
            raise DatabaseError(_line(error)) from error
        return _line(error)
    return None


def _line(error: Exception) -> str:
    return " ".join(str(error).split())
