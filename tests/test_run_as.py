"""Whom scripts run as: the default, who may be named, what they are given, and the directory that is theirs alone."""

from __future__ import annotations

import grp
import os
import pwd
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import StartService
from tests.ordinary import Ordinary
from tests.processes import BASHD, Service, eventually, marked

needs_root = pytest.mark.skipif(os.getuid() != 0, reason="only root can run scripts as others")

# What a script may leave that does not want to be removed. $1: a file of somebody else that a link leads to.
ODD = r"""
mkdir closed closed/within blind; touch closed/within/file blind/file
chmod 000 closed/within closed; chmod 111 blind; mkdir $'new\nline'; touch $'new\nline/-rf' -- '-i' '*' $'\377'
ln -s "$1" link; ln -s "${1%/*}" way-out; mkfifo pipe; ln -s . loop
name=deep-deep-deep-deep-deep-deep  # three hundred of them are more than a path may have
for i in {1..300}; do mkdir $name; cd $name; done
touch bottom && echo made
"""


@pytest.fixture(scope="module")
def restricted(place: Path) -> Iterator[Service]:
    """A service as root that runs scripts as ``daemon``, and as ``games`` for who asks."""
    if os.getuid() != 0:
        pytest.skip("only root can run scripts as others")
    with Service(place / "restricted", default_run_as="daemon", allowed_run_as="games, daemon").start() as service:
        yield service


def _refusal(service: Service, run_as: str | None) -> str:
    """What is said of ``run_as``, which is refused."""
    answer = service.create("id", run_as=run_as)
    assert answer.status_code == 400, answer.text
    (error,) = answer.json()["errors"]
    assert error["field"] == "run_as"
    return str(error["message"])


def test_a_command_that_names_nobody_runs_as_the_default(restricted: Service) -> None:
    """Left out or null: it runs as ``default_run_as``, and says so."""
    left_out, null = restricted.done("id -un"), restricted.done("id -un", run_as=None)

    assert (restricted.output(left_out), restricted.output(null)) == (b"daemon\n", b"daemon\n")
    assert left_out.run_as == "daemon"


def test_the_predecessors_api_has_the_same_default(restricted: Service) -> None:
    """``POST /command`` is no way around it."""
    answer = restricted.http.post("/command", json={"script": "id -un"})

    command = restricted.ended(restricted.get(restricted.page(limit=1)[0]))
    assert answer.status_code == 201
    assert (command.id, restricted.output(command)) == (answer.json()["id"], b"daemon\n")


def test_only_who_is_allowed_may_be_named(restricted: Service) -> None:
    """The refusal names the field and who is allowed, and does not tell whether there is such a user."""
    assert restricted.output(restricted.done("id -un", run_as="games")) == b"games\n"

    for name in ("root", "nobody", "no-such-user", ""):
        assert _refusal(restricted, name) == f"is not allowed to be {name!r}; allowed are games, daemon"


def test_a_key_finds_its_command_whatever_the_default_is(own_service: StartService) -> None:
    """The same request with the same key is the same, though the default was set meanwhile."""
    if os.getuid() != 0:
        pytest.skip("only root can run scripts as others")
    key = {"Idempotency-Key": "once"}
    service = own_service().start()
    first = service.http.post("/v1/commands", json={"script": "true"}, headers=key).json()
    service.terminate()

    service = own_service(default_run_as="daemon").start()
    again = service.http.post("/v1/commands", json={"script": "true"}, headers=key)

    assert (again.status_code, again.json()["id"]) == (200, first["id"])


def test_what_ran_as_root_is_not_run_again_where_root_is_not_allowed(own_service: StartService) -> None:
    """The row names nobody, which meant root when it was made: a rerun does not get around what was set since."""
    if os.getuid() != 0:
        pytest.skip("only root can run scripts as others")
    service = own_service().start()
    command = service.done("id -u")
    assert service.output(command) == b"0\n"
    service.terminate()

    service = own_service(default_run_as="daemon").start()
    answer = service.http.post(f"/v1/commands/{command.id}/rerun")

    assert answer.status_code == 409
    assert "root" in answer.json()["detail"]


@needs_root
def test_root_must_be_named_by_the_operator(service: Service, own_service: StartService) -> None:
    """Without a list everybody but root and the database's user may be named; root only if the list names it."""
    assert _refusal(service, "root").startswith("must not be root, unless allowed_run_as names it")
    owner = pwd.getpwuid((service.state_dir / "postgres").stat().st_uid).pw_name
    assert _refusal(service, owner) == "must not be the user of the database"

    permissive = own_service(allowed_run_as="root,daemon").start()

    assert permissive.output(permissive.done("id -u", run_as="root")) == b"0\n"
    assert permissive.output(permissive.done("id -u")) == b"0\n"


@needs_root
def test_with_a_list_and_no_default_a_user_must_be_named(own_service: StartService) -> None:
    """Who leaves it out does not get root by that."""
    service = own_service(allowed_run_as="daemon").start()

    assert _refusal(service, None).endswith("allowed are daemon")
    assert service.http.post("/command", json={"script": "id"}).status_code == 400
    assert service.output(service.done("id -un", run_as="daemon")) == b"daemon\n"


@needs_root
def test_a_user_that_is_not_there_or_the_databases_is_refused_at_the_start(own_service: StartService) -> None:
    """One line that names the setting, and exit status 2; nothing is started."""
    for settings, line in (
        ({"default_run_as": "no-such-user"}, "default_run_as: there is no user 'no-such-user' on this machine"),
        ({"allowed_run_as": "daemon,no-such-user"}, "allowed_run_as: there is no user 'no-such-user' on this machine"),
        ({"allowed_run_as": "daemon", "pg_user": "daemon"}, "daemon is the user of the embedded PostgreSQL"),
        ({"default_run_as": "daemon", "pg_user": "daemon"}, "daemon is the user of the embedded PostgreSQL"),
    ):
        service = own_service(embedded=True, **settings)
        already_logged = len(service.log)

        assert service.launch().wait(60) == 2

        said = service.log[already_logged:]
        assert line in said
        assert "Traceback" not in said


def test_who_is_not_root_cannot_set_it(ordinary: Ordinary) -> None:
    """It would be a promise that nobody could keep."""
    service = ordinary.service
    service.also_set(default_run_as="daemon")

    assert service.launch(**ordinary.rights).wait(60) == 2

    assert "default_run_as: is only possible when Bashd runs as root" in service.log


@needs_root
def test_the_variables_are_those_of_the_user(service: Service) -> None:
    """HOME, USER and LOGNAME are his, not Bashd's."""
    daemon = pwd.getpwnam("daemon")

    command = service.done('echo "$HOME $USER $LOGNAME"; id -un; pwd -P', run_as="daemon")

    variables, name, directory = service.output(command).decode().splitlines()
    assert variables == f"{daemon.pw_dir} daemon daemon"
    assert name == "daemon"
    assert directory == str(service.state_dir / "work" / str(command.id))


@needs_root
def test_the_groups_are_those_of_the_user(state_dir: Path, database_url: str) -> None:
    """All that the machine says he is in, and none of ours, be it that Bashd was started with some."""
    groups = state_dir.with_name("group")
    groups.write_text(Path("/etc/group").read_text() + "bashd-one:x:60001:daemon\nbashd-two:x:60002:daemon,games\n")
    machine = ["unshare", "--mount", "sh", "-c", 'mount --bind "$0" /etc/group && exec "$@"', str(groups), BASHD]
    daemon = pwd.getpwnam("daemon")
    expected = {daemon.pw_gid, 60001, 60002} | {one.gr_gid for one in grp.getgrall() if "daemon" in one.gr_mem}
    service = Service(state_dir, command=machine, database_url=database_url)
    with service.start(extra_groups=[0, 4, 60003]):
        command = service.done(
            "id -G; grep CapEff /proc/self/status; grep NoNewPrivs /proc/self/status", run_as="daemon"
        )

        gids, capabilities, no_new_privs = service.output(command).decode().splitlines()

    assert {int(gid) for gid in gids.split()} == expected
    assert int(capabilities.split()[1], 16) == 0
    assert no_new_privs.split()[1] == "1"


@needs_root
@pytest.mark.parametrize("fields", [{}, {"merge_stderr": True}, {"stdin_open": True}], ids=["two", "one", "fed"])
def test_its_streams_can_be_opened_by_name(service: Service, fields: dict[str, bool]) -> None:
    """``/dev/stdin``, ``/dev/stdout`` and ``/dev/stderr`` are the user's, as in a terminal."""
    script = "head -n 1 < /dev/stdin > /dev/stdout; echo err > /dev/stderr; echo tee | tee -a /dev/stderr"
    command = service.done(script, stdin="in\n", run_as="daemon", **fields)

    assert sorted(service.output(command).split()) == [b"err", b"in", b"tee", b"tee"]


@needs_root
def test_the_directory_is_closed_to_other_users(service: Service, mark: str) -> None:
    """0700 and the user's own; another user neither reads nor enters it, nor finds out what others are called."""
    command = service.started(service.run(f"echo mine > file; echo ready; sleep {mark}", run_as="daemon"))
    service.says(command, b"ready")
    directory = service.state_dir / "work" / str(command.id)

    seen = directory.stat()
    intruder = service.done(
        'ls "$1"; cat "$1/file"; cd "$1"; ls "${1%/*}"; touch "$1/theirs"; mv "$1" moved; ln -s /etc "${1%/*}/999999"',
        args=[str(directory)],
        run_as="games",
    )
    service.stop(command)

    assert (stat.S_IMODE(seen.st_mode), seen.st_uid, seen.st_gid) == (0o700, *pwd.getpwnam("daemon")[2:4])
    assert service.output(intruder, stream="stdout") == b""
    assert service.output(intruder).lower().count(b"permission denied") >= 6
    assert service.ended(command).status == "stopped"


@needs_root
def test_nobody_finds_what_another_left_under_the_same_number(service: Service) -> None:
    """A directory that is there already, of a command of another database, is emptied and made anew."""
    last = service.done("true").id
    for number in range(last + 1, last + 4):
        directory = service.state_dir / "work" / str(number)
        directory.mkdir(mode=0o777)
        (directory / "of-another").write_text("secret")

    commands = [service.done("ls -A; stat -c '%a %U' .", run_as="daemon") for _ in range(3)]

    assert [one.id for one in commands] == [last + 1, last + 2, last + 3]
    assert [service.output(one) for one in commands] == [b"700 daemon\n"] * 3


@pytest.fixture(params=["as others", "as an ordinary user"])
def any_service(request: pytest.FixtureRequest) -> tuple[Service, dict[str, str]]:
    """Bashd as root with scripts of another user; and Bashd whose scripts are its own user's."""
    if request.param == "as others":
        if os.getuid() != 0:
            pytest.skip("only root can run scripts as others")
        return request.getfixturevalue("service"), {"run_as": "daemon"}
    return request.getfixturevalue("ordinary").start(), {}


def test_the_directory_goes_whatever_is_in_it(any_service: tuple[Service, dict[str, str]], tmp_path: Path) -> None:
    """Closed directories, odd names, three hundred levels: all goes. Where links led to, nothing is touched."""
    service, user = any_service
    outside = tmp_path / "outside"
    outside.write_text("kept")
    outside.chmod(0o640)

    command = service.done(ODD, args=[str(outside)], **user)

    assert service.output(command, stream="stdout") == b"made\n"
    eventually(lambda: not (service.state_dir / "work" / str(command.id)).exists())
    assert outside.read_text() == "kept"
    assert stat.S_IMODE(outside.stat().st_mode) == 0o640


def test_the_directory_of_a_dead_worker_goes_too(
    any_service: tuple[Service, dict[str, str]], tmp_path: Path, mark: str
) -> None:
    """The supervisor removes it, in the same way."""
    service, user = any_service
    outside = tmp_path / "outside"
    outside.write_text("kept")
    command = service.run(f"({ODD}) && sleep {mark}", args=[str(outside)], **user)
    eventually(lambda: marked(mark))
    service.says(command, b"made")

    os.kill(service.started(command).worker_pid, 9)

    assert service.ended(command).reason == "worker_died"
    eventually(lambda: not (service.state_dir / "work" / str(command.id)).exists())
    assert outside.read_text() == "kept"
