"""What cannot work is told before anything is started: in one line, with exit status 2, and nothing is left behind."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import platform
import re
import signal
import socket
import stat
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from api import migrations
from protocol import linux
from tests.conftest import StartService
from tests.postgres import PostgresServer
from tests.processes import BASHD, Service, children, eventually

CANNOT_START = 2
UNUSED_URL = "postgresql://nobody@127.0.0.1:1/none"  # a database is not the subject: none is made
SYSTEM_CALL_FLOCK = {"x86_64": 73, "aarch64": 32}

MIGRATIONS = sorted(path.stem for path in (migrations.sql_directory() / "migrations").glob("*.sql"))
EVERYTHING_APPLIED = "".join(f"applied: {name}\n" for name in MIGRATIONS)


def _bashd(
    *arguments: str, state_dir: Path, env: dict[str, str] | None = None, **popen: Any
) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": os.environ["PATH"], "BASHD_STATE_DIR": str(state_dir), **(env or {})}
    return subprocess.run(
        [BASHD, *arguments],
        env=environment,
        cwd="/",
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=40,
        **popen,
    )


def _refused(*arguments: str, state_dir: Path, **options: Any) -> str:
    """What ``bashd serve`` says when it refuses: one line, status 2, and nobody is left."""
    before = children(os.getpid())
    ended = _bashd("serve", "--port=0", *arguments, state_dir=state_dir, **options)
    assert ended.returncode == CANNOT_START, ended
    assert ended.stdout == ""
    lines = ended.stderr.splitlines()
    assert len(lines) == 1, ended.stderr
    assert lines[0].startswith("bashd: ")
    assert children(os.getpid()) == before
    return lines[0]


# Settings


@pytest.mark.parametrize("arguments", [["--prot=1"], ["--port=x"], ["--port"], ["--auth=none", "--host=0.0.0.0"]])
def test_a_wrong_flag_is_refused(arguments: list[str], state_dir: Path) -> None:
    """Nothing is made before the settings are right."""
    _refused(*arguments, state_dir=state_dir)

    assert not state_dir.exists()


def test_a_token_stays_secret_when_another_setting_is_wrong(state_dir: Path) -> None:
    """Complaints do not quote secrets."""
    said = _refused("--port=x", state_dir=state_dir, env={"BASHD_TOKEN": "a-token-of-some-length"})

    assert "a-token-of-some-length" not in said


# The state directory


def test_a_file_where_the_directory_should_be_is_refused(state_dir: Path) -> None:
    """Neither the file nor what would be below it is touched."""
    state_dir.write_text("mine")

    assert str(state_dir) in _refused(state_dir=state_dir)
    assert str(state_dir) in _refused(state_dir=state_dir / "below")
    assert state_dir.read_text() == "mine"


def test_a_read_only_directory_is_refused(state_dir: Path) -> None:
    """A file system without writing, which stops root too."""
    if os.getuid() == 0:
        state_dir.mkdir()
        arguments = ["unshare", "-m", "sh", "-c", 'mount -t tmpfs -o ro,mode=0755 none "$0" && exec "$@"']
        ended = subprocess.run(
            [
                *arguments,
                str(state_dir),
                BASHD,
                "serve",
                f"--database-url={UNUSED_URL}",
                f"--state-dir={state_dir}",
                "--port=0",
            ],
            env={"PATH": os.environ["PATH"]},
            capture_output=True,
            text=True,
            timeout=40,
        )
        if ended.returncode == 1 and not ended.stderr.startswith("bashd"):
            pytest.skip(f"no mount of our own here: {ended.stderr}")
        assert ended.returncode == CANNOT_START, ended
        assert re.fullmatch(r"bashd: state directory .*: Read-only file system .*\n", ended.stderr)
    else:
        state_dir.mkdir(0o500)
        assert "Permission denied" in _refused(state_dir=state_dir)


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a directory away")
def test_the_directory_of_another_user_is_refused(state_dir: Path) -> None:
    """And it stays as it was."""
    state_dir.mkdir(0o700)
    os.chown(state_dir, 65534, 65534)

    assert "belongs to user 65534" in _refused(state_dir=state_dir)
    assert list(state_dir.iterdir()) == []


class _Instruction(ctypes.Structure):
    """struct sock_filter of linux/filter.h."""

    _fields_ = (("code", ctypes.c_ushort), ("jt", ctypes.c_ubyte), ("jf", ctypes.c_ubyte), ("k", ctypes.c_uint))


class _Program(ctypes.Structure):
    """struct sock_fprog of linux/filter.h."""

    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.POINTER(_Instruction)))


def _without_flock() -> None:
    """From here on flock(2) fails like on a file system that has none (seccomp(2)). Runs in the forked child."""
    load, equal, answer = 0x20, 0x15, 0x06
    instructions = (_Instruction * 4)(
        _Instruction(load, 0, 0, 0),  # the number of the system call
        _Instruction(equal, 0, 1, SYSTEM_CALL_FLOCK[platform.machine()]),
        _Instruction(answer, 0, 0, 0x00050000 | errno.ENOLCK),
        _Instruction(answer, 0, 0, 0x7FFF0000),  # allowed
    )
    program = _Program(4, ctypes.cast(instructions, ctypes.POINTER(_Instruction)))
    libc = ctypes.CDLL(None, use_errno=True)
    linux.prctl(linux.PR_SET_NO_NEW_PRIVS, 1)
    if libc.prctl(22, 2, ctypes.byref(program), 0, 0) != 0:  # PR_SET_SECCOMP, SECCOMP_MODE_FILTER
        raise OSError(ctypes.get_errno(), "seccomp")


@pytest.mark.skipif(platform.machine() not in SYSTEM_CALL_FLOCK, reason="the number of flock is not known here")
def test_a_file_system_without_flock_is_refused(state_dir: Path) -> None:
    """Without a lock nobody could tell whether the directory is somebody else's."""
    assert "no flock" in _refused(state_dir=state_dir, preexec_fn=_without_flock)


@pytest.mark.parametrize("name", ["token", "node_id", "reports", "lock"])
def test_a_directory_where_a_file_should_be_is_refused(name: str, state_dir: Path) -> None:
    """It is named."""
    (state_dir / name).mkdir(parents=True)

    assert str(state_dir / name) in _refused(f"--database-url={UNUSED_URL}", state_dir=state_dir)


@pytest.mark.parametrize("name", ["token", "node_id"])
def test_a_file_that_holds_something_else_is_refused(name: str, state_dir: Path) -> None:
    """It is not overwritten: the node's id owns rows."""
    state_dir.mkdir()
    (state_dir / name).write_bytes(b"\xff\xfe")

    assert str(state_dir / name) in _refused(f"--database-url={UNUSED_URL}", state_dir=state_dir)
    assert (state_dir / name).read_bytes() == b"\xff\xfe"


@pytest.mark.parametrize("written", ["", "garbage\n", "garbage 1\n", "1 2 3\n", "{pid} 1\n"])
def test_the_lock_of_remains_is_waited_for(written: str, state_dir: Path) -> None:
    """Whatever the lock file says: only a living owner, pid and start time, is refused at once."""
    state_dir.mkdir()
    with (state_dir / "lock").open("w") as lock:
        lock.write(written.format(pid=os.getpid()))
        lock.flush()
        fcntl.flock(lock, fcntl.LOCK_EX)
        with Service(state_dir, database_url=UNUSED_URL) as service:
            starting = service.launch()
            service.init = starting
            time.sleep(0.7)  # long enough to have refused

            assert starting.poll() is None, service.log
            fcntl.flock(lock, fcntl.LOCK_UN)

            eventually(lambda: "http://" in service.log)


def test_what_it_makes_is_private_and_what_it_found_is_not_changed(state_dir: Path) -> None:
    """The modes of a new state directory; those of an old one stay whatever they are."""
    old_umask = os.umask(0)
    try:
        with Service(state_dir, database_url=UNUSED_URL).start(ready=False) as service:
            service.terminate()
    finally:
        os.umask(old_umask)
    found = {path.name: stat.S_IMODE(path.stat().st_mode) for path in [state_dir, *state_dir.iterdir()]}
    mine = 0o711 if os.getuid() == 0 else 0o700

    assert found.pop(state_dir.name) == mine
    assert found.pop("work") == 0o711
    assert found.pop("url") == 0o644, "no secret: who has a token may look here for the address"
    assert {name: mode & 0o077 for name, mode in found.items()} == dict.fromkeys(found, 0)

    state_dir.chmod(0o755)
    with Service(state_dir, database_url=UNUSED_URL).start(ready=False) as service:
        service.terminate()
    assert stat.S_IMODE(state_dir.stat().st_mode) == 0o755


def test_a_token_is_generated_once(state_dir: Path) -> None:
    """Its place is told, it is not; and the next start has the same."""
    tokens = set()
    for _ in range(2):
        service = Service(state_dir, database_url=UNUSED_URL)
        service.token = None
        with service.start(ready=False):
            token = (state_dir / "token").read_text().strip()
            asked = service.http.get("/v1/commands", headers={"Authorization": f"Bearer {token}"})
            assert asked.status_code == 503  # let in, but there is no database
            assert service.http.get("/v1/commands").status_code == 401
            assert f"the token is in {state_dir / 'token'}" in service.log
            assert token not in service.log
            tokens.add(token)
    assert len(tokens) == 1


# The address


def test_a_port_that_is_taken_is_refused(state_dir: Path) -> None:
    """With its number."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]

        said = _refused(f"--port={port}", state_dir=state_dir)

    assert re.search(rf"cannot listen on 127\.0\.0\.1 port {port}: Address already in use", said)


@pytest.mark.parametrize("host", ["", "a..b", "x" * 64 + ".example", "192.0.2.1", "no.such.host.invalid", "1.2.3.4.5"])
def test_a_host_that_is_not_ours_is_refused(host: str, state_dir: Path) -> None:
    """An address of somebody else, a name nobody has, and what is no name at all."""
    assert "host" in _refused(f"--host={host}", "--plain-http", state_dir=state_dir) or host


# The database


@pytest.mark.parametrize(
    "url",
    [
        "",
        "nonsense",
        "mysql://somebody:the-password@127.0.0.1/d",
        "postgresql://somebody:the-password@[::1/d",
        "postgresql://somebody:the-password%zz@127.0.0.1/d",
        "postgresql://somebody:the-password@127.0.0.1:port/d",
        "postgresql://somebody:the-password@127.0.0.1:99999/d",
        "postgresql://somebody:the-password@127.0.0.1/d?sslmode=bogus",
        "postgresql://somebody:the-password@127.0.0.1/d?bogus=1",
    ],
)
def test_a_malformed_database_url_is_refused(url: str, state_dir: Path) -> None:
    """Without quoting it: it may hold a password."""
    said = _refused(state_dir=state_dir, env={"BASHD_DATABASE_URL": url})

    assert "database_url" in said
    assert "the-password" not in said


@pytest.fixture(scope="module")
def with_password(postgres: PostgresServer) -> Iterator[str]:
    """The address of a database for ``clerk``, who has to tell a password and may create nothing in it."""
    url = postgres.new_database()
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("create role clerk login password 'the-password'")
        connection.execute("revoke create on schema public from public")
        row = connection.execute("show hba_file").fetchone()
        assert row is not None
        rules = Path(row[0])
        before = rules.read_text()
        rules.write_text(f"local all clerk scram-sha-256\n{before}")
        connection.execute("select pg_reload_conf()")
    yield url.replace("tests@", "clerk:the-password@", 1)
    rules.write_text(before)
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("select pg_reload_conf()")
        connection.execute("drop role clerk")


def test_a_wrong_password_is_refused(with_password: str, state_dir: Path) -> None:
    """So is none at all; and a wrong one is not shown either."""
    wrong = with_password.replace("the-password", "another-secret")
    none = with_password.replace(":the-password", "")

    said = _refused(state_dir=state_dir, env={"BASHD_DATABASE_URL": wrong})

    assert "authentication failed" in said
    assert "another-secret" not in said
    assert "password" in _refused(state_dir=state_dir, env={"BASHD_DATABASE_URL": none, "PGPASSWORD": "the-password"})


def test_a_user_who_may_create_nothing_is_refused_while_there_is_something_to_create(
    with_password: str, state_dir: Path
) -> None:
    """The way out is in the line."""
    said = _refused(state_dir=state_dir, env={"BASHD_DATABASE_URL": with_password})

    assert re.search("clerk may not create tables in schema public.*bashd migrate", said)


def test_a_database_that_is_not_there_is_refused(database_url: str, state_dir: Path) -> None:
    """An answer that no waiting will change; nor will it for a user who is not there."""
    nowhere = re.sub(r"tests_\d+", "none_of_this_name", database_url)
    nobody = database_url.replace("tests@", "none_of_this_name@", 1)

    for url in (nowhere, nobody):
        said = _refused(state_dir=state_dir, env={"BASHD_DATABASE_URL": url})
        assert re.search('"none_of_this_name" does not exist', said)


def test_a_database_that_cannot_hold_every_script_is_refused(postgres: PostgresServer, state_dir: Path) -> None:
    """Its encoding is looked at."""
    url = postgres.new_database()
    with psycopg.connect(postgres.url("postgres"), autocommit=True) as connection:
        connection.execute("create database narrow encoding 'LATIN1' template template0")
    try:
        assert "LATIN1" in _refused(
            state_dir=state_dir, env={"BASHD_DATABASE_URL": re.sub(r"tests_\d+", "narrow", url)}
        )
    finally:
        with psycopg.connect(postgres.url("postgres"), autocommit=True) as connection:
            connection.execute("drop database narrow")


def test_a_schema_that_is_newer_than_the_code_is_refused(database_url: str, state_dir: Path) -> None:
    """And it is not touched."""
    migrations.apply(database_url)
    with psycopg.connect(database_url) as connection:
        connection.execute("insert into schema_version (version) values (9999)")

    assert "9999" in _refused(state_dir=state_dir, env={"BASHD_DATABASE_URL": database_url})


def test_a_database_that_does_not_answer_ends_no_start(state_dir: Path) -> None:
    """It is said, and everything else works."""
    with Service(state_dir, database_url=UNUSED_URL).start(ready=False) as service:
        eventually(lambda: service.http.get("/healthz").status_code == 200)

        assert service.http.get("/readyz").status_code == 503
        assert "the database does not answer, starting without it" in service.log


# What init gets


def test_nothing_but_path_lang_and_tz_goes_into_the_environment(own_service: StartService) -> None:
    """No setting, no secret: neither as variable nor as argument, in none of our processes."""
    service = own_service().start()
    assert service.init is not None
    pids = [service.init.pid, *service.pids("bashd: ")]
    assert len(pids) >= 4

    for pid in pids:
        environment = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        names = {variable.partition(b"=")[0] for variable in environment if b"=" in variable}
        assert names <= {b"PATH", b"LANG", b"TZ", b"LC_CTYPE"}  # the last is the interpreter's own, PEP 538
        assert service.token is not None
        assert service.token.encode() not in Path(f"/proc/{pid}/cmdline").read_bytes()


# migrate


def _migrate(*arguments: str, state_dir: Path, env: dict[str, str] | None = None) -> tuple[int, str]:
    ended = _bashd("migrate", *arguments, state_dir=state_dir, env=env)
    return ended.returncode, ended.stdout


def test_migrate_brings_a_database_up_to_date(database_url: str, state_dir: Path) -> None:
    """``--check`` changes nothing and tells what is pending by its status too."""
    env = {"BASHD_DATABASE_URL": database_url}

    assert _migrate("--check", state_dir=state_dir, env=env) == (1, EVERYTHING_APPLIED.replace("applied", "pending"))
    assert _migrate("--check", state_dir=state_dir, env=env)[0] == 1
    assert _migrate(state_dir=state_dir, env=env) == (0, EVERYTHING_APPLIED)
    assert _migrate(state_dir=state_dir, env=env) == (0, "the schema is up to date\n")
    assert _migrate("--check", state_dir=state_dir, env=env)[0] == 0
    assert not state_dir.exists()


def test_migrate_does_without_a_service_on_the_embedded_database(state_dir: Path) -> None:
    """It starts the postmaster, and ends it; whatever PG* variables are there for others."""
    env = {"PGHOST": "/nowhere", "PGHOSTADDR": "192.0.2.1", "PGOPTIONS": "--bogus", "PGUSER": "none", "PGPORT": "1"}
    before = children(os.getpid())

    first = _migrate(state_dir=state_dir, env=env)
    second = _migrate("--check", state_dir=state_dir, env=env)

    assert first == (0, EVERYTHING_APPLIED)
    assert second == (0, "the schema is up to date\n")
    assert children(os.getpid()) == before


def test_migrate_refuses_the_embedded_database_of_a_running_service(own_service: StartService) -> None:
    """Its lock is held."""
    service = own_service(embedded=True).start()

    ended = _bashd("migrate", state_dir=service.state_dir)

    assert ended.returncode == CANNOT_START
    assert "Bashd runs already" in ended.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_a_postmaster_does_not_outlive_the_migrate_that_started_it(number: int, state_dir: Path) -> None:
    """However that ended."""
    _migrate(state_dir=state_dir)
    pid_file = state_dir / "postgres" / "data" / "postmaster.pid"
    before = set(children(os.getpid()))
    with subprocess.Popen(
        [BASHD, "migrate"],
        env={"PATH": os.environ["PATH"], "BASHD_STATE_DIR": str(state_dir)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as migrating:
        eventually(lambda: pid_file.exists() or migrating.poll() is not None)

        migrating.send_signal(number)
        said = migrating.communicate(timeout=20)[1]

    assert "Traceback" not in said
    eventually(_none_but(before))
    eventually(lambda: not pid_file.exists())
    assert _migrate(state_dir=state_dir) in {
        (0, EVERYTHING_APPLIED),
        (0, "the schema is up to date\n"),
    }


def _none_but(before: set[int]) -> Callable[[], bool]:
    return lambda: set(children(os.getpid())) <= before
