"""Commands whose clients were told 503 although their rows may exist: such a command must never run."""

from __future__ import annotations

import os

from api.log import Log

log = Log()


class Doubtful:
    """Their ids, in a file as well: an API that dies is followed by one that knows them."""

    def __init__(self, path: str) -> None:
        self._path = path
        try:
            with open(path, "rb") as file:
                self.ids = [int(line) for line in file.read().split() if line.isdigit()]
        except FileNotFoundError:
            self.ids = []

    def add(self, ids: list[int]) -> None:
        """Remember these; to be called before their clients are answered."""
        self.ids += ids
        try:
            with open(self._path, "ab") as file:
                file.write(b"".join(b"%d\n" % one for one in ids))
        except OSError as error:
            # Then we alone know them, which is enough as long as we live.
            log.error("cannot write down which commands were refused with 503", error=error)

    def settle(self) -> None:
        """Forget them: their rows, as far as there are any, say that they were not accepted."""
        for command_id in self.ids:
            log.error("a command was refused with 503, and will not run", command=command_id)
        self.ids = []
        try:
            os.unlink(self._path)
        except OSError:
            pass  # it could not be written; or it stays, and to refuse them again changes nothing
