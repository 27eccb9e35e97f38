"""The worker's end of its command's control pipe: made only when the command turns out to last."""

import os

from protocol import control

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class ControlPipe:
    """A named pipe on which we are told to stop, and more.

    Until it is opened nobody can reach us, and who wants to tries again.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self.fd = -1  # readable when there is something to be taken

    def open(self) -> None:
        """Make it, and open it for both directions so that it never comes to an end. Raises ``OSError``."""
        try:
            os.mkfifo(self._path, 0o600)
        except FileExistsError:
            pass  # of a worker that went before it took the command
        self.fd = os.open(self._path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)

    def messages(self) -> "list[dict[str, Any]]":
        """What has arrived."""
        return control.parse_control(os.read(self.fd, 65536))

    def close(self) -> None:
        """Close it; its name is removed by whoever tidies up after the command."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1
