"""``bashd run`` stands for its script: what it prints, how it ends, what ends it."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from pathlib import Path

import pytest

from tests.conftest import StartService
from tests.cutting import CuttingProxy
from tests.processes import BASHD, Command, Service, eventually, kill, marked
from tests.terminal import bashd, begun, environment, terminal


@pytest.mark.parametrize(
    ("script", "status"),
    [
        ("exit 0", 0),
        ("exit 7", 7),
        ("exit 255", 255),
        ("kill -TERM $$", 143),
        ("kill -KILL $$", 137),
    ],
)
def test_the_exit_status_is_that_of_the_script(service: Service, script: str, status: int) -> None:
    """The script's exit code, or 128 and the number of the signal that ended it; and nothing is said about it."""
    ran = bashd(service, "run", script)

    assert (ran.returncode, ran.stdout, ran.stderr) == (status, b"", b"")


def test_both_streams_arrive_apart_and_unchanged(service: Service) -> None:
    """What is no UTF-8, NUL and a missing newline at the end too."""
    ran = bashd(service, "run", r"printf 'out\0\xff'; printf 'err\xfe' >&2")

    assert ran.stdout == b"out\0\xff"
    assert ran.stderr == b"err\xfe"


def test_options_become_fields(service: Service, tmp_path: Path) -> None:
    """Variables (ours by name alone), directory, name, labels, arguments that look like options."""
    ran = bashd(
        service,
        *("run", "--env", "A=b=c", "--env", "OURS", "--cwd", str(tmp_path), "--name", "n1", "--label", "team:cli"),
        *("--grace", "2", "--timeout", "none", 'echo "$A $OURS $PWD $@"', "--json", "-f"),
        env=environment(service, OURS="x y"),
    )

    assert ran.stdout == f"b=c x y {tmp_path} --json -f\n".encode()
    command = service.page(label="team:cli", limit=1)[0]
    assert (command.name, command.grace_s, command.timeout_s) == ("n1", 2, None)


def test_a_script_comes_from_a_file_or_from_stdin(service: Service, tmp_path: Path) -> None:
    """What stands behind are its arguments."""
    (tmp_path / "script.sh").write_text("echo file $1")

    assert bashd(service, "run", "-f", str(tmp_path / "script.sh"), "x").stdout == b"file x\n"
    assert bashd(service, "run", "-f", "-", "y", input=b"echo stdin $1").stdout == b"stdin y\n"


def test_our_stdin_becomes_that_of_the_script(service: Service) -> None:
    """Any bytes, to their end; and not if it was not asked for."""
    sent = bytes(range(256)) * 1000

    assert bashd(service, "run", "--stdin", "cat", input=sent).stdout == sent
    assert bashd(service, "run", "cat", input=sent).stdout == b""


def test_our_stdin_waits_for_the_turn_of_the_script(own_service: StartService, mark: str) -> None:
    """It reaches one that was queued, as soon as it runs."""
    service = own_service(max_running=1).start()
    first = service.started(service.run(f"sleep {mark}"))
    with begun(service, "run", "--stdin", "cat", stdin=subprocess.PIPE) as word:
        eventually(lambda: service.newest_id() > first.id)
        assert word.stdin is not None
        word.stdin.write(b"waited\n")
        word.stdin.close()
        word.stdin = None
        service.stop(first)

        out, err = word.communicate(timeout=30)

    assert (word.returncode, out, err) == (0, b"waited\n", b"")


def test_a_script_that_does_not_read_its_stdin_ends_as_ever(service: Service) -> None:
    """What it has not read is nobody's."""
    ran = bashd(service, "run", "--stdin", "exit 3", input=b"x" * 1_000_000)

    assert (ran.returncode, ran.stderr) == (3, b"")


def test_detach_prints_the_id_alone(service: Service) -> None:
    """And with ``--json`` the command."""
    ran = bashd(service, "run", "--detach", "echo later")
    as_json = bashd(service, "run", "--detach", "--json", "echo later")

    assert service.get(_command(service, int(ran.stdout)), wait=10).status == "succeeded"
    assert json.loads(as_json.stdout)["script"] == "echo later"


def test_json_is_one_event_a_line(service: Service) -> None:
    """Its last one is the end."""
    ran = bashd(service, "run", "--json", r"printf '\xff'; exit 4")

    events = [json.loads(line) for line in ran.stdout.splitlines()]
    assert [one["base64"] for one in events if one["event"] == "output"] == ["/w=="]
    assert events[-1]["event"] == "end"
    assert events[-1]["command"]["exit_code"] == ran.returncode == 4


def test_a_timeout_says_so(service: Service) -> None:
    """With the exit status of timeout(1)."""
    ran = bashd(service, "run", "--timeout", "0.2", "sleep 60")

    assert ran.returncode == 124
    assert ran.stderr.startswith(b"bashd: command ")
    assert ran.stderr.endswith(b" was stopped after its 0.2 s\n")


def test_every_byte_comes_once_over_cuts_and_a_killed_api(own_service: StartService) -> None:
    """Three cut connections and ``kill -9`` of the API do not show in what is printed."""
    service = own_service().start()
    script = "for part in $(seq 40); do seq $((part * 10000)) $((part * 10000 + 999)); sleep 0.05; done; exit 9"
    with CuttingProxy(service.url, cuts=3, after_bytes=60_000) as proxy:
        env = environment(service, BASHD_URL=proxy.url)
        with begun(service, "run", script, env=env) as word:
            eventually(lambda: proxy.cut >= 1)
            kill(service.pid("bashd: api"))
            out, err = word.communicate(timeout=60)

    numbers = [number for part in range(1, 41) for number in range(part * 10000, part * 10000 + 1000)]
    assert out == "".join(f"{number}\n" for number in numbers).encode()
    assert (word.returncode, err, proxy.cut) == (9, b"", 3)


def test_ctrl_c_stops_all_of_it_and_waits_for_its_end(service: Service, mark: str) -> None:
    """What it says on TERM is still shown; the exit status is 130; nothing is left, whatever has escaped."""
    script = f"trap 'echo last words; exit 0' TERM; setsid sleep {mark} & sleep {mark} & echo ready; wait"
    with terminal(service, "run", script) as one:
        one.shows("ready")
        eventually(lambda: len(marked(mark)) == 2)

        one.type(b"\x03")

        assert one.exit_status() == 130
        assert marked(mark) == []
        assert "last words" in one.screen
        assert "bashd:" not in one.screen


def test_a_second_ctrl_c_does_not_wait_for_the_grace(service: Service, mark: str) -> None:
    """Who ignores TERM is killed then."""
    script = f"trap 'echo never' TERM; echo ready; while :; do sleep {mark}; done"
    with terminal(service, "run", "--grace", "1000", script) as one:
        one.shows("ready")
        one.type(b"\x03")
        one.shows("never")

        one.type(b"\x03")

        assert one.exit_status() == 130
        assert marked(mark) == []


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_signal_stops_the_command_too(service: Service, mark: str, number: int, status: int) -> None:
    """And it is recorded as stopped."""
    with begun(service, "run", f"echo ready; sleep {mark}") as word:
        assert word.stdout is not None
        assert word.stdout.readline() == b"ready\n"

        word.send_signal(number)

        assert word.wait(20) == status
    assert marked(mark) == []
    assert service.page(limit=1)[0].status == "stopped"


def test_a_hundred_megabytes_arrive_unchanged_and_are_not_kept_in_memory(
    own_service: StartService, tmp_path: Path
) -> None:
    """More than what is kept of a command by default."""
    service = own_service().start()
    big = tmp_path / "big"
    with big.open("wb") as file:
        for _ in range(100):
            file.write(os.urandom(1_000_000))
    with begun(service, "run", f"cat {big}", stderr=None) as word:
        assert word.stdout is not None
        same, most = True, 0
        with big.open("rb") as file:
            while piece := word.stdout.read(1_000_000):
                same = same and piece == file.read(len(piece))
                # While it lives: what wait tells of a child begins with the size of who forked it.
                most = max(most, _resident_kib(word.pid))
            same = same and file.read() == b""

        assert word.wait(20) == 0
    assert same
    assert 0 < most < 100 * 1024, "KiB; the interpreter and its modules are 30 MB of it"


def _resident_kib(pid: int) -> int:
    """0 for one that has ended."""
    found = re.search(r"^VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    return int(found[1]) if found else 0


def test_who_reads_no_further_ends_the_script(service: Service, mark: str) -> None:
    """As in a pipeline without us: 141, quietly, and nothing is left."""
    script = f"sleep {mark} & while :; do echo line; done"
    ran = subprocess.run(
        ["bash", "-c", '"$0" run "$1" | head -1; echo ${PIPESTATUS[0]}', BASHD, script],
        env=environment(service),
        capture_output=True,
        timeout=60,
        check=False,
    )

    assert (ran.stdout, ran.stderr) == (b"line\n141\n", b"")
    assert marked(mark) == []


def test_who_reads_no_further_ends_it_with_json_too(service: Service, mark: str) -> None:
    """The events are nobody's any more."""
    with begun(service, "run", "--json", f"sleep {mark} & while :; do echo line; done") as word:
        assert word.stdout is not None
        word.stdout.readline()
        word.stdout.close()

        assert word.wait(20) == 141
        assert word.stderr is not None
        assert word.stderr.read() == b""
    assert marked(mark) == []


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_a_descriptor_that_is_closed_is_like_the_null_device(service: Service, closed: str) -> None:
    """It never gets the number of a connection, into which the output would go."""
    ran = subprocess.run(
        ["bash", "-c", f'"$0" run "echo out; echo err >&2; exit 3" {closed}', BASHD],
        env=environment(service),
        capture_output=True,
        timeout=60,
        check=False,
    )

    assert ran.returncode == 3
    assert ran.stdout == (b"" if " >&-" in f" {closed}" else b"out\n")
    assert ran.stderr == (b"" if "2>&-" in closed else b"err\n")


@pytest.mark.parametrize("as_json", [[], ["--json"]])
def test_output_that_cannot_be_written_stops_the_command(service: Service, mark: str, as_json: list[str]) -> None:
    """A full disk, say: one line, 125, and nothing is left."""
    with open("/dev/full", "wb") as full:
        ran = bashd(
            service,
            *("run", *as_json, f"echo x; sleep {mark}"),
            capture_output=False,
            stdout=full,
            stderr=subprocess.PIPE,
        )

    assert ran.returncode == 125
    assert ran.stderr.endswith(b"its output cannot be written: No space left on device\n")
    assert ran.stderr.count(b"\n") == 1
    assert marked(mark) == []


def test_an_argument_that_is_no_text_is_refused(service: Service) -> None:
    """JSON cannot hold it."""
    ran = subprocess.run(
        [BASHD.encode(), b"run", b"echo", b"\xff"],
        env=environment(service),
        capture_output=True,
        timeout=60,
        check=False,
    )

    assert (ran.returncode, ran.stderr) == (2, b"bashd: an argument is not UTF-8\n")


def test_output_beyond_the_limit_is_named(service: Service) -> None:
    """A script that succeeded, but not all of whose output could be shown, is no success."""
    ran = bashd(service, "run", "--output-limit", "1000", "--timeout", "20", "head -c 3000000 /dev/zero")

    assert ran.returncode == 125
    assert b"were not kept" in ran.stderr
    assert len(ran.stdout) < 3_000_000


def test_an_end_that_nobody_knows_is_125(own_service: StartService) -> None:
    """``lost``, and a line that says so."""
    service = own_service().start()
    with begun(service, "run", "echo ready; sleep 60") as word:
        assert word.stdout is not None
        assert word.stdout.readline() == b"ready\n"

        kill(service.pid("bashd: worker"))

        assert word.wait(20) == 125
        assert word.stderr is not None
        assert word.stderr.read().endswith(b" is lost: worker_died\n")


def test_output_is_shown_as_it_comes_on_a_terminal(service: Service) -> None:
    """Not when it ends."""
    with terminal(service, "run", "echo first; read -t 60 <> <(:); echo second") as one:
        one.shows("first")
        assert "second" not in one.screen


def test_a_wrong_field_is_named(service: Service) -> None:
    """In the service's words."""
    ran = bashd(service, "run", "--label", ":x", "true")

    assert ran.returncode == 123
    assert b"cannot name a label" in ran.stderr
    assert ran.stderr.count(b"\n") == 1


@pytest.mark.parametrize(
    "words",
    [["run"], ["run", "-f", "/nonexistent"], ["run", "-e", "NOT_SET", "true"], ["run", "--timeout", "x", "true"]],
)
def test_wrong_arguments_are_one_line_and_2(words: list[str]) -> None:
    """Before anybody is asked."""
    ran = bashd(None, *words)

    assert ran.returncode == 2
    assert ran.stderr.startswith(b"bashd: ")
    assert ran.stderr.count(b"\n") == 1


def _command(service: Service, command_id: int) -> Command:
    return Command(service.http.get(f"/v1/commands/{command_id}").json())
