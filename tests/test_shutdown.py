"""Bashd is told to go: every command has its last words, every end is recorded, nothing stays, exit 0."""

from __future__ import annotations

import fcntl
import os
import pty
import signal
import termios
import time
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import StartService
from tests.first_process import ENTRYPOINT, NAMESPACE, FirstProcess, blocks_term, is_permitted
from tests.processes import BASHD, Command, Service, children, eventually, is_alive, marked, processes, sockets_below

LAST_WORDS = "trap 'echo last words; exit 5' TERM; echo ready; sleep MARK & wait"
DEAF = "trap 'touch \"$1\"' TERM; echo ready; while :; do sleep MARK & wait; done"


def _running(service: Service, mark: str, count: int) -> list[Command]:
    commands = [service.run(LAST_WORDS.replace("MARK", mark)) for _ in range(count)]
    for command in commands:
        service.says(command, b"ready\n")
    return commands


def _assert_all_had_their_last_words(service: Service, commands: list[Command]) -> None:
    for command in commands:
        ended = service.get(command)
        assert (ended.status, ended.reason, ended.exit_code) == ("stopped", "shutdown", 5)
        assert service.output(ended) == b"ready\nlast words\n"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP], ids=lambda number: number.name)
def test_commands_have_their_last_words_and_nothing_stays(
    own_service: StartService, mark: str, number: signal.Signals
) -> None:
    """Twenty running commands: recorded ``stopped``/``shutdown`` with what they said; exit 0; all is gone."""
    service = own_service(embedded=True, max_running=20).start()
    assert service.init is not None
    commands = _running(service, mark, 20)
    queued = service.run("echo later")
    family = [*service.pids(""), service.init.pid]

    code = service.terminate(number, within_s=10)

    assert code == 0
    assert marked(mark) == []
    assert [pid for pid in family if is_alive(pid)] == []
    assert sockets_below(service.state_dir) == []

    service.start()
    _assert_all_had_their_last_words(service, commands)
    assert service.output(service.ended(queued)) == b"later\n"
    assert service.run("true").id > queued.id


def test_control_c_in_a_terminal_does_the_same(own_service: StartService, mark: str) -> None:
    """Only the first process is in the terminal's group, so it alone hears of it and orders the rest."""
    service = own_service(embedded=True)
    terminal, theirs = pty.openpty()

    def take_terminal() -> None:
        os.setsid()
        fcntl.ioctl(theirs, termios.TIOCSCTTY, 0)

    service.start(start_new_session=False, stdin=theirs, preexec_fn=take_terminal)
    os.close(theirs)
    commands = _running(service, mark, 5)

    os.write(terminal, b"\x03")
    code = service.wait(within_s=10)
    os.close(terminal)

    assert code == 0
    assert marked(mark) == []
    service.start()
    _assert_all_had_their_last_words(service, commands)


def test_who_does_not_listen_is_killed_in_time(own_service: StartService, mark: str, tmp_path: Path) -> None:
    """A grace longer than the time for the shutdown is cut: all is over within ``shutdown_timeout_s``."""
    service = own_service(embedded=True, shutdown_timeout_s=4).start()
    command = service.run(DEAF.replace("MARK", mark), args=[str(tmp_path / "heard")], grace_s=60)
    service.says(command, b"ready")
    told = time.monotonic()

    code = service.terminate(within_s=10)

    assert code == 0
    assert time.monotonic() - told < 4.5
    assert (tmp_path / "heard").exists()
    service.start()
    ended = service.get(command)
    assert (ended.status, ended.reason, ended.signal) == ("stopped", "shutdown", 9)


def test_a_second_signal_hurries(own_service: StartService, mark: str, tmp_path: Path) -> None:
    """Who is told twice kills at once, and still records what it did."""
    heard = tmp_path / "heard"
    service = own_service(shutdown_timeout_s=30).start()
    command = service.run(DEAF.replace("MARK", mark), args=[str(heard)], grace_s=25)
    service.says(command, b"ready")

    service.tell()
    eventually(heard.exists)
    told_again = time.monotonic()
    code = service.terminate(within_s=20)

    assert code == 0
    assert time.monotonic() - told_again < 5
    service.start()
    ended = service.get(command)
    assert (ended.status, ended.reason, ended.signal) == ("stopped", "shutdown", 9)


def test_what_escaped_is_swept_at_the_shutdown_too(own_service: StartService, mark: str) -> None:
    """Nobody gets away by leaving the group, and what was left on purpose by a final command is not touched."""
    service = own_service().start()
    command = service.run(f"setsid sleep {mark} & (trap '' TERM; exec sleep {mark}) & wait", grace_s=0.5)
    eventually(lambda: len(marked(mark)) == 2)

    assert service.terminate(within_s=10) == 0

    assert marked(mark) == []
    service.start()
    ended = service.get(command)
    assert (ended.status, ended.reason) == ("stopped", "shutdown")
    assert ended.swept["escaped"] == 1


def test_the_shutdown_can_leave_commands_running(own_service: StartService, tmp_path: Path) -> None:
    """With ``on_shutdown=leave`` workers run on and the next start goes on with them, byte for byte."""
    go = tmp_path / "go"
    service = own_service(embedded=True, on_shutdown="leave").start()
    command = service.run('echo before; while [ ! -e "$1" ]; do sleep 0.05; done; echo after; exit 3', args=[str(go)])
    service.says(command, b"before\n")
    before = service.get(command)

    assert service.terminate(within_s=10) == 0
    assert is_alive(before.pid)
    go.touch()
    service.start()

    ended = service.ended(command)
    assert (ended.pid, ended.status, ended.exit_code) == (before.pid, "failed", 3)
    assert service.output(ended) == b"before\nafter\n"


def test_no_command_is_accepted_during_the_shutdown(own_service: StartService, mark: str, tmp_path: Path) -> None:
    """While the running ones end, a POST gets 503 or no connection, a read its answer; nothing is created."""
    heard = tmp_path / "heard"
    service = own_service().start()
    command = service.run(DEAF.replace("MARK", mark), args=[str(heard)], grace_s=3)
    service.says(command, b"ready")

    service.tell()
    eventually(heard.exists)
    refused = service.create("echo too late")
    ready = service.http.get("/readyz")
    seen = service.get(command)
    code = service.wait(within_s=10)

    assert refused.status_code == 503
    assert refused.headers["content-type"].startswith("application/problem+json")
    assert ready.status_code == 503
    assert seen.status == "running"
    assert code == 0
    service.start()
    assert service.newest_id() == command.id


def test_requests_under_way_are_answered(own_service: StartService, mark: str) -> None:
    """A follower and one who waits for the end get it, though it was the shutdown that brought it."""
    service = own_service().start()
    command = _running(service, mark, 1)[0]

    with service.http.stream("GET", f"/v1/commands/{command.id}/output", params={"follow": "true"}) as answer:
        chunks = answer.iter_raw()
        content = next(chunks)
        service.tell()
        content += b"".join(chunks)
    code = service.wait(within_s=10)

    assert content == b"ready\nlast words\n"
    assert code == 0


@pytest.mark.parametrize("delay_s", [0.0, 0.03, 0.1, 0.2, 0.4, 0.7])
def test_a_signal_in_the_first_moment_is_not_lost(own_service: StartService, delay_s: float) -> None:
    """Told to go before it is there, it goes all the same, and leaves nothing that hinders the next start."""
    service = own_service(embedded=True)
    before = set(children(os.getpid()))
    launched = service.launch()
    time.sleep(delay_s)  # the moment to be tried, not a wait

    launched.send_signal(signal.SIGTERM)

    assert launched.wait(12) in (0, -signal.SIGTERM)
    eventually(lambda: set(children(os.getpid())) <= before)
    assert service.start().done("echo hi").status == "succeeded"


@pytest.mark.skipif(not is_permitted(), reason="unshare --pid is not permitted here")
def test_as_the_first_process_of_a_container_it_does_the_same(place: Path, mark: str) -> None:
    """As PID 1: signals are heard, orphans are reaped, commands have their last words, exit 0."""
    with FirstProcess(place / "first", command=[*NAMESPACE, BASHD]) as service:
        service.start()
        commands = _running(service, mark, 20)
        own_pid = service.done("echo $$ $PPID; (setsid true &); (true &); head -c 11 /proc/1/cmdline")
        assert service.output(own_pid).endswith(b"bashd: init")
        first = service.bashd_pid()
        zombies = [one for one in _all_states() if one[0] == first and one[1] == "Z"]

        code = service.terminate(within_s=10)

        assert code == 0
        assert zombies == []
        assert marked(mark) == []
        assert sockets_below(service.state_dir) == []
        service.start()
        _assert_all_had_their_last_words(service, commands)


def _all_states() -> list[tuple[int, str]]:
    return [(one.ppid, one.state) for one in processes()]


@pytest.mark.skipif(not is_permitted(), reason="unshare --pid is not permitted here")
@pytest.mark.parametrize("delay_s", [0.0, 0.02, 0.05, 0.08, 0.1, 0.3, 0.6])
def test_as_the_first_process_no_signal_is_lost_once_it_is_blocked(place: Path, delay_s: float) -> None:
    """With TERM blocked before Python is there, as a container's entry point does it, not even the first is lost."""
    options: dict[str, Any] = {}
    with FirstProcess(place / f"early-{delay_s}", command=ENTRYPOINT) as service:
        service.init = service.launch(**options)
        first = service.bashd_pid()
        eventually(lambda: blocks_term(first))
        time.sleep(delay_s)  # the moment to be tried, not a wait

        os.kill(first, signal.SIGTERM)

        assert service.wait(within_s=12) == 0
