"""The journal of one command: what it is, how far it came, every byte it wrote, how it ended.

Created whole by the API (spec as its first frame), then written by whoever holds its lock: the worker or,
when that is dead, the supervisor. Anybody may read it at any time. It outlives every process of Bashd and is
deleted when the final row is committed. This module alone knows the format:

    magic "bashd journal 2\\n" | salt, 8 random bytes | then frames:
    length of payload u32 | crc32 of salt and rest u32 | kind u8 | time i64, ns since the epoch | payload

all little-endian. Output payloads are the bytes as written; all others are JSON. The checksum makes a torn
last frame recognisable, and whatever else may lie behind the last whole one: a reader gives what is whole and never
invents. Nobody can write something into one journal that is a frame in another, not knowing its salt.

Behind the last frame lies a reserve: blocks of the disk that are the file's already though its size does not show
them. So what is still to be said of a command finds room on a disk that others have filled. Output never uses it up.

Making, emptying and deleting files is dear (ext4 looks past every inode that was freed within the last minutes, and
waits for its own journal), so a journal that is done with may become another command's: it is renamed, gets a salt of
its own, and is written over from the beginning. Whoever opened it by its name finds out with ``is_at``.
"""

import fcntl
import json
import os
import struct
import zlib

from protocol import linux

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    Buffer = bytes | memoryview

MAGIC = b"bashd journal 2\n"
SALT_BYTES = 8

SPEC = 1  # what is to be run; always the first frame
TAKEN = 2  # {"pid", "start_time", "boot_id", "monotonic_s"} of the worker that has it
STARTED = 3  # {"pid", "start_time", "monotonic_s"} of bash, the leader of its group
STDOUT = 4
STDERR = 5
MISSING = 6  # {"stream", "from", "to", "reason"}: bytes that were counted and not kept
STOPPING = 7  # {"signal", "reason", "grace_s", "requested_at_ns", "by"}: a stop is under way
PAUSED = 8  # {"paused"}: bash was stopped by SIGSTOP or went on
UNKILLABLE = 9  # {"processes": [{"pid", "wchan"}, …]}: KILL was sent long ago and they are still there; the last counts
CRASHED = 10  # {"traceback"}: the worker failed; evidence for "lost"
ENDED = 11  # the last frame: status, reason, exit_code, signal, swept, usage, evidence
SIGNALLED = 12  # {"signal", "requested_at_ns"}: a client had it sent to the group; it is no stop
TAILED = 14  # {"stdout", "stderr"}: from this place on output lies beside the journal (``protocol.tail``)
STDIN = 13  # {"open"}: from here on clients may write into the pipe that bash reads (stdin_open); or no more

_HEADER = struct.Struct("<IIBq")
_CHECKED = struct.Struct("<Bq")
MAX_PAYLOAD_BYTES = 64 * 1024 * 1024  # a longer length is damage, not a frame

# The reading position of the first frame.
START = len(MAGIC) + SALT_BYTES

# What has to stay free behind a frame, by what it says.
LAST_WORDS_BYTES = 8 * 1024  # behind a fact: what is unsaid, and the end
RESERVE_BYTES = 16 * 1024  # behind output: that, and the facts until then
AT_CREATION_BYTES = RESERVE_BYTES + 16 * 1024  # behind the spec: with it most commands need no more
AHEAD_BYTES = 256 * 1024  # how far output allocates ahead, so that it asks the file system rarely
_NO_END = 2**62  # allocated, as far as one can tell: the file system knows no allocating

_decoder = json.JSONDecoder()  # asked for one value, it costs a third of json.loads, which looks for what is around it


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
        facts: dict[str, Any] = _decoder.raw_decode(self.payload.decode())[0]
        return facts


def encode(kind: int, time_ns: int, payload: "Buffer", salt: bytes) -> bytes:
    """The header of a frame; the payload follows it in the file."""
    return _HEADER.pack(len(memoryview(payload)), _checksum(kind, time_ns, payload, salt), kind, time_ns)


def encode_facts(kind: int, time_ns: int, facts: "dict[str, Any]", salt: bytes) -> bytes:
    """A whole frame that is not output."""
    payload = json.dumps(facts).encode()
    return encode(kind, time_ns, payload, salt) + payload


def _checksum(kind: int, time_ns: int, payload: "Buffer", salt: bytes) -> int:
    return zlib.crc32(payload, zlib.crc32(salt + _CHECKED.pack(kind, time_ns)))


def salt_of(fd: int) -> "bytes | None":
    """The salt of an open journal; None for a file that is none."""
    head = os.pread(fd, START, 0)
    return head[len(MAGIC) :] if len(head) == START and head.startswith(MAGIC) else None


def create(path: str, time_ns: int, spec: "dict[str, Any]", *, spare: "str | None" = None) -> bool:
    """Make the journal with its spec and its reserve, whole or not at all. False: one exists, and is left as it is.

    ``spare``: a file that is taken for it. Raises ``OSError`` (``ENOSPC``, ``EROFS``, …) with nothing left behind.
    """
    if os.path.exists(path):
        return False
    directory, name = os.path.split(path)
    temporary = spare or os.path.join(directory, f".{name}")
    try:
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            salt = os.urandom(SALT_BYTES)
            content = MAGIC + salt + encode_facts(SPEC, time_ns, spec, salt)
            room = len(content) + AT_CREATION_BYTES
            # A spare one has its blocks from the first byte on, for so they were given to it.
            if os.fstat(fd).st_blocks * 512 < room:
                linux.allocate(fd, 0, room)
            write_all(fd, content)
        finally:
            os.close(fd)
        os.rename(temporary, path)
    except OSError:
        if os.path.exists(temporary):
            os.unlink(temporary)
        raise
    return True


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


def is_at(path: str, fd: int) -> bool:
    """True when ``path`` still names the file behind ``fd``: then all that was read or locked is that command's."""
    try:
        named = os.stat(path)
    except FileNotFoundError:
        return False
    return os.path.samestat(named, os.fstat(fd))


def is_locked(path: str) -> bool:
    """True while a process holds the lock, which is the proof that it lives.

    Looks by taking a shared lock for a moment; a worker that meets it tries again (``worker/run.py``).
    Raises ``FileNotFoundError``.
    """
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        if not is_at(path, fd):
            raise FileNotFoundError(path) from None
        return True
    finally:
        os.close(fd)
    return False


class Writer:
    """Appends frames to a journal whose lock is held. ``position`` is the end of the last whole frame."""

    def __init__(self, fd: int, position: int) -> None:
        """``position`` comes from a reader that has seen every whole frame; what lies behind is written over."""
        salt = salt_of(fd)
        assert salt is not None, "a reader has found frames in it"
        self._salt = salt
        self._fd = fd
        self.position = position
        self._allocated = position + AT_CREATION_BYTES  # believed only for a journal that holds nothing but its spec
        self._ahead = False  # we have allocated more than ``create`` did
        self._torn = False

    def append(self, kind: int, time_ns: int, payload: "Buffer", *, keep: int = 0) -> None:
        """Write one frame, with ``keep`` bytes of room behind it. On ``OSError`` the journal is as it was before.

        With ``keep`` 0 it uses what is left of the reserve.
        """
        header = encode(kind, time_ns, payload, self._salt)
        length = len(header) + len(memoryview(payload))
        if self._torn:
            self._cut()
        if keep and self.position + length + keep > self._allocated:
            self._allocate(self.position + length + keep)
        try:
            written = os.pwritev(self._fd, (header, payload), self.position)
            while written < length:
                rest = memoryview(header + bytes(payload))[written:]
                written += os.pwrite(self._fd, rest, self.position + written)
        except OSError:
            self._torn = True  # perhaps; and perhaps the disk does not even let us cut it off now
            raise
        self.position += length

    def append_facts(self, kind: int, time_ns: int, facts: "dict[str, Any]", *, keep: int = 0) -> None:
        """Write one frame that is not output."""
        self.append(kind, time_ns, json.dumps(facts).encode(), keep=keep)

    def release(self) -> None:
        """Give back what was allocated ahead. To be called when nothing more is to be written."""
        if self._ahead:
            os.ftruncate(self._fd, self.position)

    def _allocate(self, end: int) -> None:
        for wanted in (end + AHEAD_BYTES, end):
            try:
                supported = linux.allocate(self._fd, self._allocated, wanted - self._allocated)
            except OSError:
                if wanted == end:
                    raise
                continue  # there may be room for this frame at least
            self._allocated = wanted if supported else _NO_END
            self._ahead = supported
            return

    def _cut(self) -> None:
        """Cut off what follows the last whole frame."""
        if os.fstat(self._fd).st_size > self.position:
            os.ftruncate(self._fd, self.position)
            # That has freed the reserve with it.
            self._allocated = self.position
            try:
                self._allocate(self.position + RESERVE_BYTES)
            except OSError:
                pass  # somebody else was faster; what is to be written meets that again
        self._torn = False


def only_spec(fd: int) -> "Frame | None":
    """The spec of a journal that holds nothing else; None for any other."""
    frames = Reader.of(fd).frames()
    first = next(frames, None)
    return first if first is not None and first.kind == SPEC and next(frames, None) is None else None


class Reader:
    """Reads frames in order, from the beginning or from the ``end`` of a frame read before.

    What it has opened it can read to the end, deleted or not. The descriptor is closed with the last reader that
    shares it, or by ``close``.
    """

    READ_BYTES = (8 * 1024, 256 * 1024)  # at once: at first, for most journals are small; multiplied up to the last

    def __init__(self, path: str, position: int = START) -> None:
        """Raises ``FileNotFoundError`` without a journal."""
        self._owner: Reader | None = None  # who opened it, if not we
        self._fd = -1  # for close, which comes in any case
        self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self._salt = salt_of(self._fd)
        self.position = position

    @classmethod
    def of(cls, fd: int) -> "Reader":
        """A reader of a journal that the caller has open, and closes."""
        reader = object.__new__(cls)
        reader._fd, reader._owner, reader.position = fd, reader, START
        reader._salt = salt_of(fd)
        return reader

    def again(self, position: int) -> "Reader":
        """Another reader of the same open journal, standing at ``position``."""
        other = object.__new__(Reader)
        other._fd, other._salt, other._owner, other.position = self._fd, self._salt, self, position
        return other

    def is_at(self, path: str) -> bool:
        """True when ``path`` still names what was opened."""
        return is_at(path, self._fd)

    def lock(self) -> bool:
        """Take the journal's lock until ``close``. False: somebody has it."""
        return lock(self._fd)

    def is_abandoned(self) -> bool:
        """True when the journal was deleted and nobody holds its lock: nobody will ever write on in it."""
        if os.fstat(self._fd).st_nlink > 0:
            return False
        try:
            fcntl.flock(self._fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        fcntl.flock(self._fd, fcntl.LOCK_UN)
        return True

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

    def headers(self) -> "Iterator[tuple[int, int]]":
        """Kind and length of the whole frames after ``position``, whose payload is not read and not proven."""
        size = os.fstat(self._fd).st_size
        while True:
            header = os.pread(self._fd, _HEADER.size, self.position)
            if len(header) < _HEADER.size:
                return
            length, _, kind, _ = _HEADER.unpack(header)
            if length > MAX_PAYLOAD_BYTES or self.position + _HEADER.size + length > size:
                return
            self.position += _HEADER.size + length
            yield kind, length

    def frames(self, at_most_bytes: "int | None" = None) -> "Iterator[Frame]":
        """The whole frames after ``position``, which moves past each one before it is given out.

        Ends at the end of the file, at an unfinished or damaged frame, or once ``at_most_bytes`` of file have
        been read. Calling again later goes on where it stood.
        """
        buffer = b""
        taken = 0  # bytes of the buffer given out
        at_once, most = self.READ_BYTES
        whole = False  # the last read found the end of the file
        first = self.position
        if self._salt is None:
            return
        while at_most_bytes is None or self.position - first < at_most_bytes:
            need = _HEADER.size
            if len(buffer) - taken >= need:
                length = _HEADER.unpack_from(buffer, taken)[0]
                if length > MAX_PAYLOAD_BYTES:
                    return
                need += length
            if len(buffer) - taken < need:
                if whole:
                    return
                want = max(need, at_once)
                at_once = min(at_once * 8, most)
                buffer = os.pread(self._fd, want, self.position)
                whole = len(buffer) < want
                taken = 0
                if len(buffer) < need:
                    return
                continue
            length, checksum, kind, time_ns = _HEADER.unpack_from(buffer, taken)
            payload = buffer[taken + _HEADER.size : taken + need]
            if _checksum(kind, time_ns, payload, self._salt) != checksum:
                return
            taken += need
            self.position += need
            yield Frame(kind, time_ns, payload, self.position)
