"""The journal of one command: what it is, how far it came, every byte it wrote, how it ended.

Created whole by the API (spec as its first frame), then written by whoever holds its lock: the worker or,
when that is dead, the supervisor. Anybody may read it at any time. It outlives every process of Bashd and is
deleted when the final row is committed. This module alone knows the format:

    magic "bashd journal 1\\n", then frames:
    length of payload u32 | crc32 of the rest u32 | kind u8 | time i64, ns since the epoch | payload

all little-endian. Output payloads are the bytes as written; all others are JSON. The checksum makes a torn
last frame recognisable: a reader gives what is whole and never invents.
"""

import fcntl
import json
import os
import struct
import zlib

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    Buffer = bytes | memoryview

MAGIC = b"bashd journal 1\n"

SPEC = 1  # what is to be run; always the first frame
TAKEN = 2  # {"pid", "start_time", "boot_id"} of the worker that has it
STARTED = 3  # {"pid", "start_time"} of bash, the leader of its group
STDOUT = 4
STDERR = 5
MISSING = 6  # {"stream", "from", "to"}: bytes that were counted and not kept
STOPPING = 7  # {"signal", "reason", "grace_s", "requested_at_ns"}: a stop is under way
PAUSED = 8  # {"paused"}: bash was stopped by SIGSTOP or went on
UNKILLABLE = 9  # {"processes": [{"pid", "wchan"}, …]}: KILL was sent long ago and they are still there
CRASHED = 10  # {"traceback"}: the worker failed; evidence for "lost"
ENDED = 11  # the last frame: status, reason, exit_code, signal, swept, usage, evidence

_HEADER = struct.Struct("<IIBq")
_CHECKED = struct.Struct("<Bq")
MAX_PAYLOAD_BYTES = 64 * 1024 * 1024  # a longer length is damage, not a frame

# The reading position after which frames follow the magic.
START = len(MAGIC)


class Frame:
    """One frame as read. ``end`` is the file position after it."""

    __slots__ = ("end", "kind", "payload", "time_ns")

    def __init__(self, kind: int, time_ns: int, payload: bytes, end: int) -> None:
        self.kind = kind
        self.time_ns = time_ns
        self.payload = payload
        self.end = end

    def facts(self) -> "dict[str, Any]":
        """The payload of a frame that is not output."""
        facts: dict[str, Any] = json.loads(self.payload)
        return facts


def encode(kind: int, time_ns: int, payload: "Buffer") -> bytes:
    """The header of a frame; the payload follows it in the file."""
    checksum = zlib.crc32(payload, zlib.crc32(_CHECKED.pack(kind, time_ns)))
    return _HEADER.pack(len(memoryview(payload)), checksum, kind, time_ns)


def encode_facts(kind: int, time_ns: int, facts: "dict[str, Any]") -> bytes:
    """A whole frame that is not output."""
    payload = json.dumps(facts).encode()
    return encode(kind, time_ns, payload) + payload


def create(path: str, time_ns: int, spec: "dict[str, Any]") -> None:
    """Make the journal with its spec, whole or not at all. One that exists already is left as it is.

    Raises ``OSError`` (``ENOSPC``, ``EROFS``, …) with nothing left behind.
    """
    if os.path.exists(path):
        return
    directory, name = os.path.split(path)
    temporary = os.path.join(directory, f".{name}")
    try:
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            write_all(fd, MAGIC + encode_facts(SPEC, time_ns, spec))
        finally:
            os.close(fd)
        os.rename(temporary, path)
    except OSError:
        if os.path.exists(temporary):
            os.unlink(temporary)
        raise


def write_all(fd: int, buffer: "Buffer") -> None:
    """write(2) until all of it is written."""
    rest = memoryview(buffer)
    while rest:
        rest = rest[os.write(fd, rest) :]


def lock(fd: int) -> bool:
    """Take the journal's lock if it is free. The kernel frees it when its last holder is gone."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def is_locked(path: str) -> bool:
    """True while a process holds the lock, which is the proof that it lives.

    Looks by taking a shared lock for a moment; a worker that meets it tries again (``worker/run.py``).
    Raises ``FileNotFoundError``.
    """
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


class Writer:
    """Appends frames to a journal whose lock is held. ``position`` is the end of the last whole frame."""

    def __init__(self, fd: int, position: int) -> None:
        """``position`` comes from a reader that has seen every whole frame; a torn tail is cut off."""
        self._fd = fd
        self.position = position
        if os.fstat(fd).st_size > position:
            os.ftruncate(fd, position)
        os.lseek(fd, position, os.SEEK_SET)

    def append(self, kind: int, time_ns: int, payload: "Buffer") -> None:
        """Write one frame. On ``OSError`` (``ENOSPC``) the journal is as it was before."""
        header = encode(kind, time_ns, payload)
        length = len(header) + len(memoryview(payload))
        try:
            written = os.writev(self._fd, (header, payload))
            if written < length:
                write_all(self._fd, memoryview(header + bytes(payload))[written:])
        except OSError:
            os.ftruncate(self._fd, self.position)
            os.lseek(self._fd, self.position, os.SEEK_SET)
            raise
        self.position += length

    def append_facts(self, kind: int, time_ns: int, facts: "dict[str, Any]") -> None:
        """Write one frame that is not output."""
        self.append(kind, time_ns, json.dumps(facts).encode())


class Reader:
    """Reads frames in order, from the beginning or from the ``end`` of a frame read before.

    What it has opened it can read to the end, deleted or not. The descriptor is closed with the last reader that
    shares it, or by ``close``.
    """

    READ_BYTES = 256 * 1024

    def __init__(self, path: str, position: int = START) -> None:
        """Raises ``FileNotFoundError`` without a journal."""
        self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self._owner: Reader | None = None  # who opened it, if not we
        self.position = position

    def again(self, position: int) -> "Reader":
        """Another reader of the same open journal, standing at ``position``."""
        other = object.__new__(Reader)
        other._fd, other._owner, other.position = self._fd, self, position
        return other

    def close(self) -> None:
        """Close the descriptor. Twice is safe."""
        if self._fd >= 0 and self._owner is None:
            os.close(self._fd)
        self._fd = -1

    __del__ = close

    def __enter__(self) -> "Reader":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def frames(self, at_most_bytes: "int | None" = None) -> "Iterator[Frame]":
        """The whole frames after ``position``, which moves past each one before it is given out.

        Ends at the end of the file, at an unfinished or damaged frame, or once ``at_most_bytes`` of file have
        been read. Calling again later goes on where it stood.
        """
        buffer = b""
        taken = 0  # bytes of the buffer given out
        first = self.position
        if first == START and os.pread(self._fd, START, 0) != MAGIC:
            return
        while at_most_bytes is None or self.position - first < at_most_bytes:
            need = _HEADER.size
            if len(buffer) - taken >= need:
                length = _HEADER.unpack_from(buffer, taken)[0]
                if length > MAX_PAYLOAD_BYTES:
                    return
                need += length
            if len(buffer) - taken < need:
                want = max(need, self.READ_BYTES)
                buffer = os.pread(self._fd, want, self.position)
                taken = 0
                if len(buffer) < need:
                    return
                continue
            length, checksum, kind, time_ns = _HEADER.unpack_from(buffer, taken)
            payload = buffer[taken + _HEADER.size : taken + need]
            if zlib.crc32(payload, zlib.crc32(_CHECKED.pack(kind, time_ns))) != checksum:
                return
            taken += need
            self.position += need
            yield Frame(kind, time_ns, payload, self.position)
