"""Bash's stdin when it is fed while the command runs: a named pipe that clients' bytes reach through the API.

What is written into it crosses neither supervisor nor worker. The worker only holds it open, so that a moment without a
writer is not its end, and writes the input that the command came with before anybody else may write there.
"""

import errno
import os

from worker.record import DISK_TROUBLE


class Feed:
    """The pipe and our writing end of it."""

    def __init__(self, path: str, first: "str | None") -> None:
        self._path = path
        self._first = memoryview((first or "").encode())
        self.fd = -1  # writable when there is room for more of the first input
        self.waits = False  # for that room

    def open(self, owner: "tuple[int, int] | None") -> int:
        """Make the pipe; returns the end that bash is to read. Raises ``OSError`` with nothing left open.

        ``owner``: user and group it is to belong to, else ours. Who may open ``/dev/stdin`` is a matter of that.
        """
        try:
            os.unlink(self._path)  # of a command of another database that had this id, if there was one
        except FileNotFoundError:
            pass
        os.mkfifo(self._path, 0o600)
        reader = os.open(self._path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # never waits for a writer
        try:
            if owner is not None:
                os.fchown(reader, *owner)
            self.fd = os.open(self._path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            os.close(reader)
            raise
        os.set_blocking(reader, True)  # as programs expect it; our end is another description, and stays as it is
        return reader

    def write(self) -> None:
        """Write what the pipe takes of the first input; ``waits`` says whether some is left."""
        try:
            while self._first:
                self._first = self._first[os.write(self.fd, self._first) :]
        except BlockingIOError:
            pass
        except BrokenPipeError:
            self._first = memoryview(b"")  # nobody reads it, and nobody ever will
        self.waits = len(self._first) > 0

    def close(self) -> None:
        """Let it come to its end, and remove its name. Twice is safe."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1
        self._first = memoryview(b"")
        self.waits = False
        try:
            os.unlink(self._path)
        except OSError as error:
            if error.errno not in DISK_TROUBLE | {errno.ENOENT}:
                raise
            # It has no name any more; or keeps it on a disk that takes nothing, and nobody reads behind it.
