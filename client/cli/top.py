"""``top``: the processes of all commands, as a tree, anew each second."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from client.answers import Tree
from client.cli import show
from client.cli.service import RUNNING_RETRY_FOR_S, client

if TYPE_CHECKING:
    from rich.console import RenderableType

REFRESH_S = 1.0
COLUMNS = ("PID", "STATE", "CPU", "MEMORY", "AGE", "COMMAND")


def top(arguments: argparse.Namespace) -> int:
    watching = sys.stdout.isatty() and not arguments.once and not arguments.json
    with client(retry_for_s=RUNNING_RETRY_FOR_S if watching else 5.0) as service:
        trees = service.processes()
        if arguments.json:
            print(json.dumps([one.row for one in trees]))
        elif not watching:
            show.table(COLUMNS, [row for tree in trees for row in _rows(tree)])
        else:
            from rich.live import Live

            with Live(_picture(trees), screen=True, auto_refresh=False) as live:
                while True:
                    time.sleep(REFRESH_S)
                    live.update(_picture(service.processes()), refresh=True)
    return 0


def _rows(tree: Tree) -> list[list[str]]:
    """A line for the command, and one for each process, further in than its parent."""
    depths: dict[int, int] = {}
    rows = [["", "", "", "", "", f"command {tree.command}" + ("" if tree.complete else " (not all are shown)")]]
    for one in tree.processes:
        depths[one.pid] = depths.get(one.ppid, 0) + 1
        name = "  " * depths[one.pid] + show.safe(one.command_line or "") + (" (escaped)" if one.escaped else "")
        age, cpu = show.span(one.age_s), f"{one.cpu_s:.1f} s"
        rows.append([str(one.pid), one.state, cpu, show.size(one.rss_bytes), age, name])
    return rows


def _picture(trees: Sequence[Tree]) -> RenderableType:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    picture = Table(
        box=box.SIMPLE_HEAD, pad_edge=False, expand=True, title=f"{len(trees)} commands run; Ctrl-C ends this"
    )
    for name in COLUMNS:
        last = name == "COMMAND"
        picture.add_column(
            name, no_wrap=True, overflow="ellipsis", justify="left" if last else "right", ratio=1 if last else None
        )
    for tree in trees:
        for row in _rows(tree):
            picture.add_row(*(Text(cell, style="" if row[0] else "bold cyan") for cell in row))
    return picture
