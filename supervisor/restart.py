"""When to start a child again that ended: at once, then with growing pauses while it keeps dying."""

import time

RESTART_PAUSE_S = (0.1, 5.0)  # from the second death in a row on; doubled up to the last
PROVEN_AFTER_S = 10.0  # who lived this long is restarted at once again


class Restart:
    """The pauses of one child. ``start_at`` (monotonic) is when it may be started next."""

    def __init__(self) -> None:
        self.start_at = 0.0
        self._started_at = 0.0
        self._pause_s = 0.0

    def started(self) -> None:
        """Note that it was started now."""
        self._started_at = time.monotonic()

    def ended(self) -> None:
        """Note that it ended now, which sets ``start_at``."""
        now = time.monotonic()
        if now - self._started_at > PROVEN_AFTER_S:
            self._pause_s = 0.0
        self.start_at = now + self._pause_s
        self._pause_s = min(max(self._pause_s * 2, RESTART_PAUSE_S[0]), RESTART_PAUSE_S[1])
