"""The other words of the command line, and what all of them have in common."""

from __future__ import annotations

import argparse
import json
import re
import subprocess
from pathlib import Path

import pytest

from client.cli import words as client_words
from client.cli.completion import OF_THE_LAUNCHER
from supervisor.words import OF_CLIENT
from tests.conftest import StartService
from tests.processes import BASHD, Service, eventually, marked
from tests.terminal import bashd, environment, terminal

ESCAPE = "\x1b"


def test_ps_lists_those_that_run_and_all_of_them_when_asked(service: Service, mark: str) -> None:
    """Plain lines, for it is no terminal; ``--json`` is one array of what the API says."""
    running = service.started(service.run(f"sleep {mark}", name="runs", labels={"ps": mark}))
    ended = service.done("exit 3", labels={"ps": mark})
    label = f"ps:{mark}"

    lines = bashd(service, "ps", "--label", label).stdout.decode().splitlines()
    every = bashd(service, "ps", "--all", "--label", label).stdout.decode().splitlines()
    as_json = json.loads(bashd(service, "ps", "-a", "--json", "--label", label).stdout)

    assert [line.split()[0] for line in lines] == ["ID", str(running.id)]
    assert re.fullmatch(rf"{running.id} +running +\S+ s +runs +sleep {mark}", lines[1])
    assert re.fullmatch(rf"{ended.id} +failed \(exit 3\) +\S+ s +exit 3", every[1])
    assert [one["id"] for one in as_json] == [ended.id, running.id]
    assert bashd(service, "ps", "-a", "-n", "1", "--label", label).stdout.count(b"\n") == 2
    bashd(service, "stop", str(running.id))


def test_tokens_are_made_listed_rotated_and_revoked(own_service: StartService) -> None:
    """By their names; a secret is printed once, and is nothing after the next."""
    service = own_service().start()
    made = bashd(service, "token", "create", "ci", "--scope", "read", "--expires-in", "3600").stdout.decode().strip()

    def may_look(secret: str) -> bool:
        answer = service.http.get("/v1/commands", headers={"Authorization": f"Bearer {secret}"})
        return answer.status_code == 200

    assert may_look(made)
    lines = bashd(service, "token", "list").stdout.decode().splitlines()
    assert re.fullmatch(r"ci +read +20\S+Z +operator +20\S+Z", lines[1])
    assert made not in "".join(lines)
    rotated = bashd(service, "token", "rotate", "ci").stdout.decode().strip()
    assert (may_look(made), may_look(rotated)) == (False, True)
    assert bashd(service, "token", "revoke", "ci").stdout == b""
    assert not may_look(rotated)
    (listed,) = json.loads(bashd(service, "token", "list", "--json").stdout)
    assert listed["revoked_at"] is not None
    missing = bashd(service, "token", "revoke", "nobody")
    assert (missing.returncode, missing.stderr) == (123, b"bashd: There is no token 'nobody'.\n")
    twice = bashd(service, "token", "create", "ci")
    assert twice.returncode == 123
    assert b"names are not used again" in twice.stderr


def test_ps_without_commands_is_an_empty_array(service: Service) -> None:
    """And not nothing."""
    assert bashd(service, "ps", "--json", "--name", "nobody has this").stdout == b"[]\n"


def test_a_table_has_colours_on_a_terminal_alone(service: Service) -> None:
    """A pipe gets no escape."""
    service.done("true", name="coloured")

    with terminal(service, "ps", "--all", "--name", "coloured") as one:
        assert one.exit_status() == 0
        assert f"{ESCAPE}[32msucceeded" in one.screen
    assert ESCAPE.encode() not in bashd(service, "ps", "--all", "--name", "coloured").stdout


def test_a_script_cannot_steer_the_terminal_of_who_lists_it(service: Service) -> None:
    """Its name and text are shown with their escapes made visible."""
    command = service.done(f"true {ESCAPE}]0;title\x07", name=f"{ESCAPE}[31mred")

    for words in (["ps", "--all", "-n", "1"], ["show", str(command.id)]):
        shown = bashd(service, *words).stdout
        assert ESCAPE.encode() not in shown
        assert rb"\x1b[31mred" in shown


def test_show_says_all_that_is_known(service: Service) -> None:
    """``--json`` as the API has it."""
    command = service.done("exit 5")

    assert re.search(rb"^exit_code +5$", bashd(service, "show", str(command.id)).stdout, re.MULTILINE)
    assert json.loads(bashd(service, "show", "--json", str(command.id)).stdout) == command.row


def test_logs_are_the_bytes_that_were_written(service: Service) -> None:
    """Of both streams or one; or the last lines; or with times."""
    command = str(service.done(r"printf 'a\0\xff\n'; sleep 0.1; echo b >&2; sleep 0.1; printf 'c\nd'").id)

    def logs(*words: str) -> bytes:
        return bashd(service, "logs", command, *words).stdout

    assert logs() == logs("-f") == b"a\0\xff\nb\nc\nd"
    assert logs("--stream", "stderr") == b"b\n"
    assert logs("--tail", "2") == logs("-f", "--tail", "2") == b"c\nd"
    assert logs("--tail", "1", "--stream", "stderr") == b"b\n"
    assert logs("--tail", "99") == logs()
    assert re.fullmatch(rb"\S+Z stdout c\n\S+Z stdout d\n?", logs("--tail", "2", "--timestamps"))
    assert json.loads(logs("--json").splitlines()[-1])["event"] == "end"


def test_the_last_lines_may_be_longer_than_the_first_look(service: Service) -> None:
    """Lines of a hundred thousand bytes are found too."""
    command = service.done("for c in a b c; do head -c 100000 /dev/zero | tr '\\0' $c; echo; done")

    assert bashd(service, "logs", "-n", "2", str(command.id)).stdout == b"b" * 100000 + b"\n" + b"c" * 100000 + b"\n"


def test_logs_follow_to_the_end(service: Service) -> None:
    """They begin with what was printed before."""
    command = service.run("echo first; read line; echo $line", stdin_open=True)
    service.says(command, b"first\n")
    with terminal(service, "logs", "-f", str(command.id)) as one:
        one.shows("first")
        service.http.post(f"/v1/commands/{command.id}/stdin", content=b"second\n")
        assert one.exit_status() == 0
        assert "second" in one.screen


def test_stop_returns_when_all_of_it_has_ended(service: Service, mark: str) -> None:
    """Of several commands at once."""
    ids = [str(service.started(service.run(f"sleep {mark} & setsid sleep {mark} & wait")).id) for _ in range(2)]
    eventually(lambda: len(marked(mark)) == 4)

    stopped = bashd(service, "stop", "--json", *ids)

    assert marked(mark) == []
    assert [one["status"] for one in json.loads(stopped.stdout)] == ["stopped", "stopped"]
    assert (stopped.returncode, stopped.stderr) == (0, b"")


def test_signal_reaches_the_group(service: Service) -> None:
    """By name and by number; and is refused for what has ended."""
    command = service.run("trap 'echo got it; exit 4' USR1; echo ready; while :; do sleep 0.1; done")
    service.says(command, b"ready")

    assert bashd(service, "signal", str(command.id), "USR1").returncode == 0
    assert service.ended(command).exit_code == 4
    refused = bashd(service, "signal", str(command.id), "10")
    assert refused.returncode == 123
    assert b"has ended" in refused.stderr


def test_wait_and_rerun_exit_as_the_command_does(service: Service) -> None:
    """``rerun`` shows what it prints, too."""
    command = service.run("sleep 0.2; echo again; exit 6")

    assert bashd(service, "wait", str(command.id)).returncode == 6
    again = bashd(service, "rerun", str(command.id))
    assert (again.returncode, again.stdout) == (6, b"again\n")
    assert service.page(limit=1)[0].rerun_of == command.id


def test_wait_gives_up_when_it_is_told_to(service: Service, mark: str) -> None:
    """The command runs on."""
    command = service.run(f"sleep {mark}")

    gave_up = bashd(service, "wait", "--timeout", "0.1", str(command.id))

    assert gave_up.returncode == 124
    assert gave_up.stderr == f"bashd: command {command.id} is running after 0.1 s\n".encode()
    service.stop(command)


def test_top_shows_the_tree_of_processes(service: Service, mark: str) -> None:
    """Once where it is no terminal; on one anew until Ctrl-C."""
    command = service.started(service.run(f"sleep {mark} & setsid sleep {mark} & wait"))
    eventually(lambda: len(marked(mark)) == 2)

    lines = bashd(service, "top").stdout.decode().splitlines()
    trees = json.loads(bashd(service, "top", "--json").stdout)

    begin = next(number for number, line in enumerate(lines) if line.endswith(f" command {command.id}"))
    assert f"  bashd-{command.id} " in lines[begin + 1]
    assert sorted(line.split("    ")[-1].strip() for line in lines[begin + 2 : begin + 4]) == [
        f"sleep {mark}",
        f"sleep {mark} (escaped)",
    ]
    assert command.id in [one["command"] for one in trees]
    with terminal(service, "top") as one:
        one.shows("(escaped)")
        service.stop(command)
        eventually(lambda: one.screen.rpartition("commands run")[2].count("(escaped)") == 0)
        one.type(b"\x03")
        assert one.exit_status() == 130


@pytest.mark.parametrize(
    "words",
    [
        ["run", "true"],
        ["ps"],
        ["show", "1"],
        ["logs", "1"],
        ["stop", "1"],
        ["signal", "1", "HUP"],
        ["wait", "1"],
        ["top"],
    ],
)
def test_without_a_service_every_word_is_one_line_and_122(words: list[str]) -> None:
    """No trace of one; that is said at once."""
    said = bashd(None, *words)

    assert (said.returncode, said.stdout) == (122, b"")
    assert said.stderr == (
        b"bashd: there is no service: none has run in /nonexistent; start one with bashd serve, or set BASHD_URL\n"
    )


def test_a_service_that_does_not_answer_is_one_line_and_122(tmp_path: Path) -> None:
    """It has been here once."""
    (tmp_path / "url").write_text("http://127.0.0.1:1\n")

    said = bashd(None, "ps", env=environment(BASHD_STATE_DIR=str(tmp_path)))

    assert said.returncode == 122
    assert said.stderr.startswith(b"bashd: http://127.0.0.1:1 does not answer: ")
    assert said.stderr.count(b"\n") == 1


@pytest.mark.parametrize("url", ["localhost:8080", "http://", "http://host:99999", "ftp://host", "http://[::1"])
def test_a_wrong_address_is_one_line_and_122(url: str) -> None:
    """Which repeats it."""
    said = bashd(None, "ps", env=environment(BASHD_URL=url))

    assert said.returncode == 122
    assert said.stderr.startswith(f"bashd: {url!r} is no address: ".encode())
    assert said.stderr.count(b"\n") == 1


def test_a_token_that_no_header_can_hold_is_one_line(service: Service) -> None:
    """And is not repeated."""
    said = bashd(service, "ps", env=environment(service, BASHD_TOKEN="tökenñ"))

    assert (said.returncode, said.stderr) == (122, b"bashd: the token has characters that no token has\n")


def test_a_wrong_token_is_one_line_and_123(service: Service) -> None:
    """Which says what to set."""
    said = bashd(service, "ps", env=environment(service, BASHD_TOKEN="wrong"))

    assert said.returncode == 123
    assert said.stderr.endswith(b"Set BASHD_TOKEN.\n")
    assert said.stderr.count(b"\n") == 1


def test_what_is_not_there_is_one_line_and_123(service: Service) -> None:
    """In the service's words."""
    said = bashd(service, "show", "999999999")

    assert (said.returncode, said.stderr) == (123, b"bashd: There is no command 999999999.\n")


def test_the_local_service_and_its_token_are_found(own_service: StartService) -> None:
    """In its state directory; and the token is printed by a word of its own."""
    service = own_service()
    service.token = None
    service.start(ready=False)
    token = (service.state_dir / "token").read_text().strip()
    local = environment(BASHD_STATE_DIR=str(service.state_dir))
    eventually(lambda: bashd(None, "run", "echo found", env=local).stdout == b"found\n")

    assert bashd(None, "token", env=local).stdout.decode().strip() == token
    # The same address, named: the token is that of the same service.
    assert bashd(None, "ps", env={**local, "BASHD_URL": service.url}).returncode == 0
    # Another address does not get it, though it is the same service.
    elsewhere = bashd(None, "ps", env={**local, "BASHD_URL": service.url.replace("127.0.0.1", "localhost")})
    assert elsewhere.returncode == 123


def test_a_token_that_we_may_not_read_is_one_line(tmp_path: Path) -> None:
    """That says what to do."""
    (tmp_path / "token").mkdir()  # unreadable for root, too
    (tmp_path / "url").write_text("http://127.0.0.1:1\n")

    said = bashd(None, "token", env=environment(BASHD_STATE_DIR=str(tmp_path)))

    assert said.returncode == 122
    assert said.stderr.count(b"\n") == 1


def test_psql_opens_the_embedded_database(own_service: StartService) -> None:
    """With psql's own arguments; and says so when there is none that runs."""
    service = own_service(embedded=True).start()
    service.done("true")
    local = environment(BASHD_STATE_DIR=str(service.state_dir))

    asked = bashd(None, "psql", "-tAc", "select status from commands", env=local)
    assert (asked.returncode, asked.stdout) == (0, b"succeeded\n")

    assert service.terminate() == 0
    gone = bashd(None, "psql", env=local)
    assert gone.returncode == 2
    assert gone.stderr.startswith(b"bashd: no embedded PostgreSQL runs on ")
    assert gone.stderr.count(b"\n") == 1


def test_every_word_is_named_once_and_everywhere() -> None:
    """The parser of each side, and what completion knows, are the same list."""
    parser = client_words.parser()
    choices = next(one for one in parser._actions if isinstance(one, argparse._SubParsersAction))
    helps = {one.dest: one.help for one in choices._choices_actions}
    listed = bashd(None, "--help").stdout.decode()

    assert helps == OF_CLIENT
    for word in [*OF_CLIENT, *OF_THE_LAUNCHER]:
        assert re.search(rf"^    {word}\b", listed, re.MULTILINE), word


def test_bash_completes_words_options_and_ids(service: Service) -> None:
    """What ``completion bash`` prints is loaded by a real bash."""
    command = service.done("true")
    ask = """
        eval "$(bashd completion bash)"
        ask() { COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMPREPLY=(); _bashd; echo "${COMPREPLY[@]}"; }
        ask bashd comp; ask bashd run --det; ask bashd completion z; ask bashd show ""
    """
    said = subprocess.run(
        ["bash", "-c", ask], env=environment(service), capture_output=True, text=True, timeout=60, check=False
    )

    word, option, shell, ids = said.stdout.splitlines()
    assert (word, option, shell, said.stderr) == ("completion", "--detach", "zsh", "")
    assert str(command.id) in ids.split()


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_know_every_word_and_option(shell: str) -> None:
    """And take the script, where the shell is there to be asked."""
    script = bashd(None, "completion", shell).stdout

    for word in [*OF_CLIENT, *OF_THE_LAUNCHER]:
        assert word.encode() in script
    assert b"detach" in script
    try:
        checked = subprocess.run([shell, "-n"], input=script, capture_output=True, timeout=30, check=False)
    except FileNotFoundError:
        return  # not installed: the list above is all that can be shown
    assert (checked.returncode, checked.stderr) == (0, b"")


def test_a_word_starts_without_what_it_does_not_need() -> None:
    """Neither the service's libraries nor those of tables: a script is waited for."""
    loaded = subprocess.run(
        [str(Path(BASHD).with_name("python")), "-X", "importtime", BASHD, "run", "true"],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    ).stderr

    names = {line.rpartition("|")[2].strip() for line in loaded.splitlines()}
    assert "httpx._client" in names
    assert names & {"pydantic", "psycopg", "sanic", "rich", "click", "supervisor.launcher"} == set()
