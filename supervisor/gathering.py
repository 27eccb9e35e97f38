"""Letting news gather: when much of it comes, each waking costs more than what it brings."""

from __future__ import annotations

import select
from collections.abc import Callable

GATHER_S = 0.008


class Gathering:
    """Descriptors that a poll looks at, but not for a moment after several pieces of news came together.

    Who takes the turns takes what lies in them in every turn, whatever it was that began it.
    """

    def __init__(self, poll: select.poll, clock: Callable[[], float]) -> None:
        """``clock`` gives seconds."""
        self._poll = poll
        self._clock = clock
        self._fds: list[int] = []
        self._came = 0  # in this turn, or since they are not looked at
        self.until: float | None = None  # by the clock: when to look again; None: they are looked at

    def watch(self, fd: int) -> None:
        """Have the poll look at this one."""
        self._fds.append(fd)
        self._poll.register(fd, select.POLLIN)

    def came(self, count: int) -> None:
        """So many pieces of news were taken."""
        self._came += count

    def end_turn(self) -> None:
        """Decide whether the next piece of news is worth a turn of its own."""
        if self.until is None or self._clock() >= self.until:
            if self._came > 1:
                self._pause()
            elif self.until is not None:
                self._go_on()
            self._came = 0

    def _pause(self) -> None:
        if self.until is None:
            for fd in self._fds:
                self._poll.unregister(fd)
        self.until = self._clock() + GATHER_S

    def _go_on(self) -> None:
        self.until = None
        for fd in self._fds:
            self._poll.register(fd, select.POLLIN)
