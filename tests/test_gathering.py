"""When a piece of news is worth a turn of its own."""

from __future__ import annotations

import os
import select
from collections.abc import Iterator

import pytest

from supervisor.gathering import GATHER_S, Gathering
from tests.standing_clock import Clock


class Place:
    """A gathering, its poll, its clock, and what it looks at: one pipe with news in it."""

    def __init__(self, pipe: tuple[int, int]) -> None:
        self._clock = Clock()
        self._poll = select.poll()
        self.gathering = Gathering(self._poll, self._clock)
        self.gathering.watch(pipe[0])
        os.write(pipe[1], b"news")

    @property
    def waits_s(self) -> float | None:
        """How long the news may gather from now on; None: it is looked at."""
        return None if self.gathering.until is None else self.gathering.until - self._clock.now_s

    def turn(self, came: int, after_s: float = 0.0) -> bool:
        """Take a turn that brings so much; true if the news that lies there begins another at once."""
        self._clock.now_s += after_s
        self.gathering.came(came)
        self.gathering.end_turn()
        return bool(self._poll.poll(0))


@pytest.fixture
def place() -> Iterator[Place]:
    """A place where nothing came yet."""
    pipe = os.pipe()
    yield Place(pipe)
    for fd in pipe:
        os.close(fd)


def test_news_that_comes_singly_is_taken_at_once(place: Place) -> None:
    for _ in range(3):
        assert place.turn(came=1)
        assert place.gathering.until is None


def test_after_several_at_once_the_next_gather_until_a_time_that_is_known(place: Place) -> None:
    assert not place.turn(came=2)
    assert place.waits_s == pytest.approx(GATHER_S)
    assert not place.turn(came=2, after_s=GATHER_S)
    assert place.waits_s == pytest.approx(GATHER_S)


def test_turns_that_something_else_begins_meanwhile_change_nothing(place: Place) -> None:
    place.turn(came=2)
    assert not place.turn(came=0, after_s=GATHER_S / 4)
    assert not place.turn(came=1, after_s=GATHER_S / 4)
    assert place.waits_s == pytest.approx(GATHER_S / 2)


def test_what_came_singly_meanwhile_counts_together(place: Place) -> None:
    place.turn(came=2)
    place.turn(came=1, after_s=GATHER_S / 4)
    assert not place.turn(came=1, after_s=GATHER_S)


@pytest.mark.parametrize("came", [0, 1])
def test_when_it_has_become_quiet_news_is_taken_at_once_again(place: Place, came: int) -> None:
    place.turn(came=2)
    assert place.turn(came=came, after_s=GATHER_S)
    assert place.gathering.until is None
