"""Crash points: rare moments at which a test lets a process of Bashd die as by ``kill -9``. Only tests set one."""

import os
import signal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from protocol.places import Places


class Fault:
    """The one moment that was asked for, if any. It comes once in the life of a state directory."""

    def __init__(self, moment: "str | None", places: "Places") -> None:
        self.moment = moment
        self._path = places.fault

    def die_at(self, moment: str) -> None:
        """End this process here and now if this is the moment, and it has not been before."""
        if self.moment != moment:
            return
        try:
            os.close(os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        except FileExistsError:
            return
        os.kill(os.getpid(), signal.SIGKILL)
