"""The database that holds the history, for as long as a chore takes: whoever runs it, or nobody."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager

from protocol.places import Places
from supervisor import cluster, database, state
from supervisor.settings import Settings

ANSWERS_WITHIN_S = 30.0  # a Bashd that has just been started recovers its database first


class ChoreError(Exception):
    """The chore cannot be done: one line that says why."""


@contextmanager
def found(settings: Settings) -> Iterator[str]:
    """How to connect to a history that is there. Bashd may run. Raises ``ChoreError`` and what serving raises."""
    if settings.database_url is not None:
        yield _external(settings)
        return
    places = Places(str(settings.state_dir))
    if not cluster.exists(places):
        raise ChoreError(f"there is no embedded database in {places.state_dir}")
    try:
        lock_fd = state.take_lock(places)
    except state.RunsAlready:
        conninfo = cluster.conninfo_of_running(places, settings.pg_user)
        _wait_for(conninfo)
        yield conninfo
        return
    with _started(settings, places, lock_fd) as conninfo:
        yield conninfo


@contextmanager
def ours_alone(settings: Settings) -> Iterator[str]:
    """How to connect to a history that no Bashd of this state directory uses; made if there is none."""
    if settings.database_url is not None:
        yield _external(settings)
        return
    places = Places(str(settings.state_dir))
    state.prepare(places)
    with _started(settings, places, state.take_lock(places)) as conninfo:
        yield conninfo


@contextmanager
def _started(settings: Settings, places: Places, lock_fd: int) -> Iterator[str]:
    try:
        embedded = cluster.prepare(places, settings.pg_user)
        with cluster.running(embedded):
            yield embedded.conninfo
    finally:
        os.ftruncate(lock_fd, 0)
        os.close(lock_fd)


def _external(settings: Settings) -> str:
    assert settings.database_url is not None
    conninfo = settings.database_url.get_secret_value()
    silence = database.check(conninfo)
    if silence is not None:
        raise ChoreError(f"the database does not answer: {silence}")
    return conninfo


def _wait_for(conninfo: str) -> None:
    give_up_at = time.monotonic() + ANSWERS_WITHIN_S
    while (silence := database.check(conninfo)) is not None:
        if time.monotonic() > give_up_at:
            raise ChoreError(f"Bashd runs, and its database does not answer: {silence}")
        time.sleep(0.1)
