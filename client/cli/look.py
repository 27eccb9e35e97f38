"""``ps`` and ``show``."""

from __future__ import annotations

import argparse
import itertools
import json

from client.answers import Command
from client.cli import show as shown
from client.cli.service import client
from client.options import Filters

PAGE = 1000  # the most that a page of the API holds


def ps(arguments: argparse.Namespace) -> int:
    filters: Filters = {"limit": min(PAGE, arguments.limit)}
    if not arguments.all:
        filters["status"] = ["queued", "running"]
    if arguments.name is not None:
        filters["name"] = arguments.name
    if arguments.label:
        filters["label"] = arguments.label
    with client() as service:
        commands = list(itertools.islice(service.list(**filters), arguments.limit))
    if arguments.json:
        print(json.dumps([one.row for one in commands]))
        return 0
    rows = [
        [str(one.id), shown.outcome(one), _age(one), shown.safe(one.name or ""), shown.safe(one.script)]
        for one in commands
    ]
    shown.table(["ID", "STATUS", "TIME", "NAME", "SCRIPT"], rows)
    return 0


def _age(command: Command) -> str:
    """How long it took; of one that has not ended, how long it runs or waits."""
    if command.final:
        return shown.span(command.duration_s) if command.duration_s is not None else ""
    return shown.ago(command.started_at or command.created_at)


def show(arguments: argparse.Namespace) -> int:
    with client() as service:
        command = service.get(arguments.id).command
    if arguments.json:
        print(json.dumps(command.row))
        return 0
    width = max(map(len, command.row))
    for name, value in command.row.items():
        if value is None or value in ({}, [], ""):
            continue
        text = value if isinstance(value, str) else json.dumps(value)
        lines = text.rstrip("\n").split("\n")
        for number, line in enumerate(lines):
            print(f"{name if number == 0 else '':{width}}  {shown.visible(line)}")
    return 0
