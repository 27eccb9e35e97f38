"""What can be done to a command while it runs: send it a signal, feed its stdin.

Both go straight to where they are taken: a signal, and the end of stdin, into the control pipe of the command's worker,
the bytes into the pipe that bash reads. So neither needs the supervisor, and what is taken outlives this process.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any
from weakref import WeakValueDictionary

from api.command import Command
from api.commands import Commands, ended
from api.live import Live
from api.pour import Pour, refuse_if_over
from api.problems import Conflict, Unavailable
from protocol import control
from protocol.places import Places

TOLD_WITHIN_S = 1.0  # a worker listens a quarter of a second after the start of its command at the latest
TELL_AGAIN_S = 0.02


class Steering:
    """The use cases."""

    def __init__(self, *, commands: Commands, places: Places) -> None:
        self._commands = commands
        self._places = places
        self._turns: WeakValueDictionary[int, asyncio.Lock] = WeakValueDictionary()  # one body after the other

    async def signal(self, command_id: int, number: int) -> Command:
        """Send the command's group a signal; returns when its worker has it where it survives everybody else.

        Raises ``NotFound``, ``Conflict`` for a command that does not run, and ``Unavailable``.
        """
        live = await self._commands.running(command_id)
        send = partial(control.send_signal, signal=number, requested_at_ns=time.time_ns() // 1000 * 1000)
        await self._tell(live, send)
        return live.command

    async def _tell(self, live: Live, send: Callable[[str], bool]) -> None:
        """Returns when the message lies in the worker's control pipe, which the worker alone holds open."""
        path = self._places.control(live.id)
        give_up_at = time.monotonic() + TOLD_WITHIN_S
        while not send(path):
            if live.over:
                raise ended(live.command)
            if time.monotonic() > give_up_at:
                detail = f"The worker of command {live.id} cannot be told: it does not listen (yet)."
                raise Unavailable(detail, headers={"Retry-After": "1"})
            await asyncio.sleep(TELL_AGAIN_S)

    async def feed(self, command_id: int, read: Callable[[], Coroutine[Any, Any, bytes | None]], *, close: bool) -> int:
        """Write all that ``read`` gives into the command's stdin, then close that if it is to be; returns the bytes.

        Waits as long as the script does not read. Bodies for one command come one after the other. Raises what
        ``signal`` raises; the detail says how many bytes were taken before.
        """
        live = await self._commands.running(command_id)
        if not live.command.stdin_open:
            raise Conflict(f"Command {command_id} was not started with stdin_open: its stdin cannot be fed.")
        turn = self._turns.setdefault(command_id, asyncio.Lock())
        async with turn:
            await self._until_open(live)
            pour = Pour(live, self._commands)
            try:
                await pour.open(self._places.stdin(command_id))
                await pour.take(read)
            finally:
                pour.close()
            if close:
                await self._tell(live, control.send_close_stdin)
                live.note_stdin_closed()
            return pour.taken_bytes

    async def _until_open(self, live: Live) -> None:
        """Wait until bash is started and its pipe has taken the input that the command came with."""
        refuse_if_over(live, self._commands)
        while live.stdin_open is None:
            await live.change()
            refuse_if_over(live, self._commands)
        if not live.stdin_open:
            raise Conflict(f"The stdin of command {live.id} is closed.")
