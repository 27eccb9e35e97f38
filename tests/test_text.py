"""Output as text: valid, without what steers a terminal, with times; however it was cut into chunks."""

from __future__ import annotations

import random
import re
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.rows import Chunk
from api.text import LINE_CHARACTERS, Ansi, Text

START = datetime(2026, 1, 31, 12, 0, 0, tzinfo=UTC)


def _shown(
    parts: list[tuple[int, bytes]], *, strip: bool = False, timestamps: bool = False, name_streams: bool = False
) -> str:
    """What becomes of these parts of the streams; the n-th was written n seconds after the start."""
    text = Text(strip=strip, timestamps=timestamps, name_streams=name_streams)
    reached = {1: 0, 2: 0}
    shown = []
    for second, (stream, content) in enumerate(parts):
        chunk = Chunk(sum(reached.values()), stream, reached[stream], START + timedelta(seconds=second), content)
        shown.append(text.of(chunk))
        reached[stream] += len(content)
    return "".join(shown) + text.rest()


@given(st.binary(max_size=200), st.lists(st.integers(1, 9), max_size=50))
def test_however_it_is_cut_the_text_is_the_same(content: bytes, lengths: list[int]) -> None:
    """Also in the middle of a character, and between the bytes of a sequence."""
    parts, start = [], 0
    for length in [*lengths, len(content)]:
        parts.append((1, content[start : start + length]))
        start += length

    assert _shown(parts) == content.decode("utf-8", "replace")
    assert _shown(parts, strip=True) == _shown([(1, content)], strip=True)


def test_each_stream_has_its_own_characters() -> None:
    """The half of one is not completed by what the other stream says."""
    whole = "☃".encode()

    assert _shown([(1, whole[:2]), (2, b"err"), (1, whole[2:])]) == "err☃"
    assert _shown([(1, whole[:2]), (2, whole[2:])]) == "\ufffd\ufffd"


def test_nothing_completes_a_character_that_a_gap_cut_off() -> None:
    text = Text(strip=False, timestamps=False, name_streams=False)
    whole = "☃".encode()

    first = text.of(Chunk(0, 1, 0, START, b"a" + whole[:2]))
    assert first + text.of(Chunk(100, 1, 100, START, whole[2:] + b"b")) == "a\ufffd\ufffdb"


@pytest.mark.parametrize(
    ("written", "plain"),
    [
        ("\x1b[1;31mred\x1b[0m", "red"),
        ("\x1b[38;2;1;2;3mx\x1b[?25l\x1b[2Ky", "xy"),
        ("\x1b]0;title\x07a\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\", "alink"),
        ("\x1bP1$r0m\x1b\\a\x1b_apc\x1b\\b\x1b^pm\x1b\\c\x1bXsos\x1b\\d", "abcd"),
        ("\x1b(Ba\x1b7b\x1bc", "ab"),
        ("\x9b1mred\x9d0;t\x9cx", "redx"),
        ("a\r\tb\bc\x07", "a\r\tb\bc\x07"),
        ("\x1b[31\nnext", "\nnext"),
        ("\x1b]0;never closed\nnext", "\nnext"),
        ("\x1b[3\x1b[1mx", "x"),
        ("\x1béx\x1b[é", "éxé"),
        ("end\x1b[1", "end"),
    ],
)
def test_what_steers_a_terminal_is_taken_out(written: str, plain: str) -> None:
    """In one piece and character by character."""
    by_characters = Ansi()

    assert Ansi().strip(written) == plain
    assert "".join(by_characters.strip(one) for one in written) == plain
    assert _shown([(1, written.encode())]) == written, "it was not asked for"


@given(st.text(alphabet="\x1b[]0;1m\x07\\\x9b\x9c(Bé\nx", max_size=60))
def test_nothing_that_steers_a_terminal_is_left(written: str) -> None:
    assert re.search("[\x1b\x9b\x9d\x90]", Ansi().strip(written)) is None


def test_each_line_has_the_time_at_which_it_began() -> None:
    """And the name of its stream; lines of the two are not mixed up."""
    shown = _shown([(1, b"a\nb"), (2, b"x"), (1, b"c\nd\n\ne"), (2, b"y\n")], timestamps=True, name_streams=True)

    assert shown.splitlines() == [
        "2026-01-31T12:00:00.000000Z stdout a",
        "2026-01-31T12:00:00.000000Z stdout bc",
        "2026-01-31T12:00:02.000000Z stdout d",
        "2026-01-31T12:00:02.000000Z stdout ",
        "2026-01-31T12:00:01.000000Z stderr xy",
        "2026-01-31T12:00:02.000000Z stdout e",
    ]


def test_an_endless_line_is_given_in_pieces() -> None:
    """So that nobody has to keep it; without its prefixes nothing is missing."""
    written = "".join(random.Random(1).choices("abcdef", k=5 * LINE_CHARACTERS + 7))
    parts = [(1, written[start : start + 1000].encode()) for start in range(0, len(written), 1000)]

    lines = _shown(parts, timestamps=True).splitlines()

    assert "".join(line.partition(" ")[2] for line in lines) == written
    assert 5 <= len(lines) <= 7
    assert max(map(len, lines)) < LINE_CHARACTERS + 1100
