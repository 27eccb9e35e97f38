"""``python -m bench.throughput``: commands a second, from the first request until the last final row is committed."""

from __future__ import annotations

import argparse
import sys
import time
from contextlib import ExitStack
from dataclasses import dataclass, field

import psycopg

from bench import report
from bench.family import Family, socket_directory
from bench.place import hand_in, started
from bench.yardstick import spawns_per_s
from tests.processes import Service

BODY: dict[str, object] = {"script": "echo hi"}
PARTS = ("client", "api", "supervisor", "forker", "workers", "bash", "postgres")


def measure(service: Service, *, clients: int, count: int) -> tuple[float, dict[str, float]]:
    """Commands a second, and milliseconds of processor time a command by part."""
    family = Family.of(service)
    before = family.cpu_s()
    done = hand_in(service, BODY, clients=clients, count=count)
    with psycopg.connect(host=socket_directory(service), user="bashd", dbname="bashd", autocommit=True) as database:
        while not _all_final(database, done.ids):
            time.sleep(0.01)
        seconds = time.monotonic() - done.began_s
        bash_s = database.execute(
            "select sum(cpu_s), count(*) filter (where status = 'succeeded') from commands where id = any(%s)",
            [done.ids],
        ).fetchone()
    assert bash_s is not None
    if bash_s[1] != count:
        raise RuntimeError(f"{bash_s[1]} of {count} succeeded")
    after = family.cpu_s()
    parts = {name: after[name] - before[name] for name in after}
    parts["bash"] = bash_s[0]
    parts["workers"] -= parts["bash"]
    parts["client"] = done.cpu_s
    return count / seconds, {name: spent / count * 1000 for name, spent in parts.items()}


def _all_final(database: psycopg.Connection[tuple[object, ...]], ids: list[int]) -> bool:
    unfinished = "select exists (select from commands where ended_at is null and id between %s and %s)"
    row = database.execute(unfinished, [min(ids), max(ids)]).fetchone()
    return row == (False,)


@dataclass
class Line:
    """What was measured of one line of the table, a value each round."""

    rates: list[float] = field(default_factory=list)
    ratios: list[float] = field(default_factory=list)
    costs: list[dict[str, float]] = field(default_factory=list)

    def cost(self, part: str) -> float:
        """Milliseconds a command."""
        return report.median([cost[part] for cost in self.costs])


def _arguments() -> argparse.Namespace:
    parser = report.parser("throughput", __doc__)
    parser.add_argument("--clients", type=int, nargs="+", default=[4, 16, 64])
    parser.add_argument("--count", type=int, help="commands a round (2000; with --quick 100)")
    parser.add_argument("--commands-per-worker", type=int, nargs="+", default=[1, 100])
    arguments = parser.parse_args()
    arguments.count = arguments.count or (100 if arguments.quick else 2000)
    return arguments


def main() -> int:
    """Measure, print one table."""
    arguments = _arguments()
    lines = {(each, clients): Line() for each in arguments.commands_per_worker for clients in arguments.clients}
    with ExitStack() as stack:
        services = {
            each: stack.enter_context(started(commands_per_worker=each)) for each in arguments.commands_per_worker
        }
        for service in services.values():
            measure(service, clients=4, count=100)  # warm
        for _ in range(report.rounds(arguments)):
            before = spawns_per_s()
            for (each, clients), line in lines.items():
                rate, parts = measure(services[each], clients=clients, count=arguments.count)
                after = spawns_per_s()
                line.rates.append(rate)
                line.ratios.append(rate * 2 / (before + after))
                line.costs.append(parts)
                before = after
    _report(arguments, lines).finish(arguments)
    return 0


def _report(arguments: argparse.Namespace, lines: dict[tuple[int, int], Line]) -> report.Report:
    rows = [
        [
            str(each),
            str(clients),
            report.spread(line.ratios),
            report.spread(line.rates, 0),
            *(f"{line.cost(part):.2f}" for part in PARTS),
        ]
        for (each, clients), line in lines.items()
    ]
    figures = [
        {
            "commands_per_worker": each,
            "clients": clients,
            "ratio": report.span(line.ratios),
            "rate": report.span(line.rates),
            "cpu_ms": {part: line.cost(part) for part in PARTS},
        }
        for (each, clients), line in lines.items()
    ]
    return report.Report(
        bench="throughput",
        note=f"{arguments.count} commands a round, {report.rounds(arguments)} rounds; the yardstick starts and ends "
        "`bash -c ':'`; of processor time, ms a command",
        header=["a worker serves", "clients", "of the yardstick", "a second", *(f"{part} ms" for part in PARTS)],
        rows=rows,
        figures={"lines": figures},
    )


if __name__ == "__main__":
    sys.exit(main())
