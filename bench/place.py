"""A Bashd to be measured: in a directory of its own, with its embedded PostgreSQL; and commands for it."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench import load
from tests.processes import TOKEN, Service, adopt_orphans

START_WITHIN_S = 120.0


@contextmanager
def place() -> Iterator[Path]:
    """A directory that every user can reach, gone afterwards."""
    directory = Path(tempfile.mkdtemp(prefix="bashd-bench-", dir="/tmp"))
    directory.chmod(0o711)
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


@contextmanager
def started(**settings: object) -> Iterator[Service]:
    """A service that is ready, ended afterwards."""
    adopt_orphans()
    with place() as directory, Service(directory / "state", **settings) as service:  # type: ignore[arg-type]
        service.start(within_s=START_WITHIN_S)  # within the block, or one that does not become ready would be left
        yield service


def hand_in(
    service: Service, body: dict[str, object], *, clients: int, count: int, to_the_end: bool = False
) -> load.Load:
    """POST a command so many times; ``to_the_end``: each is answered when it has ended, and has to have succeeded."""
    path = "/v1/commands" + ("?wait=60" if to_the_end else "")
    expected: dict[str, object] = {"status": "succeeded"} if to_the_end else {}
    done = load.send(_address(service), load.Post(path, body, TOKEN, expected), clients=clients, count=count)
    if done.refused:
        raise RuntimeError(f"{done.refused} of {count} were not answered as expected: {done.complaint}")
    return done


def _address(service: Service) -> tuple[str, int]:
    host, _, port = service.url.removeprefix("http://").partition(":")
    return host, int(port)
