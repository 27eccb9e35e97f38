"""Writing the journal: the worker's side, with time, limits, a full disk, and word to the supervisor."""

import errno
import fcntl
import json
import os
import time

from protocol import control, journal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from protocol import tail
    from worker.mask import Mask

READ_BYTES = 64 * 1024
WIDE_READ_BYTES = 512 * 1024
WIDE_PIPE_BYTES = 1024 * 1024  # of a stream that fills its pipe; what everybody may have (fs.pipe-max-size)
REPORT_AFTER_S = 0.020  # after the first change; a command that ends within it costs one report alone
REPORT_EVERY_S = 0.025  # at most
DISK_AGAIN_S = 0.5  # between two tries of a disk that takes nothing

DISK_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
DISK_TROUBLE = DISK_FULL | {errno.EROFS, errno.EIO}  # of the world's making; anything else is ours


class Record:
    """What one worker writes into one journal whose lock it holds. Never waits for the disk."""

    def __init__(
        self,
        writer: journal.Writer,
        command_id: int,
        reports_fd: int,
        *,
        limit_bytes: int,
        fail_at_limit: bool,
        tail_paths: "tuple[str, str]",
    ) -> None:
        """``limit_bytes`` of each stream are kept. ``fail_at_limit``: nothing beyond is, and ``exceeded`` says so.

        Otherwise the newest takes the place of what came between: see ``protocol.tail``.
        """
        self._writer = writer
        self._command_id = command_id
        self._reports_fd = reports_fd
        self._limit = limit_bytes
        self._fail_at_limit = fail_at_limit
        self._head = limit_bytes if fail_at_limit else limit_bytes - limit_bytes // 2
        self._tail_paths = tail_paths
        self._tail: tail.Writer | None = None
        self._turned_at = (0, 0)  # where the newer file of the tail begins
        self.exceeded = False
        self._written = {journal.STDOUT: 0, journal.STDERR: 0}
        self._in_journal = {journal.STDOUT: 0, journal.STDERR: 0}  # kept there, or named as missing
        self._missing: dict[int, int] = {}  # kind → first byte of a missing range not yet written down
        self._why_missing: dict[int, str] = {}  # kind → what set the end to it
        self._unwritten: dict[int, tuple[int, dict[str, Any]]] = {}  # kind → time and facts the disk has not taken
        self._disk_errno = 0  # of the last frame that it did not take
        # Wall clock once, monotonic from there on: no clock jump can put an end before its beginning.
        self._wall_offset_ns = time.time_ns() - time.monotonic_ns()
        self._ended = False
        self._reported_at = float("-inf")
        self.report_due: float | None = None  # monotonic

    def now_ns(self) -> int:
        """The time for the next frame, never before the last one's."""
        return time.monotonic_ns() + self._wall_offset_ns

    def take(self, facts: "dict[str, Any]") -> bool:
        """Write that the command has its worker. False: the disk does not take it, and nothing may be begun."""
        if not self._append_facts(journal.TAKEN, self.now_ns(), facts, journal.LAST_WORDS_BYTES):
            return False
        self._change()
        return True

    def fact(self, kind: int, facts: "dict[str, Any]") -> None:
        """Write a frame that is not output, now or as soon as the disk takes it: the status must be true.

        Of several of one kind that have to wait the first is written, which is the one that counts; but the last of
        those that say how it stands.
        """
        if kind in (journal.PAUSED, journal.STDIN, journal.UNKILLABLE):
            self._unwritten.pop(kind, None)
        self._unwritten.setdefault(kind, (self.now_ns(), facts))
        self._write_facts(journal.LAST_WORDS_BYTES)
        self._change()

    def output(self, kind: int, chunk: bytes) -> None:
        """Write what a stream gave, as far as the limit and the disk allow; the rest is counted as missing.

        Once the disk has not taken something nothing more is kept: one gap, at the end, that is named.
        """
        if self._tail is None:
            room = 0 if kind in self._missing else max(0, self._head - self._written[kind])
            kept, chunk = (chunk, b"") if len(chunk) <= room else (chunk[:room], chunk[room:])
            if kept and not self._append(kind, self.now_ns(), kept, journal.RESERVE_BYTES):
                self._lack(kind, self._written[kind])
                chunk, kept = kept + chunk, b""
            self._written[kind] += len(kept)
            self._in_journal[kind] += len(kept)
            if chunk and not self._missing:
                self._go_beyond_the_head(kind)
        if chunk:
            if self._tail is None or not self._append_to_tail(kind, chunk):
                self._missing.setdefault(kind, self._written[kind])
            self._written[kind] += len(chunk)
            if self._tail is not None and self._tail.full:
                self._turn_tail()
        self._change()

    def _lack(self, kind: int, first: int) -> None:
        """Note that the disk takes nothing of this stream from ``first`` on."""
        self._missing[kind] = first
        self._why_missing[kind] = "disk_full" if self._disk_errno in DISK_FULL else "disk_failed"

    def _go_beyond_the_head(self, kind: int) -> None:
        """A stream has filled its head: from here on both go into the tail, if there is to be one."""
        if self._fail_at_limit:
            self.exceeded = True
            return
        here = self._place(self._written)
        facts = {"stdout": here[0], "stderr": here[1]}
        from protocol import tail  # most commands never come here, and what is imported makes every fork dearer

        beyond = tail.Writer(self._tail_paths, self._limit)
        if self._append_facts(journal.TAILED, self.now_ns(), facts, journal.LAST_WORDS_BYTES):
            try:
                beyond.turn(self.now_ns(), here)
            except OSError as error:
                self._note_disk(error)
            else:
                self._tail, self._turned_at = beyond, here
                return
        self._lack(kind, self._written[kind])

    def _append_to_tail(self, kind: int, chunk: bytes) -> bool:
        assert self._tail is not None
        try:
            self._tail.append(kind, self.now_ns(), chunk)
        except OSError as error:
            self._note_disk(error)
            self._lack_everything()
            return False
        return True

    def _turn_tail(self) -> None:
        """Begin the next file of the tail; what it takes the place of is moved into the journal or named as missing."""
        assert self._tail is not None
        from protocol import tail

        here = self._place(self._written)
        older = self._tail.older
        try:
            if older is not None:
                begins_at = self._turned_at
                for written in tail.moved(older, self._place(self._in_journal), begins_at, self._limit):
                    if not self._bring(*written):
                        self._lack_everything()
                        return
            self._tail.turn(self.now_ns(), here)
            self._turned_at = here
        except OSError as error:
            self._note_disk(error)
            self._lack_everything()

    def _lack_everything(self) -> None:
        """The disk is full: keep what the tail has, and nothing more of either stream."""
        self._settle()
        for kind in self._written:
            if kind not in self._missing:
                self._lack(kind, self._written[kind])

    def _settle(self) -> None:
        """Bring what is kept of the tail into the journal, and be done with it."""
        if self._tail is None:
            return
        from protocol import tail

        self._tail.close()
        self._tail = None
        end = self._place(self._written)
        for written in tail.settled(self._tail_paths, self._place(self._in_journal), end, self._limit):
            if not self._bring(*written):
                for kind, to in zip(self._written, end, strict=True):
                    if self._in_journal[kind] < to:
                        self._lack(kind, self._in_journal[kind])
                break
        tail.remove(self._tail_paths)

    def _bring(self, kind: int, time_ns: int, payload: bytes) -> bool:
        """Append what comes from the tail. False: the disk does not take it."""
        if not self._append(kind, time_ns or self.now_ns(), payload, journal.RESERVE_BYTES):
            return False
        if kind == journal.MISSING:
            facts = json.loads(payload)
            self._in_journal[journal.STDOUT if facts["stream"] == "stdout" else journal.STDERR] = facts["to"]
        else:
            self._in_journal[kind] += len(payload)
        return True

    @staticmethod
    def _place(counts: "dict[int, int]") -> "tuple[int, int]":
        return counts[journal.STDOUT], counts[journal.STDERR]

    def end(self, at_ns: int, facts: "dict[str, Any]") -> bool:
        """Write the last frame, and before it all that is unwritten, out of the reserve. False: not yet possible."""
        self._settle()
        written = self._write_facts(0) and self._name_missing(0)
        self._ended = written and self._append_facts(journal.ENDED, at_ns, facts, 0)
        return self._ended

    def crashed(self, traceback: str) -> None:
        """Write down why we fail, if that is possible."""
        self._append_facts(journal.CRASHED, self.now_ns(), {"traceback": traceback}, 0)

    def release(self) -> None:
        """Give back the room that was not needed. The last frame is written."""
        try:
            self._writer.release()
        except OSError:
            pass  # the journal is deleted soon, and its room with it

    def _write_facts(self, keep: int) -> bool:
        for kind, (at_ns, facts) in list(self._unwritten.items()):
            if not self._append_facts(kind, at_ns, facts, keep):
                return False
            del self._unwritten[kind]
        return True

    def _name_missing(self, keep: int) -> bool:
        """Write down what is missing so far. On a full disk that must not use up the reserve, however often."""
        for kind, first in self._missing.items():
            missing = {
                "stream": "stdout" if kind == journal.STDOUT else "stderr",
                "from": first,
                "to": self._written[kind],
                "reason": self._why_missing.get(kind, "output_limit"),
            }
            if first < self._written[kind]:
                if not self._append_facts(journal.MISSING, self.now_ns(), missing, keep):
                    return False
                self._missing[kind] = self._written[kind]
        return True

    def _append_facts(self, kind: int, at_ns: int, facts: "dict[str, Any]", keep: int) -> bool:
        return self._append(kind, at_ns, json.dumps(facts).encode(), keep)

    def _append(self, kind: int, at_ns: int, payload: bytes, keep: int) -> bool:
        try:
            self._writer.append(kind, at_ns, payload, keep=keep)
        except OSError as error:
            self._note_disk(error)
            return False
        return True

    def _note_disk(self, error: OSError) -> None:
        if error.errno not in DISK_TROUBLE:
            raise error
        self._disk_errno = error.errno

    def _change(self) -> None:
        if self.report_due is None:
            now = time.monotonic()
            self.report_due = max(self._reported_at + REPORT_EVERY_S, now + REPORT_AFTER_S)

    def report(self) -> None:
        """Tell the supervisor that there is something new."""
        complete = self._write_facts(journal.LAST_WORDS_BYTES) and self._name_missing(journal.RESERVE_BYTES)
        control.report_changed(self._reports_fd, self._command_id, ended=self._ended)
        self._reported_at = time.monotonic()
        self.report_due = None if complete else self._reported_at + DISK_AGAIN_S


class Streams:
    """Our ends of bash's pipes. Reads without waiting, never by lines."""

    def __init__(
        self, record: Record, stdout_fd: int, stderr_fd: "int | None", masks: "tuple[Mask, Mask] | None"
    ) -> None:
        """``masks``: of stdout and stderr, for a command that has secrets."""
        self._record = record
        self._wide: set[int] = set()  # pipes that have more room than usual
        self._masks = masks and {journal.STDOUT: masks[0], journal.STDERR: masks[1]}
        self.kinds = {stdout_fd: journal.STDOUT}
        if stderr_fd is not None:
            self.kinds[stderr_fd] = journal.STDERR

    def read(self, fd: int) -> bool:
        """Record what one read gives; false when the pipe is at its end, and closed."""
        try:
            chunk = os.read(fd, WIDE_READ_BYTES if fd in self._wide else READ_BYTES)
        except BlockingIOError:
            return True
        if not chunk:
            os.close(fd)
            del self.kinds[fd]
            return False
        if len(chunk) == READ_BYTES and fd not in self._wide:
            self._widen(fd)
        kind = self.kinds[fd]
        for start in range(0, len(chunk), READ_BYTES):
            self._take(kind, chunk[start : start + READ_BYTES])
        return True

    def _widen(self, fd: int) -> None:
        """Give the pipe more room: who fills it needs not wait for us each time."""
        self._wide.add(fd)
        try:
            fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, WIDE_PIPE_BYTES)
        except OSError:
            pass  # more than an ordinary user may have in all his pipes; it is only slower

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
                    self._take(self.kinds[fd], chunk)
                else:
                    break
            if close and fd in self.kinds:
                os.close(fd)
                del self.kinds[fd]
        for kind, mask in (self._masks or {}).items():
            if rest := mask.rest():
                self._record.output(kind, rest)

    def _take(self, kind: int, chunk: bytes) -> None:
        if self._masks is not None:
            chunk = self._masks[kind].take(chunk)
        if chunk:
            self._record.output(kind, chunk)

    @property
    def masked(self) -> int:
        """How often a secret was replaced."""
        return sum(mask.count for mask in self._masks.values()) if self._masks else 0
