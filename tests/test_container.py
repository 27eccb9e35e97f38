"""The image in a real engine: it runs, stops, starts again, and is bounded as an operator bounds it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import engine
from tests.engine import Container, healthy
from tests.processes import eventually

pytestmark = [pytest.mark.container, pytest.mark.usefixtures("image")]

HARDENED = ("--read-only", "--tmpfs=/tmp:exec", "--cap-drop=ALL", "--security-opt=no-new-privileges")


@pytest.fixture(scope="module")
def container(place: Path, image: str) -> Iterator[Container]:  # noqa: ARG001  it is what runs
    """A container that tests share which neither kill nor bound it."""
    with Container(place) as container:
        yield container.start()


def test_bashd_is_the_first_process_and_no_root(container: Container) -> None:
    """What engines signal is init itself; scripts have the rights of an ordinary user, known by its number."""
    command = container.done("id -u; tr '\\0' ' ' </proc/1/cmdline")

    assert container.output(command).split(b"\n")[0] == b"10001"
    assert b"bashd: init" in container.output(command)
    assert container.inspect(".Config.User") == "10001:10001"


def test_the_image_says_of_itself_whether_it_is_ready(container: Container) -> None:
    """The check is a program of the image: it needs no curl."""
    healthy(container)


def test_nothing_that_builds_is_in_the_image(container: Container) -> None:
    """Neither compilers, nor uv, nor the sources, nor anything that the tests need."""
    found = container.inside(
        "command -v gcc cc make git uv curl; ls /app; ls /app/.venv/bin | grep -E 'pytest|ruff|mypy'; true"
    )

    assert found.split() == []


def test_a_script_prints_and_fails_as_anywhere(container: Container) -> None:
    """Both streams, an exit code, a here-document, a program written into /tmp."""
    command = container.done("cat <<< out; echo err >&2; f=$(mktemp); echo 'exit 7' >$f; chmod +x $f; $f")

    assert (command.status, command.exit_code) == ("failed", 7)
    assert container.output(command, stream="stdout") == b"out\n"
    assert container.output(command, stream="stderr") == b"err\n"


def test_docker_stop_ends_and_records_what_runs(place: Path, mark: str) -> None:
    """Within the ten seconds the engine gives: who listens, who does not, who escaped; and exit code 0."""
    with Container(place) as container:
        container.start()
        scripts = {
            b"polite": f"trap 'echo polite; exit' TERM; echo ready; sleep {mark} & wait",
            b"deaf": f"trap '' TERM; echo ready; sleep {mark}",
            b"escaped": f"setsid sleep {mark} & echo ready; sleep {mark}",
        }
        commands = {word: container.run(script, grace_s=3) for word, script in scripts.items()}
        for command in commands.values():
            container.says(command, b"ready\n")

        assert container.stop_container() == 0

        container.start()
        ends = {word: container.get(command) for word, command in commands.items()}
        assert {(end.status, end.reason) for end in ends.values()} == {("stopped", "shutdown")}
        assert ends[b"deaf"].signal == 9
        assert ends[b"escaped"].swept["escaped"] == 1
        assert container.output(ends[b"polite"]) == b"ready\npolite\n"
        assert container.marked_inside(mark) == 0


@pytest.mark.parametrize("delay_s", [0.0, 0.02, 0.04, 0.07, 0.1])
def test_term_in_the_first_moment_is_not_lost(place: Path, delay_s: float) -> None:
    """A first process without a handler would be deaf to it, and be killed ten seconds later."""
    with Container(place) as container:
        engine.docker("start", container.name)
        time.sleep(delay_s)  # the moment to be tried, not a wait
        container.tell()

        assert engine.docker("wait", container.name, within_s=12).strip() == "0"


def test_killed_and_started_again_what_ran_is_lost_and_nobody_is_adopted(place: Path, mark: str) -> None:
    """The same machine, the same low pids: what ran is lost with what it printed; who has its pid now is left alone."""
    with Container(place) as container:
        container.start()
        # So that no process of Bashd itself has come to the pid of the dead when the next life is asked for scripts.
        container.done("for i in $(seq 200); do (:); done")
        old = container.started(container.run(f"echo ready; sleep {mark}"))
        container.says(old, b"ready\n")
        engine.docker("kill", container.name)
        assert container.wait() == 137

        container.start()
        lost = container.ended(old)
        # A namespace gives its pids in turn, so one of these has that of the dead.
        crowd = container.run(
            f'for i in $(seq 400); do sleep {mark} & pids+=" $! "; done; [[ $pids == *" $1 "* ]] && echo reused; wait',
            args=[str(old.pid)],
        )
        container.says(crowd, b"reused\n")
        stopped = container.stop(old)

        assert (lost.status, lost.reason) == ("lost", "host_died")
        assert container.output(lost) == b"ready\n"
        assert (stopped.status, stopped.ended_at) == ("lost", lost.ended_at)
        assert container.marked_inside(mark) == 400
        container.stop(crowd)
        assert container.ended(crowd).swept["group"] == 400


def test_a_thousand_orphans_leave_no_zombie(container: Container, mark: str) -> None:
    """From below a script they come to its worker, from ``docker exec`` to PID 1; both reap."""
    orphans = "for i in $(seq 1000); do (setsid true &); done; echo made"
    command = container.run(f"{orphans}; sleep {mark}")
    container.says(command, b"made\n")

    assert container.inside(orphans) == "made\n"

    eventually(lambda: not [row for row in container.rows() if "Z" in row[0]])
    container.stop(command)
    assert container.ended(command).status == "stopped"


def test_who_eats_the_memory_dies_and_bashd_lives(place: Path, mark: str) -> None:
    """With 200 MB for all of it the kernel takes the script that wants more; the neighbour runs on."""
    with Container(place, "--memory=200m", "--memory-swap=200m") as container:
        container.start()
        neighbour = container.run(f"echo ready; sleep {mark}")
        container.says(neighbour, b"ready\n")
        init = container.inspect(".State.Pid")

        for _ in range(3):
            eater = container.done("exec python3 -c 'x = []\nwhile True: x.append(bytearray(b\"x\" * 2**20))'")
            assert (eater.status, eater.signal) == ("failed", 9)

        assert container.inspect(".State.Pid") == init
        assert container.get(neighbour).status == "running"
        assert container.done("echo on").status == "succeeded"
        container.stop(neighbour)
        assert container.ended(neighbour).status == "stopped"


def test_a_script_that_uses_up_all_processes_can_be_stopped(place: Path, mark: str) -> None:
    """At the limit nobody can fork; a stop needs no fork."""
    with Container(place, "--pids-limit=100") as container:
        container.start()
        bomb = container.run(f"while :; do sleep {mark} & done 2>/dev/null")
        eventually(lambda: len(container.rows()) >= 90)

        container.stop(bomb, grace_s=1)
        end = container.ended(bomb)

        assert (end.status, end.reason) == ("stopped", "client")
        assert container.marked_inside(mark) == 0
        assert container.done("echo on").status == "succeeded"
        assert container.stop_container() == 0


def test_it_works_without_capabilities_on_a_read_only_root(place: Path, mark: str) -> None:
    """With the state and /tmp alone to write into, and no right to gain: scripts run, stop, and write nowhere else."""
    with Container(place, *HARDENED) as container:
        container.start()
        command = container.done(
            "echo x >/home/bashd/x; grep -E '^(CapEff|CapBnd|NoNewPrivs)' /proc/self/status; mktemp && touch here"
        )
        assert command.status == "succeeded"
        assert b"Read-only file system" in container.output(command, stream="stderr")
        assert b"CapBnd:\t0000000000000000\nNoNewPrivs:\t1\n" in container.output(command, stream="stdout")

        escaping = container.run(f"setsid sleep {mark} & echo ready; sleep {mark}")
        container.says(escaping, b"ready\n")
        container.stop(escaping)
        assert container.ended(escaping).swept["escaped"] == 1
        healthy(container)
        assert container.stop_container() == 0


def test_as_root_it_runs_scripts_as_others_with_five_capabilities(place: Path, mark: str) -> None:
    """A script of another user cannot read Bashd's keys, is ended by Bashd, and leaves nothing in the state."""
    state = ("--user=root", "--volume=/var/lib/bashd-root")
    rights = [f"--cap-add={right}" for right in ("CHOWN", "DAC_OVERRIDE", "KILL", "SETGID", "SETUID")]
    with Container(place, *HARDENED, *rights, *state, state_dir="/var/lib/bashd-root") as container:
        container.start()
        refused = container.done("cat /var/lib/bashd-root/secrets_key", run_as="games")
        assert b"Permission denied" in container.output(refused)
        command = container.run(f"id -un; pwd; touch x; setsid sleep {mark} & echo; sleep {mark}", run_as="games")
        container.says(command, b"\n\n")
        container.stop(command)

        assert container.ended(command).swept["escaped"] == 1
        user, directory = container.output(command).decode().split()
        assert user == "games"
        assert container.inside(f"ls -d {directory} 2>&1; true").endswith("No such file or directory\n")
