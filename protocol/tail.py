"""What a command printed beyond the head of its output: the newest of it, in two files in turn.

    journal:  head of each stream ……… TAILED ─┐        MISSING, what was kept of the tail, ENDED
    files:                                     └─ 0 ── 1 ── 0 ── 1 ─┘

Until a stream comes to its head's end everything lies in the journal. From then on what both streams print goes into
a file beside it, in the order of recording. A file that is full is followed by a new one, which takes the place of the
one before the last; what of that belongs to the head of a stream is moved into the journal, the rest is named there as
missing. So the journal and the two files are always one sequence without a hole, and never grow beyond what the limit
allows. At the end what is kept of the files is brought into the journal, by the worker or by who comes after it: a
reader of the end needs the journal alone.

The files have the journal's format, without spec and reserve: a place first, then output. A new one gets its name by a
rename, so who has the old one open may read it to its end.
"""

import json
import os

from protocol import journal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    Place = tuple[int, int]  # bytes of stdout and of stderr before it
    Written = tuple[int, int, bytes]  # kind, time in ns, payload: what is to be appended to the journal

NAMES = {journal.STDOUT: "stdout", journal.STDERR: "stderr"}
KINDS = (journal.STDOUT, journal.STDERR)  # their indices are those of a place
JOINED_BYTES = 64 * 1024
MIN_FILE_BYTES = 64 * 1024


def head_bytes(limit_bytes: int) -> int:
    """How much of each stream is kept from its beginning, of a limit that its tail shares."""
    return limit_bytes - limit_bytes // 2


def file_bytes(limit_bytes: int) -> int:
    """How long a file may become: two streams may have to keep their tails in it."""
    return max(limit_bytes, MIN_FILE_BYTES)


class Writer:
    """The worker's side."""

    def __init__(self, paths: "tuple[str, str]", limit_bytes: int) -> None:
        self.paths = paths
        self._most = file_bytes(limit_bytes)
        self._writer: journal.Writer | None = None
        self._fd = -1
        self._next = 0  # whose turn it is
        self._turns = 0

    def append(self, kind: int, time_ns: int, chunk: bytes) -> None:
        """Write one piece; raises ``OSError`` with nothing of it written."""
        assert self._writer is not None
        self._writer.append(kind, time_ns, chunk)

    @property
    def full(self) -> bool:
        return self._writer is not None and self._writer.position >= self._most

    @property
    def older(self) -> "str | None":
        """The file that the next one takes the place of; None while there is one alone."""
        return self.paths[self._next] if self._turns > 1 else None

    def turn(self, time_ns: int, place: "Place") -> None:
        """Go on in a new file, instead of the one before the last. Raises ``OSError`` with everything as it was."""
        path = self.paths[self._next]
        temporary = f"{path}.new"
        salt = os.urandom(journal.SALT_BYTES)
        begin = journal.MAGIC + salt
        facts = {"stdout": place[0], "stderr": place[1]}
        begin += journal.encode_facts(journal.TAILED, time_ns, facts, salt)
        fd = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            journal.write_all(fd, begin)
            writer = journal.Writer(fd, len(begin))
            os.rename(temporary, path)
        except OSError:
            os.close(fd)
            os.unlink(temporary)
            raise
        self.close()
        self._fd, self._writer = fd, writer
        self._next = 1 - self._next
        self._turns += 1

    def close(self) -> None:
        """Close the file that is open. Twice is safe."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class File:
    """One of the files, open to be read."""

    def __init__(self, path: str) -> None:
        """Raises ``FileNotFoundError``, and ``ValueError`` for one whose beginning is not whole."""
        self.reader = journal.Reader(path)
        first = next(self.reader.frames(), None)
        if first is None or first.kind != journal.TAILED:
            self.reader.close()
            raise ValueError(f"{path} is no file of a tail")
        facts = first.facts()
        self.place: Place = (int(facts["stdout"]), int(facts["stderr"]))

    @property
    def begins_at(self) -> int:
        """Bytes of both streams before it: no other file of the command has the same."""
        return sum(self.place)


def files(paths: "tuple[str, str]") -> "list[File]":
    """Those that are there, the older first. Raises nothing: a file that nobody can read is none."""
    found = []
    for path in paths:
        try:
            found.append(File(path))
        except (FileNotFoundError, ValueError):
            continue
    return sorted(found, key=lambda one: one.begins_at)


def remove(paths: "tuple[str, str]") -> None:
    """Remove the files, if they are there."""
    for path in paths:
        for name in (path, f"{path}.new"):
            try:
                os.unlink(name)
            except FileNotFoundError:
                pass  # it was never made, or somebody else has done it


def _pieces(found: "list[File]", place: "Place") -> "Iterator[tuple[journal.Frame, list[int]]]":
    """The output in the files, each piece with the place before it, without what lies before ``place``."""
    for one in found:
        here = list(one.place)
        for frame in one.reader.again(journal.START).frames():
            if frame.kind not in KINDS:
                continue
            index = KINDS.index(frame.kind)
            offset = here[index]
            here[index] += len(frame.payload)
            known = max(0, place[index] - offset)
            if known < len(frame.payload):
                before = list(here)
                before[index] = offset + known
                yield journal.Frame(frame.kind, frame.time_ns, frame.payload[known:], frame.end), before


def end_of(paths: "tuple[str, str]", place: "Place") -> "Place":
    """How much of each stream there is in all, when the journal has come to ``place``."""
    end = place
    for one in files(paths):
        here = list(one.place)
        for frame in one.reader.frames():
            if frame.kind in KINDS:
                here[KINDS.index(frame.kind)] += len(frame.payload)
        end = (max(end[0], here[0]), max(end[1], here[1]))
    return end


def _missing(kind: int, first: int, to: int) -> "Written":
    facts = {"stream": NAMES[kind], "from": first, "to": to, "reason": "output_limit"}
    return journal.MISSING, 0, json.dumps(facts).encode()


def settled(paths: "tuple[str, str]", place: "Place", end: "Place", limit_bytes: int) -> "Iterator[Written]":
    """What brings the journal from ``place`` to its ``end``: the kept pieces in their order, and what is missing.

    Kept is of each stream its head, and its last bytes as far as the limit has room for them. A time of 0 is now.
    """
    head, rest = head_bytes(limit_bytes), limit_bytes // 2
    here = list(place)
    for frame, before in _pieces(files(paths), place):
        index = KINDS.index(frame.kind)
        offset = before[index]
        for first, to in _kept(offset, offset + len(frame.payload), head, end[index] - rest):
            before[index] = first
            for each, kind in enumerate(KINDS):
                if here[each] < before[each]:
                    yield _missing(kind, here[each], before[each])
                    here[each] = before[each]
            yield frame.kind, frame.time_ns, frame.payload[first - offset : to - offset]
            here[index] = to
    for each, kind in enumerate(KINDS):
        if here[each] < end[each]:
            yield _missing(kind, here[each], end[each])


def moved(path: str, place: "Place", end: "Place", limit_bytes: int) -> "Iterator[Written]":
    """The same for the older file alone, before it gives way: heads are kept, everything else is missing.

    At most one stream can still be at its head; what is kept of that comes behind what is missing of the other, so a
    reader finds a piece later than he would have, never earlier.
    """
    head = head_bytes(limit_bytes)
    for each, kind in enumerate(KINDS):
        if head <= place[each] < end[each]:
            yield _missing(kind, place[each], end[each])
    for each, kind in enumerate(KINDS):
        if place[each] < min(head, end[each]):
            yield from _joined(kind, _heads(File(path), place, kind, head))
            if head < end[each]:
                yield _missing(kind, head, end[each])


def _heads(older: File, place: "Place", kind: int, head: int) -> "Iterator[tuple[int, bytes]]":
    index = KINDS.index(kind)
    for frame, before in _pieces([older], place):
        if frame.kind == kind and before[index] < head:
            yield frame.time_ns, frame.payload[: head - before[index]]


def _joined(kind: int, pieces: "Iterator[tuple[int, bytes]]") -> "Iterator[Written]":
    """Fewer and longer ones: a stream of single bytes must not take many times its size."""
    began_ns, length = 0, 0
    parts: list[bytes] = []
    for time_ns, part in pieces:
        if parts and length + len(part) > JOINED_BYTES:
            yield kind, began_ns, b"".join(parts)
            parts, length = [], 0
        if not parts:
            began_ns = time_ns
        parts.append(part)
        length += len(part)
    if parts:
        yield kind, began_ns, b"".join(parts)


def _kept(first: int, to: int, head: int, tail: int) -> "list[tuple[int, int]]":
    """What of the bytes from ``first`` up to ``to`` lies before ``head`` or from ``tail`` on."""
    if tail <= head:
        return [(first, to)]
    return [(a, b) for a, b in ((first, min(to, head)), (max(first, tail), to)) if a < b]
