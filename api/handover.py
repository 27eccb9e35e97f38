"""The queue: commands come in as rows, and are handed over in the order of their ids.

A waiting command is a row and nothing else. Handing over is: mark the row, write the journal, order a worker.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from dataclasses import dataclass, replace

from api.command import Command
from api.link import Link
from api.live import Live, Lives
from api.problems import QueueFull, Unavailable
from api.store import DatabaseAway, Store
from protocol import journal
from protocol.config import Config
from protocol.places import Places

ACCEPT_WITHIN_S = 1.5
IDS_AT_ONCE = 256  # reserved ahead; what is not used at the end leaves a gap
BATCH_COMMANDS = 256
TRY_AGAIN_S = 1.0

log = logging.getLogger("bashd.api")


@dataclass(slots=True)
class _Arrival:
    """A command on its way into its row. ``answered``: its client has been told that it was not accepted."""

    command: Command
    accepted: asyncio.Future[Command]
    answered: bool = False


class Handover:
    """Accepts commands and hands them over. ``open`` must have learnt from the database what waits already."""

    def __init__(self, config: Config, *, store: Store, lives: Lives, link: Link, places: Places, boot_id: str) -> None:
        self._config = config
        self._store = store
        self._lives = lives
        self._link = link
        self._places = places
        self._boot_id = boot_id
        self._ids: deque[int] = deque()
        self._arrivals: deque[_Arrival] = deque()
        self._wake = asyncio.Event()
        self._waiting = 0  # rows that wait for their turn
        self._doubtful: list[int] = []  # their clients were told 503; their rows may exist all the same
        self._without_journal: deque[Command] = deque()  # handed over, but the disk did not take the journal
        self.opened = False
        self.draining = False

    def open(self, waiting: int) -> None:
        """Begin, knowing how many wait."""
        self._waiting = waiting
        self.opened = True
        self._wake.set()

    @property
    def waiting(self) -> int:
        return self._waiting

    async def add(self, command: Command) -> Command:
        """Accept a command: returns it with its id once its row is committed.

        Raises ``Unavailable`` when that is not certain within ``ACCEPT_WITHIN_S`` (then it will never run) and
        ``QueueFull``.
        """
        self._refuse_if_draining()
        if not self.opened:
            raise Unavailable("PostgreSQL is not available yet.", headers={"Retry-After": "2"})
        if self._waiting + len(self._arrivals) >= self._config.max_queued + self._free():
            detail = f"{self._config.max_queued} commands are waiting already."
            raise QueueFull(detail, headers={"Retry-After": "5"})
        arrival = _Arrival(command, asyncio.get_running_loop().create_future())
        self._arrivals.append(arrival)
        self._wake.set()
        # Not wait_for: a database that hangs would hold up the cancelling as well.
        done, _ = await asyncio.wait({arrival.accepted}, timeout=ACCEPT_WITHIN_S)
        if not done:
            arrival.answered = True
            raise Unavailable("PostgreSQL does not answer.", headers={"Retry-After": "2"})
        return arrival.accepted.result()

    def _refuse_if_draining(self) -> None:
        if self.draining:
            raise Unavailable("Bashd is shutting down.", headers={"Retry-After": "10"})

    def _free(self) -> int:
        return max(0, self._config.max_running - self._lives.running() - len(self._without_journal))

    def ended(self) -> None:
        """A command has ended, so there may be room for the next."""
        if self._waiting:
            self._wake.set()

    def left_queue(self) -> None:
        """A waiting command was stopped."""
        self._waiting -= 1
        self._lives.announce()

    async def run(self) -> None:
        """Take in arrivals and hand over, for ever."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            try:
                if self._doubtful:
                    await self._store.refuse(self._doubtful)
                    self._doubtful = []
                while self._arrivals:
                    await self._take_in()
                await self._hand_over_waiting()
            except DatabaseAway:
                # The recorder says so in the log. What waits in rows waits on; arrivals have been answered.
                asyncio.get_running_loop().call_later(TRY_AGAIN_S, self._wake.set)

    async def _take_in(self) -> None:
        """One commit for all that have arrived by now."""
        batch: list[_Arrival] = []
        while self._arrivals and len(batch) < BATCH_COMMANDS:
            arrival = self._arrivals.popleft()
            if not arrival.answered:
                batch.append(arrival)
        if not batch:
            return
        ids: list[int] = []
        try:
            while len(self._ids) < len(batch):
                self._ids += await self._store.reserve_ids(max(IDS_AT_ONCE, len(batch)))
            ids = [self._ids.popleft() for _ in batch]
            # A command's turn is at once when nobody waits before it and there is room.
            free = 0 if self._waiting or self.draining else self._free()
            commands = [
                replace(arrival.command, id=command_id, handed_boot_id=self._boot_id if index < free else None)
                for index, (arrival, command_id) in enumerate(zip(batch, ids, strict=True))
            ]
            await self._store.add(commands)
        except DatabaseAway as error:
            self._doubtful += ids
            for arrival in batch:
                if not arrival.answered:
                    problem = Unavailable(f"PostgreSQL is away: {first_line(error)}", headers={"Retry-After": "2"})
                    arrival.accepted.set_exception(problem)
            raise
        for arrival, command in zip(batch, commands, strict=True):
            if arrival.answered:
                self._doubtful.append(command.id)
                self._wake.set()
                continue
            if command.handed_boot_id is None:
                self._waiting += 1
            else:
                self.hand_over(command)
            arrival.accepted.set_result(command)

    async def _hand_over_waiting(self) -> None:
        for _ in range(len(self._without_journal)):
            self.hand_over(self._without_journal.popleft())
        free = self._free()
        if not self._waiting or not free or self.draining:
            return
        commands = await self._store.hand_over(self._boot_id, min(free, self._waiting))
        self._waiting = max(0, self._waiting - len(commands))
        for command in commands:
            self.hand_over(command)
        if not commands:
            self._waiting = 0  # counted wrongly after an outcome nobody knew: the rows are right

    def hand_over(self, command: Command) -> Live | None:
        """Write the journal and order a worker. For a command whose row says that it is handed over."""
        path = self._places.journal(command.id)
        try:
            journal.create(path, _ns(command), command.spec())
        except OSError as error:
            log.error("command %d: cannot write its journal, trying again: %s", command.id, error)
            self._without_journal.append(command)
            asyncio.get_running_loop().call_later(TRY_AGAIN_S, self._wake.set)
            return None
        live = self._lives.get(command.id) or self._lives.add(command)
        if live.recorded is None:
            live.recorded, live.row = live.followed, command
        live.follow()
        self.order(command)
        return live

    def order(self, command: Command) -> None:
        """Order a worker for a command that has its journal."""
        self._link.run(command.id, command.timeout_s, command.grace_s)


def _ns(command: Command) -> int:
    return int(command.created_at.timestamp() * 1_000_000) * 1000


def first_line(error: Exception) -> str:
    """What an error of the database says first; the rest are hints and repetitions."""
    return (str(error).strip().splitlines() or ["no answer"])[0]
