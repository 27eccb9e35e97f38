"""What is shown to a person: lines without anything that steers a terminal, tables, and JSON for programs."""

from __future__ import annotations

import base64
import json
import os
import select
import signal
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

from client.answers import Command, End, Event, Gap, Output, Status

COLOURS = {"running": "cyan", "queued": "blue", "succeeded": "green", "failed": "red", "stopped": "yellow"}


def complain(line: str) -> None:
    """One line on stderr, in one write."""
    sys.stderr.write(f"bashd: {line}\n")
    sys.stderr.flush()


def give_up_stdout() -> None:
    """What is still in its buffer must not fail again when the interpreter ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def wait_until_writable(fd: int) -> None:
    select.select([], [fd], [])


def safe(text: str) -> str:
    """The first line, with everything that would steer a terminal made visible: scripts are other people's."""
    return visible(text.strip().split("\n", 1)[0])


def visible(line: str) -> str:
    """What does not print, made visible."""
    return "".join(one if one.isprintable() else repr(one)[1:-1] for one in line)


def event_json(event: Event) -> str:
    """One event as one line."""
    match event:
        case Status(command) | End(command):
            row: dict[str, Any] = {"event": "end" if isinstance(event, End) else "status", "command": command.row}
        case Gap(stream, start, stop):
            row = {"event": "gap", "stream": stream, "from": start, "to": stop}
        case Output(stream, offset, time, printed):
            row = {"event": "output", "stream": stream, "offset": offset, "time": time}
            try:
                row["text"] = printed.decode()
            except UnicodeDecodeError:
                row["base64"] = base64.b64encode(printed).decode()
    return json.dumps(row)


def table(names: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """A table for a terminal; else plain lines with the same columns, whole, and nothing to colour them."""
    if not sys.stdout.isatty():
        for line in plain(names, list(rows)):
            print(line)
        return
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    shown = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for number, name in enumerate(names):
        shown.add_column(name, no_wrap=True, overflow="ellipsis", justify="right" if number == 0 else "left")
    for row in rows:
        shown.add_row(*(Text(cell, style=COLOURS.get(cell.split(" ")[0], "")) for cell in row))
    Console().print(shown)


def plain(names: Sequence[str], rows: list[Sequence[str]]) -> list[str]:
    """Columns that are as wide as their longest cell."""
    widths = [max(len(row[column]) for row in [names, *rows]) for column in range(len(names))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in [names, *rows]
    ]


def outcome(command: Command) -> str:
    """Where it is, or how it ended, in a few words."""
    if command.paused:
        return f"{command.status} (paused)"
    if command.status == "succeeded" or not command.final:
        return command.status
    if command.reason in ("exit", "signal", "client", "shutdown", None):
        how = f"exit {command.exit_code}" if command.exit_code is not None else ""
        how = signal_name(command.signal) if command.signal is not None else how
        return f"{command.status} ({how})" if how else command.status
    return f"{command.status} ({command.reason})"


def signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name.removeprefix("SIG")
    except ValueError:
        return f"signal {number}"


def ago(instant: str | None) -> str:
    """How long ago it was."""
    if instant is None:
        return ""
    return span((datetime.now(UTC) - datetime.fromisoformat(instant)).total_seconds())


def span(seconds: float) -> str:
    """A time, as short as it is still telling."""
    seconds = max(0.0, seconds)
    if seconds < 10:
        return f"{seconds:.1f} s"
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{int(seconds // size)} {unit}"
    return f"{int(seconds)} s"


def size(count: int) -> str:
    """A number of bytes."""
    value = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024 or unit == "GiB":
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    raise AssertionError("unreachable")
