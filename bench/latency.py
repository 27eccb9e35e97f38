"""``python -m bench.latency``: from a request until the answer that ``echo hi`` has ended; and ``subprocess.run``."""

from __future__ import annotations

import argparse
import subprocess
import sys
import time

from bench import load, report
from bench.place import address, started
from tests.processes import TOKEN


def plain_s(count: int) -> list[float]:
    """What ``subprocess.run`` takes for the same script, one after the other."""
    taken = []
    for _ in range(count):
        began = time.monotonic()
        subprocess.run(["bash", "-c", "echo hi"], stdout=subprocess.PIPE, check=True)
        taken.append(time.monotonic() - began)
    return taken


def main() -> int:
    """Measure, print one table."""
    parser = argparse.ArgumentParser(prog="python -m bench.latency", description=__doc__)
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--count", type=int, default=300, help="requests a round (%(default)s)")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    shares = {"p50": 0.5, "p90": 0.9, "p99": 0.99}
    rows: list[list[object]] = []
    taken: dict[int, list[list[float]]] = {clients: [] for clients in arguments.clients}
    plain: list[list[float]] = []
    with started() as service:
        load.post(address(service), TOKEN, {"script": "true"}, clients=4, count=100, query="?wait=10")  # warm
        for _ in range(arguments.rounds):
            plain.append(plain_s(arguments.count))
            for clients in arguments.clients:
                done = load.post(
                    address(service),
                    TOKEN,
                    {"script": "echo hi"},
                    clients=clients,
                    count=arguments.count,
                    query="?wait=10",
                )
                taken[clients].append(done.latencies_s)
    for name, share in shares.items():
        bare = [report.percentile(one, share) for one in plain]
        row: list[object] = [name, report.spread([one * 1000 for one in bare], 1)]
        for clients in arguments.clients:
            ours = [report.percentile(one, share) for one in taken[clients]]
            row += [
                report.spread([one * 1000 for one in ours], 1),
                report.spread([one / other for one, other in zip(ours, bare, strict=True)], 1),
            ]
        rows.append(row)
    header = ["", "subprocess.run, ms"]
    for clients in arguments.clients:
        header += [f"{clients} clients, ms", "times that"]
    print(report.circumstances())
    print(f"{arguments.count} requests a round, {arguments.rounds} rounds\n")
    print(report.table(header, rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
