"""How many commands run, as the API counts them by their journals."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from api.command import Command, now
from api.live import Lives
from protocol import journal
from protocol.places import Places


@pytest.fixture
def places(tmp_path: Path) -> Places:
    """A state directory with the journals of commands 1 to 3, which nobody has taken."""
    places = Places(str(tmp_path))
    os.mkdir(places.journals)
    for command_id in (1, 2, 3):
        journal.create(places.journal(command_id), time.time_ns(), _command(command_id).spec())
    return places


def _command(command_id: int) -> Command:
    return Command(id=command_id, script="true", created_at=now(), grace_s=5.0, output_limit_bytes=1000)


def _write(places: Places, command_id: int, kind: int, facts: dict[str, object]) -> None:
    """Append a frame to its journal, as its worker would."""
    fd = os.open(places.journal(command_id), os.O_RDWR)
    reader = journal.Reader.of(fd)
    for _ in reader.frames():
        pass
    journal.Writer(fd, reader.position).append_facts(kind, time.time_ns(), facts)
    os.close(fd)


def test_those_run_that_have_neither_ended_nor_been_removed(places: Places) -> None:
    lives = Lives(places)
    first, second, third = (lives.add(_command(command_id)) for command_id in (1, 2, 3))
    assert lives.running() == 3

    _write(places, 1, journal.ENDED, {"status": "succeeded", "reason": "exit"})
    first.follow()
    assert lives.running() == 2
    lives.remove(first)
    assert lives.running() == 2
    second.give_up(time.time_ns())
    assert lives.running() == 1
    lives.remove(third)
    assert lives.running() == 0
    assert len(lives) == 1


def test_one_that_is_read_beyond_its_removal_disturbs_nobody(places: Places) -> None:
    lives = Lives(places)
    told: list[str] = []
    lives.on_change = lambda command: told.append(command.status)
    live = lives.add(_command(1))
    with live.reading():
        lives.remove(live)
        _write(places, 1, journal.ENDED, {"status": "succeeded", "reason": "exit"})
        live.follow()

    assert told == ["succeeded"]
    assert lives.running() == 0
