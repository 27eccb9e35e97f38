"""The disk of the state directory: whether there is room for more commands, asked before one is accepted.

Running commands need room for what they print, and PostgreSQL, when it lies on the same disk, for everything. So new
commands are refused while there is still some left.
"""

from __future__ import annotations

import os

from api.log import Log
from protocol.places import Places

log = Log()


class Disk:
    """Asks anew each time: it costs a microsecond."""

    def __init__(self, places: Places, min_free_bytes: int) -> None:
        """``min_free_bytes`` 0: how much is free is not looked at."""
        self._journals = places.journals
        self._min_free_bytes = min_free_bytes
        self._said = False

    def is_gone(self) -> bool:
        """True when the state directory was removed under us."""
        return not os.path.isdir(self._journals)

    def free_bytes(self) -> int | None:
        """What we may still write; None when the disk cannot be asked."""
        try:
            found = os.statvfs(self._journals)
        except OSError:
            return None
        return found.f_bavail * found.f_frsize

    def trouble(self) -> str | None:
        """Why no command can be accepted, in a sentence; None when nothing of the disk speaks against it."""
        trouble = self._trouble()
        if (trouble is not None) != self._said:
            self._said = trouble is not None
            if trouble is not None:
                log.error("no command is accepted or handed over", error=trouble)
            else:
                log.info("the disk has room for commands again")
        return trouble

    def _trouble(self) -> str | None:
        try:
            found = os.statvfs(self._journals)
        except FileNotFoundError:
            return "The state directory is gone."
        except OSError as error:
            return f"The state directory cannot be used: {error.strerror}."
        if found.f_flag & os.ST_RDONLY:
            return "The state directory is on a disk that is read-only."
        if not self._min_free_bytes:
            return None
        free_bytes = found.f_bavail * found.f_frsize
        if free_bytes < self._min_free_bytes:
            needed = f"{self._min_free_bytes} are needed (min_free_bytes)"
            return f"The disk of the state directory is full: {free_bytes} bytes are free, {needed}."
        if found.f_files and not found.f_favail:
            return "The disk of the state directory is full: it has no inode free for another file."
        return None
