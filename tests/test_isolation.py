"""What a script sees: a clean place, whatever Bashd was started from; and no secret, whoever it runs as."""

from __future__ import annotations

import os
import resource
import secrets
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import StartService
from tests.processes import Service, eventually, marked

SCRIPT_FD = 250
SECRET = "the-secret-of-the-surroundings"


def _spoil() -> None:
    """The worst surroundings to be started in, applied in the child before exec."""
    os.umask(0o077)
    os.chdir("/usr/share")
    os.dup2(0, 99)
    resource.setrlimit(resource.RLIMIT_CORE, (resource.getrlimit(resource.RLIMIT_CORE)[1],) * 2)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGCHLD, signal.SIGPIPE):
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM, signal.SIGUSR2, signal.SIGCHLD, signal.SIGALRM])


@pytest.fixture(scope="module", params=[1, 100], ids=["a worker each", "workers reused"])
def spoilt(place: Path, request: pytest.FixtureRequest) -> Iterator[Service]:
    """A service that was started from the worst surroundings, with its own PostgreSQL."""
    service = Service(place / f"spoilt-{request.param}", commands_per_worker=request.param)
    with service.start(preexec_fn=_spoil, close_fds=False):
        yield service


@pytest.fixture(params=["plain", "run_as"])
def user_fields(request: pytest.FixtureRequest) -> dict[str, str]:
    """As Bashd's own user and, where that is root, as another one: two ways to start bash."""
    if request.param == "plain":
        return {}
    if os.getuid() != 0:
        pytest.skip("only root can run scripts as others")
    return {"run_as": "daemon"}


def test_the_environment_is_clean(spoilt: Service, user_fields: dict[str, str]) -> None:
    """What is documented and the command's id, what bash adds, what the request adds; nothing else."""
    command = spoilt.done("env -0", env={"MINE": "1"}, **user_fields)

    variables = dict(line.split("=", 1) for line in spoilt.output(command).decode().split("\0") if line)
    assert set(variables) - {"PWD", "SHLVL", "_", "OLDPWD"} == {
        "PATH", "HOME", "LANG", "SHELL", "USER", "LOGNAME", "BASHD_COMMAND_ID", "MINE"
    }  # fmt: skip
    assert variables["BASHD_COMMAND_ID"] == str(command.id)
    if user_fields:
        assert variables["USER"] == "daemon"


def test_the_bash_that_runs_it_is_named_to_every_user(spoilt: Service, user_fields: dict[str, str]) -> None:
    """Whatever the login shell of that user is."""
    command = spoilt.done('readlink -f "$SHELL" "/proc/$$/exe"; "$SHELL" -c "echo another"', **user_fields)

    shell, itself, another = spoilt.output(command).decode().splitlines()
    assert (shell, another) == (itself, "another")


def test_the_descriptors_are_three_and_the_scripts_own(spoilt: Service, mark: str, user_fields: dict[str, str]) -> None:
    """A program sees 0, 1, 2 and that of the script, and nothing of ours."""
    command = spoilt.run(f"sleep {mark}", **user_fields)
    pid = eventually(lambda: marked(mark))[0]

    assert sorted(int(name) for name in os.listdir(f"/proc/{pid}/fd")) == [0, 1, 2, SCRIPT_FD]
    assert os.readlink(f"/proc/{pid}/fd/0") == "/dev/null"
    spoilt.stop(command)
    spoilt.ended(command)


def test_signals_are_as_they_should_be(spoilt: Service, user_fields: dict[str, str]) -> None:
    """Nothing ignored, nothing blocked, though Bashd was started with both; so a stop works."""
    command = spoilt.done("cat /proc/self/status", **user_fields)

    facts = dict(line.split(":", 1) for line in spoilt.output(command).decode().splitlines())
    # 32 and 33 are glibc's own (nptl(7)): its posix_spawn leaves them ignored in whatever it starts.
    internal = 1 << 31 | 1 << 32
    assert {int(facts[name], 16) & ~internal for name in ("SigBlk", "SigIgn", "SigCgt")} == {0}
    assert facts["NoNewPrivs"].strip() == "1"


def test_a_stop_works_though_bashd_was_started_with_term_ignored(
    spoilt: Service, mark: str, user_fields: dict[str, str]
) -> None:
    """An ignored TERM would be inherited and survive the stop until KILL; it is not."""
    command = spoilt.run(f"echo ready; sleep {mark}; sleep {mark}", grace_s=30, **user_fields)
    spoilt.says(command, b"ready")

    spoilt.stop(command)

    assert spoilt.ended(command, within_s=10).signal == signal.SIGTERM


def test_umask_directory_and_limits_are_defaults(spoilt: Service, user_fields: dict[str, str]) -> None:
    """umask 022, an empty directory of its own, no core files, as many descriptors as Bashd was started with."""
    command = spoilt.done("umask; ulimit -c; ulimit -Sn; ulimit -Hn; pwd; touch x && ls", **user_fields)

    umask, core, soft, hard, directory, name = spoilt.output(command).decode().split()
    assert (umask, core, name) == ("0022", "0", "x")
    assert (int(soft), int(hard)) == resource.getrlimit(resource.RLIMIT_NOFILE)
    assert Path(directory).is_relative_to(spoilt.state_dir)


def test_there_is_no_terminal_and_no_input(spoilt: Service) -> None:
    """``cat`` and ``read`` meet the end of file, the terminal cannot be opened; nothing hangs."""
    command = spoilt.done("cat; read x; echo $?; read x < /dev/tty || echo none; tty || true", timeout_s=10)

    assert spoilt.output(command, stream="stdout") == b"1\nnone\nnot a tty\n"


def test_the_group_of_run_as_is_all_it_has(spoilt: Service) -> None:
    """``run_as`` gives up the groups of root too."""
    if os.getuid() != 0:
        pytest.skip("only root can run scripts as others")
    command = spoilt.done("id -u; id -g; id -G; cat /etc/shadow || echo denied", run_as="daemon")

    assert spoilt.output(command, stream="stdout").split() == [b"1", b"1", b"1", b"denied"]


SEARCH = """
needle=$(mktemp); trap 'rm -f "$needle"' EXIT
printf '%s%s\\n' "$1" "$2" > "$needle"
for place in /proc/[0-9]*; do
    for file in environ cmdline; do
        grep -qaFf "$needle" "$place/$file" 2> /dev/null && echo "$place/$file"
    done
done
echo searched
"""


def _halves(secret: str) -> list[str]:
    """So that the script that searches does not find itself."""
    return [secret[:7], secret[7:]]


@pytest.mark.parametrize("embedded", [True, False], ids=["embedded", "database of its own"])
def test_no_secret_shows_in_any_process(
    own_service: StartService, database_url: str, embedded: bool, user_fields: dict[str, str]
) -> None:
    """Neither the token nor the database's password is in the environment or the arguments of any process."""
    password = "sesame-open-4711"
    settings = {} if embedded else {"database_url": database_url.replace("tests@", f"tests:{password}@", 1)}
    service = own_service(embedded=embedded, **settings)
    service.token = secrets.token_urlsafe()  # other services on this machine have that of the tests
    service.start()

    for secret in (service.token, password):
        command = service.done(SEARCH, args=_halves(secret), **user_fields)
        assert service.output(command, stream="stdout") == b"searched\n"


def test_bashd_itself_can_be_told_to_go(own_service: StartService) -> None:
    """Though it was started with TERM blocked and ignored."""
    service = own_service().start(preexec_fn=_spoil)

    assert service.terminate() == 0


def test_the_search_finds_what_is_there(service: Service, mark: str) -> None:
    """The test above would notice a secret: an argument and a variable of somebody are found."""
    command = service.run(f"VISIBLE={SECRET} sleep {mark}")
    pid = eventually(lambda: marked(mark))[0]

    searched = service.done(SEARCH, args=_halves(SECRET))
    service.stop(command)

    assert f"/proc/{pid}/environ".encode() in service.output(searched)


def test_another_user_cannot_look_into_bashd(service: Service) -> None:
    """Memory, descriptors and environment of every Bashd process, and the token's file, are closed to scripts."""
    if os.getuid() != 0:
        pytest.skip("only root can run scripts as others")
    command = service.done(
        """
        for place in /proc/[0-9]*; do
            title=$(tr '\\0' ' ' < "$place/cmdline") 2> /dev/null
            [[ $title == "bashd: "* ]] || continue
            seen=$((seen + 1))
            ls "$place/fd" > /dev/null 2>&1 && echo "$title: fd"
            head -c 1 "$place/environ" > /dev/null 2>&1 && echo "$title: environ"
            (: < "$place/mem") 2> /dev/null && echo "$title: mem"
        done
        cat "$1"/token "$1"/journals/* 2> /dev/null && echo state
        (( seen >= 4 )) && echo looked
        """,
        args=[str(service.state_dir)],
        run_as="daemon",
    )

    assert service.output(command, stream="stdout") == b"looked\n"


@pytest.mark.parametrize("size", [200_000, 1_000_000])
def test_a_long_script_runs_to_its_last_line(spoilt: Service, size: int) -> None:
    """A script of nearly a megabyte is no trouble, as one user or another."""
    script = "echo first\n" + "# padding, padding, padding\n" * (size // 28 - 2) + "echo last"

    command = spoilt.done(script)

    assert spoilt.output(command) == b"first\nlast\n"


def test_a_script_cannot_change_itself_while_it_runs(spoilt: Service, user_fields: dict[str, str]) -> None:
    """Writing to ``$0`` fails, though bash reads its script as it goes."""
    command = spoilt.done(
        'echo \'echo rewritten\' >> "$0"\nprintf \'echo rewritten\' 1<> "$0"\n: > "$0"\ntruncate -s 0 "$0"\necho end',
        **user_fields,
    )

    assert spoilt.output(command, stream="stdout") == b"end\n"
    assert command.stderr_bytes > 0


def test_workers_hold_neither_socket_nor_lock(service: Service, mark: str) -> None:
    """A worker's 0, 1, 2 are /dev/null, and it has no socket and no lock of the state directory open."""
    command = service.started(service.run(f"sleep {mark}"))

    place = f"/proc/{command.worker_pid}/fd"
    links = {int(name): os.readlink(f"{place}/{name}") for name in os.listdir(place)}
    service.stop(command)

    assert [links[fd] for fd in (0, 1, 2)] == ["/dev/null"] * 3
    assert [link for link in links.values() if link.startswith("socket:") or link.endswith("/lock")] == []
