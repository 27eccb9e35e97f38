"""``python -m bench.output``: a gibibyte of zeros and ten million short lines, recorded to the limit, or followed."""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from dataclasses import dataclass, field

import psycopg

from bench import report
from bench.family import Family, resident_bytes, socket_directory
from bench.place import place, started
from tests.processes import Command, Service, eventually

MIB = 1024 * 1024
LIMIT_BYTES = 16 * MIB
END_WITHIN_S = 600
PROCESSES = ("worker", "forker", "supervisor", "api")
RECORDED, FOLLOWED = "recorded to the limit of 16 MiB", "recorded whole, and streamed to a follower"


@dataclass(frozen=True)
class Printed:
    """What a script prints."""

    name: str
    script: str
    size: int


WHOLE = [
    Printed("1 GiB of zeros", "head -c 1G /dev/zero", 1024 * MIB),
    Printed("10 million short lines", "seq 10000000", 78_888_897),
]
QUICK = [
    Printed("64 MiB of zeros", "head -c 64M /dev/zero", 64 * MIB),
    Printed("1 million short lines", "seq 1000000", 6_888_896),
]


@dataclass
class Line:
    """What was measured of one line of the table, a value each round."""

    rates: list[float] = field(default_factory=list)  # MiB a second
    ratios: list[float] = field(default_factory=list)
    grown: list[dict[str, float]] = field(default_factory=list)  # MiB, by process

    def most_grown(self, name: str) -> list[float]:
        """By how many MiB this process grew, each round."""
        return [one[name] for one in self.grown]


class Growth:
    """By how much the processes that a command's output passes through grow."""

    def __init__(self, service: Service) -> None:
        self._pids = Family.of(service).named()
        self._before = {name: resident_bytes(pid) for name, pid in self._pids.items()}
        self._most = dict(self._before)

    def add(self, worker_pid: int) -> None:
        """Watch this worker too, from now on."""
        self._pids["worker"] = worker_pid

    def look(self) -> bool:
        """Take note of what they have now. Always true, to be part of a condition that is waited for."""
        for name, pid in self._pids.items():
            try:
                now = resident_bytes(pid)
            except (FileNotFoundError, ProcessLookupError):
                continue  # the worker has ended
            self._before.setdefault(name, now)
            self._most[name] = max(self._most.get(name, 0), now)
        return True

    def mib(self) -> dict[str, float]:
        """How much, so far."""
        return {name: (self._most.get(name, 0) - self._before.get(name, 0)) / MIB for name in PROCESSES}


def plain_mib_per_s(printed: Printed) -> float:
    """``bash | cat > file``."""
    with place() as directory:
        began = time.monotonic()
        subprocess.run(["bash", "-c", f"{{ {printed.script}; }} | cat > '{directory}/file'"], check=True)
        return printed.size / MIB / (time.monotonic() - began)


def measure(service: Service, printed: Printed, *, follow: bool) -> tuple[float, dict[str, float]]:
    """MiB a second until its end is known, or until a follower has it all; and MiB by which processes grew."""
    growth = Growth(service)
    began = time.monotonic()
    limit = 2 * printed.size if follow else LIMIT_BYTES
    command = service.run(printed.script, timeout_s=None, output_limit_bytes=limit)
    growth.add(eventually(lambda: service.get(command).worker_pid))
    if follow:
        _follow(service, command, printed, growth)
    else:
        eventually(lambda: growth.look() and service.get(command, wait=0.1).status == "succeeded", END_WITHIN_S)
    seconds = time.monotonic() - began
    growth.look()
    eventually(lambda: not (service.state_dir / "journals" / str(command.id)).exists(), END_WITHIN_S)
    return printed.size / MIB / seconds, growth.mib()


def _follow(service: Service, command: Command, printed: Printed, growth: Growth) -> None:
    got, looked = 0, 0.0
    path = f"/v1/commands/{command.id}/output?follow=true"
    with service.http.stream("GET", path, timeout=END_WITHIN_S) as answer:
        for chunk in answer.iter_raw():
            got += len(chunk)
            if time.monotonic() > looked + 0.05:
                growth.look()
                looked = time.monotonic()
    if got != printed.size:
        raise RuntimeError(f"{got} of {printed.size} bytes were followed")


def forget(service: Service) -> None:
    """Make room: nobody reads the output of earlier rounds any more."""
    with psycopg.connect(host=socket_directory(service), user="bashd", dbname="bashd", autocommit=True) as database:
        database.execute("truncate output")


def main() -> int:
    """Measure, print one table."""
    arguments = report.parser("output", __doc__).parse_args()
    scripts = QUICK if arguments.quick else WHOLE
    plain: dict[str, list[float]] = {printed.name: [] for printed in scripts}
    lines = {(printed.name, what): Line() for printed in scripts for what in (RECORDED, FOLLOWED)}
    with started() as service:
        service.done("echo warm")
        for _ in range(report.rounds(arguments)):
            for printed in scripts:
                for what in (RECORDED, FOLLOWED):
                    before = plain_mib_per_s(printed)
                    rate, grown = measure(service, printed, follow=what == FOLLOWED)
                    plain[printed.name].append(before)
                    line = lines[printed.name, what]
                    line.rates.append(rate)
                    line.ratios.append(rate / before)
                    line.grown.append(grown)
                    forget(service)
    _report(arguments, plain, lines).finish(arguments)
    return 0


def _report(
    arguments: argparse.Namespace, plain: dict[str, list[float]], lines: dict[tuple[str, str], Line]
) -> report.Report:
    rows = []
    figures = []
    for name, rates in plain.items():
        rows.append([name, "plain", report.spread(rates, 0), "", *("" for _ in PROCESSES)])
        for what in (RECORDED, FOLLOWED):
            line = lines[name, what]
            grown = [report.spread(line.most_grown(process), 1) for process in PROCESSES]
            rows.append(["", what, report.spread(line.rates, 0), report.spread(line.ratios), *grown])
            figures.append({"output": name, "how": what, "rate": report.span(line.rates), "plain": report.span(rates)})
    return report.Report(
        bench="output",
        note=f"{report.rounds(arguments)} rounds; plain is `bash | cat > file`; by how much a process grew "
        "is its resident memory at most, less what it had before (the worker: when it was known)",
        header=["output", "how", "MiB a second", "of plain", *(f"{process} grew, MiB" for process in PROCESSES)],
        rows=rows,
        figures={"lines": figures},
    )


if __name__ == "__main__":
    sys.exit(main())
