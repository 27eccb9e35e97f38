"""The words on the command line, and what each of them calls."""

from __future__ import annotations

import argparse
from datetime import datetime
from typing import TYPE_CHECKING, TypeVar

from protocol.status import FINAL
from supervisor.chores.record import ChoreError

if TYPE_CHECKING:
    from supervisor.settings import Settings

AnyParser = TypeVar("AnyParser", bound=argparse.ArgumentParser)

WORDS = ("export", "import", "backup", "restore")


def add_to(words: argparse._SubParsersAction[AnyParser]) -> list[AnyParser]:
    """Add the words to the program's; returns their parsers, which need the settings that name the database."""
    export = words.add_parser(
        "export",
        help="write final commands with their output to stdout, as JSON lines",
        description="Writes final commands with their output to stdout, as JSON lines (docs/history-format.md): "
        "scripts, variables and output are in the clear, secrets as they are sealed. Bashd may run.",
        allow_abbrev=False,
    )
    for flag, meaning in (("--since", "then or later"), ("--until", "before")):
        export.add_argument(flag, type=_instant, metavar="TIME", help=f"created {meaning}, like 2026-01-31T12:00:00Z")
    export.add_argument(
        "--status", action="append", choices=sorted(FINAL), help="only these; may be given more than once (all)"
    )
    read_in = words.add_parser(
        "import",
        help="add the commands of an exported file",
        description="Adds the commands of an exported file, which keep their ids; Bashd must not run. Those that are "
        "there already are passed over, one that differs is refused and the rest goes on. "
        "Exit status 1: something was refused.",
        allow_abbrev=False,
    )
    backup = words.add_parser(
        "backup",
        help="save the embedded database as one file",
        description="Saves the embedded database, with the name of its owner and the key of its secrets, as one file. "
        "It holds scripts, output and secrets together with their key: keep it like the token. Bashd may run.",
        allow_abbrev=False,
    )
    restore = words.add_parser(
        "restore",
        help="make an empty state directory what a backup saved",
        description="Makes an empty state directory what a backup saved. What waited waits, and runs at the next "
        "start; what had been handed over and was not final is lost, and does not run again.",
        allow_abbrev=False,
    )
    read_in.add_argument("file", metavar="FILE", help="the file; - is stdin")
    backup.add_argument("file", metavar="FILE", help="a file that is not there yet")
    restore.add_argument("file", metavar="FILE", help="what bashd backup wrote")
    return [export, read_in, backup, restore]


def do(settings: Settings, arguments: argparse.Namespace, *, bashd_version: str) -> int:
    """Do what the word asks for; returns the exit status. Raises ``ChoreError``, and what preparing to serve raises."""
    # The service is started without what only these words need.
    from api import store_history
    from supervisor.chores import backup, history

    try:
        match arguments.word:
            case "export":
                wanted = store_history.Wanted(arguments.since, arguments.until, tuple(arguments.status or ()))
                return history.export(settings, wanted, bashd_version=bashd_version)
            case "import":
                return history.read_in(settings, arguments.file)
            case "backup":
                return backup.backup(settings, arguments.file, bashd_version=bashd_version)
            case _:
                return backup.restore(settings, arguments.file)
    except store_history.HistoryError as error:
        raise ChoreError(str(error)) from error


def _instant(text: str) -> datetime:
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        time = datetime.min
    if time.tzinfo is None:
        raise argparse.ArgumentTypeError("has to be an instant like 2026-01-31T12:00:00Z")
    return time
