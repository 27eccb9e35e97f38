"""``python -m bench.start``: from ``bashd serve`` until ``/readyz`` is green; the first time and later ones."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

from bench import report
from bench.place import place
from tests.postgres import PostgresServer
from tests.processes import Service, adopt_orphans

FIRST, LATER, CRASHED = "first, with initdb", "later", "after kill -9 of all"

Taken = dict[str, list[float]]  # which start → seconds, a value each round


def _seconds(start: Callable[[], object]) -> float:
    began = time.monotonic()
    start()
    return time.monotonic() - began


def bashd_s(directory: Path, taken: Taken) -> None:
    """Start it three times; afterwards ``PG_BINDIR`` says which PostgreSQL it brings."""
    with Service(directory / "state") as service:
        for name in (FIRST, LATER, CRASHED):
            taken[name].append(_seconds(lambda: service.start(within_s=120)))
            if name == LATER:
                service.kill_everything()
            else:
                os.environ["PG_BINDIR"] = str(Path(f"/proc/{service.postmaster()}/exe").resolve().parent)
                service.terminate()


def plain_s(directory: Path, taken: Taken) -> None:
    """Start the same PostgreSQL three times, alone."""
    made: list[PostgresServer] = []
    taken[FIRST].append(_seconds(lambda: made.append(PostgresServer(directory / "plain"))))
    [server] = made
    try:
        server.end()
        taken[LATER].append(_seconds(server.begin))
        server.crash()
        taken[CRASHED].append(_seconds(server.begin))
    finally:
        server.close()


def main() -> int:
    """Measure, print one table."""
    arguments = report.parser("start", __doc__).parse_args()
    adopt_orphans()
    taken: Taken = {name: [] for name in (FIRST, LATER, CRASHED)}
    plain: Taken = {name: [] for name in taken}
    for _ in range(report.rounds(arguments)):
        with place() as directory:
            bashd_s(directory, taken)
            plain_s(directory, plain)
    _report(arguments, taken, plain).finish(arguments)
    return 0


def _report(arguments: argparse.Namespace, taken: Taken, plain: Taken) -> report.Report:
    rows = [
        [
            name,
            report.spread(seconds),
            report.spread(plain[name]),
            report.spread(report.ratios(seconds, plain[name]), 1),
        ]
        for name, seconds in taken.items()
    ]
    figures = [{"start": name, "s": report.span(taken[name]), "plain_s": report.span(plain[name])} for name in taken]
    return report.Report(
        bench="start",
        note=f"{report.rounds(arguments)} rounds; plain is the same PostgreSQL alone, until it answers",
        header=["start", "ready after s", "plain, s", "times plain"],
        rows=rows,
        figures={"starts": figures},
    )


if __name__ == "__main__":
    sys.exit(main())
