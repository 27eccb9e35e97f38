"""What a new API does with what it finds: rows that were handed over, and journals.

It runs at every start, so the path after a crash is the path of every day. Nothing runs twice, and nothing stays
``running`` for ever.
"""

from __future__ import annotations

import os
from enum import Enum

from api.command import Command, now
from api.handover import Handover
from api.live import Live, Lives
from api.log import Log
from api.recorder import Recorder, log_end
from api.store import Store
from protocol import journal
from protocol.places import Places, command_ids

log = Log()


class Journal(Enum):
    """How far a command came, as its journal tells."""

    NONE = "none"
    UNTAKEN = "spec only, not locked"
    AT_WORK = "locked, or taken by a worker whose end the supervisor sees to"
    ENDED = "ended"


class Action(Enum):
    FOLLOW = "follow it and record what it says"
    HAND_OVER = "write the journal if there is none, order a worker"
    HOST_DIED = "lost: it may have run before the machine stopped"
    JOURNAL_GONE = "lost: it ran, and nobody can know how it ended"


def decide(found: Journal, *, same_boot: bool, row_running: bool) -> Action:
    """The table: what is to be done for a row that is not final and was handed over."""
    if found in (Journal.ENDED, Journal.AT_WORK):
        return Action.FOLLOW
    if found is Journal.NONE and row_running:
        return Action.JOURNAL_GONE
    return Action.HAND_OVER if same_boot else Action.HOST_DIED


class Recovery:
    """Finds what is live, first without the database, then with it."""

    def __init__(
        self,
        *,
        store: Store,
        lives: Lives,
        recorder: Recorder,
        handover: Handover,
        places: Places,
        boot_id: str,
    ) -> None:
        self._store = store
        self._lives = lives
        self._recorder = recorder
        self._handover = handover
        self._places = places
        self._boot_id = boot_id
        self._damaged: set[int] = set()  # commands whose journal tells nothing: they may have run

    def follow_journals(self) -> None:
        """Follow every journal there is: live reads and stops work even while PostgreSQL is away."""
        _remove_tails_without_journal(self._places)
        for command_id in command_ids(self._places.journals):
            try:
                command = _command_of(self._places.journal(command_id))
                if command is not None and command.id == command_id:
                    live = self._lives.add(command)
                    while live.follow():
                        pass
                    continue
                path = self._places.journal(command_id)
                kept_as = f"{path}.damaged"
                log.error("a journal does not begin with a spec we understand", command=command_id, path=kept_as)
                os.rename(path, kept_as)
                self._damaged.add(command_id)
            except FileNotFoundError:
                continue  # a worker or supervisor of before has just done with it
            except OSError as error:
                # Not a file of ours. It must not keep the others from being served, at every start again.
                log.error("a journal cannot be read", command=command_id, error=error)

    async def compare_with_rows(self) -> None:
        """Apply the table to every row that was handed over, and learn what waits. Raises when PostgreSQL is away."""
        await self._handover.refuse_doubtful()
        rows = await self._store.handed_over()
        for row in rows:
            await self._apply(row)
        handed_over = {row.id for row in rows}
        for live in self._lives:
            if live.id not in handed_over and live.recorded is None:
                await self._recorder.compare(live)
        self._handover.open(await self._store.count_waiting())

    async def _apply(self, row: Command) -> None:
        live = self._lives.get(row.id)
        may_have_run = row.status == "running" or row.id in self._damaged
        same_boot = row.handed_boot_id == self._boot_id
        action = decide(self._look(live), same_boot=same_boot, row_running=may_have_run)
        match action:
            case Action.FOLLOW:
                assert live is not None
                if not live.ended:
                    # The supervisor may not know its worker: one that a dead forker forked as its last act, and that
                    # took the command after the new supervisor had looked. The worker ordered here finds it taken,
                    # goes, and the supervisor looks again.
                    self._handover.order(row)
                await self._recorder.compare(live)
            case Action.HAND_OVER:
                self._handover.hand_over(row)
            case Action.HOST_DIED | Action.JOURNAL_GONE:
                await self._store.finish_unstarted(row.id, "lost", action.name.lower(), now())
                end = row.but(status="lost", reason=action.name.lower())
                log_end(end)
                self._recorder.on_recorded(row, end)
                if live is not None:
                    self._recorder.forget(live)
                for lost in await self._store.get_many([row.id]):
                    self._lives.changed(lost)

    def _look(self, live: Live | None) -> Journal:
        if live is None:
            return Journal.NONE
        while live.follow():
            pass
        if live.ended:
            return Journal.ENDED
        if live.story.worker is not None:
            return Journal.AT_WORK
        try:
            return Journal.AT_WORK if journal.is_locked(self._places.journal(live.id)) else Journal.UNTAKEN
        except FileNotFoundError:
            return Journal.NONE


def _remove_tails_without_journal(places: Places) -> None:
    """An API that died may have removed a journal and not its tail."""
    try:
        names = os.listdir(places.journals)
    except FileNotFoundError:
        return  # the state directory is gone: whoever writes there says so
    for name in names:
        command_id, _, rest = name.partition(".")
        if command_id.isdigit() and rest[:1] in ("0", "1") and not os.path.exists(places.journal(int(command_id))):
            os.unlink(os.path.join(places.journals, name))


def _command_of(path: str) -> Command | None:
    """The command that a journal's spec describes; None when it is not whole or not understood."""
    with journal.Reader(path) as reader:
        frame = next(reader.frames(), None)
    if frame is None or frame.kind != journal.SPEC:
        return None
    try:
        return Command.from_spec(frame.facts())
    except (TypeError, KeyError, ValueError):
        return None  # whole, but of another version or hand
