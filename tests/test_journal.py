"""The journal: what is whole is read, nothing is invented, and a torn end is cut by the next writer."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from protocol import journal, story

SPEC = {"id": 42, "script": "echo hi"}
FRAMES = [
    (journal.TAKEN, b'{"pid": 1, "start_time": 2}'),
    (journal.STARTED, b'{"pid": 3, "start_time": 4}'),
    (journal.STDOUT, b"out\n"),
    (journal.STDERR, bytes(range(256))),
    (journal.STDOUT, b"\0" * 70_000),
    (journal.MISSING, b'{"stream": "stdout", "from": 70004, "to": 80000}'),
    (journal.ENDED, b'{"status": "succeeded"}'),
]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A journal from beginning to end."""
    path = tmp_path_factory.mktemp("journals") / "42"
    journal.create(str(path), 1, SPEC)
    _append(path, FRAMES)
    return path


def _append(path: Path, frames: list[tuple[int, bytes]]) -> None:
    fd = os.open(path, os.O_RDWR)
    try:
        assert journal.lock(fd)
        with journal.Reader(str(path)) as reader:
            list(reader.frames())
            writer = journal.Writer(fd, reader.position)
        for number, (kind, payload) in enumerate(frames):
            writer.append(kind, 2 + number, payload)
    finally:
        os.close(fd)


def _read(path: Path) -> list[tuple[int, bytes]]:
    with journal.Reader(str(path)) as reader:
        return [(frame.kind, frame.payload) for frame in reader.frames()]


def test_what_was_written_is_read(whole: Path) -> None:
    """Every frame, in order, with its bytes."""
    assert _read(whole)[1:] == FRAMES
    facts, position = story.read(str(whole))
    assert (facts.spec, facts.stdout_bytes, facts.stderr_bytes) == (SPEC, 80_000, 256)
    assert facts.ended == {"status": "succeeded"}
    assert position == whole.stat().st_size


def _salt(path: Path) -> bytes:
    return path.read_bytes()[len(journal.MAGIC) : journal.START]


def test_kinds_of_a_later_version_are_passed_over(tmp_path: Path) -> None:
    """Whoever knows less than the writer reads what it knows."""
    path = tmp_path / "42"
    journal.create(str(path), 1, SPEC)
    _append(path, [(journal.STDOUT, b"one"), (99, b"no JSON"), (journal.SIGNALLED, b'{"signal": 10}')])
    _append(path, [(journal.ENDED, b'{"status": "succeeded"}')])

    facts, _ = story.read(str(path))

    assert (facts.stdout_bytes, facts.stopping, facts.ended) == (3, None, {"status": "succeeded"})


def test_a_reader_goes_on_where_it_stood(tmp_path: Path) -> None:
    """A frame that is not finished yet is given once it is, and only once."""
    path = tmp_path / "42"
    journal.create(str(path), 1, SPEC)
    with journal.Reader(str(path)) as reader:
        assert [frame.kind for frame in reader.frames()] == [journal.SPEC]
        with path.open("a+b") as file:
            frame = journal.encode(journal.STDOUT, 2, b"late", _salt(path)) + b"late"
            file.write(frame[:20])
            file.flush()
            assert list(reader.frames()) == []
            file.write(frame[20:])
        assert [frame.payload for frame in reader.frames()] == [b"late"]
        assert list(reader.frames()) == []


def test_creating_twice_changes_nothing(whole: Path) -> None:
    """A journal that exists stays as it is."""
    before = whole.read_bytes()

    journal.create(str(whole), 1, {"id": 42, "script": "another"})

    assert whole.read_bytes() == before


def test_the_next_writer_writes_over_a_torn_end(whole: Path, tmp_path: Path) -> None:
    """What the dead writer did not finish is gone, what follows is readable."""
    torn = tmp_path / "42"
    unfinished = journal.encode(journal.STDOUT, 9, b"never finished", _salt(whole)) + b"never"
    torn.write_bytes(whole.read_bytes() + unfinished)

    _append(torn, [(journal.STDERR, b"went on")])

    assert _read(torn)[1:] == [*FRAMES, (journal.STDERR, b"went on")]


def test_the_lock_tells_the_living(whole: Path) -> None:
    """Held while somebody has it, free as soon as the descriptor is gone."""
    fd = os.open(whole, os.O_RDWR)
    assert journal.lock(fd)
    assert journal.is_locked(str(whole))

    os.close(fd)

    assert not journal.is_locked(str(whole))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=300)
@given(cut=st.integers(min_value=0))
def test_a_truncated_journal_gives_its_beginning(whole: Path, tmp_path: Path, cut: int) -> None:
    """Cut anywhere: the frames before the cut, and no others."""
    content = whole.read_bytes()
    damaged = tmp_path / "42"
    damaged.write_bytes(content[: cut % (len(content) + 1)])

    found = _read(damaged)

    assert found == _read(whole)[: len(found)]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=300)
@given(at=st.integers(min_value=0), flip=st.integers(min_value=1, max_value=255))
def test_a_flipped_byte_invents_nothing(whole: Path, tmp_path: Path, at: int, flip: int) -> None:
    """Change one byte anywhere: the frames before it, and none that was not written."""
    content = bytearray(whole.read_bytes())
    content[at % len(content)] ^= flip
    damaged = tmp_path / "42"
    damaged.write_bytes(content)

    found = _read(damaged)

    assert found == _read(whole)[: len(found)]
    assert len(found) < len(FRAMES) + 1


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=300)
@given(foreign=st.binary(max_size=500), after_magic=st.booleans())
def test_foreign_bytes_are_no_frames(tmp_path: Path, foreign: bytes, after_magic: bool) -> None:
    """A file that is no journal, or only begins like one, tells nothing and breaks nothing."""
    path = tmp_path / "42"
    path.write_bytes((journal.MAGIC if after_magic else b"") + foreign)

    assert _read(path) == []


def test_a_journal_that_becomes_anothers_tells_nothing_of_the_first(whole: Path, tmp_path: Path) -> None:
    """Made of a spare one, shorter than what lies there, it holds its own spec and nothing else, at every length."""
    path = tmp_path / "43"

    assert journal.create(str(path), 1, {"id": 43}, spare=str(whole))

    assert not whole.exists()
    assert [facts for _, facts in _read(path)] == [b'{"id": 43}']
    for size in (1, 300, 70_000):
        _append(path, [(journal.STDOUT, b"x" * size)])
    assert [len(payload) for _, payload in _read(path)[1:]] == [1, 300, 70_000]
