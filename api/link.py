"""The API's end of the two queues: orders go out, reports come in, and nothing here ever blocks."""

from __future__ import annotations

import asyncio
import itertools
import os
from collections.abc import Callable

from api.problems import Unavailable
from protocol.messages import Accepted, Changed, Closing, Draining, Order, Ping, Report, Run, Stop
from protocol.queue import Queue

ANSWER_WITHIN_S = 1.0


class Link:
    """Orders with a ticket are answered by ``Accepted``; what else is reported goes to the three callbacks."""

    def __init__(self, orders: Queue[Order], reports: Queue[Report]) -> None:
        self._orders = orders
        self._reports = reports
        self._tickets = itertools.count(1)
        self._answers: dict[int, asyncio.Future[None]] = {}
        self._waits_to_write = False
        self._will_flush = False
        self.on_changed: Callable[[tuple[int, ...]], None] = lambda _ids: None
        self.on_draining: Callable[[], None] = lambda: None
        self.on_closing: Callable[[float], None] = lambda _within_s: None

    def open(self) -> None:
        """Begin to take reports, in the running event loop."""
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._reports.reader_fd, self._take)

    def close(self) -> None:
        """Take no more reports."""
        self._loop.remove_reader(self._reports.reader_fd)
        if self._waits_to_write:
            self._loop.remove_writer(self._orders.writer_fd)

    def run(self, command_id: int, timeout_s: float | None, grace_s: float) -> None:
        """Order a worker for a command whose journal is written. Any number of times is safe."""
        self._put(Run(command_id, timeout_s, grace_s))

    async def stop(self, command_id: int, signal: int, grace_s: float, requested_at_ns: int, by: str | None) -> None:
        """Order a stop; returns when the supervisor has taken it, else raises ``Unavailable`` after a second."""
        ticket = next(self._tickets)
        await self._ask(ticket, Stop(ticket, command_id, signal, grace_s, requested_at_ns, by))

    async def ping(self) -> None:
        """Returns when the supervisor answers, else raises ``Unavailable`` after a second."""
        ticket = next(self._tickets)
        await self._ask(ticket, Ping(ticket))

    async def _ask(self, ticket: int, order: Order) -> None:
        answer = self._answers[ticket] = self._loop.create_future()
        try:
            self._put(order)
            await asyncio.wait_for(answer, ANSWER_WITHIN_S)
        except TimeoutError as error:
            raise Unavailable("The supervisor does not answer.", headers={"Retry-After": "1"}) from error
        finally:
            del self._answers[ticket]

    def _put(self, order: Order) -> None:
        # All orders of one turn of the loop go together.
        self._orders.hold(order)
        if not self._will_flush:
            self._will_flush = True
            self._loop.call_soon(self.flush)

    def flush(self) -> None:
        """Send the orders that were given so far, as far as the supervisor takes them now."""
        self._will_flush = False
        try:
            done = self._orders.flush()
        except BrokenPipeError:
            return  # the supervisor is gone: the reports come to their end, and so do we
        if done and self._waits_to_write:
            self._loop.remove_writer(self._orders.writer_fd)
        elif not done and not self._waits_to_write:
            self._loop.add_writer(self._orders.writer_fd, self.flush)
        self._waits_to_write = not done

    def _take(self) -> None:
        try:
            reports = self._reports.take()
        except EOFError:
            # The supervisor is gone, and with it our reason to be: the next one brings its own API.
            os._exit(1)
        for report in reports:
            match report:
                case Changed(ids):
                    self.on_changed(ids)
                case Accepted(ticket):
                    answer = self._answers.get(ticket)
                    if answer is not None and not answer.done():
                        answer.set_result(None)
                case Draining():
                    self.on_draining()
                case Closing(within_s):
                    self.on_closing(within_s)
