"""Output as text for people: always valid UTF-8, without the sequences that steer a terminal, with times, if wanted.

Each stream is read on its own, so what was cut between two chunks, or lies between the lines of the other stream, is
put together.
"""

from __future__ import annotations

import codecs
import re
from datetime import datetime

from api.command import iso
from api.rows import STREAMS, Chunk

LINE_CHARACTERS = 64 * 1024  # a longer line is given in pieces, each with its time: what is kept of it is bounded
_NAMES = {number: name for name, number in STREAMS.items()}


class Text:
    """Makes chunks into text. ``timestamps``: line by line, each with the time at which it began."""

    def __init__(self, *, strip: bool, timestamps: bool, name_streams: bool) -> None:
        self._streams = {
            number: _Stream(strip=strip, lines=Lines(name if name_streams else None) if timestamps else None)
            for number, name in _NAMES.items()
        }

    def of(self, chunk: Chunk) -> str:
        """The text that is complete with this chunk."""
        return self._streams[chunk.stream].take(chunk)

    def rest(self) -> str:
        """What was not complete when the last chunk had come."""
        return "".join(stream.rest() for stream in self._streams.values())


class _Stream:
    def __init__(self, *, strip: bool, lines: Lines | None) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._ansi = Ansi() if strip else None
        self._lines = lines
        self._end: int | None = None  # of the chunk before
        self._time: datetime | None = None

    def take(self, chunk: Chunk) -> str:
        # What was cut off by a gap is never completed by what comes behind it.
        broken = "" if self._end in (None, chunk.offset) else self._decoder.decode(b"", final=True)
        self._end, self._time = chunk.offset + len(chunk.bytes), chunk.time
        return self._shown(broken + self._decoder.decode(chunk.bytes))

    def rest(self) -> str:
        text = self._shown(self._decoder.decode(b"", final=True))
        return text + (self._lines.rest() if self._lines else "")

    def _shown(self, text: str) -> str:
        if self._ansi is not None:
            text = self._ansi.strip(text)
        if self._lines is None or self._time is None:
            return text
        return self._lines.take(text, self._time)


class Lines:
    """Puts a stream's text together to lines and writes before each when it began."""

    def __init__(self, stream: str | None) -> None:
        self._suffix = "" if stream is None else f" {stream}"
        self._parts: list[str] = []  # of the line that is not complete
        self._characters = 0
        self._prefix = ""

    def take(self, text: str, time: datetime) -> str:
        """The lines that are complete now."""
        if not text:
            return ""
        given: list[str] = []
        *whole, last = text.split("\n")
        for line in whole:
            self._add(line, time)
            given.append(self._line())
        for start in range(0, len(last), LINE_CHARACTERS):
            self._add(last[start : start + LINE_CHARACTERS], time)
            if self._characters >= LINE_CHARACTERS:
                given.append(self._line())
        return "".join(given)

    def rest(self) -> str:
        """The last line, if nothing ended it."""
        return self._line() if self._parts else ""

    def _add(self, part: str, time: datetime) -> None:
        if not self._parts:
            self._prefix = f"{iso(time)}{self._suffix} "
        self._parts.append(part)
        self._characters += len(part)

    def _line(self) -> str:
        line = f"{self._prefix}{''.join(self._parts)}\n"
        self._parts, self._characters = [], 0
        return line


_PLAIN = re.compile("[^\x1b\x90\x98\x9b\x9d-\x9f]*")
_CSI = re.compile("[ -?]*")  # parameters and intermediate bytes; another one ends it
_STRING = re.compile("[^\x07\x1b\x9c\n]*")
_SHORT = re.compile("[ -/]*")  # intermediate bytes of a short one, like that which chooses a character set


class Ansi:
    """Takes the sequences that steer a terminal (ECMA-48) out of text, wherever it is cut.

    Nothing is held back: what began as a sequence is never given, so a sequence may be as long as it likes. A new line
    ends each of them, or one that is never closed would swallow all that comes.
    """

    def __init__(self) -> None:
        self._within = _PLAIN

    def strip(self, text: str) -> str:
        """What is left of ``text``, which goes on where the last one ended."""
        kept: list[str] = []
        position = 0
        while position < len(text):
            found = self._within.match(text, position)
            assert found is not None
            if self._within is _PLAIN:
                kept.append(found.group())
            position = found.end()
            if position < len(text):
                position += self._turn(text[position])
        return "".join(kept)

    def _turn(self, character: str) -> int:
        """Go on behind the character that ended a part; returns 0 when it belongs to what follows."""
        before, self._within = self._within, _PLAIN
        if before is _PLAIN or character in "\x1b\x90\x98\x9b\x9d\x9e\x9f":
            self._within = {"\x1b": _SHORT, "\x9b": _CSI}.get(character, _STRING)
            return 1
        if before is _SHORT and character in "[PX]^_":
            self._within = _CSI if character == "[" else _STRING
            return 1
        # What ends a sequence goes with it. What cannot be in one is none of it: it was cut short.
        ends = character != "\n" if before is _STRING else " " <= character <= "~"
        return int(ends)
