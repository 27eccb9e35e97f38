"""The supervisor: one loop that waits, then acts. No thread, no database, nothing that blocks.

        API ── orders ──▶ ┌────────────┐ ── requests ──▶ forker ── fork ──▶ worker 42
            ◀─ reports ── │ supervisor │ ◀── results ───   ┘                 │    ▲
                          └────────────┘ ◀─────────── reports pipe ──────────┘    │
                                │  └───────────────── control pipe ───────────────┘
                                └ pidfds of adopted workers, SIGCHLD of the API and of orphans

What is true of a command stands in its journal; what stands here is only who works on it. So a supervisor that
dies loses nothing: the next one finds the journals, adopts the workers that live, and concludes for the dead.
"""

from __future__ import annotations

import os
import select
import signal
import time
from collections import deque
from collections.abc import Callable

from protocol import control, journal, linux, story
from protocol.config import Config, boot_id
from protocol.fault import Fault
from protocol.messages import (
    MAX_CHANGED_IDS,
    Accepted,
    Changed,
    Closing,
    Draining,
    Order,
    Ping,
    Run,
    Stop,
)
from protocol.places import Places, command_ids
from supervisor.api_process import ApiProcess
from supervisor.child import SILENT_AFTER_S, Child, PendingStop
from supervisor.fallen import ROUND_PAUSE_S, Fallen, conclude
from supervisor.forker import Forker
from supervisor.gathering import Gathering
from supervisor.kin import Kin
from supervisor.log import Log, how_it_ended
from supervisor.survivors import Survivors, say_unkillable
from worker.run import EXIT_NO_DISK, EXIT_NOT_TAKEN

MAX_TRIES = 5  # forks for a command that nobody took
TRY_AGAIN_S = 0.2
DELIVER_AGAIN_S = (0.001, 0.02)  # the first pause, doubled up to the last
BY_SIGNAL_AFTER_S = 0.3  # how long a control pipe may be missing before the worker is told without
DISK_AGAIN_S = 1.0
API_CLOSE_S = 2.5  # of the shutdown's time: for the API to write the last rows, and the postmaster to end


class Supervisor:
    """Who works on which command, and what is owed to whom. Times are those of ``clock``, in seconds."""

    def __init__(
        self, config: Config, *, forker: Forker, api: ApiProcess, kin: Kin, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._config = config
        self._places = Places(config.state_dir)
        self._forker = forker
        self._api = api
        self._kin = kin
        self._clock = clock
        self._boot_id = boot_id()
        self._fault = Fault(config.fault, self._places)
        self._log = Log("supervisor", config.log_format, trace_of=self._trace_of)
        self._children: dict[int, Child] = {}
        self._asked: dict[int, Child] = {}  # those of them that are to stop
        self._no_timeout_before: float | None = None  # of any child, be it one that has gone since; None: there is none
        self._fallen: dict[int, Fallen] = {}
        self._survivors = Survivors()
        self._to_fork: deque[int] = deque()  # the forker is behind
        self._to_examine: dict[int, float] = {}  # id → when to look at its journal (again)
        self._early_stops: dict[int, list[PendingStop]] = {}  # of commands that nobody has ordered us to run yet
        self._changed: dict[int, None] = {}  # ids the API has to hear of, in order
        self._poll = select.poll()
        self._gathering = Gathering(self._poll, clock)
        self._pidfds: dict[int, int] = {}  # pidfd → id, of adopted workers
        self._shutdown_signals = 0
        self._said_left: int | None = None  # how many commands the log last said to be left, while shutting down
        self._end_by: float | None = None  # while shutting down: when the commands must have ended
        self._closing_sent = False
        self.over = False

    def run(self) -> int:
        """Serve until told to go and everything has ended; returns the exit status."""
        self._open()
        self.adopt_all()
        while not self.over:
            self._start_api()
            self._wait()
            self.act()
        return 0

    def act(self) -> None:
        """Do what is to be done now. Blocks on nothing."""
        self._take_orders()
        self._take_results()
        self._examine_due()
        self._deliver_stops()
        self._look_after_silent()
        self._clear_up_after_fallen()
        self._kin.remove_groups()
        self._send_changes()
        self._shut_down()
        self._gathering.end_turn()

    # Waiting

    def _open(self) -> None:
        self._wake_fd, _ = linux.wake_on_signals()
        # Both directions, so that it never comes to its end when no worker has it open.
        self._reports_fd = os.open(self._places.reports, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        self._poll.register(self._wake_fd, select.POLLIN)
        for fd in (self._reports_fd, self._forker.results_fd):
            self._gathering.watch(fd)

    def _wait(self) -> None:
        """Sleep until something happens or is due, and take in what needs no decision."""
        for fd, _ in self._poll.poll(self._timeout_ms()):
            if fd == self._wake_fd:
                self._take_signals()
            elif fd in self._pidfds:
                self.adopted_ended(fd)
        # Reports, orders and results are taken whether they or something else woke us.
        self._take_reports()

    def _timeout_ms(self) -> int | None:
        due = self.due()
        return None if due is None else min(max(0, int((due - self._clock()) * 1000) + 1), 2**31 - 1)

    def due(self) -> float | None:
        """When there is something to do even if nothing happens; None: never."""
        now = self._clock()
        due = [*self._to_examine.values(), *(one.next_round for one in self._fallen.values())]
        times = (self._kin.due(), self._gathering.until, self._no_timeout_before)
        due += [at for at in times if at is not None]
        for child in self._asked.values():
            due += [at for at in (child.silent_at, child.hurry_at) if at is not None]
            for stop in child.undelivered()[:1]:
                # Soon at first, for a worker makes its control pipe when it is told that it is wanted.
                waited_s = now - (stop.by_signal_at - BY_SIGNAL_AFTER_S)
                due.append(now + min(max(waited_s, DELIVER_AGAIN_S[0]), DELIVER_AGAIN_S[1]))
        if self._to_fork:
            due.append(now + DELIVER_AGAIN_S[1])
        if self._api.pid is None and not self._closing_sent:
            due.append(self._api.restart.start_at)
        if self._end_by is not None:
            due.append(self._end_by)
        return min(due, default=None)

    def _take_signals(self) -> None:
        numbers = os.read(self._wake_fd, 4096)
        for number in numbers:
            if number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                self.told_to_go()
        if signal.SIGCHLD in numbers:
            self._reap()

    def told_to_go(self) -> None:
        """Note that a signal asks for the shutdown, or for more haste with it."""
        self._shutdown_signals += 1

    def _reap(self) -> None:
        for pid, status in self._kin.reap():
            if pid == self._forker.pid:
                raise RuntimeError(f"the forker ended with wait status {status}")
            if pid == self._api.pid:
                self._api_ended(status)
            for fallen in self._fallen.values():
                if pid == fallen.group:
                    fallen.bash_status = status

    # The API

    def _start_api(self) -> None:
        if self._api.pid is not None or self._closing_sent or self._clock() < self._api.restart.start_at:
            return
        try:
            self._api.start()
        except OSError as error:  # no process to be had now
            self._log.error("cannot start a process", name="api", error=error)
            self._api.ended()
            return
        self._poll.register(self._api.orders.reader_fd, select.POLLIN)
        if self._end_by is not None:
            self._api.reports.put(Draining())

    def _api_ended(self, status: int) -> None:
        if not self._closing_sent:
            self._log.error("a process ended", name="api", pid=self._api.pid, how=how_it_ended(status))
        self._poll.unregister(self._api.orders.reader_fd)
        self._api.ended()
        # Who asked has been cut off, and the next API counts its tickets from one again.
        self._early_stops.clear()
        for child in self._asked.values():
            for stop in child.stops:
                stop.ticket = None

    def _take_orders(self) -> None:
        if self._api.pid is None:
            return
        try:
            orders = self._api.orders.take()
        except EOFError:
            return  # it has died: SIGCHLD says so, and the next one begins with what the database holds
        for order in orders:
            self._obey(order)

    def _obey(self, order: Order) -> None:
        match order:
            case Run():
                self._run(order)
            case Stop():
                at_ns, ticket = order.requested_at_ns, order.ticket
                self._stop(order.id, PendingStop(order.signal, order.grace_s, "client", at_ns, ticket, by=order.by))
            case Ping():
                self._report(Accepted(order.ticket))

    def _report(self, report: Accepted | Draining | Closing) -> None:
        try:
            self._api.reports.put(report)
        except BrokenPipeError:
            pass  # it has died: SIGCHLD says so

    def _send_changes(self) -> None:
        """Tell the API what changed; while it does not listen, changes gather and are told once."""
        if self._api.pid is None:
            return
        reports = self._api.reports
        try:
            room = reports.flush()
            while room and self._changed:
                ids = tuple(list(self._changed)[:MAX_CHANGED_IDS])
                for command_id in ids:
                    del self._changed[command_id]
                room = reports.put(Changed(ids))
            if room:
                self._unwatch_writer()
            else:
                self._poll.register(reports.writer_fd, select.POLLOUT)
        except BrokenPipeError:
            self._unwatch_writer()

    def _unwatch_writer(self) -> None:
        try:
            self._poll.unregister(self._api.reports.writer_fd)
        except KeyError:
            pass  # it was not watched

    # Workers

    def _run(self, order: Run) -> None:
        if order.id in self._children or order.id in self._fallen:
            return  # it has its worker: an order may be repeated any number of times
        self._fault.die_at("before_fork")
        child = Child(order.id, order.grace_s, None)
        if order.timeout_s is not None:
            child.timeout_due = self._clock() + order.timeout_s + order.grace_s + SILENT_AFTER_S
        self._add(child)
        self._fork(order.id)
        if self._end_by is not None and self._config.on_shutdown == "stop":
            self._stop_for_shutdown(child)

    def _add(self, child: Child) -> None:
        self._children[child.id] = child
        if child.timeout_due is not None:
            self._no_timeout_before = min(self._no_timeout_before or child.timeout_due, child.timeout_due)
        for stop in self._early_stops.pop(child.id, ()):
            self._stop(child.id, stop)

    def _fork(self, command_id: int) -> None:
        if self._to_fork or not self._forker.fork_worker(command_id):
            self._to_fork.append(command_id)

    def _take_reports(self) -> None:
        try:
            reports = control.parse_reports(os.read(self._reports_fd, 4096))
        except BlockingIOError:
            return
        self._gathering.came(len(reports))
        for command_id, ended in reports.items():
            self._changed[command_id] = None
            if ended and (child := self._children.get(command_id)) is not None:
                child.end_told = True

    def _take_results(self) -> None:
        for command_id, status in self._forker.results():
            child = self._children.get(command_id)
            if child is None or child.pidfd is not None:
                continue  # one forked twice: the other one has the command
            if status == 0:
                self._fault.die_at("after_worker")
                self._forget(child)
                if not child.end_told:
                    self._changed[command_id] = None
            elif status < 0:
                self._log.error("cannot fork a worker", command=command_id, error=os.strerror(-status))
                self._try_again(child)
            else:
                self._examine(command_id, status)
        while self._to_fork and self._forker.fork_worker(self._to_fork[0]):
            self._to_fork.popleft()

    def adopted_ended(self, pidfd: int) -> None:
        """The worker that ``pidfd`` stands for is gone: its journal says what that means."""
        self._examine(self._pidfds[pidfd], None)

    def _forget(self, child: Child) -> None:
        del self._children[child.id]
        self._asked.pop(child.id, None)
        if not self._children:
            self._no_timeout_before = None
        for stop in child.undelivered():
            self._answer(stop)  # there is nobody left to be told
        if child.pidfd is not None:
            self._poll.unregister(child.pidfd)
            del self._pidfds[child.pidfd]
            os.close(child.pidfd)

    def _try_again(self, child: Child) -> None:
        """Fork another worker in a moment: nobody has taken the command yet."""
        child.tries += 1
        self._to_examine[child.id] = self._clock() + TRY_AGAIN_S * child.tries

    def adopt_all(self) -> None:
        """To be called at the start: the journals tell who works for us, and for whom there is to conclude."""
        for command_id in command_ids(self._places.journals):
            self._examine(command_id, None)

    def _examine_due(self) -> None:
        now = self._clock()
        for command_id in [one for one, at in self._to_examine.items() if at <= now]:
            del self._to_examine[command_id]
            self._examine(command_id, None)

    def _examine(self, command_id: int, status: int | None) -> None:
        """Let the journal decide what is to be done for a command without a worker known to be at work.

        ``status``: the wait status of the worker of ours that has just ended.
        """
        child = self._children.get(command_id)
        path = self._places.journal(command_id)
        try:
            locked = journal.is_locked(path)  # before reading: who lets go of it has written all it had to say
            facts, _ = story.read(path)
        except FileNotFoundError:
            facts, locked = story.Story(), False
        if facts.spec is None and child is not None and self._is_gone() and (child.taken_over or _is_death(status)):
            # There is no end to be recorded any more, but there may be orphans.
            self._note_fallen(command_id, child.story or _nobodys_story(), status)
        elif facts.ended is not None or facts.spec is None:
            if child is not None:
                self._forget(child)
            for stop in self._early_stops.pop(command_id, ()):
                self._answer(stop)
            self._changed[command_id] = None
        elif locked:
            self._adopt(command_id, facts)
        elif facts.worker is not None:
            self._note_fallen(command_id, facts, status)
        elif child is not None:
            self._fork_or_give_up(child, facts, status)
        # A spec that nobody has taken, and nobody asked us for: the API will, when it comes to it.

    def _is_gone(self) -> bool:
        """True when the state directory was removed: workers have their journals still, but nobody can open them."""
        return not os.path.exists(self._places.journals)

    def _fork_or_give_up(self, child: Child, facts: story.Story, status: int | None) -> None:
        code = EXIT_NOT_TAKEN if status is None else os.waitstatus_to_exitcode(status)
        if code == EXIT_NO_DISK:
            # Not a try: it will run when the disk takes its journal again.
            if not child.said_no_disk:
                self._log.error("a worker cannot write its journal, trying again", command=child.id)
            child.said_no_disk = True
            self._to_examine[child.id] = self._clock() + DISK_AGAIN_S
            return
        if code != EXIT_NOT_TAKEN:
            child.tries += 1
        if child.tries < MAX_TRIES:
            self._fork(child.id)
        else:
            facts.worker = _nobodys_story().worker
            self._note_fallen(child.id, facts, status)

    def _adopt(self, command_id: int, facts: story.Story) -> None:
        child = self._children.get(command_id)
        if child is not None and child.pidfd is not None:
            return
        pidfd = self._kin.adopt(facts) if facts.worker is not None else None
        if pidfd is None:
            # The lock is held and its holder not (yet) named: a worker at its very start, or somebody who looks.
            self._to_examine[command_id] = self._clock() + TRY_AGAIN_S
            return
        assert facts.spec is not None
        if child is None:
            child = Child(command_id, facts.spec["grace_s"], None)
            if (due := _timeout_due(facts, began=self._clock())) is not None:
                child.timeout_due = max(due, self._clock() + SILENT_AFTER_S)
            self._add(child)
        child.pidfd, child.story = pidfd, facts
        self._pidfds[pidfd] = command_id
        self._poll.register(pidfd, select.POLLIN)
        self._changed[command_id] = None

    # Stopping

    def _stop(self, command_id: int, stop: PendingStop) -> None:
        """Pass a stop on to the worker, as soon as it listens; only then its order is answered.

        From there on it lies in the command's control pipe and survives us.
        """
        child = self._children.get(command_id)
        if child is None:
            self._stop_unknown(command_id, stop)
            return
        child.stops.append(stop)
        self._asked[child.id] = child
        stop.by_signal_at = self._clock() + BY_SIGNAL_AFTER_S
        due = self._clock() + stop.grace_s + SILENT_AFTER_S
        child.silent_at = due if child.silent_at is None else min(child.silent_at, due)

    def _stop_unknown(self, command_id: int, stop: PendingStop) -> None:
        """It has ended, or an API that has just begun has not ordered us to run it again yet."""
        fallen = self._fallen.get(command_id)
        if fallen is not None:
            fallen.asked = fallen.asked or stop
            self._answer(stop)
            return
        self._early_stops.setdefault(command_id, []).append(stop)
        self._examine(command_id, None)

    def _deliver_stops(self) -> None:
        for child in self._asked.values():
            for stop in child.undelivered():
                stop.delivered = control.send_stop(
                    self._places.control(child.id),
                    signal=stop.signal,
                    grace_s=stop.grace_s,
                    reason=stop.reason,
                    requested_at_ns=stop.requested_at_ns,
                    by=stop.by,
                )
                if not stop.delivered and self._clock() >= stop.by_signal_at:
                    stop.delivered = self._tell_by_signal(child, stop)
                if not stop.delivered:
                    # The worker does not listen yet. The order of stops stays.
                    if child.pidfd is None:
                        self._forker.signal_worker(child.id, control.LISTEN_SIGNAL)
                    break
                self._answer(stop)

    def _tell_by_signal(self, child: Child, stop: PendingStop) -> bool:
        """Tell a worker that has no control pipe: the state directory was removed, or the disk did not take the pipe.

        It says less than a message: only that the command is to be stopped, and later that the grace is over.
        """
        if not self._is_gone() and not self._has_no_pipe(child.id):
            return False  # a worker at its start, or one that is dealt with when it has been silent for too long
        number = signal.SIGTERM if stop.reason == "shutdown" else control.STOP_SIGNAL
        if not self._kin.signal_worker(child.id, child.pidfd, number):
            return False
        self._log.error("the control pipe is gone; the worker is told by a signal", command=child.id)
        grace_s = 0.0 if stop.signal == signal.SIGKILL else stop.grace_s
        hurry_at = self._clock() + grace_s
        child.hurry_at = hurry_at if child.hurry_at is None else min(child.hurry_at, hurry_at)
        return True

    def _has_no_pipe(self, command_id: int) -> bool:
        """True when a worker that has its signal handlers made no control pipe, though it was asked to."""
        if os.path.exists(self._places.control(command_id)):
            return False
        try:
            return story.read(self._places.journal(command_id))[0].bash is not None
        except FileNotFoundError:
            return False

    def _answer(self, stop: PendingStop) -> None:
        if stop.ticket is not None:
            self._report(Accepted(stop.ticket))
            stop.ticket = None

    def _look_after_silent(self) -> None:
        """The second timer of each command: when the worker is stopped or silent past its time, we stop it."""
        now = self._clock()
        for child in list(self._asked.values()):
            if child.hurry_at is not None and now >= child.hurry_at:
                self._kin.signal_worker(child.id, child.pidfd, control.HURRY_SIGNAL)
                child.hurry_at = None
            if child.silent_at is not None and now >= child.silent_at:
                self._take_over_if_silent(child, child.stops[0])
                child.silent_at = now + SILENT_AFTER_S
        if self._no_timeout_before is not None and now >= self._no_timeout_before:
            for child in list(self._children.values()):
                if child.timeout_due is not None and now >= child.timeout_due:
                    child.timeout_due = self._look_after_timeout(child, now)
            timeouts = (child.timeout_due for child in self._children.values())
            self._no_timeout_before = min((due for due in timeouts if due is not None), default=None)

    def _look_after_timeout(self, child: Child, now: float) -> float:
        """The time since the order of a command is over: end it if its worker is silent. Returns when to look again."""
        try:
            due = _timeout_due(story.read(self._places.journal(child.id))[0], began=float("-inf"))
        except FileNotFoundError:
            due = None
        if due is not None and now < due:
            return due  # it waited for its worker, and has all its time from then on
        self._take_over_if_silent(child, PendingStop(signal.SIGTERM, child.grace_s, "timeout", None))
        return now + SILENT_AFTER_S

    def _trace_of(self, command_id: int) -> str | None:
        return story.traceparent(self._places.journal(command_id))

    def _take_over_if_silent(self, child: Child, stop: PendingStop) -> None:
        if child.taken_over is not None:
            return  # its worker has been killed; who collects it says what comes next
        path = self._places.journal(child.id)
        try:
            facts, _ = story.read(path)
        except FileNotFoundError:
            # Recorded and deleted, and its worker tidies up. Or nobody can tell what that did, but its time is over.
            if self._is_gone() and self._kin.signal_worker(child.id, child.pidfd, signal.SIGKILL):
                self._log.error("the supervisor ends a worker without a journal, and its command", command=child.id)
                child.taken_over = stop
            return
        if facts.ended is not None or facts.worker is None:
            return
        # One whose bash is dead is not silent: it waits for a disk that takes what it has to say.
        unheard = facts.stopping is None and self._kin.has_bash(facts)
        silent = unheard or self._kin.is_paused(facts)
        if silent and self._kin.kill_worker(path, facts):
            self._log.error("the worker is silent; the supervisor ends it and its command", command=child.id)
            child.taken_over = stop

    # After the death of a worker

    def _note_fallen(self, command_id: int, facts: story.Story, status: int | None) -> None:
        child = self._children.get(command_id)
        adopted = child is None or child.pidfd is not None
        taken_over = child.taken_over if child is not None else None
        if child is not None:
            self._forget(child)
        assert facts.worker is not None
        host_died = facts.worker.get("boot_id", self._boot_id) != self._boot_id
        early = self._early_stops.pop(command_id, [])
        for stop in early:
            self._answer(stop)
        asked = taken_over or next(iter([*(child.stops if child is not None else ()), *early]), None)
        self._fallen[command_id] = Fallen(command_id, facts, adopted, host_died, status, taken_over, asked)
        if taken_over is None:
            how = None if status is None else how_it_ended(status)  # None: it was not our child
            self._log.error("a worker died before its command's end", command=command_id, how=how)

    def _clear_up_after_fallen(self) -> None:
        """Kill what dead workers left; when nobody is left, record the ends."""
        now = self._clock()
        if not self._fallen or now < min(one.next_round for one in self._fallen.values()):
            return
        fallen = list(self._fallen.values())
        self._reap()
        alive = self._kin.kill_orphans(fallen, api_pid=self._api.pid)
        holding_up = self._survivors.holding_up(alive, fallen, now)
        self._reap()  # bash's own status may have come just now
        for one in fallen:
            if not holding_up[one.id]:
                self._conclude(one)
                continue
            one.next_round = now + one.pause_s
            one.pause_s = min(one.pause_s * 2, ROUND_PAUSE_S[1])
            if self._survivors.beyond_killing(now):
                self._say_unkillable(one, holding_up[one.id])

    def _say_unkillable(self, one: Fallen, survivors: list[linux.Process]) -> None:
        try:
            said = say_unkillable(one, self._places.journal(one.id), time.time_ns(), survivors)
        except OSError:
            return  # a disk that takes nothing: tried again in the next round
        if said:
            self._log.error("what a dead worker left cannot be killed", command=one.id, pids=one.unkillable)
            self._changed[one.id] = None

    def _conclude(self, one: Fallen) -> None:
        try:
            done = conclude(one, self._places.journal(one.id), time.time_ns(), self._clock())
        except OSError as error:
            if not one.said_unrecorded:
                self._log.error("cannot record an end yet, trying again", command=one.id, error=error)
            one.said_unrecorded = True
            done = False
        if not done:
            one.next_round = self._clock() + ROUND_PAUSE_S[1]
            return
        del self._fallen[one.id]
        self._changed[one.id] = None
        self._kin.tidy(one.id)

    # Shutdown

    def _shut_down(self) -> None:
        """Take the next step of a shutdown that was asked for."""
        if self._shutdown_signals and self._end_by is None:
            self._end_by = self._clock() + max(0.5, self._config.shutdown_timeout_s - API_CLOSE_S)
            self._report(Draining())
            if self._config.on_shutdown == "stop":
                for child in self._children.values():
                    self._stop_for_shutdown(child)
                self._deliver_stops()
        if self._shutdown_signals > 1:
            self._hurry()
        if self._end_by is None:
            return
        now = self._clock()
        self._say_how_many_are_left()
        if self._closing_sent:
            if self._api.pid is None:
                self.over = True
            elif now >= self._end_by:
                self._log.error("the API did not end in time", pid=self._api.pid)
                self._api.kill()
                self._end_by = now + API_CLOSE_S
        elif self._config.on_shutdown == "leave" or now >= self._end_by or not (self._children or self._fallen):
            for child in self._children.values() if self._config.on_shutdown == "stop" else ():
                self._log.error("still running at the end of the shutdown; the next start adopts it", command=child.id)
            self._send_changes()
            self._report(Closing(API_CLOSE_S / 2))
            self._closing_sent = True
            self._end_by = now + API_CLOSE_S / 2

    def _say_how_many_are_left(self) -> None:
        """A line at the beginning, one whenever half of them have ended, and one at the end; so never many."""
        left = len(self._children) + len(self._fallen)
        if self._said_left is None or left <= self._said_left // 2 < self._said_left:
            if left or self._said_left:
                if self._config.on_shutdown == "leave":
                    self._log.info("leaving commands to the next start", left=left)
                else:
                    self._log.info("ending commands", left=left)
            self._said_left = left

    def _stop_for_shutdown(self, child: Child) -> None:
        assert self._end_by is not None
        # One second of what is left is for the sweep after the grace.
        grace_s = max(0.0, min(child.grace_s, self._end_by - self._clock() - 1.0))
        self._stop(child.id, PendingStop(signal.SIGTERM, grace_s, "shutdown", None))

    def _hurry(self) -> None:
        """A second signal: no more grace."""
        self._shutdown_signals = 1
        for child in self._children.values() if self._config.on_shutdown == "stop" else ():
            self._stop(child.id, PendingStop(signal.SIGKILL, 0.0, "shutdown", None))
        self._deliver_stops()


def _timeout_due(facts: story.Story, *, began: float) -> float | None:
    """When the worker that took a command should have dealt with its timeout; None when there is none, or nobody has.

    By a clock that nobody sets, and that all processes of one boot share (clock_gettime(2)). ``began``: when it was
    taken, of a journal of an earlier version that does not say it.
    """
    if facts.spec is None or facts.worker is None or facts.spec["timeout_s"] is None:
        return None
    began = facts.worker.get("monotonic_s", began)
    return float(began + facts.spec["timeout_s"] + facts.spec["grace_s"] + SILENT_AFTER_S)


def _is_death(status: int | None) -> bool:
    """True when a worker ended so that it may have left somebody behind."""
    return status is not None and os.waitstatus_to_exitcode(status) != EXIT_NOT_TAKEN


def _nobodys_story() -> story.Story:
    """The story of a worker of which nobody knows anything but that it was ours."""
    facts = story.Story()
    facts.worker = {"pid": None, "start_time": 0}
    return facts
