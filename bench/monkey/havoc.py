"""What happens to Bashd meanwhile: its processes and PostgreSQL's are killed, stopped and continued at random."""

from __future__ import annotations

import heapq
import os
import random
import re
import signal
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from tests.processes import Service, arguments, descendants, is_alive, reap_orphans, title

MISSED_AGAIN_S = 0.2  # when there was nobody to be hit


@dataclass(order=True)
class _Blow:
    """Something that is to happen at ``at`` (monotonic)."""

    at: float
    name: str
    strike: Callable[[], bool] = field(compare=False)
    again_s: tuple[float, float] | None = field(compare=False, default=None)  # range of the pause until the next


class Havoc:
    """Kills by a schedule that follows from the seed. Remembers which workers it has hurt."""

    def __init__(self, service: Service, diary: Path, *, seed: int) -> None:
        """``service`` runs, with an embedded PostgreSQL and ``on_shutdown=leave``. ``diary``: where all is noted."""
        self._service = service
        self._diary = diary
        self._chance = random.Random(f"havoc {seed}")
        self._schedule: list[_Blow] = []
        self.counts: Counter[str] = Counter()
        self.hurt: set[int] = set()  # ids of commands whose worker was killed or stopped
        self.troubles: list[str] = []

    def rage(self, seconds: float) -> None:
        """Go on for so long, then leave everything continued and the service running."""
        over = time.monotonic() + seconds
        for name, (strike, again_s) in self._kinds().items():
            self._plan(name, strike, again_s)
        while self._schedule and (self._schedule[0].at < over or self._schedule[0].again_s is None):
            blow = heapq.heappop(self._schedule)
            time.sleep(max(0.0, blow.at - time.monotonic()))
            reap_orphans()
            began = datetime.now(UTC)
            struck = blow.strike()
            with self._diary.open("a") as diary:
                print(began.isoformat(), blow.name, "" if struck else "(nobody there)", file=diary)
            if blow.again_s is None:
                continue
            self.counts[blow.name] += struck
            if struck:
                self._plan(blow.name, blow.strike, blow.again_s)
            else:
                heapq.heappush(
                    self._schedule, _Blow(time.monotonic() + MISSED_AGAIN_S, blow.name, blow.strike, blow.again_s)
                )
        for blow in sorted(one for one in self._schedule if one.again_s is None):
            time.sleep(max(0.0, blow.at - time.monotonic()))
            blow.strike()

    def _plan(self, name: str, strike: Callable[[], bool], again_s: tuple[float, float]) -> None:
        heapq.heappush(self._schedule, _Blow(time.monotonic() + self._chance.uniform(*again_s), name, strike, again_s))

    def _kinds(self) -> dict[str, tuple[Callable[[], bool], tuple[float, float]]]:
        """name → what it does (true when somebody was hit), and the seconds between two of it."""
        return {
            "kill api": (lambda: self._kill("bashd: api"), (0.5, 8)),
            "kill supervisor": (lambda: self._kill("bashd: supervisor"), (0.5, 8)),
            "kill forker": (lambda: self._kill("bashd: forker"), (0.5, 8)),
            "kill worker": (self._kill_worker, (0.2, 6)),
            "kill postmaster": (lambda: self._kill_postgres(whole=True), (1, 8)),
            "kill backend": (lambda: self._kill_postgres(whole=False), (0.5, 8)),
            "kill init": (self._kill_init, (2, 7)),
            "kill api and supervisor": (self._kill_both, (2, 20)),
            "kill everything but workers": (self._kill_everything, (4, 30)),
            "stop and start again": (self._restart, (4, 30)),
            "pause api": (lambda: self._pause("bashd: api"), (2, 20)),
            "pause supervisor": (lambda: self._pause("bashd: supervisor"), (2, 20)),
            "pause forker": (lambda: self._pause("bashd: forker"), (2, 20)),
            "pause worker": (self._pause_worker, (1, 10)),
            "pause postgres": (self._pause_postgres, (2, 20)),
        }

    # Finding

    def _family(self) -> list[int]:
        """Everybody below init."""
        init = self._service.init
        return [] if init is None else descendants(init.pid)

    def _titled(self, prefix: str) -> list[int]:
        return [pid for pid in self._family() if title(pid).startswith(prefix)]

    def _workers(self) -> list[int]:
        """Those below init, and those that came to us when an init died."""
        mine = os.getpid()
        return [pid for pid in descendants(mine) if title(pid).startswith("bashd: worker ")]

    def _postgres(self) -> list[int]:
        """The postmaster first, if it is there."""
        family = self._family()
        place = str(self._service.state_dir)
        heads = [pid for pid in family if any(place in one for one in arguments(pid)[1:]) and "postgres" in title(pid)]
        return [pid for head in heads for pid in (head, *descendants(head))]

    # Striking

    def _send(self, pid: int, number: int, still: Callable[[], bool]) -> bool:
        """Signal a process that is still who it was when we hold it."""
        try:
            pidfd = os.pidfd_open(pid)
        except ProcessLookupError:
            return False
        try:
            if not still():
                return False
            signal.pidfd_send_signal(pidfd, number)
        except ProcessLookupError:
            return False
        finally:
            os.close(pidfd)
        return True

    def _one_of(self, pids: list[int], number: int) -> int | None:
        if not pids:
            return None
        pid = self._chance.choice(pids)
        was = title(pid)
        return pid if was and self._send(pid, number, lambda: title(pid) == was) else None

    def _kill(self, prefix: str) -> bool:
        return self._one_of(self._titled(prefix), signal.SIGKILL) is not None

    def _kill_both(self) -> bool:
        return self._kill("bashd: api") | self._kill("bashd: supervisor")

    def _hit_worker(self, number: int) -> int | None:
        workers = self._workers()
        if not workers:
            return None
        pid = self._chance.choice(workers)
        named = re.match(r"bashd: worker (\d+)", was := title(pid))
        if named is None:
            return None
        self.hurt.add(int(named.group(1)))  # before it: who looks at the outcome must know
        return pid if self._send(pid, number, lambda: title(pid) == was) else None

    def _kill_worker(self) -> bool:
        return self._hit_worker(signal.SIGKILL) is not None

    def _pause_worker(self) -> bool:
        pid = self._hit_worker(signal.SIGSTOP)
        return pid is not None and self._continue_later([pid])

    def _pause(self, prefix: str) -> bool:
        pid = self._one_of(self._titled(prefix), signal.SIGSTOP)
        return pid is not None and self._continue_later([pid])

    def _pause_postgres(self) -> bool:
        pids = [pid for pid in self._postgres() if self._one_of([pid], signal.SIGSTOP)]
        return bool(pids) and self._continue_later(pids)

    def _continue_later(self, pids: list[int]) -> bool:
        def go_on() -> bool:
            for pid in pids:
                if is_alive(pid):
                    self._one_of([pid], signal.SIGCONT)
            return True

        heapq.heappush(self._schedule, _Blow(time.monotonic() + self._chance.uniform(0.05, 4), "continue", go_on))
        return True

    def _kill_postgres(self, *, whole: bool) -> bool:
        pids = self._postgres()
        if not pids:
            return False
        return self._one_of(pids[:1] if whole else pids[1:], signal.SIGKILL) is not None

    def _kill_init(self) -> bool:
        self._service.kill_init()
        self._start()
        return True

    def _kill_everything(self) -> bool:
        for prefix in ("bashd: supervisor", "bashd: forker", "bashd: api"):
            self._kill(prefix)
        for pid in self._postgres():
            self._one_of([pid], signal.SIGKILL)
        self._service.kill_init()
        self._start()
        return True

    def _restart(self) -> bool:
        code = self._service.terminate(within_s=60)
        if code != 0:
            self.troubles.append(f"after SIGTERM the service ended with {code}")
        self._start()
        return True

    def _start(self) -> None:
        time.sleep(self._chance.choice([0, 0, self._chance.uniform(0, 1)]))
        self._service.start(ready=False, within_s=60)
