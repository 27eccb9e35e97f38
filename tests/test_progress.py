"""What takes long at start and end says what it does, on stderr."""

from __future__ import annotations

import re

from tests.conftest import StartService
from tests.processes import eventually


def test_the_first_start_says_what_it_waits_for(own_service: StartService) -> None:
    """The new database, how long it took, and the schema; the second start has nothing to say."""
    service = own_service(embedded=True).start()
    first = service.log
    assert service.terminate() == 0
    service.start()

    assert "creating a PostgreSQL database version=" in first
    assert re.search(r"the database is created took_s=[\d.]+\n", first)
    assert re.search(r'bringing the database\'s schema up to date migrations="0001_\w+, ', first)
    assert service.log.count("bringing the database's schema up to date") == 1
    assert service.log.count("the database is created") == 1


def test_the_end_says_how_many_commands_are_left(own_service: StartService, mark: str) -> None:
    """At its beginning, and when there are none any more."""
    service = own_service().start()
    for _ in range(3):
        service.started(service.run(f"sleep {mark}"))

    assert service.terminate() == 0

    said = re.findall(r"supervisor: ending commands left=(\d+)", service.log)
    assert said[0] == "3"
    assert said[-1] == "0"
    assert len(said) <= 3


def test_leaving_says_how_many_are_left_running(own_service: StartService, mark: str) -> None:
    """They run on for the next start."""
    service = own_service(on_shutdown="leave").start()
    command = service.started(service.run(f"sleep {mark}"))

    assert service.terminate() == 0
    assert "leaving commands to the next start left=1" in service.log

    service.start()
    eventually(lambda: service.get(command).status == "running")
    service.stop(command)
    service.ended(command)


def test_an_idle_service_ends_without_a_word_about_commands(own_service: StartService) -> None:
    """There is nothing to wait for."""
    service = own_service().start()

    assert service.terminate() == 0

    assert "left=" not in service.log
