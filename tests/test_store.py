"""The store with the real schema: what is written is written once, and what is final stays."""

from __future__ import annotations

import asyncio
import dataclasses
import uuid
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime

import pytest

from api import migrations
from api.command import Command
from api.rows import Chunk, Progress
from api.selection import Selection
from api.store import Store

AT = datetime(2026, 1, 31, 12, 0, 0, 123456, tzinfo=UTC)
Play = Callable[[Callable[[Store], Awaitable[None]]], None]


@pytest.fixture
def play(database_url: str) -> Play:
    """Runs a scene with a store on a new database."""

    async def whole(scene: Callable[[Store], Awaitable[None]]) -> None:
        store = Store(database_url, str(uuid.uuid4()))
        await store.open()
        try:
            await scene(store)
        finally:
            await store.close()

    migrations.apply(database_url)
    return lambda scene: asyncio.run(whole(scene))


def _command(command_id: int, **fields: object) -> Command:
    one = Command(id=command_id, script="true", created_at=AT, grace_s=5.0, output_limit_bytes=1000)
    return dataclasses.replace(one, **fields)  # type: ignore[arg-type]  # fields are those of Command


def _printed(command: Command, *texts: bytes, recorded: int = 0) -> Progress:
    """Progress by these chunks of stdout after ``recorded`` bytes."""
    chunks = []
    position = recorded
    for text in texts:
        chunks.append(Chunk(position, 1, position, AT, text))
        position += len(text)
    return Progress(dataclasses.replace(command, stdout_bytes=position), (recorded, 0), chunks)


async def _stdout(store: Store, command_id: int) -> bytes:
    chunks = await store.output(command_id, from_position=0, stream=None, count=1000)
    return b"".join(chunk.bytes for chunk in chunks)


def test_a_command_comes_back_as_it_was_added(play: Play) -> None:
    """Every field, whatever text it holds; NUL in stdin, which PostgreSQL's text refuses, too."""
    everything = _command(
        7,
        script="echo 'ä \U0001f600 \x01' \\ \"\n",
        name="a name",
        labels={"b": "2", "a": "1\n"},
        args=["", "\x7f", "-x"],
        env={"B": "", "A": "\\x00 ö"},
        cwd="/tmp/ä",
        stdin="a\0b\n",
        run_as="nobody",
        timeout_s=0.1 + 0.2,
        grace_s=1e-6,
        leftovers="leave",
        merge_stderr=True,
        output_limit_bytes=2**40,
        handed_boot_id="boot",
    )

    async def scene(store: Store) -> None:
        await store.add([everything, _command(8)])

        assert await store.get(7) == everything
        assert await store.get(8) == _command(8)
        assert await store.get(9) is None

    play(scene)


def test_adding_twice_is_adding_once(play: Play) -> None:
    """As after a commit whose answer was lost; what is there already stays as it is."""

    async def scene(store: Store) -> None:
        await store.add([_command(1)])
        await store.add([_command(1, script="other"), _command(2)])

        assert [one.script for one in await store.page(limit=10)] == ["true", "true"]

    play(scene)


def test_output_is_appended_once(play: Play) -> None:
    """Who stands elsewhere than the row is told so and changes nothing, however he cut his chunks."""

    async def scene(store: Store) -> None:
        one = _command(1)
        await store.add([one])

        assert await store.record([_printed(one, b"ab", b"cd")]) == {1}
        assert await store.record([_printed(one, b"abc")]) == set()
        assert await store.record([_printed(one, b"ef", recorded=4)]) == {1}

        assert await _stdout(store, 1) == b"abcdef"
        row = await store.get(1)
        assert row is not None
        assert row.stdout_bytes == 6

    play(scene)


def test_one_that_stands_elsewhere_does_not_hinder_the_others(play: Play) -> None:
    """A batch is one commit, and each of its commands for itself."""

    async def scene(store: Store) -> None:
        commands = [_command(1), _command(2)]
        await store.add(commands)
        await store.record([_printed(commands[0], b"x")])

        written = await store.record([_printed(one, b"xy") for one in commands])

        assert written == {2}
        assert [await _stdout(store, 1), await _stdout(store, 2)] == [b"x", b"xy"]

    play(scene)


def test_a_final_row_never_changes(play: Play) -> None:
    """Neither by a record, nor by an end from elsewhere, nor by a stop or a refusal that come late."""

    async def scene(store: Store) -> None:
        final = _command(1, status="failed", reason="exit", exit_code=7, ended_at=AT, duration_s=0.5, cpu_s=0.1)
        await store.add([_command(1)])
        await store.record([Progress(final, (0, 0), [])])

        assert await store.record([Progress(_command(1, status="running"), (0, 0), [])]) == set()
        await store.finish_unstarted(1, "lost", "journal_gone", AT)
        await store.refuse([1])
        assert await store.stop_waiting(1, AT) is None

        assert await store.get(1) == final

    play(scene)


def test_the_queue_is_handed_over_in_the_order_of_ids(play: Play) -> None:
    """Each once, and none that was stopped."""

    async def scene(store: Store) -> None:
        await store.add([_command(command_id) for command_id in (3, 1, 2, 4)])
        stopped = await store.stop_waiting(2, AT)

        first = await store.hand_over("boot", 2)
        rest = await store.hand_over("boot", 10)

        assert stopped is not None
        assert (stopped.status, stopped.reason, stopped.stop_requested_at) == ("stopped", "client", AT)
        assert [[one.id for one in found] for found in (first, rest)] == [[1, 3], [4]]
        assert await store.count_waiting() == 0
        assert [one.id for one in await store.handed_over()] == [1, 3, 4]

    play(scene)


def test_the_list_asks_the_living_for_their_status(play: Play) -> None:
    """Rows may be a second behind: a page by status is right all the same."""

    async def scene(store: Store) -> None:
        await store.add([_command(command_id) for command_id in (1, 2, 3, 4)])
        live = {2: "running", 3: "succeeded"}

        async def ids(status: str) -> list[int]:
            return [one.id for one in await store.page(limit=10, selection=Selection(statuses=(status,)), live=live)]

        assert await ids("queued") == [4, 1]
        assert await ids("running") == [2]
        assert await ids("succeeded") == [3]

    play(scene)


def test_the_last_bytes_of_many_are_found_at_once(play: Play) -> None:
    """At least the tail that was asked for, of each, and not all they printed."""

    async def scene(store: Store) -> None:
        commands = [_command(1), _command(2)]
        await store.add([*commands, _command(3)])
        await store.record([_printed(commands[0], b"a" * 10, b"b" * 10, b"c" * 10), _printed(commands[1], b"z")])

        tails = await store.tails([1, 2, 3], 12)

        assert {one: b"".join(chunk.bytes for chunk in chunks) for one, chunks in tails.items()} == {
            1: b"b" * 10 + b"c" * 10,
            2: b"z",
            3: b"",
        }

    play(scene)


def test_one_owns_the_database_until_its_connection_ends(play: Play, database_url: str) -> None:
    """A second one is refused, and whoever loses it is told."""

    async def scene(store: Store) -> None:
        other = Store(database_url, str(uuid.uuid4()))
        assert await store.own()
        assert not await other.own()

        await store.close()

        assert await other.own()
        lost = asyncio.ensure_future(other.disowned())
        await asyncio.sleep(0.1)
        assert not lost.done()
        await other.close()
        lost.cancel()

    play(scene)
