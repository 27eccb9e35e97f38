"""Which commands are begun at once, and which wait for a moment."""

from __future__ import annotations

from supervisor.pace import BEGINNING_S, FOR_EACH_PROCESSOR, Pace
from tests.standing_clock import Clock

AT_ONCE = FOR_EACH_PROCESSOR + 1  # with one processor


def _pace(waiting: int, clock: Clock | None = None) -> Pace:
    """That of one processor, with commands 1, 2, 3, … that wait."""
    pace = Pace(1, clock or Clock())
    for command_id in range(1, waiting + 1):
        pace.add(command_id)
    return pace


def test_a_crowd_is_begun_a_few_at_a_time_in_its_order() -> None:
    pace = _pace(AT_ONCE + 2)
    assert pace.turns() == list(range(1, AT_ONCE + 1))
    assert pace.turns() == []


def test_each_that_ends_makes_room_for_the_next() -> None:
    pace = _pace(AT_ONCE + 2)
    pace.turns()
    pace.ended(2)
    assert pace.wait_ms() == 0
    assert pace.turns() == [AT_ONCE + 1]
    assert pace.turns() == []


def test_what_lasts_holds_nobody_up() -> None:
    clock = Clock()
    pace = _pace(AT_ONCE * 2 + 1, clock)
    pace.turns()
    clock.now_s += BEGINNING_S / 2
    wait_ms = pace.wait_ms()
    assert wait_ms is not None
    assert pace.turns() == []
    clock.now_s += wait_ms / 1000  # no wake-up comes too early, or it would be followed by another
    assert pace.turns() == list(range(AT_ONCE + 1, AT_ONCE * 2 + 1))
    clock.now_s += BEGINNING_S * 2
    assert pace.turns() == [AT_ONCE * 2 + 1]


def test_when_nobody_waits_there_is_nothing_to_wake_up_for() -> None:
    pace = _pace(1)
    pace.turns()
    assert pace.wait_ms() is None
    pace.ended(1)
    assert pace.turns() == []
    assert pace.wait_ms() is None


def test_an_end_nobody_knows_of_changes_nothing() -> None:
    pace = _pace(AT_ONCE + 1)
    pace.ended(77)
    assert len(pace.turns()) == AT_ONCE
    assert pace.turns() == []


def test_one_that_is_begun_twice_counts_once_and_anew() -> None:
    clock = Clock()
    pace = _pace(1, clock)
    pace.turns()
    clock.now_s += BEGINNING_S / 2
    for command_id in (1, 2, 3, 4):
        pace.add(command_id)
    assert pace.turns() == [1, 2]  # the first of them is still taken for the one before
    clock.now_s += BEGINNING_S / 2
    assert pace.turns() == [3]
    assert pace.turns() == []
