"""Signals to a running command: any of them, to the whole group, and none of them is a stop."""

from __future__ import annotations

import json
import signal
from typing import Any

import pytest

from protocol import journal
from protocol.places import Places
from tests.conftest import StartService
from tests.processes import Command, Service, eventually, group_members, kill, marked

TRAPPING = 'trap "echo got it" USR1 34; echo ready; while :; do sleep 0.05; done'


def send(service: Service, command: Command, number: Any) -> Command:
    """Ask for a signal; it is taken."""
    answer = service.http.post(f"/v1/commands/{command.id}/signal", json={"signal": number})
    assert answer.status_code == 200, answer.text
    return Command(answer.json())


def signalled(service: Service, command: Command) -> list[int]:
    """The signals that the journal of a running command tells of."""
    with journal.Reader(Places(str(service.state_dir)).journal(command.id)) as reader:
        return [one.facts()["signal"] for one in reader.frames() if one.kind == journal.SIGNALLED]


@pytest.mark.parametrize("name", ["USR1", "SIGUSR1", "usr1", 10, 34])
def test_a_signal_can_be_named_or_numbered(service: Service, name: Any) -> None:
    """The script gets it, runs on, and the journal tells of it; it is no stop."""
    command = service.run(f"exec 2>/dev/null; {TRAPPING}")
    service.says(command, b"ready")

    answer = send(service, command, name)

    service.says(command, b"got it\n")
    assert (answer.id, answer.status, answer.stop_requested_at) == (command.id, "running", None)
    eventually(lambda: signalled(service, command) == [34 if name == 34 else 10])
    assert service.get(command).stop_requested_at is None
    service.stop(command)
    assert service.ended(command).status == "stopped"


def test_the_record_tells_what_was_sent_and_when(service: Service) -> None:
    """Live, and afterwards from the row: the newest fifty, in their order; a stop is not among them."""
    command = service.run(f"exec 2>/dev/null; trap '' 34; {TRAPPING}")
    service.says(command, b"ready")
    assert service.get(command).signals == []
    for _ in range(3):
        send(service, command, "USR1")
    for _ in range(49):
        send(service, command, 34)
    sent = [10] + [34] * 49
    eventually(lambda: [one["signal"] for one in service.get(command).signals] == sent)
    live = service.get(command).signals
    service.stop(command)
    ended = service.ended(command)
    eventually(lambda: not (service.state_dir / "journals" / str(command.id)).exists())

    assert [one["at"] for one in live] == sorted(one["at"] for one in live)
    assert service.get(command).signals == ended.signals == live


def test_it_reaches_the_whole_group(service: Service, mark: str) -> None:
    """Not bash alone: its children, too, but not who escaped."""
    command = service.run(
        f"setsid -f sleep {mark}; trap 'echo bash' USR1; (trap 'echo child; exit' USR1; echo on;"
        " while :; do sleep 0.05; done) & echo on; while :; do sleep 0.05; done"
    )
    eventually(lambda: service.output(command).count(b"on\n") == 2 and len(marked(mark)) == 1)

    send(service, command, "USR1")

    service.says(command, b"bash\n")
    service.says(command, b"child\n")
    assert len(marked(mark)) == 1
    service.stop(command)
    assert service.ended(command).swept["escaped"] == 1


def test_stop_and_cont_show_as_paused(service: Service) -> None:
    """A stopped script is running and paused; it goes on when it is told to."""
    command = service.run("while :; do echo tick; sleep 0.05; done")
    service.says(command, b"tick")

    send(service, command, "STOP")
    eventually(lambda: service.get(command).paused)
    assert service.get(command).status == "running"
    send(service, command, "CONT")
    eventually(lambda: not service.get(command).paused)

    bytes_then = service.get(command).stdout_bytes
    eventually(lambda: service.get(command).stdout_bytes > bytes_then)
    assert signalled(service, command) == [signal.SIGSTOP, signal.SIGCONT]
    service.stop(command)
    service.ended(command)


@pytest.mark.parametrize(
    ("script", "name", "end"),
    [
        ("echo ready; sleep 1000", "TERM", ("failed", "signal", None, 15)),
        ("echo ready; sleep 1000", "KILL", ("failed", "signal", None, 9)),
        ("trap 'exit 3' HUP; echo ready; sleep 1000 & wait", "HUP", ("failed", "exit", 3, None)),
        ("trap 'exit 0' INT; echo ready; sleep 1000 & wait", "INT", ("succeeded", "exit", 0, None)),
    ],
)
def test_who_ends_by_a_signal_was_not_stopped(
    service: Service, script: str, name: str, end: tuple[str, str, int | None, int | None]
) -> None:
    """The end is what it is: natural."""
    command = service.run(script)
    service.says(command, b"ready")

    send(service, command, name)

    ended = service.ended(command)
    assert (ended.status, ended.reason, ended.exit_code, ended.signal) == end
    assert ended.stop_requested_at is None
    assert group_members(ended.pid) == []


def test_a_signal_of_the_first_moment_waits_for_the_worker(service: Service) -> None:
    """A worker makes its control pipe a moment after the start; nobody has to try again for that."""
    commands = [service.run("sleep 1000") for _ in range(5)]

    for command in commands:
        send(service, command, "KILL")

    for command in commands:
        ended = service.ended(command)
        assert (ended.status, ended.signal) == ("failed", 9)


def test_a_worker_passes_over_what_it_does_not_understand(service: Service) -> None:
    """A later version may have more to say to it; an earlier one says only stops, and not that they are."""
    command = service.run("echo ready; sleep 1000")
    service.says(command, b"ready")
    send(service, command, "CONT")  # now it listens
    path = Places(str(service.state_dir)).control(command.id)
    stop = {"signal": 15, "grace_s": 5, "reason": "client", "requested_at_ns": 1}

    with open(path, "wb", buffering=0) as pipe:
        pipe.write(b'{"do": "dance", "signal": 9}\n')
        send(service, command, "CONT")
        eventually(lambda: signalled(service, command) == [18, 18])
        assert service.get(command).status == "running"
        pipe.write(json.dumps(stop).encode() + b"\n")

    ended = service.ended(command)
    assert (ended.status, ended.reason, ended.signal) == ("stopped", "client", 15)


def test_a_signal_needs_no_supervisor(own_service: StartService) -> None:
    """It goes from the API to the worker; a supervisor that hangs holds up nothing."""
    service = own_service().start()
    command = service.run(TRAPPING)
    service.says(command, b"ready")
    supervisor = service.pid("bashd: supervisor")
    kill(supervisor, signal.SIGSTOP)
    try:
        send(service, command, "USR1")
        eventually(lambda: signalled(service, command) == [10])
    finally:
        kill(supervisor, signal.SIGCONT)

    service.says(command, b"got it")


def test_who_cannot_be_signalled(own_service: StartService) -> None:
    """Unknown, waiting, ended: each is told which, and nothing of it changes."""
    service = own_service(max_running=1).start()
    running = service.started(service.run("sleep 1000"))
    waiting = service.run("true")

    def ask(command_id: object) -> tuple[int, str]:
        answer = service.http.post(f"/v1/commands/{command_id}/signal", json={"signal": "USR1"})
        assert answer.headers["content-type"].startswith("application/problem+json")
        return answer.status_code, answer.json()["detail"]

    assert ask(999999)[0] == 404
    assert ask("x")[0] == 400
    assert ask(waiting.id)[0] == 409
    assert "queued" in ask(waiting.id)[1]
    service.stop(waiting)
    service.stop(running)
    ended = service.ended(running)
    assert ask(running.id)[0] == 409
    assert "stopped" in ask(running.id)[1]
    assert service.get(running).row == ended.row


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"signal": 0}, "signal"),
        ({"signal": -9}, "signal"),
        ({"signal": 65}, "signal"),
        ({"signal": "NOPE"}, "signal"),
        ({"signal": ""}, "signal"),
        ({"signal": True}, "signal"),
        ({"signal": 9.0}, "signal"),
        ({"signal": None}, "signal"),
        ({}, "signal"),
        ({"signal": "USR1", "grace_s": 1}, "grace_s"),
    ],
)
def test_what_is_no_signal_is_refused(service: Service, body: dict[str, Any], field: str) -> None:
    """By the name of the field, before anything is sent."""
    command = service.started(service.run("sleep 1000"))

    answer = service.http.post(f"/v1/commands/{command.id}/signal", json=body)

    assert (answer.status_code, answer.json()["errors"][0]["field"]) == (400, field)
    assert signalled(service, command) == []
    service.stop(command)
    service.ended(command)


def test_a_signal_needs_a_body_that_is_json(service: Service) -> None:
    """There is no signal that one could mean by saying nothing."""
    command = service.started(service.run("sleep 1000"))
    url = f"/v1/commands/{command.id}/signal"

    assert service.http.post(url).status_code == 415
    assert service.http.post(url, content=b"", headers={"Content-Type": "application/json"}).status_code == 400
    assert service.http.post(url, content=b"TERM", headers={"Content-Type": "text/plain"}).status_code == 415

    service.stop(command)
    service.ended(command)
