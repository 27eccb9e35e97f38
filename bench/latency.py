"""``python -m bench.latency``: from a request until the answer that ``echo hi`` has ended; and ``subprocess.run``."""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

from bench import report
from bench.place import hand_in, started
from tests.processes import Service

SCRIPT = "echo hi"
SHARES = {"p50": 0.5, "p90": 0.9, "p99": 0.99}
PLAIN = "subprocess.run"

# (who, clients) → a list of milliseconds for each round
Taken = dict[tuple[str, int], list[list[float]]]


def plain_ms(clients: int, count: int) -> list[float]:
    """What ``subprocess.run`` takes for the same script, from so many threads."""

    def run(_: int) -> float:
        began = time.monotonic()
        subprocess.run(["bash", "-c", SCRIPT], stdout=subprocess.PIPE, check=True)
        return (time.monotonic() - began) * 1000

    with ThreadPoolExecutor(clients) as threads:
        return list(threads.map(run, range(count)))


def bashd_ms(service: Service, clients: int, count: int) -> list[float]:
    """What Bashd takes, from so many clients."""
    done = hand_in(service, {"script": SCRIPT}, clients=clients, count=count, to_the_end=True)
    return [seconds * 1000 for seconds in done.latencies_s]


def main() -> int:
    """Measure, print one table."""
    parser = report.parser("latency", __doc__)
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--count", type=int, help="requests a round (500; with --quick 100)")
    parser.add_argument("--commands-per-worker", type=int, nargs="+", default=[1, 100])
    arguments = parser.parse_args()
    arguments.count = arguments.count or (100 if arguments.quick else 500)
    _report(arguments, _measure(arguments)).finish(arguments)
    return 0


def _measure(arguments: argparse.Namespace) -> Taken:
    with ExitStack() as stack:
        services = {
            f"Bashd, {each} a worker": stack.enter_context(started(commands_per_worker=each))
            for each in arguments.commands_per_worker
        }
        for service in services.values():
            bashd_ms(service, 4, 100)  # warm
        taken: Taken = {}
        for _ in range(report.rounds(arguments)):
            for clients in arguments.clients:
                taken.setdefault((PLAIN, clients), []).append(plain_ms(clients, arguments.count))
                for who, service in services.items():
                    taken.setdefault((who, clients), []).append(bashd_ms(service, clients, arguments.count))
        return taken


def _report(arguments: argparse.Namespace, taken: Taken) -> report.Report:
    rows = []
    figures = []
    for clients in arguments.clients:
        for who in dict.fromkeys(who for who, _ in taken):
            row = [str(clients), who]
            for name, share in SHARES.items():
                values = [report.percentile(one, share) for one in taken[who, clients]]
                plain = [report.percentile(one, share) for one in taken[PLAIN, clients]]
                row += [report.spread(values, 1), report.spread(report.ratios(values, plain), 1)]
                figures.append({"clients": clients, "who": who, "share": name, "ms": report.span(values)})
            rows.append(row)
    header = ["clients", "who"]
    for name in SHARES:
        header += [f"{name}, ms", "times plain"]
    note = (
        f"{arguments.count} times `{SCRIPT}` a round, {report.rounds(arguments)} rounds; plain is `subprocess.run` "
        "of the same, from as many threads as there are clients"
    )
    return report.Report(bench="latency", note=note, header=header, rows=rows, figures={"bars": figures})


if __name__ == "__main__":
    sys.exit(main())
