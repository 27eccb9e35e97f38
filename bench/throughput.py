"""``python -m bench.throughput``: commands a second, from the first request until the last final row is committed."""

from __future__ import annotations

import argparse
import sys
import time

import psycopg

from bench import load, report
from bench.family import Family, socket_directory
from bench.place import address, started
from bench.yardstick import spawns_per_s
from tests.processes import TOKEN, Service

BODY: dict[str, object] = {"script": "echo hi"}


def measure(service: Service, *, clients: int, count: int) -> tuple[float, dict[str, float]]:
    """Commands a second, and milliseconds of processor time a command by part."""
    family = Family.of(service)
    before = family.cpu_s()
    began = time.monotonic()
    done = load.post(address(service), TOKEN, BODY, clients=clients, count=count, query="")
    if done.refused:
        raise RuntimeError(f"{done.refused} of {count} were refused")
    with psycopg.connect(host=socket_directory(service), user="bashd", dbname="bashd", autocommit=True) as database:
        while not _all_final(database, done.ids):
            time.sleep(0.01)
        seconds = time.monotonic() - began
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


def main() -> int:
    """Measure, print one table."""
    parser = argparse.ArgumentParser(prog="python -m bench.throughput", description=__doc__)
    parser.add_argument("--clients", type=int, nargs="+", default=[4, 16, 64])
    parser.add_argument("--count", type=int, default=2000, help="commands a round (%(default)s)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--commands-per-worker", type=int, default=1)
    arguments = parser.parse_args()
    ratios: dict[int, list[float]] = {clients: [] for clients in arguments.clients}
    rates: dict[int, list[float]] = {clients: [] for clients in arguments.clients}
    costs: dict[int, list[dict[str, float]]] = {clients: [] for clients in arguments.clients}
    with started(commands_per_worker=arguments.commands_per_worker) as service:
        measure(service, clients=4, count=200)  # warm
        for _ in range(arguments.rounds):
            for clients in arguments.clients:
                before = spawns_per_s()
                rate, parts = measure(service, clients=clients, count=arguments.count)
                bare = (before + spawns_per_s()) / 2
                ratios[clients].append(rate / bare)
                rates[clients].append(rate)
                costs[clients].append(parts)
    parts_shown = ("client", "api", "supervisor", "forker", "workers", "bash", "postgres")
    print(report.circumstances())
    print(f"{arguments.count} commands a round, {arguments.rounds} rounds, {arguments.commands_per_worker} a worker\n")
    rows = [
        [
            clients,
            report.spread(ratios[clients]),
            report.spread(rates[clients], 0),
            *(f"{report.median([cost[part] for cost in costs[clients]]):.2f}" for part in parts_shown),
        ]
        for clients in arguments.clients
    ]
    print(report.table(["clients", "of the yardstick", "a second", *(f"{part} ms" for part in parts_shown)], rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
