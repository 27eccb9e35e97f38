"""The file that ``bashd export`` writes and ``bashd import`` reads: JSON lines (docs/history-format.md)."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from typing import IO, Any

from api.command import iso, now
from api.rows import STREAMS, Chunk
from api.store_history import HistoryError, HistoryStore, RowRefused, Wanted
from protocol.status import FINAL

FORMAT = "bashd-history"
VERSION = 1
MAX_LINE_BYTES = 256 * 1024 * 1024  # PostgreSQL takes no larger JSON
MAX_CHUNK_BYTES = 65536
MAX_ID = 2**53  # what every reader of JSON takes for a whole number; far from the end of the sequence
_STREAM_NAMES = {number: name for name, number in STREAMS.items()}
_TIMES = ("created_at", "started_at", "stop_requested_at", "ended_at")
_FIGURES = ("timeout_s", "grace_s", "duration_s", "cpu_s")


class Fate(Enum):
    """What became of a command of the file."""

    ADDED = "added"
    SKIPPED = "was there already, and is the same"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class Outcome:
    """One command of the file, or a line that belongs to none, and what became of it."""

    fate: Fate
    which: str
    why: str = ""


class _Refused(Exception):
    """This command is not taken; the rest of the file is."""


# Writing


def write(store: HistoryStore, to: IO[bytes], wanted: Wanted, *, bashd_version: str) -> tuple[int, int]:
    """Write the history of one moment; returns how many commands it has, and how many were not final."""
    count = 0
    with store.one_moment():
        to.write(
            _line(
                {
                    "format": FORMAT,
                    "version": VERSION,
                    "schema_version": store.schema_version(),
                    "bashd_version": bashd_version,
                    "exported_at": iso(now()),
                }
            )
        )
        for command_id, row in store.commands(wanted):
            to.write(b'{"command": ' + row.encode() + b"}\n")
            chunks = 0
            for chunk in store.output(command_id):
                to.write(_line(_told(command_id, chunk)))
                chunks += 1
            to.write(_line({"end": command_id, "chunks": chunks}))
            count += 1
        to.write(_line({"commands": count}))
        passed_over = store.count_unfinished(wanted)
    to.flush()
    return count, passed_over


def _told(command_id: int, chunk: Chunk) -> dict[str, Any]:
    return {
        "output": command_id,
        "position": chunk.position,
        "stream": _STREAM_NAMES[chunk.stream],
        "offset": chunk.offset,
        "time": iso(chunk.time),
        "base64": base64.b64encode(chunk.bytes).decode(),
    }


def _line(facts: dict[str, Any]) -> bytes:
    return json.dumps(facts).encode() + b"\n"


# Reading


def read(store: HistoryStore, source: IO[bytes]) -> Iterator[Outcome]:
    """Add what the file holds, command by command; the store owns its database.

    Raises ``HistoryError``, before anything is added, for a file that is none of ours or too new.
    """
    lines = _Lines(source)
    _check_first(lines, store)
    complete = False
    passing_over = False  # the rest of a command that is refused
    while not complete:
        which = f"line {lines.number + 1}"
        try:
            facts = lines.next()
            if facts is None:
                yield Outcome(Fate.REFUSED, "the file", "ends too early: its last line is missing")
                return
            if "command" in facts:
                passing_over = False
                which = f"command {_id_of(facts)}"
                yield Outcome(_take(store, lines, facts), which)
            elif "commands" in facts:
                complete = True
            elif not passing_over:
                raise _Refused("there has to be a command")
        except _Refused as error:
            if not passing_over:
                yield Outcome(Fate.REFUSED, which, str(error))
            passing_over = True
    if lines.next_bytes():
        yield Outcome(Fate.REFUSED, f"line {lines.number}", "the file goes on after its last line")


def _check_first(lines: _Lines, store: HistoryStore) -> None:
    try:
        first = lines.next() or {}
    except _Refused:
        first = {}
    if first.get("format") != FORMAT:
        raise HistoryError("this is no history: its first line has to be what bashd export writes")
    version, schema, ours = first.get("version"), first.get("schema_version"), store.schema_version()
    if version != VERSION or type(schema) is not int or schema > ours:
        raise HistoryError(
            f"the history has version {version} and schema version {schema}, "
            f"this Bashd knows version {VERSION} and schema versions up to {ours}: use a newer Bashd"
        )


def _take(store: HistoryStore, lines: _Lines, facts: dict[str, Any]) -> Fate:
    row, line = facts["command"], lines.text
    command_id = _id_of(facts)
    _check_row(row)
    unknown = store.unknown(row)
    if unknown:
        raise _Refused(f"it has a field that this Bashd does not know: {', '.join(unknown)}")
    try:
        added = store.add(command_id, row, line, _chunks(lines, command_id))
    except RowRefused as error:
        raise _Refused(" ".join(str(error.diag.message_primary or error).split())) from error
    if added is None:
        raise _Refused("another command with this id is there, or the same with another output")
    return Fate.ADDED if added else Fate.SKIPPED


def _id_of(facts: dict[str, Any]) -> int:
    row = facts["command"]
    command_id = row.get("id") if isinstance(row, dict) else None
    if type(command_id) is not int or not 1 <= command_id <= MAX_ID:
        raise _Refused(f"id: has to be a whole number from 1 to {MAX_ID}")
    return command_id


def _check_row(row: dict[str, Any]) -> None:
    """Refuse what PostgreSQL would take and the API could not show, or would run."""
    if str(row.get("status")) not in FINAL:
        raise _Refused(f"status: has to be one of {', '.join(sorted(FINAL))}")
    for name in ("labels", "env"):
        if not _holds_texts(row.get(name, {}), dict):
            raise _Refused(f"{name}: has to be an object of texts")
    if not _holds_texts(row.get("args", []), list):
        raise _Refused("args: has to be a list of texts")
    for name in _TIMES:
        if row.get(name) is not None:
            _time(name, row[name])
    for name in _FIGURES:
        if type(row.get(name)) not in (int, float, type(None)):
            raise _Refused(f"{name}: has to be a number or null")
    truncated, evidence = row.get("truncated"), row.get("evidence")
    if truncated is not None and not (isinstance(truncated, dict) and {"stdout", "stderr", "reason"} <= set(truncated)):
        raise _Refused("truncated: has to be null or have stdout, stderr and reason")
    if evidence is not None and not isinstance(evidence, dict):
        raise _Refused("evidence: has to be an object or null")
    _check_stdin(row.get("stdin"))


def _holds_texts(value: Any, kind: type[dict[Any, Any]] | type[list[Any]]) -> bool:
    if not isinstance(value, kind):
        return False
    members: Iterable[Any] = value.values() if isinstance(value, dict) else value
    return all(isinstance(one, str) for one in members)


def _check_stdin(stdin: Any) -> None:
    try:
        if stdin is not None:
            if not stdin.startswith("\\x"):
                raise ValueError
            bytes.fromhex(stdin[2:]).decode()
    except (AttributeError, ValueError) as error:
        raise _Refused(r"stdin: has to be null, or \x and UTF-8 in hexadecimal digits") from error


def _time(name: str, value: Any) -> datetime:
    try:
        time = datetime.fromisoformat(value)
        if time.tzinfo is None:
            raise ValueError
    except (TypeError, ValueError) as error:
        raise _Refused(f"{name}: has to be an instant like 2026-01-31T12:00:00Z") from error
    return time


def _chunks(lines: _Lines, command_id: int) -> Iterator[Chunk]:
    """What the command printed, up to the line that ends it. Raises ``_Refused`` when it is not whole."""
    count, last = 0, -1
    while True:
        facts = lines.next()
        if facts is None or "command" in facts or "commands" in facts:
            lines.give_back()
            raise _Refused("its end is missing in the file")
        if facts.get("end", facts.get("output")) != command_id:
            raise _Refused(f"line {lines.number} does not belong to it")
        if "end" in facts:
            if facts.get("chunks") != count:
                raise _Refused(f"it has {count} chunks of output in the file, and had {facts.get('chunks')}")
            return
        chunk = _chunk(facts, lines.number)
        if chunk.position <= last:
            raise _Refused(f"line {lines.number}: position: has to be above the one before")
        yield chunk
        count, last = count + 1, chunk.position


def _chunk(facts: dict[str, Any], number: int) -> Chunk:
    numbers = [facts.get(name) for name in ("position", "offset")]
    if not all(type(one) is int and 0 <= one < 2**63 for one in numbers):
        raise _Refused(f"line {number}: position and offset have to be numbers of bytes")
    if str(facts.get("stream")) not in STREAMS:
        raise _Refused(f"line {number}: stream: has to be stdout or stderr")
    try:
        content = base64.b64decode(facts.get("base64", ""), validate=True)
    except (TypeError, ValueError) as error:
        raise _Refused(f"line {number}: base64: is none") from error
    if not 1 <= len(content) <= MAX_CHUNK_BYTES:
        raise _Refused(f"line {number}: base64: has to be 1 to {MAX_CHUNK_BYTES} bytes")
    time = _time(f"line {number}: time", facts.get("time"))
    return Chunk(facts["position"], STREAMS[facts["stream"]], facts["offset"], time, content)


class _Lines:
    """The file, line by line; the last one may be given back."""

    def __init__(self, source: IO[bytes]) -> None:
        self._source = source
        self._given_back = False
        self._facts: dict[str, Any] | None = None
        self.number = 0
        self.text = ""  # the last one as it stands

    def next(self) -> dict[str, Any] | None:
        """The next line, None after the last. Raises ``_Refused`` for one that is no JSON object."""
        if self._given_back:
            self._given_back = False
            return self._facts
        self._facts = self._parse(self.next_bytes())
        return self._facts

    def next_bytes(self) -> bytes:
        """The next line unread; empty after the last."""
        line = self._source.readline(MAX_LINE_BYTES)
        self.number += 1
        return line

    def give_back(self) -> None:
        """``next`` gives the same line once more."""
        self._given_back = True

    def _parse(self, line: bytes) -> dict[str, Any] | None:
        if not line:
            return None
        if not line.endswith(b"\n"):
            raise _Refused(f"line {self.number} is cut off, or longer than {MAX_LINE_BYTES} bytes")
        try:
            self.text = line.decode()
            facts = json.loads(self.text)
        except (ValueError, RecursionError) as error:
            raise _Refused(f"line {self.number} is no JSON") from error
        if not isinstance(facts, dict):
            raise _Refused(f"line {self.number} is no JSON object")
        return facts
