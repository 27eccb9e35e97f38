"""The API process from its start to its end. Forked by the supervisor; it serves until it is told to close."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import socket
import time
from collections.abc import Awaitable, Callable

import psycopg

from api import migrations
from api.app import Application, Parts, build
from api.audit import Audit
from api.changes import Changes
from api.commands import Commands
from api.disk import Disk
from api.events import Events
from api.handover import Handover, first_line
from api.link import Link
from api.live import Lives
from api.log import Log, to_stderr
from api.metrics import Facts, Metrics, Scrape
from api.output import Output
from api.problems import Unavailable
from api.processes import Processes
from api.recorder import Recorder
from api.recovery import Recovery
from api.retention import Retention
from api.spares import Spares
from api.steering import Steering
from api.store import DatabaseAway, Store
from api.store_access import AccessStore
from api.tokens import Tokens
from protocol import tls
from protocol.config import Config, boot_id
from protocol.fault import Fault
from protocol.messages import Order, Report
from protocol.places import Places
from protocol.queue import Queue

LOOK_AFTER_S = (1.0, 15.0)  # after something was reported; and while nothing is
GC_THRESHOLDS = (10_000, 20, 50)  # requests leave little that only the collector frees
TRY_AGAIN_S = 0.2
BACKLOG = 1024

log = Log()


class Api:
    """The parts of the API and how they are wired."""

    def __init__(self, config: Config, orders: Queue[Order], reports: Queue[Report]) -> None:
        places = Places(config.state_dir)
        boot = boot_id()
        self._config = config
        self._store = Store(config.database_url, config.node_id)
        self._lives = Lives(places)
        self._link = Link(orders, reports)
        spares = Spares(places)
        self._recorder = Recorder(self._store, self._lives, places, Fault(config.fault, places), spares)
        self._handover = Handover(
            config, store=self._store, lives=self._lives, link=self._link, places=places, boot_id=boot, spares=spares
        )
        self._recovery = Recovery(
            store=self._store,
            lives=self._lives,
            recorder=self._recorder,
            handover=self._handover,
            places=places,
            boot_id=boot,
        )
        output = Output(self._store, self._lives)
        self.commands = Commands(
            store=self._store,
            lives=self._lives,
            handover=self._handover,
            link=self._link,
            output=output,
            secrets_key=bytes.fromhex(config.secrets_key),
            default_run_as=config.default_run_as,
        )
        self.steering = Steering(commands=self.commands, places=places)
        self.processes = Processes(commands=self.commands, lives=self._lives, places=places)
        self.events = Events(self.commands, self._lives, output)
        self.changes = Changes(self._lives)
        self._lives.on_change = self.changes.note
        self.commands.recording_trouble = lambda: self._recorder.trouble
        self._places = places
        self.metrics = Metrics()
        self._recorder.on_recorded = self.metrics.recorded
        self.commands.stopped = lambda stopped: self.metrics.recorded(stopped.but(status="queued"), stopped)
        self._retention = Retention(
            self._store,
            self._lives,
            keep_days=config.keep_days,
            keep_commands=config.keep_commands,
            is_ours=lambda: self._handover.opened,
        )
        self.commands.removed = self._retention.wake
        access_store = AccessStore(self._store.connection)
        self.tokens = Tokens(access_store, self.commands)
        self.audit = Audit(
            access_store, self.commands, keep_days=config.keep_audit_days, is_ours=lambda: self._handover.opened
        )
        self._disk = Disk(places, config.min_free_bytes)
        self._abandoned: set[int] = set()  # whose journal has lost name and worker, as seen by the last tick
        self._tasks: list[asyncio.Task[None]] = []
        self._close_within_s = 1.0

    async def start(self, app: Application) -> None:
        """Before the first request: follow what is live, begin to take reports, look for the database."""
        self._app = app
        self._stirred = asyncio.Event()
        self._link.on_changed = self._take_changes
        self._link.on_draining = self._drain
        self._link.on_closing = self._begin_closing
        self._recovery.follow_journals()
        self._link.open()
        await self._store.open()
        parts = (self._recorder, self._handover, self._retention, self.audit)
        tokens = self.tokens.run(lambda: self._handover.opened)
        for coroutine in (self._own_database(), self._look_around(), tokens, *(part.run() for part in parts)):
            task = asyncio.get_running_loop().create_task(coroutine)
            task.add_done_callback(_die_of_failure)
            self._tasks.append(task)
        gc.collect()
        gc.freeze()
        gc.set_threshold(*GC_THRESHOLDS)

    async def stop(self, _app: Application) -> None:
        """After the last request: write what is unwritten, as far as the time reaches. The rest is in the journals."""
        self._follow_to_the_end()
        if self._handover.opened:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._close_within_s):
                    await self._recorder.finish()
                    await self.audit.flush(refused=True)
        self._link.close()
        for task in self._tasks:
            task.cancel()
        with contextlib.suppress(TimeoutError, *DatabaseAway):
            async with asyncio.timeout(1):
                await self._store.close()

    async def scrape(self) -> bytes:
        """What Prometheus asks for; PostgreSQL is given a second or two, and done without."""
        counts, unready = await asyncio.gather(self._counts(), self.commands.ready())
        unrecorded_bytes, unrecorded_s = self._recorder.behind()
        facts = Facts(
            version=self._config.version,
            running=self._lives.running(),
            queued=self._handover.waiting,
            counts=counts,
            unrecorded_bytes=unrecorded_bytes,
            unrecorded_s=unrecorded_s,
            max_running=self._config.max_running,
            max_queued=self._config.max_queued,
            disk_free_bytes=self._disk.free_bytes(),
            min_free_bytes=self._config.min_free_bytes,
            unready=set(unready),
            pool=self._store.connections(),
        )
        return Scrape(self.metrics, self._places, facts).text()

    async def _counts(self) -> dict[str, int] | None:
        try:
            return await self.commands.counts(within_s=1.0)
        except Unavailable:
            return None

    async def _own_database(self) -> None:
        """Keep the database ours. While it is not, no command is accepted."""
        await self._until_ours(self._recovery.compare_with_rows)
        while True:
            log.info("ready")
            self._retention.wake()
            await self._store.disowned()
            self._handover.suspend()
            self.tokens.doubt()
            log.error("the connection that makes the database ours was lost")
            await self._until_ours(self._resume)

    async def _until_ours(self, then: Callable[[], Awaitable[None]]) -> None:
        """Returns when the schema is up to date, the database is ours and ``then`` has succeeded."""
        while True:
            if self._disk.is_gone():
                # Rows say that commands run, and there is no journal of them: they would all seem to be lost.
                self.commands.startup_trouble = "not looked at, for the state directory is gone"
                await asyncio.sleep(TRY_AGAIN_S)
                continue
            try:
                await asyncio.to_thread(migrations.apply, self._config.database_url, begins=_say_migrations)
                if await self._store.own():
                    await self.tokens.load()
                    await then()
                    self.commands.startup_trouble = None
                    return
                self.commands.startup_trouble = "another Bashd owns this database"
            except DatabaseAway as error:
                self.commands.startup_trouble = first_line(error)
            except (migrations.SchemaTooNew, psycopg.Error) as error:
                self.commands.startup_trouble = first_line(error)
                log.error("the database cannot be used", error=first_line(error))
                await asyncio.sleep(5)
            await asyncio.sleep(TRY_AGAIN_S)

    async def _resume(self) -> None:
        self._handover.resume()

    def _follow(self, ids: tuple[int, ...]) -> None:
        for command_id in ids:
            live = self._lives.get(command_id)
            if live is None:
                continue
            if not live.ended and live.follow():
                asyncio.get_running_loop().call_soon(self._follow, (command_id,))
            if live.noted == live.news:
                continue  # nothing new: an end is told more than once, in case one of the reports was dropped
            live.noted = live.news
            self._recorder.note(live)
            if live.ended:
                self._handover.ended()

    def _take_changes(self, ids: tuple[int, ...]) -> None:
        self._stirred.set()
        self._follow(ids)

    async def _look_around(self) -> None:
        """Reports may be dropped, journals are not: look by ourselves, each second while something happens."""
        after_a_stir_s, in_silence_s = LOOK_AFTER_S
        while True:
            await self._lives.arrival()
            try:
                async with asyncio.timeout(in_silence_s):
                    await self._stirred.wait()
                await asyncio.sleep(after_a_stir_s)
            except TimeoutError:
                pass  # perhaps a report was dropped
            self._stirred.clear()
            self._follow(tuple(live.id for live in self._lives))
            self._give_up_abandoned()
            if self._abandoned:
                self._stirred.set()  # once more, soon

    def _give_up_abandoned(self) -> None:
        """Nothing stays ``running`` for ever, not even when somebody deletes the journals."""
        abandoned = {live.id for live in self._lives if live.is_abandoned()}
        # Seen twice: a worker that has opened its journal may not have locked it yet.
        for command_id in abandoned & self._abandoned:
            live = self._lives.get(command_id)
            if live is not None:
                log.error("a journal was deleted, and nobody works on its command any more", command=live.command)
                live.give_up(time.time_ns())
                self._recorder.note(live)
                self._handover.ended()
        self._abandoned = abandoned

    def _follow_to_the_end(self) -> None:
        for live in self._lives:
            while live.follow():
                pass

    def _drain(self) -> None:
        self._handover.draining = True

    def _begin_closing(self, within_s: float) -> None:
        self._close_within_s = within_s
        self._handover.draining = True
        self._follow_to_the_end()
        self.commands.close()
        self.changes.wake()
        self._app.stop(terminate=True)


def run(config: Config, socket_fd: int, orders: Queue[Order], reports: Queue[Report]) -> int:
    """Serve on the listening socket until told to close or the supervisor is gone; returns the exit status."""
    to_stderr(config.log_format)
    api = Api(config, orders, reports)
    parts = Parts(
        commands=api.commands,
        steering=api.steering,
        processes=api.processes,
        events=api.events,
        changes=api.changes,
        metrics=api.metrics,
        scrape=api.scrape,
        tokens=api.tokens,
        audit=api.audit,
    )
    app = build(config, parts)
    app.before_server_start(api.start)
    app.before_server_stop(api.stop)
    app.run(
        sock=socket.socket(fileno=socket_fd),
        ssl=tls.context(config.tls_cert, config.tls_key),
        single_process=True,
        motd=False,
        access_log=False,
        register_sys_signals=False,
        backlog=BACKLOG,
    )
    return 0


def _die_of_failure(task: asyncio.Task[None]) -> None:
    """A part that failed would be missed by nobody until it is needed: rather end, and let another API come."""
    if not task.cancelled() and (error := task.exception()) is not None:
        log.failed("this process fails and ends", error)
        os._exit(1)


def _say_migrations(names: list[str]) -> None:
    log.info("bringing the database's schema up to date", migrations=", ".join(names))
