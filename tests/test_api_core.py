"""The API's parts with a real PostgreSQL and real journals, without HTTP: moments hard to meet from outside."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
import uuid
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg
import pytest

from api import migrations, sse
from api.asker import Asker
from api.command import Command, at
from api.commands import Commands
from api.events import Events
from api.handover import Handover
from api.idempotency import Holder, Once
from api.link import Link
from api.live import Lives
from api.models import CommandRequest
from api.output import Output
from api.problems import QueueFull, Unavailable
from api.recorder import Recorder
from api.spares import Spares
from api.store import NeverSent, Store
from protocol import journal
from protocol.config import Config
from protocol.fault import Fault
from protocol.messages import Order, Report, Run
from protocol.places import Places
from protocol.queue import Queue

BOOT = "this boot"


class TroubledStore(Store):
    """The real store, whose answers can be held up or lost after PostgreSQL has done what was asked."""

    def __init__(self, conninfo: str, node_id: str) -> None:
        super().__init__(conninfo, node_id)
        self.held: asyncio.Semaphore | None = None  # lets go one answer to `add` at a time
        self.add_takes_s = 0.0
        self.lose_answers_of_hand_over = 0
        self.away = False
        self.unreachable = False
        self.reads = 0

    async def add(self, commands: list[Command], askers: dict[int, Asker] | None = None) -> None:
        if self.unreachable:
            raise NeverSent("no connection")
        await super().add(commands, askers)
        await asyncio.sleep(self.add_takes_s)
        if self.held is not None:
            await self.held.acquire()

    async def add_once(
        self, commands: list[Command], once: dict[int, Once], askers: dict[int, Asker] | None = None
    ) -> dict[int, Holder | None]:
        holders = await super().add_once(commands, once, askers)
        if self.held is not None:
            await self.held.acquire()
        return holders

    async def hand_over(self, boot_id: str, count: int) -> list[Command]:
        commands = await super().hand_over(boot_id, count)
        if self.lose_answers_of_hand_over and commands:
            self.lose_answers_of_hand_over -= 1
            raise psycopg.OperationalError("the connection was lost during COMMIT")
        return commands

    async def get(self, command_id: int) -> Command | None:
        self.reads += 1
        if self.away:
            raise psycopg.OperationalError("away")
        return await super().get(command_id)


class Core:
    """Everything of the API but HTTP; the test plays supervisor and worker."""

    def __init__(self, url: str, directory: Path, *, max_running: int, max_queued: int) -> None:
        self.places = Places(str(directory))
        os.mkdir(self.places.journals)
        self.orders: Queue[Order] = Queue()
        self.reports: Queue[Report] = Queue()
        node_id = str(uuid.uuid4())
        values: dict[str, Any] = dict.fromkeys(Config.__annotations__)
        values |= {"max_running": max_running, "max_queued": max_queued, "node_id": node_id}
        self.store = TroubledStore(url, node_id)
        self.lives = Lives(self.places)
        self.link = link = Link(self.orders, self.reports)
        link.open()
        self._config = Config(**values)
        self.spares = Spares(self.places)
        self.recorder = Recorder(self.store, self.lives, self.places, Fault(None, self.places), self.spares)
        self.handover = self.next_handover()
        self.output = Output(self.store, self.lives)
        self.commands = Commands(
            store=self.store,
            lives=self.lives,
            handover=self.handover,
            link=link,
            output=self.output,
            secrets_key=bytes(32),
        )
        self.ran: list[int] = []

    def next_handover(self) -> Handover:
        """A new one, as an API that comes after this one would have it."""
        return Handover(
            self._config,
            store=self.store,
            lives=self.lives,
            link=self.link,
            places=self.places,
            boot_id=BOOT,
            spares=self.spares,
        )

    async def add(self, script: str = "true") -> Command:
        return await self.commands.add(CommandRequest(script=script))

    def ordered(self) -> list[int]:
        """The commands for which a worker was ordered so far, each as often as it was."""
        self.ran += [order.id for order in self.orders.take() if isinstance(order, Run)]
        return self.ran

    async def is_live(self, command: Command) -> None:
        await until(lambda: self.lives.get(command.id) is not None)

    async def is_ordered(self, command: Command) -> None:
        await until(lambda: command.id in self.ordered())

    def write(self, command_id: int) -> journal.Writer:
        """The journal of a command, to be written as its worker would."""
        path = self.places.journal(command_id)
        with journal.Reader(path) as reader:
            for _ in reader.frames():
                pass
            return journal.Writer(os.open(path, os.O_RDWR | os.O_CLOEXEC), reader.position)

    def end(self, command_id: int) -> None:
        """Let a command run and end, and let the API hear of it."""
        writer = self.write(command_id)
        writer.append_facts(journal.TAKEN, time.time_ns(), {"pid": 1, "start_time": 1, "boot_id": BOOT})
        end(writer)
        self.hear(command_id)

    def hear(self, command_id: int) -> None:
        live = self.lives.get(command_id)
        assert live is not None
        live.follow()
        self.recorder.note(live)
        self.handover.ended()


def command(command_id: int, script: str) -> Command:
    created_at = at(time.time_ns())
    assert created_at is not None
    return Command(id=command_id, script=script, created_at=created_at, grace_s=5, output_limit_bytes=1000)


def end(writer: journal.Writer) -> None:
    facts = {"status": "succeeded", "reason": "exit", "exit_code": 0, "signal": None, "duration_s": 0.1}
    writer.append_facts(journal.ENDED, time.time_ns(), facts)


async def until(condition: Callable[[], object], within_s: float = 5.0) -> None:
    async with asyncio.timeout(within_s):
        while not condition():
            await asyncio.sleep(0.01)


@pytest.fixture
def play(database_url: str, tmp_path: Path) -> Callable[..., None]:
    """Runs a scene in an event loop with a core of its own."""

    @contextlib.asynccontextmanager
    async def core(max_running: int, max_queued: int) -> AsyncIterator[Core]:
        core = Core(database_url, tmp_path, max_running=max_running, max_queued=max_queued)
        await core.store.open()
        core.handover.open(0)
        tasks = [asyncio.ensure_future(part.run()) for part in (core.handover, core.recorder)]
        try:
            yield core
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            core.link.close()
            await core.store.close()

    def play(
        scene: Callable[[Core], Coroutine[Any, Any, None]], *, max_running: int = 1, max_queued: int = 1000
    ) -> None:
        async def whole() -> None:
            async with core(max_running, max_queued) as one, asyncio.timeout(30):
                await scene(one)

        migrations.apply(database_url)
        asyncio.run(whole())

    return play


# Reading what comes


def test_a_slow_follower_gets_what_came_while_it_was_slow(play: Callable[..., None]) -> None:
    """What is written, and the end, while a reader still takes the part before: it gets all of it."""

    async def scene(core: Core) -> None:
        command = await core.add()
        writer = core.write(command.id)
        writer.append(journal.STDOUT, time.time_ns(), b"first ")
        core.hear(command.id)
        got: list[bytes] = []

        async for piece in core.output.read(command, stream=None, offset=0, limit=None, follow=True):
            if not got:
                writer.append(journal.STDOUT, time.time_ns(), b"last")
                end(writer)
                core.hear(command.id)
            got.append(piece)

        assert b"".join(got) == b"first last"

    play(scene)


def test_a_final_command_is_the_same_from_journal_and_row(play: Callable[..., None]) -> None:
    """Also in the order of the keys of what PostgreSQL keeps as jsonb, which has an order of its own."""

    async def scene(core: Core) -> None:
        command = await core.add()
        writer = core.write(command.id)
        for stream in ("stdout", "stderr"):
            writer.append_facts(journal.MISSING, time.time_ns(), {"stream": stream, "from": 0, "to": 9})
        evidence = {"worker_pid": 1, "b": {"zz": 1, "y": 2}, "traceback": "a \0 and \ud800"}
        facts = {"status": "lost", "reason": "worker_died", "evidence": evidence, "duration_s": 0.1 + 0.2}
        writer.append_facts(journal.ENDED, time.time_ns(), facts)
        core.hear(command.id)
        from_journal = (await core.commands.get(command.id)).to_json()
        await until(lambda: core.lives.get(command.id) is None)

        from_row = (await core.commands.get(command.id)).to_json()

        assert repr(from_row) == repr(from_journal)

    play(scene)


# Waiting


def test_whoever_was_accepted_is_not_told_otherwise(play: Callable[..., None]) -> None:
    """A client that waits is answered with the command, though PostgreSQL goes away meanwhile."""

    async def scene(core: Core) -> None:
        await core.add()
        waiting = await core.add()
        core.store.away = True

        assert (await core.commands.wait(waiting, 0.2)).status == "queued"

    play(scene)


def test_waiting_does_not_ask_the_database_for_each_command_that_starts(play: Callable[..., None]) -> None:
    """Many clients wait for commands in the queue: who starts is told to those who wait for it."""

    async def scene(core: Core) -> None:
        commands = [await core.add() for _ in range(20)]
        waits = [asyncio.ensure_future(core.commands.wait(one, 20)) for one in commands]
        await asyncio.sleep(0.1)
        for command in commands:
            await core.is_live(command)
            core.end(command.id)

        assert {one.status for one in await asyncio.gather(*waits)} == {"succeeded"}
        assert core.store.reads <= 2 * len(commands)

    play(scene)


# The queue


def test_a_command_whose_client_was_told_503_never_runs(play: Callable[..., None]) -> None:
    """Its row was committed late, and stands in the queue before one that was accepted."""

    async def scene(core: Core) -> None:
        running = await core.add()
        core.store.held = held = asyncio.Semaphore(0)
        refused = asyncio.ensure_future(core.add("refused"))
        await asyncio.sleep(1.0)
        accepted = asyncio.ensure_future(core.add("accepted"))
        with pytest.raises(Unavailable):
            await refused
        held.release()
        await asyncio.sleep(0.1)  # now "accepted" is on its way, to wait behind "refused"
        core.end(running.id)
        held.release()
        command = await accepted

        await until(lambda: command.id in core.ordered())

        assert core.ordered() == [running.id, command.id]
        rows = await core.store.page(limit=10)
        assert {row.script: (row.status, row.reason) for row in rows}["refused"] == ("stopped", "not_accepted")

    play(scene)


@pytest.mark.parametrize("same_batch", [False, True])
def test_a_key_whose_first_client_was_told_503_makes_a_command_of_its_own(
    play: Callable[..., None], same_batch: bool
) -> None:
    """The twin comes while the first is being written, or with it: what it is told of runs, and nothing else."""

    async def scene(core: Core) -> None:
        once = Once("key", b"digest")
        request = CommandRequest(script="true")
        core.store.held = held = asyncio.Semaphore(0)
        if same_batch:
            core.handover.suspend()
        first = asyncio.ensure_future(core.commands.add_once(request, once))
        await asyncio.sleep(0.8)
        twin = asyncio.ensure_future(core.commands.add_once(request, once))
        await asyncio.sleep(0.2)
        if same_batch:
            core.handover.resume()
        with pytest.raises(Unavailable):
            await first
        held.release()
        held.release()

        command, new = await twin
        again, new_again = await core.commands.add_once(request, once)

        await core.is_ordered(command)
        rows = await core.store.page(limit=10)
        assert (new, again.id, new_again) == (True, command.id, False)
        assert core.ordered() == [command.id]
        assert {row.id: row.reason for row in rows if row.id != command.id and row.final} == {
            row.id: "not_accepted" for row in rows if row.id != command.id
        }
        assert len(rows) >= 2

    play(scene)


def test_who_comes_a_moment_too_early_is_accepted(play: Callable[..., None]) -> None:
    """A new API serves before it has found its database: requests wait for that, as long as any other."""

    async def scene(core: Core) -> None:
        core.handover.suspend()
        early = asyncio.ensure_future(core.add("early"))
        await asyncio.sleep(0.3)
        assert not early.done()
        core.handover.resume()
        accepted = await early
        core.handover.suspend()
        with pytest.raises(Unavailable):
            await core.add("refused")
        core.handover.resume()
        await asyncio.sleep(0.1)

        assert [row.id for row in await core.store.page(limit=10)] == [accepted.id]

    play(scene)


def test_a_refusal_outlives_the_api(play: Callable[..., None]) -> None:
    """The API dies after the 503: the next one knows which row must not run."""

    async def scene(core: Core) -> None:
        core.store.held = asyncio.Semaphore(0)
        with pytest.raises(Unavailable):
            await core.add("refused")

        await core.next_handover().refuse_doubtful()

        rows = await core.store.page(limit=10)
        assert [(row.script, row.status, row.reason) for row in rows] == [("refused", "stopped", "not_accepted")]
        assert not os.path.exists(core.places.not_accepted)

    play(scene)


def test_a_row_that_comes_after_its_refusal_never_runs(play: Callable[..., None]) -> None:
    """PostgreSQL may carry out an insert whose connection was lost, whenever it likes: the refusal was there first."""

    async def scene(core: Core) -> None:
        [command_id] = await core.store.reserve_ids(1)

        await core.store.refuse([command_id])
        await core.store.add([replace(command(command_id, "refused"), handed_boot_id=BOOT)])

        [row] = await core.store.page(limit=10)
        assert (row.id, row.status, row.reason) == (command_id, "stopped", "not_accepted")
        assert await core.store.handed_over() == []

    play(scene)


def test_an_outage_in_which_nothing_was_asked_leaves_no_rows(play: Callable[..., None]) -> None:
    """Who was refused because there was no connection at all is not recorded: there is nothing to be in doubt of."""

    async def scene(core: Core) -> None:
        core.store.unreachable = True
        with pytest.raises(Unavailable):
            await core.add("refused")
        core.store.unreachable = False
        accepted = await core.add("accepted")

        assert [row.id for row in await core.store.page(limit=10)] == [accepted.id]

    play(scene)


def test_an_id_whose_journal_is_there_already_is_not_given_again(play: Callable[..., None]) -> None:
    """The journal is that of a command of another database, on which this state directory was used before."""

    async def scene(core: Core) -> None:
        foreign = command(2, "foreign")
        journal.create(core.places.journal(2), time.time_ns(), foreign.spec())
        core.lives.add(foreign)

        accepted = [await core.add(script) for script in ("first", "second")]

        assert [one.id for one in accepted] == [1, 3]

    play(scene, max_running=5)


def test_a_hand_over_whose_answer_was_lost_is_completed(play: Callable[..., None]) -> None:
    """The rows say that they are handed over: then they are, each once, without waiting for another start."""

    async def scene(core: Core) -> None:
        commands = [await core.add() for _ in range(3)]
        core.store.lose_answers_of_hand_over = 1
        for command in commands:
            await core.is_ordered(command)
            core.end(command.id)

        assert core.ordered() == [one.id for one in commands]

    play(scene)


def test_the_queue_moves_while_others_come_in(play: Callable[..., None]) -> None:
    """A stream of new commands without a pause does not keep those that wait from their turn."""

    async def scene(core: Core) -> None:
        running = await core.add()
        waiting = await core.add()
        core.store.add_takes_s = 0.02
        others = []
        for number in range(200):
            others.append(asyncio.ensure_future(core.add()))
            await asyncio.sleep(0.01)
            if number == 10:
                core.end(running.id)

        assert waiting.id in core.ordered()
        await asyncio.gather(*others)

    play(scene, max_queued=100_000)


def test_no_more_wait_than_allowed_however_many_come_at_once(play: Callable[..., None]) -> None:
    """Those that are just being written count too."""

    async def scene(core: Core) -> None:
        core.store.held = held = asyncio.Semaphore(0)
        first = asyncio.ensure_future(core.add())
        await asyncio.sleep(0.1)
        others = [asyncio.ensure_future(core.add()) for _ in range(10)]
        await asyncio.sleep(0.1)
        core.store.held = None
        held.release()

        answers = await asyncio.gather(first, *others, return_exceptions=True)

        assert sum(isinstance(one, Command) for one in answers) == 1 + 3
        assert sum(isinstance(one, QueueFull) for one in answers) == 10 - 3

    play(scene, max_running=1, max_queued=3)


# Stopping


def test_a_stop_during_the_hand_over_is_not_lost(play: Callable[..., None]) -> None:
    """The row says handed over and nothing is live yet: a 200 would say that the stop was taken."""

    async def scene(core: Core) -> None:
        created_at = at(time.time_ns())
        assert created_at is not None
        row = Command(id=77, script="true", created_at=created_at, grace_s=5, output_limit_bytes=1, handed_boot_id=BOOT)
        await core.store.add([row])

        with pytest.raises(Unavailable):
            await core.commands.stop(77, 15, None)

    play(scene)


def test_a_silent_command_says_that_it_is_still_there(
    play: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A comment after each silence, be it that it waits for its turn or runs; and no event is lost over it."""
    monkeypatch.setattr(sse, "SILENCE_S", 0.02)

    async def scene(core: Core) -> None:
        await core.add()
        waits = await core.add()
        events = Events(core.commands, core.lives, core.output).tell(waits.id, None)

        got = [await anext(events) for _ in range(3)]

        assert got[0].startswith(b"event: status\nid: 0-0-0\n")
        assert got[1:] == [sse.COMMENT, sse.COMMENT]
        await events.aclose()
        assert core.lives._turns == {}, "who went away is still waited for"
        running = Events(core.commands, core.lives, core.output).tell(waits.id - 1, None)
        told = [await anext(running)]
        core.write(waits.id - 1).append(journal.STDOUT, time.time_ns(), b"out")
        while told[-1] != sse.COMMENT:
            told.append(await anext(running))
        core.hear(waits.id - 1)
        while b"event: output" not in told[-1]:
            told.append(await anext(running))
        await running.aclose()

    play(scene)
