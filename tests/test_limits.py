"""What a command is limited in: each limit with a script that goes beyond it, defaults, maxima, and what is told."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from protocol import cgroup
from tests.conftest import StartService
from tests.processes import BASHD, Service, eventually, marked

needs_root = pytest.mark.skipif(os.getuid() != 0, reason="users of their own are only root's to give")

MIB = 1024 * 1024
NONE = dict.fromkeys(("memory_bytes", "cpu_s", "file_bytes", "open_files", "processes"))
BURN = "while :; do :; done"


@pytest.fixture(scope="module")
def bounded(place: Path) -> Iterator[Service]:
    """A service with limits of its own."""
    with Service(
        place / "bounded",
        default_limits="open_files=100,file_bytes=2000000",
        max_limits="open_files=200,cpu_s=100",
    ).start() as service:
        yield service


def test_nothing_is_limited_unless_it_is_asked_for(service: Service) -> None:
    """A command that names no limits shows that it has none, and finds those of Bashd itself."""
    command = service.done("ulimit -v; ulimit -t; ulimit -f")

    assert command.limits == NONE
    assert service.output(command) == b"unlimited\nunlimited\nunlimited\n"


def test_each_limit_is_what_the_script_finds(service: Service) -> None:
    """The kernel's limits are those that were asked for, of the bash and of what it starts."""
    limits = {"memory_bytes": 512 * MIB, "cpu_s": 30, "file_bytes": 4096, "open_files": 64, "processes": 500}

    command = service.done("ulimit -v -t -f -n -u; cat /proc/self/limits", limits=limits)

    assert command.limits == limits
    rows = [line.split() for line in service.output(command).decode().splitlines()]
    found = {" ".join(row[:-3]): row[-3:-1] for row in rows if len(row) > 5}
    assert found["Max address space"] == [str(512 * MIB)] * 2
    assert found["Max cpu time"] == ["30", "31"]
    assert found["Max file size"] == ["4096"] * 2
    assert found["Max open files"] == ["64"] * 2


def test_bash_that_uses_too_much_processor_time_fails_for_that(service: Service) -> None:
    """The kernel sends XCPU; that is the reason."""
    command = service.done(BURN, limits={"cpu_s": 1})

    assert (command.status, command.reason, command.signal) == ("failed", "cpu", signal.SIGXCPU)
    assert command.usage["cpu_s"] > 0.5  # the limit is counted in ticks, this is not


def test_bash_that_minds_no_warning_is_killed_a_second_later(service: Service) -> None:
    """XCPU may be ignored, KILL may not: the reason is the same."""
    command = service.done(f"trap '' XCPU; {BURN}", limits={"cpu_s": 1})

    assert (command.status, command.reason, command.signal) == ("failed", "cpu", signal.SIGKILL)


def test_a_kill_from_elsewhere_is_no_limit(service: Service) -> None:
    """Limited and killed by itself: that is a signal, whatever its children had used before."""
    command = service.done(f"(timeout 1.5 bash -c '{BURN}'); kill -KILL $$", limits={"cpu_s": 1})

    assert (command.status, command.reason, command.signal) == ("failed", "signal", signal.SIGKILL)


def test_a_child_beyond_its_processor_time_leaves_bash_its_own_end(service: Service) -> None:
    """Only the child dies; bash is told 128 + XCPU, and its exit code stands."""
    command = service.done(f"bash -c '{BURN}'; echo \"child $?\"; exit 5", limits={"cpu_s": 1})

    assert (command.status, command.reason, command.exit_code) == ("failed", "exit", 5)
    assert service.output(command, stream="stdout") == b"child %d\n" % (128 + signal.SIGXCPU)


def test_bash_that_writes_too_long_a_file_fails_for_that(service: Service) -> None:
    """Bash itself writes beyond: the kernel sends XFSZ."""
    command = service.done("while :; do echo more >> long; done", limits={"file_bytes": 1000})

    assert (command.status, command.reason, command.signal) == ("failed", "file_size", signal.SIGXFSZ)


def test_a_child_that_writes_too_long_a_file_leaves_bash_its_own_end(service: Service) -> None:
    """The file ends at the limit, the child dies of XFSZ, and bash goes on."""
    script = "head -c 5000 /dev/zero > long; echo $?; stat -c %s long"

    command = service.done(script, limits={"file_bytes": 1000})

    assert (command.status, command.reason) == ("succeeded", "exit")
    assert service.output(command, stream="stdout") == b"%d\n1000\n" % (128 + signal.SIGXFSZ)


def test_what_a_command_prints_is_no_file(service: Service) -> None:
    """Output goes through pipes: a limit of files does not cut it."""
    command = service.done("head -c 1000000 /dev/zero", limits={"file_bytes": 0})

    assert (command.status, command.stdout_bytes) == ("succeeded", 1_000_000)


def test_a_script_gets_no_more_descriptors_than_allowed(service: Service) -> None:
    """The call fails, and bash says so; what becomes of that is the script's."""
    command = service.done('while exec {fd}< /dev/null; do :; done; echo "$fd"; exit 9', limits={"open_files": 300})

    assert (command.status, command.reason, command.exit_code) == ("failed", "exit", 9)
    assert 250 < int(service.output(command, stream="stdout")) < 300
    assert b"Too many open files" in service.output(command, stream="stderr")


def test_bash_gets_no_more_memory_than_allowed(service: Service) -> None:
    """Bash cannot double its string any more and ends by itself."""
    command = service.done("x=x; while :; do x=$x$x; done", limits={"memory_bytes": 256 * MIB}, timeout_s=60)

    assert command.status == "failed"
    assert command.reason in ("exit", "memory")  # memory where a cgroup of its own tells
    assert command.usage["max_rss_bytes"] is None or command.usage["max_rss_bytes"] <= 256 * MIB


@needs_root
def test_another_users_processes_are_counted(service: Service, mark: str) -> None:
    """The user has what it may have, and no more can be started; the stop needs no fork."""
    script = f"for i in {{1..40}}; do sleep {mark} & done; echo started; wait"

    command = service.run(script, run_as="games", limits={"processes": 20}, grace_s=0.5)
    service.says(command, b"Resource temporarily unavailable")
    assert 0 < len(marked(mark)) < 20
    service.stop(command)

    assert service.ended(command).status == "stopped"


@needs_root
def test_a_bomb_of_another_user_is_stopped_whole_beside_others(service: Service, mark: str) -> None:
    """200 processes that fork and leave their group for ever: ended, while another runs and the API answers."""
    bomb = f"""
        export B='for i in 1 2 3; do setsid bash -c "$B" {mark} & done; wait'
        eval "$B"; sleep {mark}
    """
    other = service.run("until [ -e end ]; do sleep 0.05; done; echo unharmed", run_as="daemon", timeout_s=120)
    service.started(other)
    command = service.run(bomb, run_as="games", limits={"processes": 200}, grace_s=1, timeout_s=120)
    eventually(lambda: len(marked(mark)) > 100)
    assert service.http.get("/healthz").status_code == 200

    service.stop(command)

    ended = service.ended(command)
    assert (ended.status, ended.reason) == ("stopped", "client")
    assert ended.swept["escaped"] > 0
    assert marked(mark) == []
    (service.state_dir / "work" / str(other.id) / "end").touch()
    assert service.ended(other).status == "succeeded"
    assert service.output(other) == b"unharmed\n"


@needs_root
def test_another_user_has_a_thousand_processes_unless_it_is_asked_otherwise(service: Service) -> None:
    """The default of ``processes`` with ``run_as``; null takes it away."""
    assert service.done("ulimit -u", run_as="games").limits["processes"] == 1000
    assert service.output(service.done("ulimit -u", run_as="games", limits={"processes": 70})) == b"70\n"
    assert service.done("true", run_as="games", limits={"processes": None}).limits["processes"] is None


def test_the_least_of_each_limit_is_enough_for_bash(service: Service) -> None:
    """What may be asked for lets bash start, and run what needs no other program."""
    limits = {"memory_bytes": 16 * MIB, "cpu_s": 1, "file_bytes": 0, "open_files": 16, "processes": 1}

    command = service.done("echo hello; exit 3", limits=limits)

    assert (command.reason, command.exit_code) == ("exit", 3)
    assert service.output(command) == b"hello\n"


@needs_root
def test_out_of_memory_a_script_goes_first_and_bashd_last(service: Service) -> None:
    """The kernel's preference: bash and what it starts, then the worker and the forker, then the rest."""
    command = service.started(service.run("cat /proc/self/oom_score_adj; exec sleep 1000"))
    eventually(lambda: service.output(command) == b"500\n")

    pids = service.pid("bashd: supervisor"), service.pid("bashd: api"), command.worker_pid, command.pid

    # The worker's own comes once the command lasts.
    eventually(lambda: [int(Path(f"/proc/{one}/oom_score_adj").read_text()) for one in pids] == [0, 0, 250, 500])
    service.stop(command)


@pytest.fixture
def small() -> Iterator[Path]:
    """A memory cgroup of version 1 with 200 MiB for all that is in it."""
    parent = cgroup.own("memory")
    if parent is None or not os.access(parent, os.W_OK):
        pytest.skip("no memory controller of version 1 that we may use")
    place = Path(parent) / f"bashd-tests-{os.getpid()}"
    place.mkdir()
    (place / "memory.limit_in_bytes").write_text(str(200 * MIB))
    yield place
    eventually(lambda: not (place / "cgroup.procs").read_text())
    place.rmdir()


def test_a_script_that_eats_all_memory_ends_for_that_and_bashd_lives(
    small: Path, own_service: StartService, mark: str
) -> None:
    """In a container of 200 MiB: the script dies, with the reason; Bashd and another command do not notice."""
    enter = f'echo $$ > {small}/cgroup.procs; exec "$@"'
    service = own_service(command=["bash", "-c", enter, "bash", BASHD]).start()
    family = [service.pid(f"bashd: {name}") for name in ("supervisor", "forker", "api")]
    other = service.started(service.run(f"sleep {mark}"))

    command = service.done("x=x; while :; do x=$x$x; done")

    assert (command.status, command.reason, command.signal) == ("failed", "memory", signal.SIGKILL)
    assert [service.pid(f"bashd: {name}") for name in ("supervisor", "forker", "api")] == family
    assert service.get(other).status == "running"
    killed = service.done("kill -KILL $$")
    assert killed.reason == "signal", "that memory ran out before is no reason"
    service.stop(other)
    service.ended(other)
    service.close()


def test_defaults_hold_for_who_names_none_and_maxima_for_all(bounded: Service) -> None:
    """A default, a maximum where there is no default, and a value of one's own below it."""
    assert bounded.done("true").limits == {**NONE, "open_files": 100, "file_bytes": 2_000_000, "cpu_s": 100}
    command = bounded.done("ulimit -n -t", limits={"open_files": 150, "file_bytes": None})

    assert command.limits == {**NONE, "open_files": 150, "cpu_s": 100}
    assert [line.split()[-1] for line in bounded.output(command).splitlines()] == [b"150", b"100"]


@pytest.mark.parametrize("value", [201, None])
def test_more_than_the_maximum_is_refused(bounded: Service, value: int | None) -> None:
    """Also no limit at all; the answer names the maximum."""
    answer = bounded.create("true", limits={"open_files": value})

    assert answer.status_code == 400
    assert answer.json()["errors"] == [
        {"field": "limits.open_files", "message": "must be at most 200, the maximum of this service"}
    ]


def test_an_unknown_limit_is_told_which_there_are(service: Service) -> None:
    """The field at fault is named with its place, and so are those that would be right."""
    answer = service.create("true", limits={"memory": 1})

    assert answer.status_code == 400
    [error] = answer.json()["errors"]
    assert error["field"] == "limits.memory"
    assert "memory_bytes, cpu_s, file_bytes, open_files, processes" in error["message"]


def test_a_rerun_has_the_same_limits(service: Service) -> None:
    """They are in the row, and the copy is held to them too."""
    first = service.done("ulimit -n", limits={"open_files": 77})

    answer = service.http.post(f"/v1/commands/{first.id}/rerun", params={"wait": 20})

    assert answer.json()["limits"] == first.limits == {**NONE, "open_files": 77}
    assert service.http.get(f"/v1/commands/{answer.json()['id']}/output").content == b"77\n"


def test_a_rerun_beyond_a_new_maximum_is_refused(own_service: StartService) -> None:
    """What was allowed then may not be now."""
    service = own_service().start()
    first = service.done("true", limits={"open_files": 300})
    service.terminate()
    service = own_service(max_limits="open_files=200").start()

    answer = service.http.post(f"/v1/commands/{first.id}/rerun")

    assert answer.status_code == 409
    assert "limits.open_files must be at most 200" in answer.json()["detail"]


def test_a_default_is_no_part_of_what_an_idempotent_request_asks_for(own_service: StartService) -> None:
    """The same request finds its command also when the defaults have changed meanwhile; a limit makes another."""
    service = own_service(default_limits="open_files=100").start()
    key = {"Idempotency-Key": "limited"}
    first = service.http.post("/v1/commands", json={"script": "true"}, headers=key)
    service.terminate()
    service = own_service(default_limits="open_files=200").start()

    again = service.http.post("/v1/commands", json={"script": "true"}, headers=key)
    other = service.http.post("/v1/commands", json={"script": "true", "limits": {"cpu_s": 1}}, headers=key)

    assert (first.status_code, again.status_code, other.status_code) == (201, 200, 409)
    assert again.json()["id"] == first.json()["id"]
