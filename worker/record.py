"""Writing the journal: the worker's side, with time, limits, a full disk, and word to the supervisor."""

import errno
import os
import time

from protocol import control, journal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

READ_BYTES = 64 * 1024
REPORT_AFTER_S = 0.003  # after the first change; a command that ends within it costs one report alone
REPORT_EVERY_S = 0.025  # at most
DISK_FULL_PAUSE_S = 0.5


class Record:
    """What one worker writes into one journal whose lock it holds."""

    def __init__(self, writer: journal.Writer, command_id: int, reports_fd: int, output_limit_bytes: int) -> None:
        self._writer = writer
        self._command_id = command_id
        self._reports_fd = reports_fd
        self._limit = output_limit_bytes
        self._written = {journal.STDOUT: 0, journal.STDERR: 0}
        self._missing: dict[int, int] = {}  # kind → first byte of a missing range not yet written down
        self._disk_full = False
        # Wall clock once, monotonic from there on: no clock jump can put an end before its beginning.
        self._wall_offset_ns = time.time_ns() - time.monotonic_ns()
        self._reported_at = float("-inf")
        self.report_due: float | None = None  # monotonic

    def now_ns(self) -> int:
        """The time for the next frame, never before the last one's."""
        return time.monotonic_ns() + self._wall_offset_ns

    def fact(self, kind: int, facts: "dict[str, Any]") -> int:
        """Write a frame that is not output and return its time; waits as long as the disk is full.

        The status must be true, so a fact is never left out: readers see the command running until there is
        room to say more.
        """
        while True:
            at_ns = self.now_ns()
            try:
                self._writer.append_facts(kind, at_ns, facts)
            except OSError as error:
                if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                    raise
                time.sleep(DISK_FULL_PAUSE_S)
            else:
                self._change()
                return at_ns

    def output(self, kind: int, chunk: bytes) -> None:
        """Write what a stream gave, as far as the limit and the disk allow; the rest is counted as missing.

        Once something of a stream is missing nothing more of it is kept: one gap, at the end, that is named.
        """
        room = 0 if kind in self._missing else max(0, self._limit - self._written[kind])
        kept, rest = (chunk, b"") if len(chunk) <= room else (chunk[:room], chunk[room:])
        if kept and not self._append(kind, kept):
            rest, kept = chunk, b""
        self._written[kind] += len(kept)
        if rest:
            self._missing.setdefault(kind, self._written[kind])
            self._written[kind] += len(rest)
        self._change()

    def _append(self, kind: int, chunk: bytes) -> bool:
        try:
            self._writer.append(kind, self.now_ns(), chunk)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                raise
            return False
        return True

    def name_missing(self) -> None:
        """Write down what is missing so far."""
        for kind, first in self._missing.items():
            if first < self._written[kind]:
                stream = "stdout" if kind == journal.STDOUT else "stderr"
                self.fact(journal.MISSING, {"stream": stream, "from": first, "to": self._written[kind]})
                self._missing[kind] = self._written[kind]

    def _change(self) -> None:
        if self.report_due is None:
            now = time.monotonic()
            self.report_due = max(self._reported_at + REPORT_EVERY_S, now + REPORT_AFTER_S)

    def report(self) -> None:
        """Tell the supervisor that there is something new."""
        self.name_missing()
        control.report_changed(self._reports_fd, self._command_id)
        self._reported_at = time.monotonic()
        self.report_due = None


class Streams:
    """Our ends of bash's pipes. Reads without waiting, never by lines."""

    def __init__(self, record: Record, stdout_fd: int, stderr_fd: "int | None") -> None:
        self._record = record
        self.kinds = {stdout_fd: journal.STDOUT}
        if stderr_fd is not None:
            self.kinds[stderr_fd] = journal.STDERR

    def read(self, fd: int) -> bool:
        """Record what one read gives; false when the pipe is at its end, and closed."""
        try:
            chunk = os.read(fd, READ_BYTES)
        except BlockingIOError:
            return True
        if not chunk:
            os.close(fd)
            del self.kinds[fd]
            return False
        self._record.output(self.kinds[fd], chunk)
        return True

    def drain(self, *, close: bool) -> None:
        """Record everything that lies in the pipes, and close them unless someone was left to write on.

        To be called when the tree is dead: what the dead wrote is in the pipe, so EAGAIN is the end as
        much as EOF is; a descriptor that left the tree would keep EOF away for ever.
        """
        for fd in list(self.kinds):
            while fd in self.kinds:
                try:
                    chunk = os.read(fd, READ_BYTES)
                except BlockingIOError:
                    chunk = b""
                if chunk:
                    self._record.output(self.kinds[fd], chunk)
                else:
                    break
            if close and fd in self.kinds:
                os.close(fd)
                del self.kinds[fd]
