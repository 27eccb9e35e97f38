"""The queue: commands come in as rows, and are handed over in the order of their ids.

A waiting command is a row and nothing else. Handing over is: mark the row, write the journal, order a worker.
"""

from __future__ import annotations

import asyncio
import os
from collections import deque
from dataclasses import dataclass, field

from api import asker
from api.asker import Asker
from api.command import Command
from api.disk import Disk
from api.doubtful import Doubtful
from api.idempotency import Holder, Once
from api.link import Link
from api.live import Live, Lives
from api.log import Log
from api.problems import QueueFull, Unavailable
from api.spares import Spares
from api.store import DatabaseAway, NeverSent, Store
from protocol import journal
from protocol.config import Config
from protocol.fault import Fault
from protocol.places import Places

ACCEPT_WITHIN_S = 1.5
IDS_AT_ONCE = 256  # reserved ahead; what is not used at the end leaves a gap
BATCH_COMMANDS = 256
GATHER_S = 0.002  # for a commit that carries more of those that arrive in a crowd
TRY_AGAIN_S = 1.0

log = Log()


@dataclass(slots=True, eq=False)
class _Arrival:
    """A command on its way into its row. ``answered``: its client has been told that it was not accepted."""

    command: Command
    accepted: asyncio.Future[Command | Holder]
    once: Once | None = None
    answered: bool = False
    id: int = 0  # until its row is on its way
    asker: Asker | None = field(default_factory=asker.current)

    def accept(self, outcome: Command | Holder) -> None:
        """Tell the client, if it still waits."""
        if not self.accepted.done():
            self.accepted.set_result(outcome)

    def refuse(self, problem: Unavailable) -> None:
        """Tell the client that it is not accepted, if it still waits."""
        if not self.accepted.done():
            self.accepted.set_exception(problem)


class Handover:
    """Accepts commands and hands them over. ``open`` must have learnt from the database what waits already."""

    def __init__(
        self, config: Config, *, store: Store, lives: Lives, link: Link, places: Places, boot_id: str, spares: Spares
    ) -> None:
        self._spares = spares
        self._config = config
        self._store = store
        self._lives = lives
        self._link = link
        self._places = places
        self._boot_id = boot_id
        self._fault = Fault(config.fault, places)
        self._ids: deque[int] = deque()
        self._arrivals: deque[_Arrival] = deque()
        self._wake = asyncio.Event()
        self._waiting = 0  # rows that wait for their turn
        self._crowded = False  # of late more than one arrived at a time: it pays to wait for more
        self._being_written: list[_Arrival] = []  # those whose rows are on their way to the database
        self._handed_over_unknown = False  # rows may be marked as handed over that we have not been told of
        self._doubtful = Doubtful(places.not_accepted)
        self._disk = Disk(places, config.min_free_bytes)
        self._without_journal: deque[Command] = deque()  # handed over, but the disk did not take the journal
        self._no_journal: str | None = None  # why it did not
        self._trying_again: asyncio.TimerHandle | None = None
        self.opened = False
        self.draining = False

    def open(self, waiting: int) -> None:
        """Begin, knowing how many wait."""
        self._waiting = waiting
        self.opened = True
        self._wake.set()

    def suspend(self) -> None:
        """Accept and hand over nothing until ``resume``: the database is not ours for now."""
        self.opened = False

    def resume(self) -> None:
        """Go on where ``suspend`` stopped."""
        self.opened = True
        self._wake.set()

    async def add(self, command: Command, once: Once | None = None) -> Command | Holder:
        """Accept a command: returns it with its id once its row is committed, be it that we have to be opened first.

        Raises ``Unavailable`` when that is not certain within ``ACCEPT_WITHIN_S`` (then it will never run) and
        ``QueueFull``. With ``once`` it may be that another command has the key: then nothing is added, and that one
        returned.
        """
        self._refuse_if_draining()
        trouble = self.disk_trouble()
        if trouble is not None:
            raise Unavailable(trouble, headers={"Retry-After": "5"})
        coming = len(self._arrivals) + len(self._being_written)
        if self._waiting + coming >= self._config.max_queued + self._free():
            detail = f"{self._config.max_queued} commands are waiting already."
            raise QueueFull(detail, headers={"Retry-After": "5"})
        loop = asyncio.get_running_loop()
        arrival = _Arrival(command, loop.create_future(), once)
        self._arrivals.append(arrival)
        self._wake.set()
        timer = loop.call_later(ACCEPT_WITHIN_S, self._give_up, arrival)
        try:
            return await arrival.accepted
        finally:
            timer.cancel()

    def _give_up(self, arrival: _Arrival) -> None:
        """See to it that it never runs, and tell its client so; unless that has been told this moment, or is gone."""
        if arrival.accepted.done():
            return
        arrival.answered = True
        arrival.refuse(Unavailable("PostgreSQL does not answer.", headers={"Retry-After": "2"}))
        if arrival.id:
            self._doubtful.add([arrival.id])
        elif arrival in self._arrivals:
            self._arrivals.remove(arrival)

    def is_certain(self, command_id: int) -> bool:
        """False for a row whose client may yet be told 503, or was: nobody else may be told that it is accepted."""
        return command_id not in self._doubtful.ids and all(one.id != command_id for one in self._being_written)

    def disk_trouble(self) -> str | None:
        """Why the disk keeps us from accepting commands; None when it does not."""
        return self._disk.trouble() or self._no_journal

    def _refuse_if_draining(self) -> None:
        if self.draining:
            raise Unavailable("Bashd is shutting down.", headers={"Retry-After": "10"})

    def _free(self) -> int:
        return max(0, self._config.max_running - self._lives.running() - len(self._without_journal))

    def ended(self) -> None:
        """A command has ended, so there may be room for the next."""
        if self._waiting:
            self._wake.set()

    @property
    def waiting(self) -> int:
        """How many wait for their turn, as far as we know without asking PostgreSQL."""
        return self._waiting + len(self._without_journal)

    def left_queue(self) -> None:
        """A waiting command was stopped."""
        self._waiting = max(0, self._waiting - 1)

    async def run(self) -> None:
        """Take in arrivals and hand over, for ever."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            if not self.opened:
                continue  # who comes meanwhile waits a moment: most often it is that of our start
            try:
                if self._crowded:
                    await asyncio.sleep(GATHER_S)
                await self._take_in()
                # Between the two: among the rows that wait may be one whose client was told 503.
                await self.refuse_doubtful()
                await self._hand_over_waiting()
                if self._arrivals:
                    self._wake.set()
            except DatabaseAway:
                # The recorder says so in the log. What waits in rows waits on; arrivals have been answered.
                self._try_again()

    def _try_again(self) -> None:
        """Look again in a moment. Once, however often it is asked for."""
        if self._trying_again is None:
            self._trying_again = asyncio.get_running_loop().call_later(TRY_AGAIN_S, self._again)

    def _again(self) -> None:
        self._trying_again = None
        self._wake.set()

    async def _take_in(self) -> None:
        """One commit for all that have arrived by now."""
        batch = [self._arrivals.popleft() for _ in range(min(len(self._arrivals), BATCH_COMMANDS))]
        self._crowded = len(batch) > 1
        if not batch:
            return
        self._being_written = batch
        try:
            if any(arrival.once for arrival in batch):
                # Else a key would be found with a command that is about to be refused.
                await self.refuse_doubtful()
            await self._number(batch)
            # From here on each has an id by which it can be refused. Who was told 503 meanwhile does not get that far.
            batch[:] = [arrival for arrival in batch if not arrival.answered]
            if not batch:
                return
            commands = self._in_turn(batch)
            self._fault.die_at("before_row")
            holders = await self._write(batch, commands)
        except DatabaseAway as error:
            if not isinstance(error, NeverSent):
                self._doubtful.add([one.id for one in batch if one.id and not one.answered])
            for arrival in batch:
                arrival.refuse(Unavailable(f"PostgreSQL is away: {first_line(error)}", headers={"Retry-After": "2"}))
            raise
        finally:
            self._being_written = []
        for arrival, command in zip(batch, commands, strict=True):
            if arrival.answered:
                continue  # its row is there, and about to be refused
            if command.id in holders:
                self._answer_with(holders[command.id], arrival)
                continue
            self._lives.changed(command)
            if command.handed_boot_id is None:
                self._waiting += 1
            else:
                self.hand_over(command)
            arrival.accept(command)

    async def _number(self, batch: list[_Arrival]) -> None:
        """Give each its id."""
        while len(self._ids) < len(batch):
            reserved = await self._store.reserve_ids(max(IDS_AT_ONCE, len(batch)))
            # A journal that is here already is that of another database, whose command may be running.
            self._ids += [one for one in reserved if self._lives.get(one) is None]
        for arrival in batch:
            arrival.id = self._ids.popleft()

    def _in_turn(self, batch: list[_Arrival]) -> list[Command]:
        """Their commands: a command's turn is at once when nobody waits before it and there is room."""
        wait = self._waiting or self.draining or self.disk_trouble() is not None
        free = 0 if wait else self._free()
        return [
            arrival.command.but(id=arrival.id, handed_boot_id=self._boot_id if index < free else None)
            for index, arrival in enumerate(batch)
        ]

    async def _write(self, batch: list[_Arrival], commands: list[Command]) -> dict[int, Holder | None]:
        """Insert the rows. Gives those whose key was taken, with its holder; None: the key is free again."""
        once = {arrival.id: arrival.once for arrival in batch if arrival.once is not None}
        askers = {arrival.id: arrival.asker for arrival in batch if arrival.asker is not None}
        if not once:
            await self._store.add(commands, askers)
            return {}
        holders = await self._store.add_once(commands, once, askers)
        self._fault.die_at("after_keyed_row")
        return holders

    def _answer_with(self, holder: Holder | None, arrival: _Arrival) -> None:
        """Answer who came with a key that another command has, if that command is certain; else try it again."""
        if holder is not None and self.is_certain(holder.command_id):
            arrival.accept(holder)
        else:
            arrival.id = 0
            self._arrivals.appendleft(arrival)

    async def refuse_doubtful(self) -> None:
        """Let no command run whose client was told 503. Raises when PostgreSQL is away."""
        if self._doubtful.ids:
            ids = list(self._doubtful.ids)
            await self._store.refuse(self._doubtful.ids)
            self._doubtful.settle()
            for command in await self._store.get_many(ids):
                self._lives.changed(self._lives.shown(command))

    async def _hand_over_waiting(self) -> None:
        if self._handed_over_unknown:
            await self._complete_hand_over()
        while self._without_journal:
            if self._begin(self._without_journal[0]) is None:
                self._try_again()
                return
            self._without_journal.popleft()
        free = self._free()
        if not self._waiting or not free or self.draining or not self.opened:
            return
        if self.disk_trouble() is not None:
            self._try_again()
            return
        self._handed_over_unknown = True
        commands = await self._store.hand_over(self._boot_id, min(free, self._waiting))
        self._handed_over_unknown = False
        self._waiting = max(0, self._waiting - len(commands))
        for command in commands:
            self.hand_over(command)
        if not commands:
            self._waiting = 0  # counted wrongly after an outcome nobody knew: the rows are right

    async def _complete_hand_over(self) -> None:
        """After a commit whose answer was lost: hand over the rows that say they are and of which we know nothing."""
        # Taken before the rows are read: a command that ends meanwhile must not seem to be unknown, and run twice.
        known = {live.id for live in self._lives} | {one.id for one in self._without_journal}
        for command in await self._store.handed_over():
            if command.id not in known and command.handed_boot_id == self._boot_id:
                self._waiting = max(0, self._waiting - 1)
                self.hand_over(command)
        self._handed_over_unknown = False

    def hand_over(self, command: Command) -> Live | None:
        """Write the journal and order a worker. For a command whose row says that it is handed over."""
        live = self._begin(command)
        if live is None:
            self._without_journal.append(command)
            self._try_again()
        return live

    def _begin(self, command: Command) -> Live | None:
        """What ``hand_over`` promises; None when the disk does not take the journal."""
        self._fault.die_at("before_journal")
        try:
            made = self._create_journal(command)
            live = self._lives.get(command.id) or self._lives.add(command)
        except OSError as error:
            no_journal = f"The disk does not take the journals of new commands: {error.strerror}."
            if self._no_journal != no_journal:
                log.error("the API cannot write its journal, trying again", command=command, error=error)
            self._no_journal = no_journal
            return None
        self._no_journal = None
        if live.recorded is None:
            live.recorded, live.row = live.followed, command
        if not made:
            live.follow()  # somebody may have written on in it
        self._fault.die_at("before_order")
        self.order(command)
        if self._fault.moment == "after_order":
            self._link.flush()
        self._fault.die_at("after_order")
        return live

    def _create_journal(self, command: Command) -> bool:
        """Make it, of a spare one if there is any. False: there is one."""
        spare = self._spares.take()
        made = False
        try:
            made = journal.create(self._places.journal(command.id), _ns(command), command.spec(), spare=spare)
        finally:
            if spare is not None and (made or not os.path.exists(spare)):
                self._spares.taken(spare)
            elif spare is not None:
                self._spares.put_back(spare)
        return made

    def order(self, command: Command) -> None:
        """Order a worker for a command that has its journal."""
        self._link.run(command.id, command.timeout_s, command.grace_s)


def _ns(command: Command) -> int:
    return int(command.created_at.timestamp() * 1_000_000) * 1000


def first_line(error: Exception) -> str:
    """What an error of the database says first; the rest are hints and repetitions."""
    return (str(error).strip().splitlines() or ["no answer"])[0]
