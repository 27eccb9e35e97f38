"""A multiprocessing queue that never makes its writer wait."""

from __future__ import annotations

import io
import multiprocessing
import pickle
import select
from collections import deque
from itertools import islice
from typing import Generic, TypeVar

from protocol.messages import MAX_MESSAGE_BYTES

T = TypeVar("T")

_FRAMING_BYTES = 4  # what multiprocessing.connection puts before a short message


class Queue(Generic[T]):
    """One direction between two processes: one writer, one reader, made before the fork that parts them.

    What waits to be sent goes together, as many messages as one write takes: each write wakes the reader.
    ``put`` keeps a message in an outbox while the pipe is full; the writer then calls ``flush`` when
    ``writer_fd`` is writable. Seen without this rule: both sides blocked in ``put`` under 64 clients.
    """

    def __init__(self) -> None:
        self._queue = multiprocessing.get_context("fork").SimpleQueue()
        # SimpleQueue offers no descriptor of its own; both ends have had these names since Python 3.3.
        self._reader = self._queue._reader  # type: ignore[attr-defined]
        self._writer = self._queue._writer  # type: ignore[attr-defined]
        self._writable = select.poll()
        self._writable.register(self._writer.fileno(), select.POLLOUT)
        self._readable = select.poll()
        self._readable.register(self._reader.fileno(), select.POLLIN)
        self._outbox: deque[bytes] = deque()  # pickled messages

    @property
    def reader_fd(self) -> int:
        return int(self._reader.fileno())

    @property
    def writer_fd(self) -> int:
        return int(self._writer.fileno())

    def put(self, message: T) -> bool:
        """Send ``message`` after those before it. False: it waits in the outbox, and ``flush`` is owed.

        Raises ``ValueError`` for a message over 4,096 bytes and ``BrokenPipeError`` when the reader is gone.
        """
        self.hold(message)
        return self.flush()

    def hold(self, message: T) -> None:
        """Put ``message`` into the outbox: ``flush`` is owed. Raises ``ValueError`` as ``put`` does."""
        pickled = pickle.dumps(message, pickle.HIGHEST_PROTOCOL)
        size = len(pickled) + _FRAMING_BYTES
        if size > MAX_MESSAGE_BYTES:
            raise ValueError(f"{type(message).__name__} takes {size} bytes, allowed are {MAX_MESSAGE_BYTES}")
        self._outbox.append(pickled)

    def flush(self) -> bool:
        """Send what the pipe takes now; true when the outbox is empty afterwards."""
        # POLLOUT on a pipe means room for PIPE_BUF bytes, so the put below cannot block (pipe(7)).
        while self._outbox and self._writable.poll(0):
            together = [self._outbox[0]]
            size = len(together[0])
            for pickled in islice(self._outbox, 1, None):
                size += len(pickled)
                if size + _FRAMING_BYTES > MAX_MESSAGE_BYTES:
                    break
                together.append(pickled)
            self._writer.send_bytes(b"".join(together))
            for _ in together:
                self._outbox.popleft()
        return not self._outbox

    def take(self) -> list[T]:
        """Everything that has arrived, in order; raises ``EOFError`` when the writer is gone."""
        messages: list[T] = []
        while self._readable.poll(0):
            try:
                pickled = io.BytesIO(self._reader.recv_bytes())
            except EOFError:
                if messages:
                    return messages  # the next call raises it
                raise
            while pickled.tell() < pickled.getbuffer().nbytes:
                messages.append(pickle.load(pickled))  # noqa: S301  (of the process that we were forked from)
        return messages

    def keep_reader(self) -> None:
        """After the fork, in the reading process: close the writing end, so that EOF can be seen."""
        self._writer.close()

    def keep_writer(self) -> None:
        """After the fork, in the writing process: close the reading end, so that EPIPE can be seen."""
        self._reader.close()
