"""The SQL of the words that move history (``bashd export``, ``import``, ``backup``, ``restore``): rows as they are.

A row travels as the JSON that PostgreSQL makes of it, so that a column that is added later travels too. All methods
raise ``psycopg.Error``; ``opened`` turns what nobody has caught into one line.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import psycopg
from psycopg.sql import SQL, Identifier

from api import migrations
from api.rows import Chunk
from api.store import OWNER_LOCK

# The answers that mean: this one row cannot be here. Everything else is about the database.
RowRefused = (psycopg.IntegrityError, psycopg.DataError)

COMMANDS_AT_ONCE = 8  # each of them may be as large as a request
CHUNKS_AT_ONCE = 16  # of at most 64 KiB


class HistoryError(Exception):
    """The history cannot be read or written: one line that says why."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which final commands are meant; by default all."""

    since: datetime | None = None  # created then or later
    until: datetime | None = None  # created before
    statuses: tuple[str, ...] = ()  # none: every final one


@contextmanager
def opened(conninfo: str) -> Iterator[HistoryStore]:
    """The history of this database, whose schema is up to date. Raises ``HistoryError``, for the body too."""
    try:
        pending = migrations.pending(conninfo)
        if pending:
            raise HistoryError(f"the schema is not up to date ({', '.join(pending)} is to be applied): bashd migrate")
        with psycopg.connect(conninfo, autocommit=True, connect_timeout=5) as connection:
            # Times in JSON are the same text whatever the server thinks of time zones.
            connection.execute("set timezone to 'UTC'")
            yield HistoryStore(connection)
    except (migrations.SchemaTooNew, psycopg.Error) as error:
        raise HistoryError(" ".join(str(error).split())) from error


def refuse_owned(conninfo: str) -> None:
    """Raises ``HistoryError`` while a Bashd runs on this database, whatever schema it has."""
    try:
        with psycopg.connect(conninfo, autocommit=True, connect_timeout=5) as connection:
            _take_ownership(connection)
            # The server may notice the end of the connection later than we ask again.
            connection.execute("select pg_advisory_unlock(%s)", [OWNER_LOCK])
    except psycopg.Error as error:
        raise HistoryError(" ".join(str(error).split())) from error


def _take_ownership(connection: psycopg.Connection) -> None:
    row = connection.execute("select pg_try_advisory_lock(%s)", [OWNER_LOCK]).fetchone()
    if row is None or not row[0]:
        raise HistoryError("a Bashd runs on this database; end it first")


class HistoryStore:
    """One connection, for one chore."""

    def __init__(self, connection: psycopg.Connection) -> None:
        self._connection = connection
        self._columns: set[str] = set()
        self._last_id = 0  # given by the sequence, or known to be here

    def schema_version(self) -> int:
        """The version of the schema that the rows have."""
        return self._number("select max(version) from schema_version")

    # Reading

    @contextmanager
    def one_moment(self) -> Iterator[None]:
        """All that is read inside is of the moment at which this begins, whoever writes meanwhile."""
        with self._connection.transaction():
            self._connection.execute("set transaction isolation level repeatable read, read only")
            yield

    def commands(self, wanted: Wanted) -> Iterator[tuple[int, str]]:
        """Id and row, as JSON, of each final command, by id; few are held at once. Inside ``one_moment``."""
        sql = """
            select id, to_jsonb(c)::text from commands c
            where ended_at is not null
                and (%(since)s::timestamptz is null or created_at >= %(since)s)
                and (%(until)s::timestamptz is null or created_at < %(until)s)
                and (%(statuses)s::text[] = '{}' or status = any(%(statuses)s))
            order by id
        """
        values = {"since": wanted.since, "until": wanted.until, "statuses": list(wanted.statuses)}
        with self._connection.cursor("commands") as cursor:
            cursor.itersize = COMMANDS_AT_ONCE
            yield from cursor.execute(sql, values)

    def count_unfinished(self, wanted: Wanted) -> int:
        """How many of these times are not final."""
        sql = """
            select count(*) from commands
            where ended_at is null
                and (%(since)s::timestamptz is null or created_at >= %(since)s)
                and (%(until)s::timestamptz is null or created_at < %(until)s)
        """
        return self._number(sql, {"since": wanted.since, "until": wanted.until})

    def output(self, command_id: int) -> Iterator[Chunk]:
        """What the command printed, in recorded order; little is held at once."""
        sql = """
            select position, stream, "offset", time, bytes from output
            where command_id = %s and position >= %s order by position limit %s
        """
        position = 0
        with self._connection.cursor(binary=True) as cursor:
            while True:
                chunks = [Chunk(*row) for row in cursor.execute(sql, [command_id, position, CHUNKS_AT_ONCE])]
                yield from chunks
                if len(chunks) < CHUNKS_AT_ONCE:
                    return
                position = chunks[-1].position + 1

    # Adding

    def own(self) -> None:
        """Become the one Bashd of this database, until the connection ends. Raises ``HistoryError``.

        A running one has reserved ids that no row shows yet: a command that came with one of them would take the
        place of another that is about to be added.
        """
        _take_ownership(self._connection)
        # Lasting is what the last commit makes them all, in ``settle``: an import may be repeated.
        self._connection.execute("set synchronous_commit to off")
        rows = self._connection.execute(
            "select attname from pg_attribute where attrelid = 'commands'::regclass and attnum > 0 and not attisdropped"
        )
        self._columns = {row[0] for row in rows}
        sql = "select coalesce(pg_sequence_last_value(pg_get_serial_sequence('commands', 'id')::regclass), 0)"
        self._last_id = self._number(sql)

    def unknown(self, names: Iterable[str]) -> list[str]:
        """Those of the names that no column has."""
        return sorted(set(names) - self._columns)

    def add(self, command_id: int, names: Iterable[str], line: str, chunks: Iterator[Chunk]) -> bool | None:
        """Add a final command with all it printed, or nothing of it.

        ``line`` holds its row as JSON under ``command``; ``names`` are the columns it has, the others get their
        default. True: it is added. False: it was there, and is the same. None: another one with that id is there.
        What ``chunks`` raises is passed on; raises one of ``RowRefused`` for a row that cannot be here.
        """
        with self._connection.transaction():
            same = self._row_is_same(command_id, names, line)
            if same is not None:
                return False if same and self._output_is_same(command_id, chunks) else None
            self._go_on_after(command_id)
            self._insert(command_id, names, line)
            self._insert_output(command_id, chunks)
            return True

    def settle(self) -> None:
        """Make all that was added lasting, and one row for each status of what it added to the counts."""
        self._connection.execute("set synchronous_commit to on")
        self._connection.execute("""
            with old as (delete from ends returning status, count)
            insert into ends (status, count) select status, sum(count)::bigint from old group by status
        """)
        self._connection.execute("analyze")

    def _row_is_same(self, command_id: int, names: Iterable[str], line: str) -> bool | None:
        """None when no command has this id."""
        sql = """
            select to_jsonb(c) - %(absent)s::text[]
                = to_jsonb(jsonb_populate_record(null::commands, %(line)s::jsonb -> 'command')) - %(absent)s::text[]
            from commands c where id = %(id)s
        """
        absent = sorted(self._columns - set(names))
        row = self._connection.execute(sql, {"id": command_id, "absent": absent, "line": line}).fetchone()
        return None if row is None else bool(row[0])

    def _output_is_same(self, command_id: int, chunks: Iterator[Chunk]) -> bool:
        """Whether these are all there is, each as it is there; reads them to their end."""
        sql = """
            select count(*) from output o
            join unnest(%s::bigint[], %s::smallint[], %s::bigint[], %s::timestamptz[], %b::bytea[])
                as chunk (position, stream, "offset", time, bytes) using (position, stream, "offset", time, bytes)
            where o.command_id = %s
        """
        same, count = 0, 0
        while batch := list(itertools.islice(chunks, CHUNKS_AT_ONCE)):
            columns = zip(*((one.position, one.stream, one.offset, one.time, one.bytes) for one in batch), strict=True)
            same += self._number(sql, [*map(list, columns), command_id])
            count += len(batch)
        return same == count == self._number("select count(*) from output where command_id = %s", [command_id])

    def _go_on_after(self, command_id: int) -> None:
        """No new command gets an id up to this one. That stays when the transaction does not: a gap at worst."""
        if command_id > self._last_id:
            self._connection.execute(
                "select setval(pg_get_serial_sequence('commands', 'id')::regclass, %s)", [command_id]
            )
            self._last_id = command_id

    def _insert(self, command_id: int, names: Iterable[str], line: str) -> None:
        """Insert the row and what belongs to it.

        What is left of a removed command that had this id goes: it would be taken for the new one's, and the other way
        round.
        """
        columns = SQL(", ").join(Identifier(name) for name in sorted(names))
        sql = SQL("""
            with added as (
                insert into commands ({columns})
                select {columns} from jsonb_populate_record(null::commands, %(line)s::jsonb -> 'command')
                returning id, status, labels
            ), labelled as (
                insert into labels (name, value, command_id)
                select label.key, label.value, id from added, jsonb_each_text(labels) as label
            ), counted as (
                insert into ends (status, count) select status, 1 from added
            ), forgotten as (
                delete from removed where command_id = %(id)s
            )
            delete from output where command_id = %(id)s
        """).format(columns=columns)
        self._connection.execute(sql, {"line": line, "id": command_id})

    def _insert_output(self, command_id: int, chunks: Iterator[Chunk]) -> None:
        sql = 'copy output (command_id, position, stream, "offset", time, bytes) from stdin (format binary)'
        with self._connection.cursor() as cursor, cursor.copy(sql) as copy:
            copy.set_types(["int8", "int8", "int2", "int8", "timestamptz", "bytea"])
            for one in chunks:
                copy.write_row((command_id, one.position, one.stream, one.offset, one.time, one.bytes))

    # After a restore

    def end_what_was_handed_over(self) -> int:
        """Commands that may have run and are not final become ``lost``; returns how many.

        Nobody can know here how they ended, and nothing may run twice. Those that only wait go on waiting.
        """
        return self._number("""
            with ended as (
                update commands set status = 'lost', reason = 'host_died', ended_at = now()
                where ended_at is null and handed_boot_id is not null
                returning status
            ), counted as (
                insert into ends (status, count) select status, count(*) from ended group by status
            )
            select count(*) from ended
        """)

    def _number(self, sql: str, values: Any = None) -> int:
        row = self._connection.execute(sql, values).fetchone()
        assert row is not None
        return int(row[0])
