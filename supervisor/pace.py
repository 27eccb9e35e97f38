"""How many commands are at their beginning at one time.

Most commands are over within milliseconds. Begun all at once, they share the processors with each other and with the
API, which comes to accepting the next ones only when they are done; then the processors wait for it. So a few are
begun, and another whenever one has ended, or has lasted so long that it is none of those.
"""

import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

FOR_EACH_PROCESSOR = 2  # one at work, one that waits for the disk or for us; and one more of them all
BEGINNING_S = 0.01  # what lasts longer holds nobody up


class Pace:
    """The commands that are to be begun, in the order in which they came, and those that have just been."""

    def __init__(self, processors: int, clock: "Callable[[], float]" = time.monotonic) -> None:
        """``clock`` gives seconds."""
        self._at_once = FOR_EACH_PROCESSOR * processors + 1
        self._clock = clock
        self._waiting: list[int] = []
        self._begun: dict[int, float] = {}  # id → when; ascending

    def add(self, command_id: int) -> None:
        """It is to be begun when its turn comes."""
        self._waiting.append(command_id)

    def ended(self, command_id: int) -> None:
        """It is over, or could not be begun."""
        self._begun.pop(command_id, None)

    def turns(self) -> "list[int]":
        """Those whose turn it is: from here on they count as begun."""
        if not self._waiting:
            return []  # most often; and nobody has to know who still is at the beginning
        now = self._clock()
        for command_id, at in list(self._begun.items()):
            if now - at < BEGINNING_S:
                break
            del self._begun[command_id]
        turns = self._waiting[: max(0, self._at_once - len(self._begun))]
        del self._waiting[: len(turns)]
        for command_id in turns:
            self.ended(command_id)  # one that is begun again is the last of them again
            self._begun[command_id] = now
        return turns

    def wait_ms(self) -> "int | None":
        """How long it may take until the next turn, if nothing ends before; None: nobody waits."""
        if not self._waiting:
            return None
        if len(self._begun) < self._at_once:
            return 0
        lasted_s = self._clock() - next(iter(self._begun.values()))
        return max(0, int((BEGINNING_S - lasted_s) * 1000)) + 1
