"""``python -m bench.peers``: commands a second of Bashd, pywebexec and sandbox-agent, and what one costs."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from bench import place, report
from bench.peers import pywebexec, sandbox_agent
from bench.peers.bashd import HandedIn, WaitedFor
from bench.peers.peer import Missing, Peer
from bench.yardstick import spawns_per_s

OTHERS: dict[str, Callable[[Path, Path], AbstractContextManager[Peer]]] = {
    f"{sandbox_agent.NAME} {sandbox_agent.VERSION}": sandbox_agent.started,
    f"{pywebexec.NAME} {pywebexec.VERSION}": pywebexec.started,
}
COMPARED_WITH = f"{sandbox_agent.NAME} {sandbox_agent.VERSION}"


@dataclass
class Line:
    """What was measured of one of them, a value each round."""

    rates: list[float] = field(default_factory=list)
    ratios: list[float] = field(default_factory=list)
    cpu_ms: list[float] = field(default_factory=list)


def main() -> int:
    """Measure, print one table."""
    parser = report.parser("peers", __doc__)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--count", type=int, help="commands a round (2000; with --quick 100)")
    parser.add_argument("--cache", type=Path, metavar="DIRECTORY", help="where peers stay installed, for another run")
    arguments = parser.parse_args()
    arguments.count = arguments.count or (100 if arguments.quick else 2000)
    missing: dict[str, str] = {}
    with ExitStack() as stack:
        peers = {**_bashds(stack), **_others(stack, arguments.cache, missing)}
        lines = _measure(peers, arguments)
    _report(arguments, lines, missing).finish(arguments)
    return 0


def _bashds(stack: ExitStack) -> dict[str, Peer]:
    one = stack.enter_context(place.started())
    hundred = stack.enter_context(place.started(commands_per_worker=100))
    return {
        "Bashd, handed in": HandedIn(one),
        "Bashd, waited for": WaitedFor(one),
        "Bashd, 100 a worker, handed in": HandedIn(hundred),
        "Bashd, 100 a worker, waited for": WaitedFor(hundred),
    }


def _others(stack: ExitStack, cache: Path | None, missing: dict[str, str]) -> dict[str, Peer]:
    """Those of the others that can be had; why not goes into ``missing``."""
    homes = stack.enter_context(place.place())
    found: dict[str, Peer] = {}
    for name, started in OTHERS.items():
        own = name.replace(" ", "-")
        (homes / own).mkdir()
        installed = (cache or homes / "installed") / own
        try:
            found[name] = stack.enter_context(started(installed.absolute(), homes / own))
        except Missing as why:
            missing[name] = str(why)
    return found


def _measure(peers: dict[str, Peer], arguments: argparse.Namespace) -> dict[str, Line]:
    lines = {name: Line() for name in peers}
    for peer in peers.values():
        peer.measure(clients=4, count=50)  # warm
    for number in range(report.rounds(arguments)):
        before = spawns_per_s()
        # Each round begins with another one, so that none is always measured after the same.
        for name in _from(list(peers), number):
            rate, cpu_ms = peers[name].measure(clients=arguments.clients, count=arguments.count)
            after = spawns_per_s()
            lines[name].rates.append(rate)
            lines[name].ratios.append(rate * 2 / (before + after))
            lines[name].cpu_ms.append(cpu_ms)
            before = after
    return lines


def _from(names: list[str], number: int) -> list[str]:
    """All of them, beginning with this one."""
    at = number % len(names)
    return names[at:] + names[:at]


def _report(arguments: argparse.Namespace, lines: dict[str, Line], missing: dict[str, str]) -> report.Report:
    other = lines.get(COMPARED_WITH)
    rows = [
        [
            name,
            report.spread(line.rates, 0),
            report.spread(line.ratios),
            report.spread(report.ratios(line.rates, other.rates)) if other else "",
            report.spread(line.cpu_ms, 1),
        ]
        for name, line in lines.items()
    ]
    rows += [[name, f"skipped: {why}", "", "", ""] for name, why in missing.items()]
    figures = [
        {
            "name": name,
            "rate": report.span(line.rates),
            "ratio": report.span(line.ratios),
            "cpu_ms": report.span(line.cpu_ms),
        }
        for name, line in lines.items()
    ]
    return report.Report(
        bench="peers",
        note=f"{arguments.count} times `echo hi` a round, {arguments.clients} clients, {report.rounds(arguments)} "
        "rounds; the yardstick starts and ends `bash -c ':'`; processor time is that of all processes, bash and "
        "PostgreSQL too",
        header=["who", "a second", "of the yardstick", f"of {sandbox_agent.NAME}", "ms of processor time a command"],
        rows=rows,
        figures={"clients": arguments.clients, "peers": figures},
    )


if __name__ == "__main__":
    sys.exit(main())
