"""What tests ask for by name: the service they share, services of their own, databases, places."""

from __future__ import annotations

import os
import pwd
import shutil
import sys
import tempfile
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import pytest

from tests import engine, processes
from tests.ordinary import Ordinary, python_for
from tests.postgres import PostgresServer
from tests.processes import REPOSITORY, Service, eventually

LOG_SHOWN = 4000  # characters

StartService = Callable[..., Service]


@pytest.fixture(scope="session", autouse=True)
def nothing_left() -> Iterator[None]:
    """After the whole run no process of ours is left: every orphan comes to this process, so none is missed."""
    processes.adopt_orphans()
    yield
    processes.reap_orphans()
    left = [(pid, processes.arguments(pid)) for pid in processes.descendants(os.getpid())]
    assert left == [], "processes were left behind"


@pytest.fixture(scope="session")
def place(nothing_left: None) -> Iterator[Path]:  # noqa: ARG001  its teardown comes after ours
    """A directory that every user can reach, unlike pytest's own; gone after the run, and with it what is in it."""
    directory = Path(tempfile.mkdtemp(prefix="bashd-tests-", dir="/tmp"))
    directory.chmod(0o711)
    yield directory
    shutil.rmtree(directory)


@pytest.fixture(scope="session")
def postgres(place: Path) -> Iterator[PostgresServer]:
    """A PostgreSQL server for the whole run."""
    server = PostgresServer(place / "pg")
    yield server
    server.close()


@pytest.fixture
def database_url(postgres: PostgresServer) -> str:
    """A new and empty database."""
    return postgres.new_database()


@pytest.fixture
def state_dir(place: Path) -> Iterator[Path]:
    """A state directory nobody has used, in a directory that everybody can reach."""
    directory = Path(tempfile.mkdtemp(prefix="state-", dir=place))
    directory.chmod(0o711)
    yield directory / "bashd"
    shutil.rmtree(directory)


@pytest.fixture(scope="session")
def service(place: Path) -> Iterator[Service]:
    """The service that tests share which neither kill nor configure it, with the embedded PostgreSQL."""
    with Service(place / "shared", max_running=64).start() as service:
        yield service


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Function) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show what the shared service said, when a test fails that used it: what is rare has to be understood at once."""
    report = yield
    used = item.funcargs.get("service")
    if report.failed and isinstance(used, Service):
        report.sections.append(("log of the service", used.log[-LOG_SHOWN:]))
    return report


@pytest.fixture
def own_service(state_dir: Path, postgres: PostgresServer, mark: str) -> Iterator[StartService]:  # noqa: ARG001
    """Makes services on the test's own state directory; ``embedded=True`` for a PostgreSQL of their own.

    All of them are ended after the test, before the mark is looked for. The settings are those of ``BASHD_*``.
    """
    made: list[Service] = []
    url = postgres.new_database()

    def make(*, embedded: bool = False, command: list[str] | None = None, **settings: object) -> Service:
        if not embedded:
            settings = {"database_url": url, **settings}
        made.append(Service(state_dir, command=command, **settings))
        return made[-1]

    yield make
    for service in made:
        service.close()


@pytest.fixture
def services() -> Iterator[list[Service]]:
    """Those that a test starts, ended after it."""
    started: list[Service] = []
    yield started
    for service in started:
        service.close()


@pytest.fixture
def server(state_dir: Path) -> Iterator[PostgresServer]:
    """A PostgreSQL server of the test's own, to be frozen, ended and started again."""
    state_dir.parent.chmod(0o755)
    server = PostgresServer(state_dir.parent / "pg")
    yield server
    server.close()


@pytest.fixture
def mark() -> Iterator[str]:
    """A number of seconds for sleep(1) that is this test's alone; nobody may have it as an argument afterwards."""
    mark = processes.unique_seconds()
    yield mark
    try:
        eventually(lambda: not processes.marked(mark), within_s=5)
    finally:
        for pid in processes.marked(mark):
            processes.kill(pid)


@pytest.fixture(scope="session")
def image() -> Iterator[str]:
    """The name of an image of the working tree; gone after the run."""
    engine.build()
    yield engine.IMAGE
    engine.docker("rmi", "--force", engine.IMAGE)


@pytest.fixture
def ordinary(place: Path, mark: str) -> Iterator[Ordinary]:  # noqa: ARG001  the mark is looked for after our end
    """A service of an ordinary user, with the embedded PostgreSQL."""
    if os.getuid() != 0:
        pytest.skip("every other test runs as an ordinary user already")
    user = next(entry for entry in pwd.getpwall() if entry.pw_name in ("nobody", "daemon"))
    rights = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
    python = python_for(rights, place)
    if python is None:
        pytest.skip(f"no other user can execute {sys.executable} or read {REPOSITORY}: they lie in a closed directory")
    home = Path(tempfile.mkdtemp(prefix="ordinary-", dir=place))
    shutil.chown(home, user.pw_uid)
    with Service(home / "state", command=[str(python), "-m", "supervisor.launcher"]) as service:
        yield Ordinary(service, rights, str(python))
