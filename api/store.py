"""Every SQL statement of the running service. Knows rows and commits, nothing of journals or HTTP.

All methods raise ``psycopg.Error`` or ``psycopg_pool.PoolTimeout`` when PostgreSQL is away; after a connection lost
during COMMIT the outcome is unknown, so every write is one that may be repeated.
"""

from __future__ import annotations

import asyncio
import select
import time
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import fields
from datetime import datetime
from typing import Any
from weakref import WeakKeyDictionary

import psycopg
from psycopg import AsyncConnection
from psycopg.rows import dict_row, tuple_row
from psycopg.types.json import Jsonb
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from api.asker import Asker
from api.command import Command
from api.conditions import branches_of, conditions_of
from api.idempotency import Holder, Once
from api.rows import Chunk, Progress, command_of, new_row, progress_row
from api.selection import Selection
from api.store_access import AUDITED, asked
from protocol.status import STATUSES

# InternalError is what a server says that takes no writes now (a standby after a failover).
DatabaseAway = (psycopg.OperationalError, psycopg.InterfaceError, psycopg.InternalError, PoolTimeout)
SchemaMissing = (psycopg.errors.UndefinedTable, psycopg.errors.UndefinedColumn)  # it is not prepared yet
NeverSent = PoolTimeout  # the one of them that says: no connection was to be had, so PostgreSQL was asked nothing

OWNER_LOCK = 0x6261736864_01  # held for as long as one Bashd owns the database
POOL_TIMEOUT_S = 2.0
SUM_UP_EVERY = 1000  # batches: then the table of ends is small at any time
SEARCH_WITHIN_S = 1.8  # then PostgreSQL gives up: nobody waits for the page any more
TRUSTED_S = 1.0  # how long a connection that has just worked is believed to work
_COLUMNS = [one.name for one in fields(Command) if one.name != "paused"]
_SELECT = f"select {', '.join(_COLUMNS)} from commands"  # noqa: S608  (our own column names)


class CommandRemoved(Exception):
    """The command whose output is read was removed meanwhile."""


class SearchTooLong(Exception):
    """PostgreSQL did not find the commands in the time it was given."""


class Store:
    """The database, through a pool that belongs to this process and one event loop."""

    def __init__(self, conninfo: str, node_id: str) -> None:
        self._node_id = node_id
        self._owner: AsyncConnection[Any] | None = None
        self._conninfo = conninfo
        self._counted = 0  # batches recorded since we began
        self._used_at: WeakKeyDictionary[AsyncConnection[Any], float] = WeakKeyDictionary()  # last, monotonic
        self._pool = AsyncConnectionPool(
            conninfo,
            min_size=1,
            max_size=8,
            open=False,
            check=self._check,
            reconnect_timeout=2,
            timeout=POOL_TIMEOUT_S,
            max_idle=3600,
            kwargs={"autocommit": True, "row_factory": tuple_row},
            name="bashd",
        )

    async def open(self) -> None:
        """Start the pool; connections come when the server answers."""
        await self._pool.open(wait=False)

    async def close(self) -> None:
        """Close every connection. What was not committed is not written."""
        if self._owner is not None:
            await self._owner.close()
        await self._pool.close(timeout=1)

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[AsyncConnection[Any]]:
        async with self._pool.connection() as connection:
            yield connection
            self._used_at[connection] = time.monotonic()

    def connection(self) -> AbstractAsyncContextManager[AsyncConnection[Any]]:
        """A connection of the pool, for the other module of SQL."""
        return self._connection()

    async def _check(self, connection: AsyncConnection[Any]) -> None:
        """Raise when the connection does not work any more; ask it only if that is in doubt.

        A server that ends says so, and the kernel closes the connections of one that is killed: both make it readable.
        """
        if time.monotonic() - self._used_at.get(connection, 0.0) > TRUSTED_S or _is_readable(connection.fileno()):
            await AsyncConnectionPool.check_connection(connection)

    async def own(self) -> bool:
        """Become the one Bashd of this database; false while another one is. Holds until the connection ends."""
        if self._owner is not None and not self._owner.closed:
            return True
        connection = await AsyncConnection.connect(
            self._conninfo,
            autocommit=True,
            connect_timeout=2,
            keepalives_idle=10,
            keepalives_interval=5,
            keepalives_count=3,
        )
        row = await (await connection.execute("select pg_try_advisory_lock(%s)", [OWNER_LOCK])).fetchone()
        if row is None or not row[0]:
            await connection.close()
            return False
        # Else a server keeps the lock of a lost connection for as long as TCP believes in it: two hours.
        await connection.execute(
            "select set_config(name, value, false) from (values ('tcp_keepalives_idle', '10'),"
            " ('tcp_keepalives_interval', '5'), ('tcp_keepalives_count', '3')) as setting (name, value)"
        )
        self._owner = connection
        return True

    async def disowned(self) -> None:
        """Returns when the connection that makes the database ours has ended; sleeps until then."""
        assert self._owner is not None
        loop = asyncio.get_running_loop()
        while True:
            word = asyncio.Event()
            fd = self._owner.fileno()
            loop.add_reader(fd, word.set)
            try:
                await word.wait()  # the server has nothing to say to us but that it goes
            finally:
                loop.remove_reader(fd)
            try:
                await self._owner.execute("select 1")
            except psycopg.Error:
                await self._owner.close()
                return

    async def ping(self) -> None:
        """One round trip; raises when the database is away."""
        async with self._connection() as connection:
            await connection.execute("select 1")

    def connections(self) -> dict[str, int]:
        """How many the pool has: idle, in use; and how many requests wait for one."""
        found = self._pool.get_stats()
        idle = found.get("pool_available", 0)
        return {
            "idle": idle,
            "used": found.get("pool_size", 0) - idle,
            "awaited": found.get("requests_waiting", 0),
        }

    # Adding

    async def reserve_ids(self, count: int) -> list[int]:
        """The next ids, ascending, above all that were reserved before. Ids that are not used leave gaps."""
        sql = "select nextval(pg_get_serial_sequence('commands', 'id')) from generate_series(1, %s)"
        async with self._connection() as connection:
            return sorted(row[0] for row in await (await connection.execute(sql, [count])).fetchall())

    async def add(self, commands: list[Command], askers: dict[int, Asker] | None = None) -> None:
        """Insert these, all or none, in one commit. One that is there already is left as it is.

        The audit log says in the same commit who asked for those that ``askers`` names.
        """
        await self._add(commands, {}, askers or {})

    async def add_once(
        self, commands: list[Command], once: dict[int, Once], askers: dict[int, Asker] | None = None
    ) -> dict[int, Holder | None]:
        """As ``add``, but those that ``once`` names only if nobody has their key. Gives those that were not inserted.

        Of two with the same key the first is inserted. A key that is being written by another transaction is waited
        for. A holder is None when it has gone meanwhile, so that the key is free again.
        """
        added = await self._add(commands, once, askers or {})
        missed = {command_id: one.key for command_id, one in once.items() if command_id not in added}
        holders = await self.holders(list(missed.values())) if missed else {}
        return {command_id: holders.get(key) for command_id, key in missed.items()}

    async def holders(self, keys: list[str]) -> dict[str, Holder]:
        """Who has these keys, as far as anybody has."""
        sql = "select idempotency_key, id, request_digest from commands where idempotency_key = any(%s)"
        async with self._connection() as connection:
            rows = await (await connection.execute(sql, [keys])).fetchall()
            return {key: Holder(command_id, bytes(digest)) for key, command_id, digest in rows}

    async def _add(self, commands: list[Command], once: dict[int, Once], askers: dict[int, Asker]) -> set[int]:
        """Insert what is not there yet; returns the ids that were inserted, if ``once`` names any."""
        sql = """
            insert into commands (
                id, node_id, handed_boot_id, status, name, labels, script, args, env, cwd, stdin, run_as,
                timeout_s, grace_s, leftovers, merge_stderr, output_limit_bytes, created_at, stdin_open, rerun_of,
                requested_by, idempotency_key, request_digest, secrets, on_output_limit, limits, traceparent)
            select id, %s, handed_boot_id, 'queued', name, labels, script, args, env, cwd, decode(stdin, 'base64'),
                run_as, timeout_s, grace_s, leftovers, merge_stderr, output_limit_bytes, created_at, stdin_open,
                rerun_of, requested_by, idempotency_key, decode(request_digest, 'hex'), decode(secrets, 'base64'),
                on_output_limit, limits, traceparent
            from jsonb_to_recordset(%s) as x (
                id bigint, handed_boot_id text, name text, labels jsonb, script text, args jsonb, env jsonb, cwd text,
                stdin text, run_as text, timeout_s float8, grace_s float8, leftovers text, merge_stderr boolean,
                output_limit_bytes bigint, created_at timestamptz, stdin_open boolean, rerun_of bigint,
                requested_by text, idempotency_key text, request_digest text, secrets text, on_output_limit text,
                limits jsonb, traceparent text)
            order by id
            on conflict do nothing
        """
        values: list[Any] = [self._node_id, Jsonb([new_row(one, once.get(one.id)) for one in commands])]
        parts = [f"added as ({sql} returning id, labels)"]
        if any(one.labels for one in commands):
            parts.append("""
                labelled as (
                    insert into labels (name, value, command_id)
                    select label.key, label.value, id from added, jsonb_each_text(labels) as label
                )
            """)
        if askers:
            parts.append(AUDITED.format(rows="added"))
            values.append(asked(askers, 201))
        if len(parts) > 1 or once:
            sql = f"with {', '.join(parts)} select id from added"  # noqa: S608  (the statements above)
        async with self._connection() as connection:
            cursor = await connection.execute(sql, values)
            added = {row[0] for row in await cursor.fetchall()} if cursor.description else set()
        for command_id in added & askers.keys():
            askers[command_id].recorded = True
        return added

    async def refuse(self, ids: list[int]) -> None:
        """See to it that these, whose clients were told 503, never run, whether their rows are there, or come, or not.

        PostgreSQL may still be at work on an insert whose connection was lost. So a row is made for each that has
        none: an insert that comes later finds it and changes nothing. Their keys are free again.
        """
        sql = """
            with refused as (
                insert into commands (id, node_id, status, reason, script, grace_s, leftovers, merge_stderr,
                    output_limit_bytes, created_at, ended_at)
                select id, %s, 'stopped', 'not_accepted', '', 0, 'kill', false, 0, now(), now()
                from unnest(%s::bigint[]) id
                on conflict (id) do update set status = 'stopped', reason = 'not_accepted',
                    ended_at = commands.created_at, idempotency_key = null, request_digest = null
                where commands.ended_at is null and commands.pid is null
                returning status
            )
            insert into ends (status, count) select status, count(*) from refused group by status
        """
        async with self._connection() as connection:
            await connection.execute(sql, [self._node_id, ids])

    # The queue

    async def hand_over(self, boot_id: str, count: int) -> list[Command]:
        """Mark the next waiting commands, in the order of their ids, as handed over in this boot."""
        sql = f"""
            update commands set handed_boot_id = %s where id in (
                select id from commands
                where ended_at is null and handed_boot_id is null and node_id = %s order by id limit %s)
            returning {", ".join(_COLUMNS)}
        """  # noqa: S608  (our own column names)
        async with self._connection() as connection, connection.cursor(row_factory=dict_row) as cursor:
            await cursor.execute(sql, [boot_id, self._node_id, count])
            return sorted((command_of(row) for row in await cursor.fetchall()), key=lambda one: one.id)

    async def count_waiting(self) -> int:
        """How many wait for their turn."""
        sql = """
            select count(*) from commands where ended_at is null and handed_boot_id is null and node_id = %s
        """
        async with self._connection() as connection:
            row = await (await connection.execute(sql, [self._node_id])).fetchone()
            return int(row[0]) if row else 0

    async def stop_waiting(self, command_id: int, at: datetime, asker: Asker | None = None) -> Command | None:
        """End a command that only waits, without starting it. None when it does not wait (any more)."""
        sql = f"""
            with stopped as (
                update commands set status = 'stopped', reason = 'client', stop_requested_at = %s, ended_at = %s,
                    stopped_by = %s
                where id = %s and ended_at is null and handed_boot_id is null
                returning {", ".join(_COLUMNS)}
            ), counted as (
                insert into ends (status, count) select status, 1 from stopped
            ), {AUDITED.format(rows="stopped")}
            select * from stopped
        """  # noqa: S608  (our own column names)
        by = None if asker is None else asker.token
        values = [at, at, by, command_id, asked({} if asker is None else {command_id: asker}, 200)]
        async with self._connection() as connection, connection.cursor(row_factory=dict_row) as cursor:
            row = await (await cursor.execute(sql, values)).fetchone()
            if row is not None and asker is not None:
                asker.recorded = True
            return command_of(row) if row else None

    # Recording

    async def record(self, batch: list[Progress]) -> set[int]:
        """Write these in one statement and commit; returns the ids whose row was where we thought it was.

        The others are left as they are, to be read again: output is appended by compare-and-set, so it is
        never there twice, and a final row never changes.
        """
        sql = """
            with progress as (
                select * from jsonb_to_recordset(%s) as x (
                    id bigint, status text, reason text, exit_code int, signal int, pid int, worker_pid int,
                    started_at timestamptz, stop_requested_at timestamptz, stopped_by text, ended_at timestamptz,
                    duration_s float8,
                    stdout_bytes bigint, stderr_bytes bigint, truncated jsonb, swept_group int, swept_escaped int,
                    swept_left int, cpu_s float8, max_rss_bytes bigint, evidence jsonb, masked int, signals jsonb,
                    peak_memory_bytes bigint,
                    recorded_stdout bigint, recorded_stderr bigint)
            ), written as (
                update commands set status = x.status, reason = x.reason, exit_code = x.exit_code, signal = x.signal,
                    pid = x.pid, worker_pid = x.worker_pid, started_at = x.started_at,
                    stop_requested_at = x.stop_requested_at, stopped_by = x.stopped_by, ended_at = x.ended_at,
                    duration_s = x.duration_s,
                    stdout_bytes = x.stdout_bytes, stderr_bytes = x.stderr_bytes, truncated = x.truncated,
                    swept_group = x.swept_group, swept_escaped = x.swept_escaped, swept_left = x.swept_left,
                    cpu_s = x.cpu_s, max_rss_bytes = x.max_rss_bytes, evidence = x.evidence, masked = x.masked,
                    signals = x.signals,
                    peak_memory_bytes = x.peak_memory_bytes
                from progress as x
                where commands.id = x.id and commands.ended_at is null
                    and commands.stdout_bytes = x.recorded_stdout and commands.stderr_bytes = x.recorded_stderr
                returning commands.id, commands.status, commands.ended_at
            ), counted as (
                insert into ends (status, count)
                select status, count(*) from written where ended_at is not null group by status
            ), appended as (
                insert into output (command_id, position, stream, "offset", time, bytes)
                select chunk.* from unnest(
                    %s::bigint[], %s::bigint[], %s::smallint[], %s::bigint[], %s::timestamptz[], %b::bytea[])
                    as chunk (command_id, position, stream, "offset", time, bytes)
                join written on written.id = chunk.command_id
            )
            select id from written
        """
        chunks = [(one.command.id, chunk) for one in batch for chunk in one.chunks]
        columns = (
            [command_id for command_id, _ in chunks],
            [chunk.position for _, chunk in chunks],
            [chunk.stream for _, chunk in chunks],
            [chunk.offset for _, chunk in chunks],
            [chunk.time for _, chunk in chunks],
            [chunk.bytes for _, chunk in chunks],
        )
        async with self._connection() as connection:
            cursor = await connection.execute(sql, [Jsonb([progress_row(one) for one in batch]), *columns])
            written = {row[0] for row in await cursor.fetchall()}
        self._counted += 1
        if self._counted % SUM_UP_EVERY == 0:
            await self.sum_up()
        return written

    async def finish_unstarted(self, command_id: int, status: str, reason: str, at: datetime) -> None:
        """Record the end of a command of which no journal tells."""
        sql = """
            with ended as (
                update commands set status = %s, reason = %s, ended_at = %s where id = %s and ended_at is null
                returning status
            )
            insert into ends (status, count) select status, 1 from ended
        """
        async with self._connection() as connection:
            await connection.execute(sql, [status, reason, at, command_id])

    # Removing

    async def remove(self, command_id: int, asker: Asker | None = None) -> bool:
        """Remove a command if it is final and settled; false when it is not there, or not that far."""
        removed = bool(await self._remove("id = %s for update", [command_id], command_id, asker))
        if removed and asker is not None:
            asker.recorded = True
        return removed

    async def remove_ended(self, before: datetime, count: int, live: list[int]) -> int:
        """Remove the oldest of those that ended before, ``count`` at most; returns how many."""
        which = "ended_at < %s and created_at < %s and not id = any(%s) order by created_at, id"
        return await self._remove(f"{which} limit %s for update skip locked", [before, before, live, count])

    async def remove_up_to(self, last_id: int, ended_before: datetime, count: int, live: list[int]) -> int:
        """Remove the first of those with these ids that ended before, ``count`` at most; returns how many."""
        which = "id <= %s and ended_at < %s and not id = any(%s) order by id"
        return await self._remove(f"{which} limit %s for update skip locked", [last_id, ended_before, live, count])

    async def last_surplus_id(self, keep: int) -> int | None:
        """The id of the newest command beyond the ``keep`` newest ones; None when there are no more than that."""
        if sum((await self.counts({})).values()) <= keep:
            return None
        async with self._connection() as connection:
            cursor = await connection.execute("select id from commands order by id desc offset %s limit 1", [keep])
            row = await cursor.fetchone()
            return None if row is None else int(row[0])

    async def _remove(
        self, which: str, values: list[Any], command_id: int | None = None, asker: Asker | None = None
    ) -> int:
        """Remove final commands; their output is noted as to be removed. Nobody sees a part of that.

        A refusal is kept for a minute: until then the insert that it is there to keep out may still come.
        """
        sql = f"""
            with old as (
                select id from commands
                where ended_at is not null
                    and (reason is distinct from 'not_accepted' or created_at < now() - interval '1 minute')
                    and {which}
            ), gone as (
                delete from commands using old where commands.id = old.id
                returning commands.id, status, labels, stdout_bytes + stderr_bytes as bytes
            ), unlabelled as (
                delete from labels using gone, jsonb_each_text(gone.labels) as label
                where labels.name = label.key and labels.value = label.value and labels.command_id = gone.id
            ), noted as (
                insert into removed (command_id) select id from gone where bytes > 0
            ), counted as (
                insert into ends (status, count) select status, -count(*) from gone group by status
            ), {AUDITED.format(rows="gone")}
            select count(*) from gone
        """  # noqa: S608  (conditions of ours)
        askers = {command_id: asker} if command_id is not None and asker is not None else {}
        values = [*values, asked(askers, 204)]
        async with self._connection() as connection:
            row = await (await connection.execute(sql, values)).fetchone()
            return int(row[0]) if row else 0

    async def remove_output(self, count: int) -> int:
        """Remove at most ``count`` chunks of commands that are removed; 0: there is nothing left to be removed."""
        sql = """
            with gone as (select command_id from removed order by command_id limit %(count)s), chunk as (
                select found.* from gone cross join lateral (
                    select command_id, position from output
                    where command_id = gone.command_id order by position limit %(count)s) as found
                limit %(count)s
            ), emptied as (
                delete from output using chunk
                where output.command_id = chunk.command_id and output.position = chunk.position
            ), done as (
                delete from removed using gone
                where removed.command_id = gone.command_id and (select count(*) from chunk) < %(count)s
            )
            select count(*) from gone
        """
        async with self._connection() as connection:
            row = await (await connection.execute(sql, {"count": count})).fetchone()
            return int(row[0]) if row else 0

    # Reading

    async def get(self, command_id: int) -> Command | None:
        """One row, or None."""
        found = await self.get_many([command_id])
        return found[0] if found else None

    async def get_many(self, ids: list[int]) -> list[Command]:
        """The rows of these ids, as many as there are."""
        return await self._select(f"{_SELECT} where id = any(%s)", [ids])

    async def handed_over(self) -> list[Command]:
        """What a new API finds: commands of this node that are neither waiting nor final."""
        sql = f"{_SELECT} where ended_at is null and handed_boot_id is not null and node_id = %s order by id"
        return await self._select(sql, [self._node_id])

    async def page(
        self,
        *,
        limit: int,
        offset: int = 0,
        selection: Selection = Selection(),  # noqa: B008  (frozen)
        live: dict[int, str] | None = None,
        ascending: bool = False,
    ) -> list[Command]:
        """Commands by id (by time and id if times are asked for), newest first unless ``ascending``.

        ``live`` gives the status that running commands really have: their rows may be a second behind. Raises
        ``SearchTooLong``.
        """
        way = "asc" if ascending else "desc"
        order = f"created_at {way}, id {way}" if selection.by_time else f"id {way}"
        source, conditions, values = conditions_of(selection)
        branches: list[str] = []
        all_values: list[Any] = []
        # A branch for each status: each of them is read in the order of its index, and no further than needed.
        for condition, value in branches_of(selection.statuses, live or {}):
            where = " and ".join([*condition, *conditions])
            branches.append(
                f"(select c.id, c.created_at from {source} {f'where {where}' if where else ''}"  # noqa: S608
                # A number that stands there: a plan for any limit would be a worse one.
                f" order by {order} limit {limit + offset})"
            )
            all_values += [*value, *values]
        sql = f"""
            {_SELECT} where id in (
                select id from ({" union all ".join(branches)}) as found order by {order} limit {limit} offset {offset})
            order by {order}
        """  # noqa: S608  (words and numbers of ours)
        if selection.is_narrow:
            return await self._search(sql, all_values)
        return await self._select(sql, all_values)

    async def _search(self, sql: str, values: list[Any]) -> list[Command]:
        """As ``_select``, planned for these values, and for as long as somebody waits for it."""
        limited = f"select set_config('statement_timeout', '{SEARCH_WITHIN_S * 1000:.0f}', true)"
        try:
            async with self._connection() as connection, connection.transaction():
                await connection.execute(limited)
                async with connection.cursor(row_factory=dict_row) as cursor:
                    await cursor.execute(sql, values, prepare=False)
                    return [command_of(row) for row in await cursor.fetchall()]
        except psycopg.errors.QueryCanceled as error:
            raise SearchTooLong(str(error)) from error

    async def counts(self, live: dict[int, str]) -> dict[str, int]:
        """How many commands have each status; ``live`` gives the status that running commands really have.

        One statement, so one moment: rows that are final already and in ``live`` too are counted once.
        """
        sql = """
            select status, sum(count)::bigint from (
                select status, count from ends
                union all
                select status, count(*) from commands
                where status in ('queued', 'running') and not id = any(%(live)s) group by status
                union all
                select status, -1 from commands where id = any(%(live)s) and ended_at is not null
            ) as counted group by status
        """
        async with self._connection() as connection:
            rows = await (await connection.execute(sql, {"live": list(live)})).fetchall()
        found = dict.fromkeys(STATUSES, 0) | dict(rows)
        for status in live.values():
            found[status] += 1
        return found

    async def sum_up(self) -> None:
        """Make one row for each status of all that the batches have counted. Nobody who counts notices."""
        sql = """
            with old as (delete from ends returning status, count)
            insert into ends (status, count) select status, sum(count)::bigint from old group by status
        """
        async with self._connection() as connection:
            await connection.execute(sql)

    async def _select(self, sql: str, values: list[Any]) -> list[Command]:
        async with self._connection() as connection, connection.cursor(row_factory=dict_row) as cursor:
            await cursor.execute(sql, values)
            return [command_of(row) for row in await cursor.fetchall()]

    async def output(self, command_id: int, *, from_position: int, stream: int | None, count: int) -> list[Chunk]:
        """The next chunks at or after ``from_position``, of one stream or both, in recorded order.

        Raises ``CommandRemoved``: without its row, there may be only a part of them left.
        """
        sql = """
            select chunk.* from commands left join lateral (
                select position, stream, "offset", time, bytes from output
                where command_id = commands.id and position >= %s and (%s::smallint is null or stream = %s)
                order by position limit %s
            ) as chunk on true
            where commands.id = %s order by position
        """
        async with self._connection() as connection:
            cursor = connection.cursor(binary=True)
            await cursor.execute(sql, [from_position, stream, stream, count, command_id])
            rows = await cursor.fetchall()
        if not rows:
            raise CommandRemoved(f"Command {command_id} was removed.")
        return [Chunk(*row) for row in rows if row[0] is not None]

    async def first_position(self, command_id: int, *, stream: int | None, offset: int) -> int | None:
        """The position of the first chunk that reaches beyond ``offset`` bytes of the stream (or of both).

        Raises ``CommandRemoved``.
        """
        sql = """
            select (
                select min(position) from output
                where command_id = commands.id and case when %s::smallint is null then position + length(bytes) > %s
                    else stream = %s and "offset" + length(bytes) > %s end)
            from commands where id = %s
        """
        async with self._connection() as connection:
            values = [stream, offset, stream, offset, command_id]
            row = await (await connection.execute(sql, values)).fetchone()
        if row is None:
            raise CommandRemoved(f"Command {command_id} was removed.")
        return None if row[0] is None else int(row[0])

    async def kept_around(self, command_id: int, position: int) -> tuple[int, int | None]:
        """Where the last byte kept before ``position`` ends, and where the first one after it is (None: there is none).

        Both are ``position`` when the bytes on both sides of it were kept.
        """
        sql = """
            select coalesce(max(least(position + length(bytes), %s)) filter (where position < %s), 0),
                min(greatest(position, %s)) filter (where position + length(bytes) > %s)
            from output where command_id = %s
        """
        async with self._connection() as connection:
            row = await (await connection.execute(sql, [*[position] * 4, command_id])).fetchone()
            assert row is not None
            return int(row[0]), None if row[1] is None else int(row[1])

    async def tails(self, ids: list[int], tail_bytes: int) -> dict[int, list[Chunk]]:
        """For each command that is there the chunks, both streams, that hold its last ``tail_bytes``."""
        sql = """
            select c.id, o.position, o.stream, o."offset", o.time, o.bytes
            from commands c left join output o on o.command_id = c.id
                and o.position + length(o.bytes) > c.stdout_bytes + c.stderr_bytes - %s
            where c.id = any(%s)
            order by c.id, o.position
        """
        found: dict[int, list[Chunk]] = {}
        async with self._connection() as connection:
            cursor = connection.cursor(binary=True)
            await cursor.execute(sql, [tail_bytes, ids])
            for command_id, *chunk in await cursor.fetchall():
                chunks = found.setdefault(command_id, [])
                if chunk[0] is not None:
                    chunks.append(Chunk(*chunk))
        return found


def _is_readable(fd: int) -> bool:
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(0))
