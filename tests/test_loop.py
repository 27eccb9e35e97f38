"""The supervisor's loop, driven by histories that hypothesis invents: orders, reports, deaths, clock ticks, restarts.

The loop, the journals, their locks and the control pipes are the real ones. Played are the clock, the two processes
at the supervisor's sides (forker and API), and what the kernel says of workers.
"""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from collections import deque
from collections.abc import Iterator
from typing import Any, cast

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from protocol import control, journal, linux, story
from protocol.config import Config, boot_id
from protocol.messages import Accepted, Changed, Closing, Draining, Order, Report, Run, Stop
from protocol.places import Places
from supervisor.api_process import ApiProcess
from supervisor.child import SILENT_AFTER_S
from supervisor.fallen import Fallen
from supervisor.forker import Forker
from supervisor.gathering import GATHER_S
from supervisor.kin import Kin
from supervisor.loop import Supervisor
from supervisor.restart import Restart
from worker.run import EXIT_CRASHED, EXIT_NOT_TAKEN

KILLED = 9  # wait status of who died by KILL
BEFORE_US = "another life of this machine"


class Worker:
    """A worker as far as others can tell: a lock on the journal, a control pipe, frames."""

    def __init__(self, places: Places, command_id: int, pid: int) -> None:
        self.id = command_id
        self.pid = pid
        self.paused = False
        self.stopping: dict[str, Any] | None = None
        self.told: list[dict[str, Any]] = []
        self.is_child = True  # of the present forker
        self.gone_fd = -1  # what stands for its pidfd, once a supervisor holds one
        self._places = places
        self._fd = os.open(places.journal(command_id), os.O_RDWR)
        self._control_fd = -1
        self.writer: journal.Writer | None = None

    def take(self, now_ns: int, boot: str) -> bool:
        """Take the command, unless somebody has or had it: what ``worker.run`` promises."""
        if not journal.lock(self._fd):
            return False
        facts, position = story.read(self._places.journal(self.id))
        if facts.worker is not None or facts.ended is not None:
            return False
        self.writer = journal.Writer(self._fd, position)
        taken = {"pid": self.pid, "start_time": self.pid, "boot_id": boot, "monotonic_s": now_ns / 1e9}
        self.say(journal.TAKEN, now_ns, taken)
        return True

    def listen(self) -> None:
        if self._control_fd < 0:
            os.mkfifo(self._places.control(self.id))
            self._control_fd = os.open(self._places.control(self.id), os.O_RDWR | os.O_NONBLOCK)

    @property
    def listens(self) -> bool:
        return self._control_fd >= 0

    def hear(self) -> None:
        """Read what the control pipe holds."""
        try:
            self.told += control.parse_control(os.read(self._control_fd, 65536)) if self._control_fd >= 0 else []
        except BlockingIOError:
            pass

    def say(self, kind: int, now_ns: int, facts: dict[str, Any]) -> None:
        assert self.writer is not None
        self.writer.append_facts(kind, now_ns, facts)

    def close(self) -> None:
        """Gone: the kernel lets go of lock and pipe."""
        for fd in (self._fd, self._control_fd):
            if fd >= 0:
                os.close(fd)


class PlayedForker:
    """Takes requests; the history decides what comes of them."""

    pid = (1 << 30) + 1  # nobody's
    results_fd = -1

    def __init__(self) -> None:
        self.behind = False
        self.requests: deque[int] = deque()
        self.to_tell: list[tuple[int, int]] = []

    def fork_worker(self, command_id: int) -> bool:
        if not self.behind:
            self.requests.append(command_id)
        return not self.behind

    def signal_worker(self, command_id: int, number: int) -> bool:
        assert number == control.LISTEN_SIGNAL, command_id
        return not self.behind

    def results(self) -> list[tuple[int, int]]:
        told, self.to_tell = self.to_tell, []
        return told


class PlayedQueue:
    """Both directions; nothing is ever full here."""

    def __init__(self) -> None:
        self.orders: list[Order] = []
        self.reports: list[Report] = []

    def take(self) -> list[Order]:
        taken, self.orders = self.orders, []
        return taken

    def put(self, report: Report) -> bool:
        self.reports.append(report)
        return True

    def flush(self) -> bool:
        return True

    reader_fd = writer_fd = 0


class PlayedApi:
    """An API that is there until it is told that the service closes."""

    def __init__(self) -> None:
        self.pid: int | None = 1 << 30  # nobody's
        self.closes_at = float("inf")
        self.restart = Restart()
        self.orders = self.reports = PlayedQueue()

    def kill(self) -> None:
        raise AssertionError("it goes when it is told to")


class PlayedKin:
    """What the kernel would say of the world's workers."""

    def __init__(self, world: World) -> None:
        self._world = world

    def adopt(self, facts: story.Story) -> int | None:
        worker = self._find(facts)
        if worker is None:
            return None
        worker.gone_fd = os.eventfd(0)
        return worker.gone_fd

    def _find(self, facts: story.Story) -> Worker | None:
        assert facts.worker is not None
        return next((one for one in self._world.workers.values() if one.pid == facts.worker["pid"]), None)

    def is_paused(self, facts: story.Story) -> bool:
        worker = self._find(facts)
        return worker is not None and worker.paused

    def has_bash(self, facts: story.Story) -> bool:
        return self._find(facts) is not None

    def due(self) -> float | None:
        return None

    def remove_groups(self) -> None:
        pass

    def signal_worker(self, command_id: int, pidfd: int | None, number: int) -> bool:
        worker = self._world.workers.get(command_id)
        if worker is None:
            return False
        if number != control.HURRY_SIGNAL:
            assert not worker.listens, f"{command_id} ({pidfd}) was sent {number}, though its control pipe is there"
            reason = "shutdown" if number == signal.SIGTERM else "client"
            worker.told.append({"signal": signal.SIGTERM, "reason": reason, "grace_s": 5.0, "requested_at_ns": None})
        return True

    def kill_worker(self, path: str, facts: story.Story) -> bool:
        worker = self._find(facts)
        if worker is None:
            assert not journal.is_locked(path)
            return False
        assert self._world.may_be_ended(worker), f"worker {worker.id} was killed, and nobody had asked for that"
        self._world.die(worker, KILLED)
        return True

    def reap(self) -> list[tuple[int, int]]:
        return []

    def kill_orphans(self, dead: list[Fallen], *, api_pid: int | None) -> list[linux.Process]:
        assert api_pid == self._world.api.pid
        for one in dead:
            assert one.id not in self._world.workers, f"the orphans of {one.id} are hunted while its worker lives"
        left = [one.id for one in dead if self._world.orphans.get(one.id, 0) > 0]
        for command_id in left:
            self._world.orphans[command_id] -= 1
        # Nobody's in particular: such a pid no process has.
        stat = b"0 (orphan) S 1" + b" 0" * 30
        return [linux.Process(2**22 + command_id, stat) for command_id in left]

    def tidy(self, command_id: int) -> None:
        self._world.tidied.add(command_id)


def _orphan_of(one: Fallen) -> linux.Process:
    """Something that a dead worker left in its group."""
    return linux.Process((1 << 23) + one.id, f"0 (orphan) S 1 {one.group or 0} 0".encode() + b" 0" * 46)


class World(RuleBasedStateMachine):
    """Histories. Times are seconds of a clock that only ``tick`` moves."""

    @initialize(on_shutdown=st.sampled_from(["stop", "leave"]))
    def begin(self, on_shutdown: str = "stop") -> None:
        self.state_dir = tempfile.mkdtemp(prefix="bashd-loop-")
        self.places = Places(self.state_dir)
        for directory in (self.places.journals, self.places.controls, self.places.left, self.places.work):
            os.mkdir(directory)
        values: dict[str, Any] = dict.fromkeys(Config.__annotations__)
        values |= {
            "state_dir": self.state_dir,
            "log_format": "text",
            "shutdown_timeout_s": 9.0,
            "on_shutdown": on_shutdown,
        }
        self.config = Config(**values)
        self.now = 1000.0
        self.next_pid = 100
        self.workers: dict[int, Worker] = {}  # alive
        self.ordered: dict[int, Run] = {}
        self.strays: deque[int] = deque()  # ids of workers that were forked and have not begun, their parent being dead
        self.orphans: dict[int, int] = {}  # id → rounds of killing until the last is gone
        self.tidied: set[int] = set()
        self.asked: dict[int, list[Stop]] = {}  # stops that the present API has asked for
        self.ever_asked: set[int] = set()
        self.tickets = 0
        self.told_to_go = False
        self.start_supervisor()

    def teardown(self) -> None:
        if not hasattr(self, "state_dir"):
            return
        try:
            self.settle()
        finally:
            for worker in self.workers.values():
                worker.close()
            shutil.rmtree(self.state_dir)

    # What the history is made of

    def start_supervisor(self) -> None:
        for worker in self.workers.values():
            worker.is_child, worker.gone_fd = False, -1
        self.forker, self.api = PlayedForker(), PlayedApi()
        self.heard: set[int] = set()  # ids of which the present API was told
        self.answered: set[int] = set()
        self.asked = {}
        self.supervisor = Supervisor(
            self.config,
            forker=cast(Forker, self.forker),
            api=cast(ApiProcess, self.api),
            kin=cast(Kin, PlayedKin(self)),
            clock=lambda: self.now,
        )
        self.supervisor.adopt_all()
        self.act()

    def act(self) -> None:
        """One turn of the loop, and more as long as something is due at once."""
        if self.now >= self.api.closes_at:
            self.api.pid = None
        for _ in range(5):
            self.supervisor.act()
            due = self.supervisor.due()
            if due is None or due > self.now or self.supervisor.over:
                break
        else:
            raise AssertionError("the loop spins")
        for report in self.api.reports.reports:
            match report:
                case Changed(ids):
                    self.heard |= set(ids)
                case Accepted(ticket):
                    assert ticket not in self.answered, "answered twice"
                    self.answered.add(ticket)
                case Draining():
                    assert self.told_to_go
                case Closing():
                    assert self.told_to_go
                    self.api.closes_at = self.now + 0.5
        self.api.reports.reports.clear()

    @property
    def now_ns(self) -> int:
        return int(self.now * 1e9)

    def of(self, command_id: int) -> story.Story:
        return story.read(self.places.journal(command_id))[0]

    def may_be_ended(self, worker: Worker) -> bool:
        run, taken = self.ordered[worker.id], self.of(worker.id).worker
        assert taken is not None
        overdue = run.timeout_s is not None and self.now > taken["monotonic_s"] + run.timeout_s + run.grace_s
        told_to_go = self.told_to_go and self.config.on_shutdown == "stop"
        return worker.id in self.ever_asked or overdue or told_to_go

    def die(self, worker: Worker, status: int, *, orphans: int = 2) -> None:
        """The worker is gone; who watches it is told, as the kernel would."""
        facts = self.of(worker.id)
        worker.close()
        del self.workers[worker.id]
        if facts.ended is None:
            self.orphans[worker.id] = orphans
        if worker.gone_fd >= 0:
            self.supervisor.adopted_ended(worker.gone_fd)
        elif worker.is_child:
            self.forker.to_tell.append((worker.id, status))

    # Rules

    @precondition(lambda self: len(self.ordered) < 6 and self.api.pid is not None)
    @rule(timeout_s=st.sampled_from([None, 5.0, 60.0]), grace_s=st.sampled_from([0.0, 5.0]))
    def order_a_command(self, timeout_s: float | None, grace_s: float) -> None:
        """The API writes a journal and orders a worker; it may not have heard yet that we are to go."""
        command_id = len(self.ordered) + 1
        spec = {"id": command_id, "timeout_s": timeout_s, "grace_s": grace_s}
        journal.create(self.places.journal(command_id), self.now_ns, spec)
        self.ordered[command_id] = Run(command_id, timeout_s, grace_s)
        self.api.orders.orders.append(self.ordered[command_id])
        self.act()

    @precondition(lambda self: self.ordered)
    @rule(data=st.data())
    def order_again(self, data: st.DataObject) -> None:
        """Any number of times is safe."""
        command_id = data.draw(st.sampled_from(sorted(self.ordered)))
        self.api.orders.orders.append(self.ordered[command_id])
        self.act()

    @precondition(lambda self: self.forker.requests)
    @rule(comes_to=st.sampled_from(["taken", "taken", "taken", "no process", "dead at birth", "silent at birth"]))
    def fork(self, comes_to: str) -> None:
        """The forker forks a worker, or cannot; the worker takes the command, or dies before."""
        command_id = self.forker.requests.popleft()
        if comes_to == "no process":
            self.forker.to_tell.append((command_id, -11))
        elif comes_to == "dead at birth":
            self.forker.to_tell.append((command_id, KILLED))
        else:
            self.be_born(command_id, listens=comes_to == "taken")
        self.act()

    def be_born(self, command_id: int, *, listens: bool, told: bool = True) -> None:
        self.next_pid += 1
        worker = Worker(self.places, command_id, self.next_pid)
        if worker.take(self.now_ns, boot_id()):
            assert command_id not in self.workers, "two workers have one command"
            self.workers[command_id] = worker
            worker.is_child = told
            if listens:
                worker.listen()
        else:
            worker.close()
            if told:
                self.forker.to_tell.append((command_id, EXIT_NOT_TAKEN << 8))

    @precondition(lambda self: self.workers)
    @rule(data=st.data(), what=st.sampled_from(["start bash", "listen", "pause", "go on", "hear"]))
    def worker_does(self, data: st.DataObject, what: str) -> None:
        """Something that a living worker does, or that is done to it."""
        worker = self.workers[data.draw(st.sampled_from(sorted(self.workers)))]
        match what:
            case "start bash" if not worker.paused and self.of(worker.id).bash is None:
                worker.listen()
                worker.say(journal.STARTED, self.now_ns, {"pid": worker.pid + 1000, "start_time": 1})
            case "listen" if not worker.paused:
                worker.listen()
            case "pause":
                worker.paused = True
            case "go on":
                worker.paused = False
            case "hear" if not worker.paused:
                self.react(worker)
        self.act()

    def react(self, worker: Worker) -> None:
        """Do what the control pipe says: write down that a stop is under way."""
        worker.listen()
        worker.hear()
        if self.config.on_shutdown == "leave":
            assert all(stop["reason"] != "shutdown" for stop in worker.told), "it was to be left"
        if worker.told and worker.stopping is None:
            worker.stopping = worker.told[0]
            worker.say(journal.STOPPING, self.now_ns, worker.stopping)

    @precondition(lambda self: self.workers)
    @rule(data=st.data())
    def worker_ends(self, data: st.DataObject) -> None:
        """It records the end of its command and exits."""
        worker = self.workers[data.draw(st.sampled_from(sorted(self.workers)))]
        if not worker.paused:
            worker.say(journal.ENDED, self.now_ns, {"status": "succeeded", "by": "worker"})
            self.die(worker, 0)
        self.act()

    @precondition(lambda self: self.workers)
    @rule(data=st.data(), status=st.sampled_from([KILLED, EXIT_CRASHED << 8]), orphans=st.integers(0, 4))
    def worker_dies(self, data: st.DataObject, status: int, orphans: int) -> None:
        """Killed, or by a defect of its own, with its tree left behind."""
        self.die(self.workers[data.draw(st.sampled_from(sorted(self.workers)))], status, orphans=orphans)
        self.act()

    @precondition(lambda self: self.ordered)
    @rule(data=st.data(), grace_s=st.sampled_from([0.0, 5.0]))
    def ask_for_a_stop(self, data: st.DataObject, grace_s: float) -> None:
        """The API passes a client's stop on."""
        command_id = data.draw(st.sampled_from(sorted(self.ordered)))
        self.tickets += 1
        stop = Stop(self.tickets, command_id, 15, grace_s, self.now_ns)
        self.asked.setdefault(command_id, []).append(stop)
        self.ever_asked.add(command_id)
        self.api.orders.orders.append(stop)
        self.act()

    @rule(seconds=st.sampled_from([0.001, 0.1, 1.0, 3.0, 20.0, 3600.0]))
    def tick(self, seconds: float) -> None:
        """Time passes."""
        self.now += seconds
        self.act()

    @rule(behind=st.booleans())
    def forker_gets_behind(self, behind: bool) -> None:
        """Its pipe is full, or is not any more."""
        self.forker.behind = behind
        self.act()

    @rule(takes_requests_along=st.booleans())
    def supervisor_dies(self, takes_requests_along: bool) -> None:
        """With its forker and the API; the next ones know nothing but what lies on the disk."""
        if not takes_requests_along:
            self.strays += self.forker.requests
        self.told_to_go = False
        self.start_supervisor()
        # What the API's recovery does: whoever has not ended is ordered again.
        self.api.orders.orders += [self.ordered[one] for one in self.ordered if self.of(one).ended is None]
        self.act()

    @precondition(lambda self: self.strays)
    @rule()
    def stray_worker_begins(self) -> None:
        """One that was forked by the last act of a forker that is dead; no parent of ours hears of its end."""
        self.be_born(self.strays.popleft(), listens=True, told=False)
        self.act()

    @precondition(lambda self: not self.told_to_go)
    @rule()
    def be_told_to_go(self) -> None:
        """SIGTERM."""
        self.told_to_go = True
        self.supervisor.told_to_go()
        self.act()

    # What holds always

    @invariant()
    def every_journal_is_whole(self) -> None:
        """One worker at most has taken a command, it has one end at most, and nobody writes after it."""
        if not hasattr(self, "ordered"):
            return
        for command_id in self.ordered:
            with journal.Reader(self.places.journal(command_id)) as reader:
                kinds = [frame.kind for frame in reader.frames()]
            assert kinds[0] == journal.SPEC
            assert kinds.count(journal.TAKEN) <= 1
            assert journal.ENDED not in kinds[:-1]

    @invariant()
    def no_end_comes_before_the_last_orphan_is_gone(self) -> None:
        """What the supervisor records for a dead worker is said when nobody is left."""
        if not hasattr(self, "ordered"):
            return
        for command_id in self.ordered:
            ended = self.of(command_id).ended
            if ended is not None and ended.get("by") != "worker":
                assert command_id not in self.workers
                assert self.orphans.get(command_id, 0) == 0

    # The end of every history

    def settle(self) -> None:
        """Let everybody do what is theirs: then every stop has had its effect, every dead worker its conclusion."""
        self.forker.behind = False
        while self.strays:
            self.stray_worker_begins()
        for _ in range(60):
            self.act()
            while self.forker.requests and not self.supervisor.over:
                self.be_born(self.forker.requests.popleft(), listens=True)
                self.act()
            for worker in list(self.workers.values()):
                if not worker.paused:
                    self.react(worker)
                if worker.stopping is not None:
                    worker.say(journal.ENDED, self.now_ns, {"status": "stopped", "by": "worker"})
                    self.die(worker, 0)
            self.now += 5.0
            self.act()
        for command_id in self.ordered:
            facts = self.of(command_id)
            if self.supervisor.over:
                continue  # the next start goes on from here; that supervisors may die any time is shown all along
            if command_id in self.workers:
                worker = self.workers[command_id]
                assert facts.ended is None
                assert not self.told_to_go
                if worker.paused:
                    # Its time is up: the supervisor has taken over, unless nothing was asked of it.
                    assert self.ordered[command_id].timeout_s is None
                    assert not self.asked.get(command_id)
                else:
                    assert not worker.told
            else:
                assert facts.ended is not None, f"command {command_id} has no worker and no end"
                assert command_id in self.heard, f"nobody told the API that {command_id} has ended"
            for stop in self.asked.get(command_id, ()):
                assert stop.ticket in self.answered, "a stop was never answered"
        if not self.workers and not self.told_to_go:
            assert self.supervisor.due() is None, "it wakes up with nothing to do"


World.TestCase.settings = settings(
    max_examples=300,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
TestHistories = World.TestCase


@pytest.fixture
def world() -> Iterator[World]:
    """One that has begun, and in which nothing was ordered yet."""
    world = World()
    try:
        world.begin()
        yield world
    finally:
        world.teardown()


def test_a_stop_is_answered_only_when_it_would_survive_the_supervisor(world: World) -> None:
    """It lies in the control pipe then; before, the worker does not listen and the answer waits."""
    world.order_a_command(timeout_s=None, grace_s=5.0)
    world.be_born(world.forker.requests.popleft(), listens=False)

    world.api.orders.orders.append(Stop(1, 1, 15, 5.0, 0))
    world.ever_asked.add(1)
    world.act()
    assert world.answered == set()

    world.workers[1].listen()
    world.act()
    assert world.answered == {1}
    world.workers[1].hear()
    assert [stop["reason"] for stop in world.workers[1].told] == ["client"]


def test_a_worker_is_given_time_beyond_its_own_deadlines(world: World) -> None:
    """The supervisor's second timer comes after the worker's: timeout, then grace, then some seconds more."""
    world.order_a_command(timeout_s=5.0, grace_s=5.0)
    world.be_born(world.forker.requests.popleft(), listens=True)
    world.workers[1].paused = True

    world.tick(10.0 + SILENT_AFTER_S - 0.1)
    assert 1 in world.workers
    world.tick(0.2)
    assert 1 not in world.workers
    world.tick(5.0)
    world.tick(5.0)
    world.tick(5.0)

    ended = world.of(1).ended
    assert ended is not None
    assert (ended["status"], ended["reason"]) == ("failed", "timeout")


def test_a_command_that_waited_for_its_worker_has_all_its_time_from_then_on(world: World) -> None:
    """A crowd before it, or a disk that took nothing: that is not its time."""
    world.order_a_command(timeout_s=5.0, grace_s=0.0)
    world.tick(5.0 + SILENT_AFTER_S - 0.1)
    world.be_born(world.forker.requests.popleft(), listens=True)
    world.workers[1].say(journal.STARTED, world.now_ns, {"pid": 1 << 23, "start_time": 1})

    world.tick(0.2)
    assert 1 in world.workers
    world.tick(5.0 + SILENT_AFTER_S - 0.3)
    assert 1 in world.workers
    world.tick(0.2)
    assert 1 not in world.workers


def test_news_that_gathers_is_taken_when_its_time_has_come(world: World) -> None:
    """The loop wakes for it by itself, and then sleeps again."""
    world.supervisor._gathering.came(2)
    world.supervisor.act()
    assert world.supervisor.due() == pytest.approx(world.now + GATHER_S)
    world.tick(GATHER_S)
    assert world.supervisor.due() is None


def test_an_adopted_worker_has_all_the_time_it_had(world: World) -> None:
    """What the wall clock says plays no part: here it is decades away from the clock of the workers."""
    world.order_a_command(timeout_s=60.0, grace_s=5.0)
    world.be_born(world.forker.requests.popleft(), listens=True)
    world.workers[1].say(journal.STARTED, world.now_ns, {"pid": 1 << 23, "start_time": 1})
    world.tick(20.0)

    world.supervisor_dies(takes_requests_along=True)
    world.tick(40.0 + 5.0 + SILENT_AFTER_S - 0.1)
    assert 1 in world.workers
    world.tick(0.2)

    assert 1 not in world.workers
