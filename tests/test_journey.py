"""The main job: a script goes in over HTTP, runs, and its whole story can be read."""

from __future__ import annotations

from datetime import datetime

import pytest

from tests.processes import FINAL, REPOSITORY, Service, eventually, is_alive, process, title

FIELDS = {
    "id", "name", "labels", "status", "reason", "exit_code", "signal", "pid", "worker_pid", "paused", "script", "args",
    "cwd", "stdin_open", "run_as", "timeout_s", "grace_s", "leftovers", "merge_stderr", "rerun_of", "created_at",
    "started_at", "stop_requested_at", "ended_at", "duration_s", "stdout_bytes", "stderr_bytes", "truncated", "swept",
    "usage", "evidence", "limits", "masked", "signals", "requested_by", "stopped_by", "traceparent",
}  # fmt: skip


def test_a_script_runs_and_its_story_is_kept(service: Service) -> None:
    """A command that exits with 0 succeeded; every field is there and nothing is left of its processes."""
    answer = service.create("echo hello", name="greeting", labels={"for": "you"})
    command = service.ended(service.run("echo hello", name="greeting", labels={"for": "you"}))

    assert answer.status_code == 201
    assert answer.headers["location"] == f"/v1/commands/{answer.json()['id']}"
    assert set(answer.json()) == set(command.row) == FIELDS
    assert (command.status, command.reason, command.exit_code, command.signal) == ("succeeded", "exit", 0, None)
    assert (command.name, command.labels, command.script) == ("greeting", {"for": "you"}, "echo hello")
    assert (command.stdout_bytes, command.stderr_bytes, command.truncated) == (6, 0, None)
    assert command.swept == {"group": 0, "escaped": 0, "left": 0}
    assert command.usage["cpu_s"] > 0
    assert command.evidence is None
    assert service.output(command) == b"hello\n"
    assert not is_alive(command.pid)
    eventually(lambda: not is_alive(command.worker_pid))


def test_times_are_utc_and_in_order(service: Service) -> None:
    """Created, started and ended follow each other and the duration is what lies between the last two."""
    command = service.done("sleep 0.2")

    created, started, ended = (
        datetime.fromisoformat(command.row[name]) for name in ("created_at", "started_at", "ended_at")
    )
    assert command.created_at.endswith("Z")
    assert created <= started < ended
    assert 0.2 <= command.duration_s < 5
    assert abs((ended - started).total_seconds() - command.duration_s) < 0.1


def test_a_failing_script_keeps_code_and_both_streams(service: Service) -> None:
    """What fails says with which code, and both streams are complete and separate."""
    command = service.done("echo out; echo err >&2; exit 7")

    assert (command.status, command.reason, command.exit_code, command.signal) == ("failed", "exit", 7, None)
    assert service.output(command, stream="stdout") == b"out\n"
    assert service.output(command, stream="stderr") == b"err\n"
    assert sorted(service.output(command, stream="both").splitlines()) == [b"err", b"out"]


@pytest.mark.parametrize(
    ("script", "status", "reason", "exit_code", "signal"),
    [
        ("exit 256", "succeeded", "exit", 0, None),
        ("exit 137", "failed", "exit", 137, None),
        ("kill -9 $$", "failed", "signal", None, 9),
        ("kill -TERM $$", "failed", "signal", None, 15),
        ("no-such-program", "failed", "exit", 127, None),
        ("if", "failed", "exit", 2, None),
    ],
)
def test_code_and_signal_are_two_things(
    service: Service, script: str, status: str, reason: str, exit_code: int | None, signal: int | None
) -> None:
    """An exit code is what bash gave, a signal is what ended it; never one made of the other."""
    command = service.done(script)

    assert (command.status, command.reason, command.exit_code, command.signal) == (status, reason, exit_code, signal)


def test_arguments_and_environment_arrive_as_they_were_sent(service: Service) -> None:
    """Arguments are $1…, the environment is added to the clean one; whatever characters they hold."""
    args = ["a b", "", "$HOME", "ü\n\t'\""]
    command = service.done(
        'printf "[%s]" "$#" "$@"; printf "<%s>" "$GREETING" "$BASHD_COMMAND_ID"',
        args=args,
        env={"GREETING": "héllo\nyou"},
    )

    expected = "[4]" + "".join(f"[{one}]" for one in args) + f"<héllo\nyou><{command.id}>"
    assert service.output(command).decode() == expected
    assert command.args == args
    assert "env" not in command.row
    assert "stdin" not in command.row


def test_a_script_runs_where_it_was_told_to(service: Service) -> None:
    """``cwd`` is the working directory; one that is not there fails with ``spawn`` and says why."""
    there = service.done("pwd", cwd="/usr")
    nowhere = service.done("pwd", cwd="/no/such/place")

    assert service.output(there) == b"/usr\n"
    assert (nowhere.status, nowhere.reason, nowhere.exit_code) == ("failed", "spawn", None)
    assert "/no/such/place" in str(nowhere.evidence)
    assert (nowhere.pid, nowhere.ended_at is None) == (None, False)


def test_stdin_is_what_was_sent_else_empty(service: Service) -> None:
    """A program that reads its input gets what came with the request, or end of file at once."""
    text = "one\ntwö\0three" + "x" * 200_000
    sent = service.done("cat", stdin=text)
    empty = service.done("cat; read -r line; echo $?")

    assert service.output(sent) == text.encode()
    assert service.output(empty) == b"1\n"


def test_merged_streams_keep_their_exact_order(service: Service) -> None:
    """With ``merge_stderr`` what was written later stands later, a thousand times."""
    command = service.done("for ((i = 0; i < 1000; i++)); do echo $i; echo $i >&2; done", merge_stderr=True)

    assert service.output(command).splitlines() == [b"%d" % (n // 2) for n in range(2000)]
    assert command.stderr_bytes == 0


def test_a_command_that_takes_too_long_is_ended(service: Service, mark: str) -> None:
    """``timeout_s`` ends the script and all it started; it failed, by ``timeout``."""
    command = service.done(f"echo before; sleep {mark} & sleep {mark}", timeout_s=1)

    assert (command.status, command.reason) == ("failed", "timeout")
    assert 1 <= command.duration_s < 4
    assert service.output(command) == b"before\n"


def test_the_time_of_a_command_is_limited_unless_it_says_otherwise(service: Service) -> None:
    """Five minutes when nothing is said, none for null."""
    assert service.done("true").timeout_s == 300
    assert service.done("true", timeout_s=None).timeout_s is None


def test_the_first_example_of_the_seed_counts_and_can_be_stopped(service: Service) -> None:
    """Its output is there while it runs, and stays when it is stopped."""
    command = service.run("for ((i=1; i<=100; i++))\ndo\n   echo $i\n   sleep 2\ndone")
    service.says(command, b"1\n2\n")

    service.stop(command)

    ended = service.ended(command)
    assert (ended.status, ended.reason) == ("stopped", "client")
    assert service.output(ended).startswith(b"1\n2\n")


def test_the_second_example_of_the_seed_lists_files(service: Service) -> None:
    """``ls -l -1 -S`` shows the files of the directory it runs in."""
    command = service.done("ls -l -1 -S", cwd=str(REPOSITORY))

    assert command.status == "succeeded"
    assert b"README.md" in service.output(command)


def test_the_third_example_of_the_seed_finds_words(service: Service) -> None:
    """A pipeline's output is the last program's."""
    command = service.done('cat Makefile | grep "docker"', cwd=str(REPOSITORY))

    assert command.status == "succeeded"
    assert all(b"docker" in line for line in service.output(command).splitlines())


def test_a_final_command_never_changes(service: Service) -> None:
    """Read twice it is equal, byte for byte, and the list shows the same."""
    command = service.done("echo once; sleep 0.1 & exit 3")

    first, second = (service.http.get(f"/v1/commands/{command.id}").content for _ in range(2))
    assert first == second
    assert {one.id: one.row for one in service.page(limit=50)}[command.id] == command.row


def test_the_list_is_live(service: Service, mark: str) -> None:
    """A running command has in the list the state it really has, and the filter knows it."""
    command = service.started(service.run(f"echo at work; sleep {mark}"))
    service.says(command, b"at work")

    def listed(**params: object) -> dict[int, dict[str, object]]:
        return {one.id: one.row for one in service.page(**params)}

    assert listed()[command.id] == service.get(command).row
    assert listed()[command.id]["status"] == "running"
    assert listed()[command.id]["stdout_bytes"] == 8
    assert command.id in listed(status="running")
    assert command.id not in listed(status="queued")

    service.stop(command)
    service.ended(command)

    assert command.id not in listed(status="running")
    assert command.id in listed(status="stopped")


def test_the_list_comes_newest_first_and_in_pages(service: Service) -> None:
    """Cursor and offset lead through all commands, each once; a long script is cut."""
    made = [service.done(f"# {'x' * 300}\ntrue").id for _ in range(5)]

    first = service.http.get("/v1/commands", params={"limit": 2}).json()
    second = service.http.get("/v1/commands", params={"limit": 2, "cursor": first["next"]}).json()
    by_offset = service.http.get("/v1/commands", params={"limit": 2, "offset": 2}).json()

    assert [one["id"] for one in first["items"]] == [made[4], made[3]]
    assert [one["id"] for one in second["items"]] == [made[2], made[1]] == [one["id"] for one in by_offset["items"]]
    assert [len(one["script"]) for one in first["items"]] == [200, 200]
    assert service.http.get("/v1/commands", params={"offset": 10**6}).json() == {"items": [], "next": None}


def test_ids_ascend(service: Service) -> None:
    """Who comes later has the greater id."""
    ids = [service.run("true").id for _ in range(5)]

    assert ids == sorted(set(ids))


def test_a_client_can_wait_for_the_end(service: Service, mark: str) -> None:
    """``wait`` answers when the command is final, or when the time is over."""
    final = service.create("echo quick", wait_s=20)
    running = service.create(f"sleep {mark}", wait_s=0.2)
    command = service.ended(service.run("sleep 0.3"))

    assert (final.status_code, final.json()["status"]) == (201, "succeeded")
    assert (running.status_code, running.json()["status"] in FINAL) == (201, False)
    assert command.status == "succeeded"

    service.http.post(f"/v1/commands/{running.json()['id']}/stop")


def test_the_processes_of_a_command_are_what_the_record_says(service: Service, mark: str) -> None:
    """Bash leads a group of its own below its worker, and both show in ps which command they serve."""
    command = service.started(service.run(f"sleep {mark}; true"))

    bash = process(command.pid)
    assert bash is not None
    assert (bash.pgid, bash.ppid) == (command.pid, command.worker_pid)
    assert title(command.pid) == f"bashd-{command.id}"
    assert title(command.worker_pid) == f"bashd: worker {command.id}"

    service.stop(command)
    assert service.ended(command).pid == command.pid


def test_a_paused_script_is_running_and_says_so(service: Service) -> None:
    """A script that was stopped by SIGSTOP is not at its end; it goes on when it is told to."""
    command = service.run("kill -STOP $$; echo went on")
    eventually(lambda: service.get(command).paused)

    assert service.get(command).status == "running"
    service.run(f"kill -CONT {service.get(command).pid}")

    ended = service.ended(command)
    assert (ended.status, ended.paused, service.output(ended)) == ("succeeded", False, b"went on\n")
