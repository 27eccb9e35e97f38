"""What a hostile script gets hold of: nothing as another user, and as Bashd's own user what the README says it does.

The same program that finds nothing is shown to find what is open (``test_the_program_…``), so silence means something.
"""

from __future__ import annotations

import os
import pwd
import secrets
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.conftest import StartService
from tests.ordinary import Ordinary, python_for
from tests.processes import TOKEN, Command, Service, arguments, descendants, eventually, marked, started_here, title

PROGRAM = Path(__file__).with_name("hostile.py").read_text()
PASSWORD = "sesame-open-4711"
SECRET = "the-secret-of-the-surroundings"
DISTURBS = {"signal", "limits"}  # what the same user may always do to a process

needs_root = pytest.mark.skipif(os.getuid() != 0, reason="only root can run scripts as others")


@dataclass(frozen=True)
class Attacker:
    """Runs the program as a script of a service."""

    service: Service
    python: str
    fields: dict[str, str]

    def does(self, *arguments: str) -> list[str]:
        """The lines that the program prints, the last of which says how much it tried."""
        script = 'exec "$PYTHON" -I -c "$PROGRAM" "$@"'
        env = {"PYTHON": self.python, "PROGRAM": PROGRAM}
        command = self.service.done(script, args=[*arguments], env=env, **self.fields)
        assert command.exit_code == 0, self.service.output(command)
        return self.service.output(command, stream="stdout").decode().splitlines()

    def reaches(self, pids: list[int]) -> dict[int, set[str]]:
        """How it could get hold of each of these processes."""
        *lines, last = self.does("reach", *(str(pid) for pid in pids))
        assert last == f"tried {len(pids)}"
        return {int(pid): set(ways) - {"closed"} for pid, *ways in map(str.split, lines)}

    def finds(self, secret: str) -> list[str]:
        """Where in /proc it finds this text, which it is given in two halves."""
        *places, last = self.does("search", secret[7:], secret[:7])
        assert int(last.split()[1]) >= 5
        return places


@pytest.fixture
def as_another(service: Service, place: Path) -> Attacker:
    """A script of a user that is not Bashd's."""
    if os.getuid() != 0:
        pytest.skip("only root can run scripts as others")
    daemon = pwd.getpwnam("daemon")
    python = python_for({"user": daemon.pw_uid, "group": daemon.pw_gid, "extra_groups": []}, place)
    if python is None:
        pytest.skip("no other user can execute a python here")
    return Attacker(service, str(python), {"run_as": "daemon"})


@pytest.fixture
def as_the_same(ordinary: Ordinary) -> Attacker:
    """A script of a Bashd that is not root: it is of the same user."""
    ordinary.service.token = secrets.token_urlsafe()  # other services on this machine have that of the tests
    return Attacker(ordinary.start(), ordinary.python, {})


@pytest.fixture(params=["as_another", "as_the_same"])
def attacker(request: pytest.FixtureRequest) -> Attacker:
    """Both."""
    found: Attacker = request.getfixturevalue(request.param)
    return found


def _bashds(service: Service) -> list[int]:
    """The processes of Bashd, each kind of them, but not the database and not bash."""
    assert service.init is not None
    found = [service.init.pid, *descendants(service.init.pid)]
    pids = [pid for pid in found if title(pid).startswith("bashd: ")]
    kinds = {title(pid).split()[1] for pid in pids}
    assert {"init", "supervisor", "api", "forker", "worker"} <= kinds
    return pids


@pytest.fixture
def victim(attacker: Attacker, mark: str) -> Iterator[Command]:
    """Another command: of root where the attacker is somebody else, else of the same user."""
    service = attacker.service
    command = service.started(service.run(f"echo ready; sleep {mark}; true", secrets={"SECRET": SECRET}))
    service.says(command, b"ready")
    yield command
    service.stop(command)
    service.ended(command)


@pytest.mark.usefixtures("victim")
def test_no_process_of_bashd_can_be_traced_or_read(attacker: Attacker) -> None:
    """Not its memory, environment, descriptors, not by ptrace; the same user can signal it, another cannot."""
    pids = _bashds(attacker.service)

    reached = attacker.reaches(pids)

    expected = set() if attacker.fields else DISTURBS
    assert reached == dict.fromkeys(pids, expected)


def test_another_users_script_is_out_of_reach(as_another: Attacker, mark: str) -> None:
    """Neither one that is root nor one of a third user can be read, traced or signalled."""
    service = as_another.service
    commands = [service.run(f"sleep {mark}; true", **user) for user in ({}, {"run_as": "games"})]
    pids = [service.started(command).pid for command in commands]
    eventually(lambda: len(marked(mark)) == 2)

    reached = as_another.reaches(pids + marked(mark))
    killer = service.done('kill -9 "$@"; kill -STOP -- "-$1"', args=[str(pid) for pid in pids], run_as="daemon")

    assert set().union(*reached.values()) == set()
    assert service.output(killer).count(b"Operation not permitted") == 3
    for command in commands:
        assert (service.get(command).status, service.get(command).paused) == ("running", False)
        service.stop(command)
        assert service.ended(command).status == "stopped"


def test_the_program_gets_into_what_is_open(as_the_same: Attacker, mark: str) -> None:
    """The tests above would notice: another script of the same user is open in every way."""
    service = as_the_same.service
    command = service.started(service.run(f"sleep {mark}; true"))
    (pid,) = eventually(lambda: marked(mark))

    ways = as_the_same.reaches([pid])[pid]
    service.stop(command)

    assert {"environ", "mem", "maps", "fd", "exe", "signal", "limits"} <= ways
    scope = Path("/proc/sys/kernel/yama/ptrace_scope")
    if not scope.exists() or scope.read_text().strip() == "0":
        assert {"ptrace", "vm", "getfd"} <= ways


def test_no_secret_is_anywhere_in_proc(
    ordinary: Ordinary, database_url: str, mark: str, request: pytest.FixtureRequest
) -> None:
    """As the same ordinary user: neither token nor password in environments, arguments, open files, memory."""
    ordinary.service.also_set(database_url=database_url.replace("tests@", f"tests:{PASSWORD}@", 1))
    attacker: Attacker = request.getfixturevalue("as_the_same")
    service = attacker.service
    service.started(service.run(f"sleep {mark}", stdin_open=True))

    assert service.token is not None
    assert attacker.finds(service.token) == []
    assert attacker.finds(PASSWORD) == []


def test_no_token_is_in_the_memory_of_the_embedded_postgresql(as_the_same: Attacker) -> None:
    """Its processes are of the same user too, and open: what they hold is the digest of a token alone."""
    assert as_the_same.service.token is not None
    assert as_the_same.finds(as_the_same.service.token) == []


@needs_root
def test_what_holds_against_others_holds_against_a_search_too(as_another: Attacker) -> None:
    """The same search as another user."""
    assert as_another.finds(TOKEN) == []


def test_the_program_finds_what_is_there(as_the_same: Attacker, mark: str) -> None:
    """The tests above would notice: in the environment, an argument, an open file, the memory of another script."""
    service = as_the_same.service
    holder = f'echo "$1$2" > file; exec 9< file; whole=$1$2; echo ready; X="$whole" sleep {mark}; true'
    command = service.started(service.run(holder, args=[SECRET[:7], SECRET[7:]]))
    (pid,) = eventually(lambda: marked(mark))

    places = as_the_same.finds(SECRET)
    service.stop(command)

    assert {f"/proc/{pid}/environ", f"/proc/{pid}/fd/9", f"/proc/{command.pid}/fd/9", f"/proc/{command.pid}/mem"} <= {
        *places
    }


def test_what_a_script_of_bashds_own_user_can_do(as_the_same: Attacker) -> None:
    """What the README says plainly, and nothing can be done about: its files are the script's files."""
    service = as_the_same.service
    command = service.done(
        'for one in secrets_key lock "journals/$BASHD_COMMAND_ID"; do [ -r "$1/$one" ] && echo "${one%/*}"; done; '
        'kill -0 "$2" && echo signals',
        args=[str(service.state_dir), str(service.pid("bashd: api"))],
    )

    assert service.output(command).split() == [b"secrets_key", b"lock", b"journals", b"signals"]


def test_nothing_in_the_state_directory_is_open_to_others(own_service: StartService, mark: str) -> None:
    """Every file and directory, while commands of every kind run: two may be passed through, none be read."""
    old_umask = os.umask(0)
    try:
        service = own_service(embedded=True).start()
    finally:
        os.umask(old_umask)
    user = {"run_as": "daemon"} if os.getuid() == 0 else {}
    service.done("sleep 0; true")
    left = service.done(f"sleep {mark} & echo kept > file", leftovers="leave", **user)
    noisy = service.run(f"yes | head -c 3000000; echo full >&2; sleep {mark}", output_limit_bytes=1000, **user)
    fed = service.run(f"echo ready; sleep {mark}", stdin_open=True, secrets={"S": SECRET}, stdin="first", **user)
    service.says(noisy, b"full")
    service.says(fed, b"ready")
    names = {"token", "secrets_key", "lock", "node_id", "reports", "starts", "postgres"}
    names |= {f"journals/{noisy.id}", f"journals/{fed.id}", f"stdins/{fed.id}", f"controls/{fed.id}"}
    names |= {f"left/{left.id}", f"work/{fed.id}", f"work/{left.id}"}

    seen = _modes(service.state_dir)

    assert names - {"token"} <= seen.keys()
    passages = {"": 0o711 if os.getuid() == 0 else 0o700, "work": 0o711}
    assert {name: oct(seen[name]) for name in passages} == {name: oct(mode) for name, mode in passages.items()}
    # Where it listens is no secret, and the command line of every user looks there.
    public = {"url": oct(0o644)}
    assert {name: oct(mode) for name, mode in seen.items() if mode & 0o077 and name not in passages} == public


def _modes(top: Path) -> dict[str, int]:
    """Path below ``top`` → mode, of everything but what only an open directory would lead to, and of links."""
    found = {"": stat.S_IMODE(top.stat().st_mode)}
    for place, directories, files in os.walk(top):
        for name in [*directories, *files]:
            path = Path(place, name)
            if not path.is_symlink():
                found[str(path.relative_to(top))] = stat.S_IMODE(path.lstat().st_mode)
        # What is in a script's directory is the script's affair; PostgreSQL keeps its own.
        directories[:] = [name for name in directories if name != "postgres" and Path(place).name != "work"]
    return found


def test_a_start_is_closed_before_it_has_read_its_settings(ordinary: Ordinary) -> None:
    """What outlived the last Bashd cannot read the token in the environment of the program that becomes the next."""
    service = ordinary.service
    starting = service.init = service.launch(**ordinary.rights)
    started_here.add(starting.pid)
    environ = Path(f"/proc/{starting.pid}/environ")

    # What is closed to its own user belongs to root (proc(5)).
    eventually(lambda: environ.stat().st_uid == 0 and "supervisor.launcher" in arguments(starting.pid))

    eventually(lambda: title(starting.pid) == "bashd: init", within_s=60)
    assert environ.stat().st_uid == 0
