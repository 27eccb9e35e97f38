"""``bashd export`` and ``bashd import``: where the lines go and come from, and what is said of it."""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO

from api import history, store_history
from supervisor import database
from supervisor.chores.record import ChoreError, found, ours_alone
from supervisor.settings import Settings

EXIT_REFUSED = 1


def export(settings: Settings, wanted: store_history.Wanted, *, bashd_version: str) -> int:
    """Write the history to stdout, and to stderr how much it was."""
    if sys.stdout.isatty():
        raise ChoreError("the history is long and meant for a file: bashd export > history.jsonl")
    with found(settings) as conninfo, store_history.opened(conninfo) as store:
        try:
            count, passed_over = history.write(store, sys.stdout.buffer, wanted, bashd_version=bashd_version)
        except BrokenPipeError:
            # Who read has read enough. What is still in our buffer has nowhere to go, and must not be a second error.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 0
        except OSError as error:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise ChoreError(f"the history cannot be written: {error.strerror}") from error
    _say(f"exported: {count} commands; passed over, for they are not final: {passed_over}")
    return 0


def read_in(settings: Settings, path: str) -> int:
    """Add what the file holds; returns the exit status: 1 when something of it was refused."""
    counts: Counter[history.Fate] = Counter()
    with _opened(path) as source, ours_alone(settings) as conninfo:
        store_history.refuse_owned(conninfo)  # before its schema is changed under it
        database.migrate(conninfo, check_only=False)
        with store_history.opened(conninfo) as store:
            store.own()
            try:
                for outcome in history.read(store, source):
                    counts[outcome.fate] += 1
                    if outcome.fate is history.Fate.REFUSED:
                        _say(f"{outcome.which} is refused: {outcome.why}")
            finally:
                store.settle()
    _say("imported: " + ", ".join(f"{counts[fate]} {fate.name.lower()}" for fate in history.Fate))
    return EXIT_REFUSED if counts[history.Fate.REFUSED] else 0


@contextmanager
def _opened(path: str) -> Iterator[IO[bytes]]:
    if path == "-":
        yield sys.stdin.buffer
        return
    try:
        source = open(path, "rb")  # noqa: SIM115  (closed below; an error of the body is not one of opening)
    except (OSError, ValueError) as error:
        raise ChoreError(f"{path}: {error.strerror if isinstance(error, OSError) else error}") from error
    with source:
        yield source


def _say(text: str) -> None:
    print(f"bashd: {text}", file=sys.stderr, flush=True)
