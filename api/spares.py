"""Journals that are done with, kept to become those of commands to come (why: ``protocol/journal.py``)."""

from __future__ import annotations

import os

from api.live import Live
from protocol.places import Places

AT_MOST = 256
KEPT_BYTES = 64 * 1024  # a longer one is deleted: it would keep its room on the disk


class Spares:
    """The spare journals of this API. Those that an API before us kept are overwritten by and by."""

    def __init__(self, places: Places) -> None:
        self._places = places
        self._kept: list[str] = []
        self._free = [places.spare_journal(number) for number in reversed(range(AT_MOST))]

    def take(self) -> str | None:
        """A file for the next journal, if there is one."""
        return self._kept.pop() if self._kept else None

    def taken(self, spare: str) -> None:
        """Note that nothing is there under this name any more."""
        self._free.append(spare)

    def put_back(self, spare: str) -> None:
        """Note that a file that was taken is still there."""
        self._kept.append(spare)

    def keep(self, live: Live) -> bool:
        """Take the journal of a command whose final row is committed. False: it has to be deleted.

        Nobody else may have it open, or would read what becomes of it: no client of ours, and not its worker. Who opens
        it by its name this moment finds out that it has gone (``journal.is_at``).
        """
        if not self._free or not live.is_ours_alone(KEPT_BYTES):
            return False
        spare = self._free.pop()
        try:
            os.rename(self._places.journal(live.id), spare)
        except OSError:
            self._free.append(spare)
            return False
        self._kept.append(spare)
        return True
