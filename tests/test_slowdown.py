"""Wrong tokens take longer and longer; by an invented clock, for nobody waits here."""

from __future__ import annotations

from api import slowdown
from api.slowdown import Slowdown
from tests.standing_clock import Clock


def test_the_first_cost_nothing_and_the_others_more_and_more() -> None:
    """Up to a longest time."""
    slow = Slowdown(Clock())

    delays = [slow.wrong("192.0.2.1") for _ in range(slowdown.FREE + 300)]

    assert delays[: slowdown.FREE] == [0.0] * slowdown.FREE
    assert delays == sorted(delays)
    assert delays[slowdown.FREE] > 0
    assert delays[-1] == slowdown.LONGEST_S


def test_another_address_does_not_pay_for_it() -> None:
    """Of IPv6 the /64 counts: who has one address of it has them all."""
    slow = Slowdown(Clock())
    for number in range(slowdown.FREE + 10):
        slow.wrong("192.0.2.1")
        slow.wrong(f"2001:db8::{number:x}")

    assert slow.wrong("192.0.2.2") == 0
    assert slow.wrong("2001:db8:0:1::1") == 0
    assert slow.wrong("2001:db8::ffff") > 0


def test_time_forgives() -> None:
    """As many a second as is said."""
    clock = Clock()
    slow = Slowdown(clock)
    for _ in range(slowdown.FREE + 10):
        slow.wrong("192.0.2.1")

    clock.now_s += 11 / slowdown.FORGIVEN_PER_S

    assert slow.wrong("192.0.2.1") == 0
    assert [slow.wrong("192.0.2.1") > 0 for _ in range(2)] == [True, True]


def test_a_million_addresses_take_no_more_room_than_ten_thousand() -> None:
    """The ones that were quiet for longest are forgotten."""
    slow = Slowdown(Clock())
    for number in range(slowdown.MOST_ADDRESSES * 2):
        slow.wrong(f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}")

    assert len(slow) == slowdown.MOST_ADDRESSES
