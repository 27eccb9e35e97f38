"""What has changed lately, of all commands: the newest change of each, in the order of the changes.

Kept in memory and bounded: who has missed more than is kept is told to load the list again.
"""

from __future__ import annotations

import asyncio
import secrets
from collections import OrderedDict
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from itertools import takewhile

from api import sse
from api.command import SCRIPT_IN_LIST, Command
from api.live import Lives

KEPT_BYTES = 4 * 1024 * 1024  # of changes, about: some thousand commands
AT_ONCE = 16  # changes that a reader takes at a time, and may hold while he is slow
COMMAND_BYTES = 1024  # a command without its script and arguments, about
LARGE_SCRIPT = 4096  # characters; of a longer one only what is shown is kept


@dataclass(frozen=True, slots=True)
class _Change:
    number: int
    command: Command
    bytes: int


class Changes:
    """The changes of this life of the API. Each has a number; the id of an event names the life, too."""

    def __init__(self, lives: Lives) -> None:
        self._lives = lives
        self._life = secrets.token_hex(6)
        self._changes: OrderedDict[int, _Change] = OrderedDict()  # by command, the latest change last
        self._bytes = 0
        self._number = 0  # of the last change
        self._forgotten = 0  # the number of the last change that was dropped without a newer one of its command
        self._word: asyncio.Future[None] | None = None

    def note(self, command: Command) -> None:
        """Take in what a command has become."""
        if len(command.script) > LARGE_SCRIPT:
            command = command.but(script=command.script[:SCRIPT_IN_LIST], env={}, secrets=None, stdin=None)
        before = self._changes.pop(command.id, None)
        self._number += 1
        change = _Change(self._number, command, COMMAND_BYTES + len(command.script) + sum(map(len, command.args)))
        self._changes[command.id] = change
        self._bytes += change.bytes - (before.bytes if before else 0)
        while self._bytes > KEPT_BYTES and len(self._changes) > 1:
            _, dropped = self._changes.popitem(last=False)
            self._bytes -= dropped.bytes
            self._forgotten = dropped.number
        self.wake()

    def wake(self) -> None:
        """Let those look again who wait for a change."""
        if self._word is not None:
            self._word.set_result(None)
            self._word = None

    async def events(self, last_event_id: str | None) -> AsyncGenerator[bytes, None]:
        """Every change after the one with this id, until the process ends; of a slow reader's the latest of a command.

        ``reset`` comes first when there is no such change to go on from, and whenever one was missed.
        """
        number = self._known(last_event_id)
        while not self._lives.closing:
            if number is None or number < self._forgotten:
                number = self._number
                yield sse.encode("reset", self._id(number), {})
            for change in self._after(number):
                number = change.number
                yield sse.encode("status", self._id(number), change.command.to_json(script_at_most=SCRIPT_IN_LIST))
            if number == self._number and not self._lives.closing and not await sse.heard(self._next_word()):
                yield sse.COMMENT

    def _after(self, number: int) -> list[_Change]:
        newer = list(takewhile(lambda change: change.number > number, reversed(self._changes.values())))
        return newer[: -AT_ONCE - 1 : -1]

    def _next_word(self) -> asyncio.Future[None]:
        if self._word is None:
            self._word = asyncio.get_running_loop().create_future()
        return self._word

    def _id(self, number: int) -> str:
        return f"{self._life}-{number}"

    def _known(self, last_event_id: str | None) -> int | None:
        """The number in an id of this life; None for any other."""
        life, _, number = (last_event_id or "").partition("-")
        if life != self._life or not (number.isascii() and number.isdigit() and len(number) < 20):
            return None
        return int(number) if int(number) <= self._number else None
