"""What is kept of the changes of all commands is bounded, and who has missed something is told so."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from api import changes as feeds
from api import sse
from api.changes import Changes
from api.command import Command
from api.live import Lives
from protocol.places import Places
from tests.listening import Event, parsed


@pytest.fixture
def changes(tmp_path: Path) -> Changes:
    return Changes(Lives(Places(str(tmp_path))))


def _command(number: int, **fields: object) -> Command:
    command = Command(id=number, script="x", created_at=datetime.now(UTC), grace_s=5, output_limit_bytes=1)
    return replace(command, **fields)  # type: ignore[arg-type]


def _told(changes: Changes, after: str | None, enough: Callable[[list[Event]], bool]) -> list[Event]:
    async def listen() -> list[Event]:
        got: list[Event] = []
        async with asyncio.timeout(10):
            async for piece in changes.events(after):
                got += parsed(iter([piece]))
                if enough(got):
                    break
        return got

    return asyncio.run(listen())


def test_of_each_command_the_latest_change_is_kept(changes: Changes) -> None:
    """A reader who was away gets each command once, as it is now, in the order of the changes."""
    start = _told(changes, None, lambda got: len(got) == 1)[0].id
    for status in ("queued", "running"):
        for number in (1, 2, 3):
            changes.note(_command(number, status=status))
    changes.note(_command(2, status="stopped"))

    told = _told(changes, start, lambda got: len(got) == 3)

    assert [(one.value["id"], one.value["status"]) for one in told] == [(1, "running"), (3, "running"), (2, "stopped")]
    assert _told(changes, told[1].id, lambda got: len(got) == 1) == told[2:]


def test_more_than_is_kept_is_forgotten_and_that_is_said(changes: Changes) -> None:
    """Memory is bounded, whatever the commands are; ``reset`` to who has missed something, and to nobody else."""
    start = _told(changes, None, lambda got: len(got) == 1)[0].id
    for number in range(1, 2000):
        changes.note(_command(number, script="y" * 1_000_000, args=["z" * 10_000]))
    kept = list(changes._changes.values())

    assert sum(len(one.command.script) + len(one.command.args[0]) for one in kept) < feeds.KEPT_BYTES
    assert 100 < len(kept) < 1000
    assert _told(changes, start, lambda got: len(got) == 1)[0].name == "reset"
    oldest = f"{start.partition('-')[0]}-{kept[0].number}"
    told = _told(changes, oldest, lambda got: len(got) == len(kept) - 1)
    assert [one.value["id"] for one in told] == [one.command.id for one in kept[1:]]


def test_silence_is_filled_with_comments(changes: Changes, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a while without news comes a comment, and again; the next event is not delayed by it."""
    monkeypatch.setattr(sse, "SILENCE_S", 0.01)

    async def listen() -> list[bytes]:
        events = changes.events(None)
        got = [await anext(events) for _ in range(3)]
        changes.note(_command(7))
        got.append(await anext(events))
        await events.aclose()
        return got

    reset, *comments, status = asyncio.run(listen())

    assert reset.startswith(b"event: reset\n")
    assert comments == [sse.COMMENT, sse.COMMENT]
    assert b'"id":7' in status
