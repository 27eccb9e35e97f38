"""The schema: one list of statuses, two roads to the same tables, and nothing that is newer than the code."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest

from api import migrations
from protocol.status import FINAL, REASONS, STATUSES
from tests.postgres import PostgresServer

SCHEMA = migrations.sql_directory() / "schema.sql"


def _listed(constraint: str) -> dict[str, str]:
    """The values of a check constraint in schema.sql, each with its comment."""
    text = SCHEMA.read_text()
    block = text[text.index(f"constraint {constraint} check") :].split("))", 1)[0]
    return dict(re.findall(r"'(\w+)',? +-- (.*)", block))


def test_statuses_stand_in_sql_as_in_python() -> None:
    """The same list, in the same order, with the same words."""
    assert list(_listed("commands_status").items()) == list(STATUSES.items())
    assert list(_listed("commands_reason").items()) == list(REASONS.items())
    assert set(STATUSES) >= FINAL


def _tables(url: str) -> list[tuple[object, ...]]:
    """What a schema consists of, in an order of its own: columns, constraints, indexes."""
    with psycopg.connect(url) as connection:
        found = connection.execute(
            """
            select table_name, column_name, ordinal_position, data_type, is_nullable, column_default
            from information_schema.columns where table_schema = 'public'
            """
        ).fetchall()
        found += connection.execute(
            "select conrelid::regclass::text, conname, pg_get_constraintdef(oid) from pg_constraint"
            " where connamespace = 'public'::regnamespace"
        ).fetchall()
        found += connection.execute(
            "select tablename, indexname, indexdef from pg_indexes where schemaname = 'public'"
        ).fetchall()
        found += connection.execute(
            "select attrelid::regclass::text, attname, attstorage::text from pg_attribute"
            " where attrelid in ('commands'::regclass, 'output'::regclass) and attnum > 0"
        ).fetchall()
        found += connection.execute(
            "select tgrelid::regclass::text, pg_get_triggerdef(oid), pg_get_functiondef(tgfoid) from pg_trigger"
            " where not tgisinternal"
        ).fetchall()
        return sorted(found, key=repr)


def test_both_roads_lead_to_the_same_schema(postgres: PostgresServer) -> None:
    """An empty database gets schema.sql; an old one gets every migration; both are equal then."""
    short, long = postgres.new_database(), postgres.new_database()
    migrations.apply(short)
    with psycopg.connect(long) as connection:
        for path in sorted((SCHEMA.parent / "migrations").glob("*.sql")):
            connection.execute(path.read_bytes())

    assert _tables(short) == _tables(long)


def test_applying_twice_changes_nothing(database_url: str) -> None:
    """The second time there is nothing to do, and it says so."""
    assert migrations.pending(database_url) == migrations.apply(database_url) != []
    assert migrations.pending(database_url) == migrations.apply(database_url) == []


def test_two_at_the_same_time_apply_it_once(database_url: str) -> None:
    """Whoever comes second waits, and finds it done."""
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(migrations.apply, [database_url] * 4))

    with psycopg.connect(database_url) as connection:
        rows = connection.execute("select count(*) from schema_version").fetchone()
    assert rows == (1,)


def test_a_newer_schema_is_refused(database_url: str) -> None:
    """Nothing is touched that we do not know."""
    migrations.apply(database_url)
    with psycopg.connect(database_url) as connection:
        connection.execute("insert into schema_version (version) values (9999)")

    with pytest.raises(migrations.SchemaTooNew, match="9999"):
        migrations.apply(database_url)
