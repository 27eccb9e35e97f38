"""Stopping a command, and what becomes of what it leaves running."""

from __future__ import annotations

import random
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.processes import (
    Command,
    Service,
    children,
    descendants,
    eventually,
    group_members,
    kill,
    marked,
    process,
    title,
)


def test_stop_reaches_what_bash_left_in_the_background(service: Service, mark: str) -> None:
    """Stopping a command ends the background processes of its script too, and the record counts them."""
    command = service.started(service.run(f"sleep {mark} & sleep {mark} & wait"))
    eventually(lambda: len(group_members(command.pid)) == 3)

    answer = service.stop(command)

    ended = service.ended(command)
    assert answer.stop_requested_at is not None
    assert (ended.status, ended.reason, ended.exit_code, ended.signal) == ("stopped", "client", None, 15)
    assert ended.swept == {"group": 2, "escaped": 0, "left": 0}
    assert ended.stop_requested_at == answer.stop_requested_at
    assert group_members(command.pid) == []


def test_a_stop_with_kill_counts_everybody(service: Service, mark: str) -> None:
    """All die at once, and the bodies of most are seen by nobody: they were counted before."""
    for _ in range(15):
        command = service.run(f"(setsid sleep {mark} & sleep {mark}) & sleep {mark} & echo ready; wait")
        service.says(command, b"ready")
        eventually(lambda: len(marked(mark)) == 3)
        command = service.get(command)
        below = [one for one in map(process, descendants(command.worker_pid)) if one is not None]
        escaped = sum(one.pgid != command.pid for one in below)

        service.stop(command, signal="KILL")

        swept = {"group": len(below) - escaped - 1, "escaped": escaped, "left": 0}  # bash itself is not swept
        assert service.ended(command).swept == swept


def test_a_stopped_script_has_its_last_words(service: Service, mark: str) -> None:
    """A trap runs within the grace, what it prints is kept, and its exit code stands beside ``stopped``."""
    command = service.run(f"trap 'echo cleaned up; exit 4' TERM; echo ready; sleep {mark} & wait")
    service.says(command, b"ready")

    service.stop(command)

    ended = service.ended(command)
    assert (ended.status, ended.reason, ended.exit_code) == ("stopped", "client", 4)
    assert service.output(ended) == b"ready\ncleaned up\n"


@pytest.mark.parametrize("deaf", ["trap '' TERM", "trap 'echo no' TERM"], ids=["ignored", "trapped"])
def test_who_does_not_listen_is_killed_after_the_grace(service: Service, mark: str, deaf: str) -> None:
    """TERM ignored means KILL after ``grace_s``, and the record says so."""
    command = service.run(f"{deaf}; echo ready; while :; do sleep {mark} & wait; done", grace_s=1)
    service.says(command, b"ready")
    asked = time.monotonic()

    service.stop(command)

    ended = service.ended(command)
    assert 0.9 <= time.monotonic() - asked < 5
    assert (ended.status, ended.reason, ended.exit_code, ended.signal) == ("stopped", "client", None, 9)


def test_a_stop_may_name_its_signal_and_its_grace(service: Service, mark: str) -> None:
    """The body of the stop outweighs what the command said."""
    command = service.run(f"trap 'echo int; exit 5' INT; trap '' TERM; echo ready; sleep {mark}", grace_s=60)
    service.says(command, b"ready")
    deaf = service.run(f"trap '' TERM; echo ready; sleep {mark}; sleep {mark}", grace_s=60)
    service.says(deaf, b"ready")

    service.stop(command, signal="INT")
    service.stop(deaf, grace_s=0)

    assert (service.ended(command).status, service.get(command).exit_code) == ("stopped", 5)
    assert service.output(command) == b"ready\nint\n"
    assert service.ended(deaf).signal == 9


def test_a_paused_script_can_be_stopped(service: Service, mark: str) -> None:
    """A stopped process does not see TERM; so it is told to go on, and dies well within its grace."""
    command = service.run(f"sleep {mark} & kill -STOP $$", grace_s=20)
    eventually(lambda: service.get(command).paused)
    asked = time.monotonic()

    service.stop(command)

    ended = service.ended(command)
    assert time.monotonic() - asked < 5
    assert (ended.status, ended.signal, ended.paused) == ("stopped", 15, False)


def test_stop_is_harmless_when_it_comes_again_or_late(service: Service, mark: str) -> None:
    """Twice is once; of a finished command nothing changes; an unknown one is 404."""
    command = service.run(f"trap 'sleep 0.3; exit 6' TERM; echo ready; sleep {mark} & wait")
    service.says(command, b"ready")

    first, second = service.stop(command), service.stop(command)
    ended = service.ended(command)
    late = service.stop(command)
    unknown = service.http.post("/v1/commands/999999999/stop")

    assert first.stop_requested_at == second.stop_requested_at == ended.stop_requested_at
    assert (ended.status, ended.exit_code) == ("stopped", 6)
    assert late.row == ended.row == service.get(command).row
    assert unknown.status_code == 404
    assert unknown.headers["content-type"].startswith("application/problem+json")


def test_a_second_stop_can_bring_the_end_forward(service: Service, mark: str) -> None:
    """Who lost patience stops again with less grace."""
    command = service.run(f"trap '' TERM; echo ready; sleep {mark}; sleep {mark}", grace_s=60)
    service.says(command, b"ready")
    service.stop(command)

    service.stop(command, grace_s=0)

    assert (service.ended(command, within_s=5).status, service.get(command).signal) == ("stopped", 9)


def test_a_stop_that_races_the_end_changes_no_end(service: Service) -> None:
    """Whoever wins, there is one final state, its exit code is true, and it never changes."""
    chance = random.Random(7)

    def race(pause_s: float) -> tuple[Command, Command]:
        command = service.run("sleep 0.02; exit 3")
        time.sleep(pause_s)  # the moments to be tried, not a wait
        service.stop(command)
        return service.ended(command), service.get(command)

    with ThreadPoolExecutor(6) as clients:
        pairs = list(clients.map(race, [chance.uniform(0, 0.06) for _ in range(200)]))

    for ended, again in pairs:
        assert ended.row == again.row
        if ended.status == "failed":
            assert (ended.reason, ended.exit_code, ended.signal) == ("exit", 3, None)
        else:
            assert (ended.status, ended.reason) == ("stopped", "client")
            assert (ended.exit_code, ended.signal) in [(3, None), (None, 15), (None, None)]
    assert {ended.status for ended, _ in pairs} == {"failed", "stopped"}


def test_a_command_is_final_as_soon_as_bash_ends(service: Service, mark: str) -> None:
    """A child that holds the pipe delays nothing: it is killed and counted, and the code is kept."""
    answer = service.create(f"echo hi; sleep {mark} & exit 5", wait_s=20)

    ended = Command(answer.json())
    assert (ended.status, ended.reason, ended.exit_code) == ("failed", "exit", 5)
    assert ended.swept == {"group": 1, "escaped": 0, "left": 0}
    assert ended.duration_s < 2
    assert service.output(ended) == b"hi\n"
    assert marked(mark) == []


def test_leftovers_can_be_waited_for(service: Service, mark: str) -> None:
    """With ``wait`` the command lasts as long as they do, and what they write belongs to it."""
    quick = service.done("(sleep 0.5; echo late) & exit 7", leftovers="wait")
    long = service.run(f"echo $$; sleep {mark} & exit 7", leftovers="wait")
    service.says(long, b"\n")
    bash = int(service.output(long))
    eventually(lambda: title(bash) != f"bashd-{long.id}")

    assert (quick.status, quick.exit_code, service.output(quick)) == ("failed", 7, b"late\n")
    assert quick.duration_s >= 0.5
    assert quick.swept == {"group": 0, "escaped": 0, "left": 0}
    assert service.get(long).status == "running"

    service.stop(long)

    ended = service.ended(long)
    assert ended.exit_code == 7
    assert marked(mark) == []


def test_leftovers_that_are_waited_for_are_subject_to_the_timeout(service: Service, mark: str) -> None:
    """``wait`` is no way round ``timeout_s``."""
    ended = service.done(f"sleep {mark} & exit 0", leftovers="wait", timeout_s=0.5)

    assert (ended.status, ended.reason, ended.exit_code) == ("failed", "timeout", 0)
    assert marked(mark) == []


def test_leftovers_can_be_left(service: Service, mark: str) -> None:
    """With ``leave`` they live on below a process that says so, and the record counts them."""
    ended = service.done(f"echo hi; sleep {mark} & setsid sleep {mark} & sleep 0.2; exit 7", leftovers="leave")

    assert (ended.status, ended.exit_code, service.output(ended)) == ("failed", 7, b"hi\n")
    assert ended.swept == {"group": 0, "escaped": 0, "left": 2}
    assert len(marked(mark)) == 2
    assert title(ended.worker_pid) == f"bashd: left {ended.id}"
    assert sorted(children(ended.worker_pid)) == sorted(marked(mark))
    assert service.get(ended).row == ended.row

    for pid in marked(mark):
        kill(pid)
    eventually(lambda: title(ended.worker_pid) == "")


def test_what_was_left_may_go_on_writing(service: Service, tmp_path: Path) -> None:
    """Its pipe stays open: it dies of no SIGPIPE, and a final command's output does not grow."""
    over = tmp_path / "over"
    ended = service.done(
        '(sleep 0.3; head -c 300000 /dev/zero; echo more; touch "$1") & echo hi',
        args=[str(over)],
        leftovers="leave",
    )

    eventually(over.exists)

    assert service.output(ended) == b"hi\n"
    assert service.get(ended).row == ended.row
    eventually(lambda: title(ended.worker_pid) == "")


def test_a_working_directory_of_its_own_is_gone_afterwards(service: Service) -> None:
    """A command that names no directory has an empty one, which does not outlive it."""
    ended = service.done("pwd; ls -A | wc -l; mkdir -p deep/er; chmod 000 deep; ln -s / link")

    directory, entries = service.output(ended).decode().split()
    assert entries == "0"
    eventually(lambda: not Path(directory).exists())
    assert Path("/usr").exists()
