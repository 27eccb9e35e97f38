"""What can be done with commands, without HTTP: accept, find, wait for, stop, run again."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections.abc import Callable, Coroutine
from datetime import datetime
from typing import Any, TypeVar

from api import asker, limits
from api.command import Command, at, now
from api.handover import Handover, first_line
from api.idempotency import Holder, Once
from api.link import Link
from api.live import Live, Lives
from api.log import Log
from api.models import CommandRequest
from api.output import Output
from api.problems import Conflict, Malformed, NotFound, Unavailable
from api.recorder import log_end
from api.run_as import check_run_as
from api.selection import Selection
from api.store import DatabaseAway, SchemaMissing, SearchTooLong, Store
from protocol.config import Config
from protocol.sealed import seal

DATABASE_WITHIN_S = 2.0
HANDED_OVER_WITHIN_S = 1.0

log = Log()

T = TypeVar("T")

# What of a request a command keeps as it came.
_AS_ASKED = tuple(name for name in CommandRequest.model_fields if name not in ("secrets", "limits", "run_as"))


class Commands:
    """The use cases, for both APIs."""

    def __init__(
        self,
        *,
        store: Store,
        lives: Lives,
        handover: Handover,
        link: Link,
        output: Output,
        secrets_key: bytes,
        default_run_as: str | None = None,
    ) -> None:
        """``default_run_as``: the user of commands that name none; None: as Bashd itself."""
        self._store = store
        self._lives = lives
        self._handover = handover
        self._link = link
        self._secrets_key = secrets_key
        self._default_run_as = default_run_as
        self.output = output
        self.startup_trouble: str | None = None  # why the database cannot be used, though it answers
        self.recording_trouble: Callable[[], str | None] = lambda: None
        self.stopped: Callable[[Command], None] = lambda _command: None  # told when one ended that only waited
        self.removed: Callable[[], None] = lambda: None  # told when a command was removed

    async def add(self, request: CommandRequest, traceparent: str | None = None) -> Command:
        """Accept a command; raises ``Unavailable`` or ``QueueFull``, and then it will never run."""
        accepted = await self._handover.add(self._new(request, traceparent))
        assert isinstance(accepted, Command)
        return self._lives.shown(accepted)

    def _new(self, request: CommandRequest, traceparent: str | None) -> Command:
        created_at = at(time.time_ns())
        assert created_at is not None
        secrets = sealed_secrets(request.secrets, self._secrets_key) if request.secrets else None
        return Command(
            id=0,
            created_at=created_at,
            requested_by=asker.name(),
            traceparent=traceparent,
            secrets=secrets,
            limits=request.limits.held(),
            run_as=self._default_run_as if request.run_as is None else request.run_as,
            **{name: getattr(request, name) for name in _AS_ASKED},
        )

    async def add_once(
        self, request: CommandRequest, once: Once, traceparent: str | None = None
    ) -> tuple[Command, bool]:
        """The command of this request, and whether it is new: the first with this key makes it, others find it.

        Raises what ``add`` does, and ``Conflict`` when the key belongs to another request.
        """
        return await self._once(lambda: self._new(request, traceparent), once)

    async def rerun(
        self, command_id: int, config: Config, once: Once | None, traceparent: str | None
    ) -> tuple[Command, bool]:
        """Accept a command that asks for the same as this one, whatever became of that; and whether it is new.

        Raises ``NotFound``, ``Conflict`` for one that cannot be run again, and what ``add_once`` raises.
        """
        command = await self.get(command_id)
        if command.reason == "not_accepted":
            raise Conflict(f"Command {command_id} was never accepted, so nobody knows its script.")
        try:
            check_run_as(command.run_as, config)  # what was right then may not be now
            limits.check(command.limits, config)
        except Malformed as problem:
            raise Conflict(f"Command {command_id} cannot be run again: {problem.detail}") from problem

        def again() -> Command:
            return command.again(now(), requested_by=asker.name(), traceparent=traceparent)

        if once is not None:
            return await self._once(again, once)
        accepted = await self._handover.add(again())
        assert isinstance(accepted, Command)
        return self._lives.shown(accepted), True

    async def _once(self, make: Callable[[], Command], once: Once) -> tuple[Command, bool]:
        # Looked for first: a command that was accepted is found while the queue or the disk is full.
        holder = await self._holder(once.key)
        while True:
            if holder is None:
                accepted = await self._handover.add(make(), once)
                if isinstance(accepted, Command):
                    return self._lives.shown(accepted), True
                holder = accepted
            holder.check(once)
            try:
                return await self.get(holder.command_id), False
            except NotFound:
                holder = None  # it was removed this moment, and its key with it

    async def _holder(self, key: str) -> Holder | None:
        """Who has the key for certain. Who may yet be refused is looked at when that is decided."""
        if not self._handover.opened:
            return None  # it is about to be looked for all the same, when our schema is there
        holder = (await self.ask_database(self._store.holders([key]))).get(key)
        return holder if holder is not None and self._handover.is_certain(holder.command_id) else None

    async def get(self, command_id: int) -> Command:
        """The command as it is now; raises ``NotFound``, or ``Unavailable`` for one that is not live."""
        live = self._lives.get(command_id)
        if live is not None:
            return live.command
        row = await self.ask_database(self._store.get(command_id))
        if row is None:
            raise NotFound(f"There is no command {command_id}.")
        # It may have become live, or been recorded, while we asked.
        return self._lives.shown(row)

    async def wait(self, command: Command, seconds: float) -> Command:
        """The command when it has ended, or as it is when the time is over or Bashd is closing.

        Raises nothing: the command was accepted or found, and must not be answered with a refusal.
        """
        try:
            async with asyncio.timeout(seconds):
                while not command.final and not self._lives.closing:
                    live = self._lives.get(command.id)
                    if live is None:
                        command = await self._turn(command.id)
                        continue
                    if not live.over:
                        await live.change()
                    command = live.command
        except (TimeoutError, Unavailable, NotFound):
            pass  # then what we know of it is the answer
        return self._lives.shown(command)

    async def started(self, command: Command) -> Command:
        """A command once it is live or final; raises ``Unavailable``."""
        while not command.final and self._lives.get(command.id) is None:
            if self._lives.closing:
                raise Unavailable("Bashd is shutting down.", headers={"Retry-After": "10"})
            command = await self._turn(command.id)
        return command

    async def _turn(self, command_id: int) -> Command:
        """Wait until a command that is not live becomes live or ends, or everybody is told to look again."""
        with self._lives.turn(command_id) as turn:
            command = await self.get(command_id)
            if not command.final and self._lives.get(command_id) is None:
                await turn
        return self._lives.shown(command)

    def close(self) -> None:
        """Answer those who wait, with what is known now: the process is about to end."""
        self._lives.close()

    async def page(
        self,
        *,
        limit: int,
        offset: int = 0,
        selection: Selection = Selection(),  # noqa: B008  (frozen)
        ascending: bool = False,
    ) -> list[Command]:
        """Commands as they are now, newest first unless ``ascending``."""
        # One that ends, is recorded and forgotten while PostgreSQL reads is shown as it ended, not as its row was read.
        before = {live.id: live for live in self._lives}
        asking = self._store.page(
            limit=limit, offset=offset, selection=selection, live=self._lives.statuses(), ascending=ascending
        )
        try:
            rows = await self.ask_database(asking)
        except SearchTooLong as error:
            raise Unavailable("PostgreSQL did not find them in time; ask for less at once.") from error
        return [self._lives.shown(before[row.id].command if row.id in before else row) for row in rows]

    async def counts(self, within_s: float = DATABASE_WITHIN_S) -> dict[str, int]:
        """How many commands there are with each status, as they are now; raises ``Unavailable``."""
        # Asked for first: what ends meanwhile is counted as what it was.
        live = self._lives.statuses()
        return await self.ask_database(self._store.counts(live), within_s)

    async def stop(self, command_id: int, signal: int, grace_s: float | None) -> Command:
        """Stop a command, whatever state it is in; twice is harmless.

        A waiting one ends without being started, a running one is told (returns when the supervisor has taken
        the order), a final one stays as it is. Raises ``NotFound`` and ``Unavailable``.
        """
        requested_at_ns = time.time_ns() // 1000 * 1000
        requested_at = at(requested_at_ns)
        assert requested_at is not None
        command = await self.get(command_id)
        if command.final:
            return command
        if command.handed_boot_id is None:
            stopped = await self.ask_database(self._stop_waiting(command_id, requested_at))
            if stopped is not None:
                return stopped
            command = await self.get(command_id)  # its turn came while we asked
        live = self._lives.get(command_id)
        if live is None and not command.final:
            live, command = await self._handed_over(command_id)
        if live is None or live.ended:
            return command
        own_grace = command.grace_s if grace_s is None else grace_s
        await self._link.stop(command_id, signal, own_grace, requested_at_ns, asker.name())
        live.note_stop(requested_at, asker.name())
        return live.command

    async def running(self, command_id: int) -> Live:
        """A command that has been handed over and has not ended.

        Raises ``Conflict`` for one that still waits or has ended, ``NotFound``, and ``Unavailable``.
        """
        command = await self.get(command_id)
        live = self._lives.get(command_id)
        if live is None and not command.final:
            if command.handed_boot_id is None:
                raise Conflict(f"Command {command_id} is queued: it waits for its turn, and nobody listens yet.")
            live, command = await self._handed_over(command_id)
        if live is None or live.ended:
            raise ended(command if live is None else live.command)
        return live

    @property
    def closing(self) -> bool:
        """True when those who wait are to be answered now."""
        return self._lives.closing

    async def remove(self, command_id: int) -> None:
        """Remove a final command, with what it printed and its key.

        Raises ``Conflict`` for one that is not final, ``NotFound``, and ``Unavailable``.
        """
        removed = await self.get(command_id)
        await self._recorded(command_id)
        if not await self.ask_database(self._store.remove(command_id, asker.current())):
            command = await self.get(command_id)
            why = "was refused this moment; try again in a minute" if command.final else f"is {command.status}; stop it"
            raise Conflict(f"Only final commands can be removed, and command {command_id} {why}.")
        log.info("a command was removed by a client", command=removed)
        self.removed()

    async def _recorded(self, command_id: int) -> None:
        """Wait until an end that is known from the journal is recorded: only then is the row final too."""
        try:
            async with asyncio.timeout(DATABASE_WITHIN_S):
                while (live := self._lives.get(command_id)) is not None:
                    if not live.ended:
                        detail = f"Only final commands can be removed, and command {command_id} is running; stop it."
                        raise Conflict(detail)
                    await live.change()
        except TimeoutError as error:
            detail = f"The end of command {command_id} is not recorded yet."
            raise Unavailable(detail, headers={"Retry-After": "2"}) from error

    async def _stop_waiting(self, command_id: int, requested_at: datetime) -> Command | None:
        stopped = await self._store.stop_waiting(command_id, requested_at, asker.current())
        if stopped is not None:
            self._handover.left_queue()
            self._lives.changed(stopped)
            log_end(stopped)
            self.stopped(stopped)
        return stopped

    async def _handed_over(self, command_id: int) -> tuple[Live | None, Command]:
        """A command whose row says that it is handed over, when it is live or final; raises ``Unavailable``."""
        try:
            async with asyncio.timeout(HANDED_OVER_WITHIN_S):
                command = await self._turn(command_id)
        except TimeoutError as error:
            detail = f"Command {command_id} is being handed over to a worker and cannot be told yet."
            raise Unavailable(detail, headers={"Retry-After": "1"}) from error
        return self._lives.get(command_id), command

    async def ready(self) -> dict[str, str]:
        """What keeps us from accepting commands: part → why. Empty when nothing does."""
        why: dict[str, str] = {}
        disk = self._handover.disk_trouble()
        if disk is not None:
            why["disk"] = disk
        if self._handover.draining:
            why["draining"] = "Bashd is shutting down"
        try:
            await self._link.ping()
        except Unavailable as problem:
            why["supervisor"] = problem.detail
        try:
            await self.ask_database(self._store.ping(), within_s=1.5)
        except Unavailable as problem:
            why["postgres"] = problem.detail
        recording = self.recording_trouble()
        if recording is not None and "postgres" not in why:
            why["postgres"] = f"what happens cannot be recorded: {recording}"
        if not self._handover.opened and "postgres" not in why:
            why["postgres"] = self.startup_trouble or "the schema is being prepared"
        return why

    async def ask_database(self, asking: Coroutine[Any, Any, T], within_s: float = DATABASE_WITHIN_S) -> T:
        """What the database answers; raises ``Unavailable`` when it is away or silent."""
        task = asyncio.ensure_future(asking)
        task.add_done_callback(_look_at_late_answer)
        # Not wait_for: cancelling a query of a server that hangs takes as long as the server hangs.
        done, _ = await asyncio.wait({task}, timeout=within_s)
        try:
            if done:
                return task.result()
        except DatabaseAway as error:
            raise Unavailable(f"PostgreSQL is away: {first_line(error)}", headers={"Retry-After": "2"}) from error
        except SchemaMissing as error:
            raise Unavailable("The schema is being prepared.", headers={"Retry-After": "2"}) from error
        raise Unavailable("PostgreSQL does not answer.", headers={"Retry-After": "2"})


def sealed_secrets(secrets: dict[str, str], key: bytes) -> str:
    """Secrets as rows and journals have them."""
    return base64.b64encode(seal(key, json.dumps(secrets).encode())).decode()


def ended(command: Command) -> Conflict:
    """Why nothing can be done with it any more."""
    return Conflict(f"Command {command.id} has ended: it is {command.status}.")


def _look_at_late_answer(task: asyncio.Future[Any]) -> None:
    """Perhaps nobody waits for it any more; looked at, so that its exception is not reported as forgotten."""
    if not task.cancelled():
        task.exception()
