"""Bringing a database's schema up to date, once, whoever else tries at the same moment."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import psycopg

LOCK = 0x6261736864  # "bashd": held while the schema is looked at and changed


class SchemaTooNew(Exception):
    """The database has a schema that this version of Bashd does not know."""


def sql_directory() -> Path:
    """Where schema.sql and migrations/ lie: in the installed package, or at the top of a checkout."""
    packaged = Path(__file__).parent / "sql"
    return packaged if packaged.is_dir() else Path(__file__).parent.parent


def _migrations() -> list[Path]:
    return sorted((sql_directory() / "migrations").glob("[0-9][0-9][0-9][0-9]_*.sql"))


def _version_of(path: Path) -> int:
    return int(path.name[:4])


def _current(connection: psycopg.Connection) -> int:
    """The schema's version; 0 for an empty database. Raises ``SchemaTooNew``."""
    row = connection.execute("select to_regclass('schema_version')").fetchone()
    if row is None or row[0] is None:
        return 0
    row = connection.execute("select max(version) from schema_version").fetchone()
    version = int(row[0] or 0) if row else 0
    newest = _version_of(_migrations()[-1])
    if version > newest:
        raise SchemaTooNew(
            f"the database has schema version {version}, this Bashd knows up to {newest}: use a newer Bashd"
        )
    return version


def pending(conninfo: str) -> list[str]:
    """The names of the migrations that are not applied yet, in order. Changes nothing."""
    with psycopg.connect(conninfo, autocommit=True, connect_timeout=5) as connection:
        version = _current(connection)
    return [path.stem for path in _migrations() if _version_of(path) > version]


def apply(conninfo: str, *, begins: Callable[[list[str]], None] = lambda _names: None) -> list[str]:
    """Apply what is pending and return the names. Twice is safe, at the same time too.

    ``begins`` is told the names before anything is changed: it may take long on a large table.

    An up-to-date schema is not touched: re-running even idempotent DDL would take locks on a live table.
    Raises ``SchemaTooNew``, or ``psycopg.Error`` with nothing changed.
    """
    names = pending(conninfo)
    if not names:
        return []
    begins(names)
    with psycopg.connect(conninfo, connect_timeout=5) as connection:
        connection.execute("select pg_advisory_xact_lock(%s)", [LOCK])
        version = _current(connection)
        todo = [path for path in _migrations() if _version_of(path) > version]
        if version == 0:
            connection.execute((sql_directory() / "schema.sql").read_bytes())
        else:
            for path in todo:
                connection.execute(path.read_bytes())
                connection.execute("insert into schema_version (version) values (%s)", [_version_of(path)])
        return [path.stem for path in todo]
