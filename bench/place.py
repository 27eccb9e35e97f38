"""A Bashd to be measured: alone, in a directory of its own, with its embedded PostgreSQL."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.processes import Service, adopt_orphans


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
    with place() as directory, Service(directory / "state", **settings).start(within_s=120) as service:  # type: ignore[arg-type]
        yield service


def address(service: Service) -> tuple[str, int]:
    """Where it listens."""
    host, _, port = service.url.removeprefix("http://").partition(":")
    return host, int(port)
