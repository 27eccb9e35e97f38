"""The table by which a new API decides; every combination, as ARCHITECTURE.md has it."""

from __future__ import annotations

import pytest

from api.recovery import Action, Journal, decide

TABLE = {
    # journal, row is running: (same boot, another boot)
    (Journal.AT_WORK, False): (Action.FOLLOW, Action.FOLLOW),
    (Journal.AT_WORK, True): (Action.FOLLOW, Action.FOLLOW),
    (Journal.ENDED, False): (Action.FOLLOW, Action.FOLLOW),
    (Journal.ENDED, True): (Action.FOLLOW, Action.FOLLOW),
    (Journal.UNTAKEN, False): (Action.HAND_OVER, Action.HOST_DIED),
    (Journal.UNTAKEN, True): (Action.HAND_OVER, Action.HOST_DIED),
    (Journal.NONE, False): (Action.HAND_OVER, Action.HOST_DIED),
    (Journal.NONE, True): (Action.JOURNAL_GONE, Action.JOURNAL_GONE),
}


@pytest.mark.parametrize("found", Journal)
@pytest.mark.parametrize("row_running", [False, True])
@pytest.mark.parametrize("same_boot", [True, False])
def test_every_combination_is_decided(found: Journal, row_running: bool, same_boot: bool) -> None:
    """Nothing runs twice, nothing stays running for ever."""
    here, elsewhere = TABLE[found, row_running]

    assert decide(found, same_boot=same_boot, row_running=row_running) is (here if same_boot else elsewhere)
