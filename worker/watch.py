"""From the start of bash to the end of all it started: the worker's one loop.

        pipes ──▶ journal            bash and its group
      control ──▶ stop  ──────────▶  TERM+CONT … grace … KILL
              └─▶ signal, stdin closed
       SIGCHLD ──▶ reap, look        └─▶ escapees: swept, until waitpid says that nobody is left
         clock ──▶ timeout, grace

Bash stays unreaped (``waitid`` with ``WNOWAIT``) until its group is dead, so the group's id cannot have been
given to anyone else. Only then is it reaped, and the end is recorded.
"""

import os
import select
import signal
import time

from protocol import control, journal, linux
from worker import limits
from worker.bash import Bash
from worker.control_pipe import ControlPipe
from worker.feed import Feed
from worker.group import Group
from worker.record import DISK_AGAIN_S, DISK_TROUBLE, Record, Streams
from worker.tree import Tree

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from worker.mask import Mask

SWEEP_PAUSE_S = (0.001, 1.0)  # between two rounds of killing: the first pause, doubled up to the last
UNKILLABLE_AFTER_S = 10.0
MAX_UNKILLABLE = 20  # of them are named
LISTEN_AFTER_S = 0.25  # most commands are over by then
READ_AFTER_S = 0.01  # so many short commands are over by then, and all of what they printed is read at once


class Stop:
    """A stop that is under way: whoever asked first gives the reason."""

    def __init__(self, reason: str, kill_at: float) -> None:
        self.reason = reason
        self.kill_at = kill_at  # monotonic
        self.while_bash_lived = False  # a signal of ours was sent before bash had ended


class Watch:
    """The state of one running command."""

    def __init__(
        self,
        spec: "dict[str, Any]",
        bash: Bash,
        record: Record,
        *,
        control_pipe: ControlPipe,
        feed: "Feed | None",
        masks: "tuple[Mask, Mask] | None",
        group: "Group | None",
        wake_fd: int,
        started: float,
        on_lasting: "Callable[[], None]",
    ) -> None:
        """``wake_fd`` gives the numbers of the signals that reached us; ``started`` is monotonic.

        ``on_lasting`` is called when it is no short command any more.

        ``feed``: what bash reads, of a command whose stdin is fed while it runs. ``masks``: of one that has secrets.
        """
        self._spec = spec
        self._bash = bash
        self._record = record
        self.streams = Streams(record, bash.stdout_fd, bash.stderr_fd, masks)
        self._control_pipe = control_pipe
        self._feed = feed
        self._wake_fd = wake_fd
        self.tree = Tree(bash.pid, group)
        self.stop: Stop | None = None
        self.left = 0
        self.limits: dict[str, int] = spec.get("limits", {})  # journals of an earlier version know of none
        self.leader_cpu_s = 0.0  # processor time of bash itself; only where that is limited
        self._on_lasting = on_lasting
        self._listen_at: float | None = started + LISTEN_AFTER_S
        self._timeout_at = None if spec["timeout_s"] is None else started + spec["timeout_s"]
        self._killing_since: float | None = None
        self._next_round = 0.0  # monotonic; only while killing
        self._pause_s = SWEEP_PAUSE_S[0]
        self._unkillable: list[int] = []  # pids that were said to be
        self._read_from: float | None = started + READ_AFTER_S
        self._poll = select.poll()
        self._poll.register(wake_fd, select.POLLIN)

    @property
    def uneventful(self) -> bool:
        """True when bash ended by itself, nobody had to be killed, and nobody was left."""
        return self.stop is None and self._killing_since is None and self.left == 0

    @property
    def exceeded(self) -> bool:
        """True when it printed more than it was allowed to, and is to fail for that."""
        return self._record.exceeded

    @property
    def waits_for_leftovers(self) -> bool:
        return bool(self._spec["leftovers"] == "wait")

    def until_the_end(self) -> int:
        """Run until bash and what it started are dealt with; returns bash's wait status, bash being reaped."""
        if self._feed is not None:
            self._listen()  # at once: who feeds it may want to close it at once
            self._feed_first(self._feed)
        while not self._step():
            self._wait()
        if "cpu_s" in self.limits:
            self.leader_cpu_s = limits.cpu_s(self._bash.pid)
        status = self.tree.reap_leader()
        if self.left == 0:
            self.tree.sweep_rest()
        self.streams.drain(close=self.left == 0)
        return status

    def _step(self) -> bool:
        """Decide what follows from where we stand; true when it is over but for the reaping."""
        now = time.monotonic()
        if self.stop is None and self._timeout_at is not None and now >= self._timeout_at:
            self._begin_stop(signal.SIGTERM, self._spec["grace_s"], "timeout", None)
        if self.stop is None and self.exceeded:
            self._begin_stop(signal.SIGTERM, self._spec["grace_s"], "output_limit", None)
        if self.stop is not None and now >= self.stop.kill_at:
            self._begin_killing(now)
        if self._killing_since is None and self.tree.leader_exited:
            others = self.tree.others()
            if not others:
                return True
            if self._must_wait_for(others):
                self.tree.reap()
                return False
            if self.stop is None and self._spec["leftovers"] == "leave":
                self.left = len(others)
                return True
            self._begin_killing(now)
        return self._killing_since is not None and self._kill(now)

    def _must_wait_for(self, others: "list[linux.Process]") -> bool:
        """After the end of bash: true while those left have time to end by themselves."""
        if self.stop is not None:
            # Members of the group got the signal and have their grace; escapees did not hear of it.
            return any(one.pgid == self._bash.pid for one in others)
        return self.waits_for_leftovers

    def _begin_stop(
        self, number: int, grace_s: float, reason: str, requested_at_ns: "int | None", by: "str | None" = None
    ) -> None:
        """Signal the group and set the time for KILL. A second stop may only bring that time forward."""
        _hurry()
        now = time.monotonic()
        # Nobody is left to use a grace.
        kill_at = now if number == signal.SIGKILL else now + grace_s
        if self.stop is None:
            self.stop = Stop(reason, kill_at)
        self.stop.kill_at = min(self.stop.kill_at, kill_at)
        self.stop.while_bash_lived = self.stop.while_bash_lived or not self._look_for_exit()
        stopping = {
            "signal": int(number),
            "reason": reason,
            "grace_s": grace_s,
            "requested_at_ns": requested_at_ns,
            "by": by,
        }
        # Counted while they live: the bodies of many never come to us.
        others = self.tree.others()
        self.tree.count(others)
        # The signal first: a disk that is slow to take the frame must not hold up the stop.
        self.tree.stop_group(number)
        if number == signal.SIGKILL:
            self.tree.kill_escaped(others)  # they are known already; the sweep looks for those who are not
        self._record.fact(journal.STOPPING, stopping)

    def _begin_killing(self, now: float) -> None:
        if self._killing_since is None:
            self._killing_since = self._next_round = now
            _hurry()

    def _kill(self, now: float) -> bool:
        """One round of the sweep when its time has come; true when only bash's body is left."""
        assert self._killing_since is not None
        if now < self._next_round:
            return False
        known = self.tree.counted_in_group + self.tree.counted_escaped
        alive = self.tree.kill_round()
        self._look_for_exit()
        if not alive and self.tree.leader_exited:
            return True
        if self.tree.counted_in_group + self.tree.counted_escaped > known:
            # New ones appear: no pause at all, they do not make one either.
            self._pause_s = SWEEP_PAUSE_S[0]
            self._next_round = now
        else:
            self._next_round = now + self._pause_s
            self._pause_s = min(self._pause_s * 2, SWEEP_PAUSE_S[1])
        if now - self._killing_since > UNKILLABLE_AFTER_S:
            self._say_unkillable(alive)
        return False

    def _say_unkillable(self, alive: "list[linux.Process]") -> None:
        """A process in uninterruptible sleep takes no signal: say who, whenever that changes, and go on watching.

        Who was started since we began to kill is no such process: somebody is forking faster than we kill.
        """
        long_ago = linux.ticks_ago(UNKILLABLE_AFTER_S)
        pids = [one.pid for one in alive if one.start_time <= long_ago]
        if not self.tree.leader_exited:
            pids.append(self._bash.pid)
        pids = sorted(pids)[:MAX_UNKILLABLE]
        if pids and pids != self._unkillable:
            self._unkillable = pids
            self._record.fact(journal.UNKILLABLE, {"processes": [{"pid": p, "wchan": linux.wchan(p)} for p in pids]})

    def _look_for_exit(self) -> bool:
        """Note whether bash has exited, leaving its body as it is."""
        if not self.tree.leader_exited:
            status = os.waitid(os.P_PID, self._bash.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG)
            self.tree.leader_exited = status is not None
        return self.tree.leader_exited

    def _wait(self) -> None:
        """Sleep until something happens or a time has come, and take in what happened."""
        for fd, _ in self._poll.poll(self._timeout_ms()):
            if fd == self._wake_fd:
                self._take_signals()
            elif fd == self._control_pipe.fd:
                self._take_messages()
            elif self._feed is not None and fd == self._feed.fd:
                self._feed_first(self._feed)
            elif fd in self.streams.kinds and not self.streams.read(fd):
                self._poll.unregister(fd)
        now = time.monotonic()
        if self._read_from is not None and now >= self._read_from:
            self._read_from = None
            for fd in self.streams.kinds:
                self._poll.register(fd, select.POLLIN)
        if self._record.report_due is not None and now >= self._record.report_due:
            self._record.report()
        if self._listen_at is not None and now >= self._listen_at:
            self._listen()

    def _listen(self) -> None:
        """Be reachable: what a command that lasts needs, and one that is over at once does not."""
        self._on_lasting()
        try:
            self._control_pipe.open()
            self._poll.register(self._control_pipe.fd, select.POLLIN)
            self._listen_at = None
        except OSError as error:
            # Without its pipe the supervisor tells us by a signal. With no disk at all there is nothing to try again.
            self._listen_at = time.monotonic() + DISK_AGAIN_S if error.errno in DISK_TROUBLE else None

    def _timeout_ms(self) -> "int | None":
        times = [self._record.report_due, self._listen_at, self._read_from]
        if self._killing_since is not None:
            times.append(self._next_round)
        elif self.stop is not None:
            times.append(self.stop.kill_at)
        else:
            times.append(self._timeout_at)
        due = [one for one in times if one is not None]
        if not due:
            return None
        # One more millisecond: poll's clock is coarser than ours, and waking too early would spin.
        return min(max(0, int((min(due) - time.monotonic()) * 1000) + 1), 2**31 - 1)

    def _take_signals(self) -> None:
        numbers = os.read(self._wake_fd, 4096)
        if signal.SIGCHLD in numbers:
            self._look_for_exit()
            if not self.tree.leader_exited and self._killing_since is None:
                self._note_pause()
                self.tree.reap()
        if {signal.SIGTERM, signal.SIGINT, signal.SIGHUP} & set(numbers):
            # From whoever ends the whole service at once; or from Bashd when the control pipe has no name any more.
            self._begin_stop(signal.SIGTERM, self._spec["grace_s"], "shutdown", None)
        if control.LISTEN_SIGNAL in numbers and self._listen_at is not None:
            self._listen()
        if control.STOP_SIGNAL in numbers:
            self._begin_stop(signal.SIGTERM, self._spec["grace_s"], "client", None)
        if control.HURRY_SIGNAL in numbers:
            self._begin_stop(signal.SIGKILL, 0.0, "client", None)

    def _note_pause(self) -> None:
        """Record that bash was stopped (SIGSTOP) or goes on."""
        try:
            change = os.waitid(os.P_PID, self._bash.pid, os.WSTOPPED | os.WCONTINUED | os.WNOHANG)
        except ChildProcessError:
            return  # it ended this moment: the next signal says so
        if change is not None:
            self._record.fact(journal.PAUSED, {"paused": change.si_code == os.CLD_STOPPED})

    def _take_messages(self) -> None:
        for one in self._control_pipe.messages():
            what = one.get("do", "stop")  # an earlier version tells of nothing else, and does not say so
            if what == "stop":
                # An earlier version does not say who asks.
                self._begin_stop(one["signal"], one["grace_s"], one["reason"], one["requested_at_ns"], one.get("by"))
            elif what == "signal":
                self.tree.signal_group(one["signal"])
                signalled = {"signal": one["signal"], "requested_at_ns": one["requested_at_ns"]}
                self._record.fact(journal.SIGNALLED, signalled)
            elif what == "close_stdin" and self._feed is not None:
                self._close_stdin(self._feed)
            # A later version may know more; what we do not understand must not end the command.

    def _feed_first(self, feed: Feed) -> None:
        """Write what of the first input bash's pipe takes now; after the last of it others may write there."""
        waited = feed.waits
        feed.write()
        if feed.waits and not waited:
            self._poll.register(feed.fd, select.POLLOUT)
        elif not feed.waits:
            if waited:
                self._poll.unregister(feed.fd)
            self._record.fact(journal.STDIN, {"open": True})

    def _close_stdin(self, feed: Feed) -> None:
        """Let bash's stdin come to its end."""
        if feed.waits:
            self._poll.unregister(feed.fd)
        feed.close()
        self._record.fact(journal.STDIN, {"open": False})


def _hurry() -> None:
    """Go before every ordinary process from now on, if we may: what is left to do is to end them.

    Else a crowd of sessions that fork for ever gets a share of the processor for each of them, and we get one.
    """
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO | os.SCHED_RESET_ON_FORK, os.sched_param(1))
    except OSError:
        pass  # only root may
