"""``python -m bench.crowd``: many sleeping commands at once: memory, answers meanwhile, needless wake-ups."""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from bench import report
from bench.family import Family, cpu_s, private_bytes, resident_bytes, sleeps, workers
from bench.place import hand_in, started
from tests.processes import Service, eventually

MIB = 1024 * 1024
QUIET_S = 10.0
SLEEPING: dict[str, object] = {"script": "exec sleep 100000", "timeout_s": None, "grace_s": 1}
PROCESSES = ("init", "supervisor", "forker", "api")
PLAIN, GET, POST = "subprocess.run", "GET a page of 50", "POST `echo hi` with ?wait"


@dataclass
class Quiet:
    """What the processes did in ``QUIET_S`` seconds in which nothing was asked of them."""

    sleeps: dict[str, int]  # how often each went to sleep; ``worker``: the most that one of them did
    cpu_ms: float  # of Bashd's own, without the workers


@dataclass
class Line:
    """What was measured with so many commands running."""

    worker_mib: list[float]  # private, of a sample
    resident_mib: dict[str, float]
    quiet: Quiet
    # What was asked → milliseconds, a list for each round.
    taken: dict[str, list[list[float]]] = field(default_factory=dict)

    def percentiles(self, what: str, share: float) -> list[float]:
        """One for each round."""
        return [report.percentile(one, share) for one in self.taken[what]]


def main() -> int:
    """Measure, print one table."""
    parser = report.parser("crowd", __doc__)
    parser.add_argument("--sizes", type=int, nargs="+", help="running (1 100 1000 3000; with --quick 1 50)")
    parser.add_argument("--count", type=int, default=50, help="requests of each kind a round (%(default)s)")
    arguments = parser.parse_args()
    sizes = sorted(arguments.sizes or ([1, 50] if arguments.quick else [1, 100, 1000, 3000]))
    lines: dict[int, Line] = {}
    with started(max_running=sizes[-1] + 100) as service:
        service.done("true")
        for size in sizes:
            hand_in(service, SLEEPING, clients=16, count=size - max(lines, default=0))
            eventually(lambda size=size: len(workers(service)) >= size, within_s=300)  # type: ignore[misc]
            time.sleep(2)  # what was begun is recorded
            lines[size] = _measure(service, size, arguments)
        service.tell()
        service.wait(within_s=300)
    _report(arguments, lines).finish(arguments)
    return 0


def _measure(service: Service, size: int, arguments: argparse.Namespace) -> Line:
    family = Family.of(service).named()
    sample = workers(service)[:: max(1, size // 50)]
    line = Line(
        worker_mib=[private_bytes(pid) / MIB for pid in sample],
        resident_mib={name: resident_bytes(family[name]) / MIB for name in PROCESSES},
        quiet=_quiet(family, sample),
    )
    for _ in range(report.rounds(arguments)):
        for what, ask in _questions(service).items():
            line.taken.setdefault(what, []).append([_ms(ask) for _ in range(arguments.count)])
    return line


def _quiet(family: dict[str, int], sample: list[int]) -> Quiet:
    pids = {**family, **{f"worker {pid}": pid for pid in sample}}
    slept = {name: sleeps(pid) for name, pid in pids.items()}
    spent_s = sum(sum(cpu_s(pid)) for pid in family.values())
    time.sleep(QUIET_S)  # what is measured is a time
    since = {name: sleeps(pid) - slept[name] for name, pid in pids.items()}
    most = max(count for name, count in since.items() if name not in family)
    spent_s = sum(sum(cpu_s(pid)) for pid in family.values()) - spent_s
    return Quiet(sleeps={**{name: since[name] for name in PROCESSES}, "worker": most}, cpu_ms=spent_s * 1000)


def _questions(service: Service) -> dict[str, Callable[[], object]]:
    def plain() -> object:
        return subprocess.run(["bash", "-c", "echo hi"], stdout=subprocess.PIPE, check=True)

    def get() -> object:
        return service.http.get("/v1/commands?limit=50").raise_for_status()

    def post() -> object:
        return service.create("echo hi", wait_s=30).raise_for_status()

    return {PLAIN: plain, GET: get, POST: post}


def _ms(ask: Callable[[], object]) -> float:
    began = time.monotonic()
    ask()
    return (time.monotonic() - began) * 1000


def _report(arguments: argparse.Namespace, lines: dict[int, Line]) -> report.Report:
    told = {size: _told(line) for size, line in lines.items()}
    names = list(next(iter(told.values())))
    figures = [
        {
            "running": size,
            "worker_mib": statistics.median(line.worker_mib),
            "resident_mib": line.resident_mib,
            "sleeps": line.quiet.sleeps,
            "cpu_ms": line.quiet.cpu_ms,
            "p50_ms": {what: report.span(line.percentiles(what, 0.5)) for what in line.taken},
            "p99_ms": {what: report.span(line.percentiles(what, 0.99)) for what in line.taken},
        }
        for size, line in lines.items()
    ]
    return report.Report(
        bench="crowd",
        note=f"{report.rounds(arguments)} rounds of {arguments.count} requests one after the other, each over a "
        "connection of its own; plain is `subprocess.run` of `echo hi`, measured in between; "
        f"wakes: in {QUIET_S:.0f} s in which nothing was asked",
        header=["commands running", *(f"{size:,}" for size in lines)],
        rows=[[name, *(column[name] for column in told.values())] for name in names],
        figures={"sizes": figures},
    )


def _told(line: Line) -> dict[str, str]:
    """A column of the table."""
    column = {"private MiB of a worker": report.spread(line.worker_mib)}
    column |= {f"resident MiB of {name}": f"{line.resident_mib[name]:.0f}" for name in PROCESSES}
    for what in (GET, POST):
        for name, share in (("p50", 0.5), ("p99", 0.99)):
            taken, plain = line.percentiles(what, share), line.percentiles(PLAIN, share)
            column[f"{what}, {name} ms"] = report.spread(taken, 1)
            column[f"{what}, {name} times plain"] = report.spread(report.ratios(taken, plain), 1)
    column |= {f"{name} wakes": str(count) for name, count in line.quiet.sleeps.items()}
    column["ms of processor time in that"] = f"{line.quiet.cpu_ms:.0f}"
    return column


if __name__ == "__main__":
    sys.exit(main())
