"""``python -m bench.output``: a gibibyte of zeros and ten million short lines, recorded to the limit, or followed."""

from __future__ import annotations

import argparse
import subprocess
import sys
import time

from bench import report
from bench.family import Family, resident_bytes
from bench.place import place, started
from tests.processes import Service, eventually

MIB = 1024 * 1024
SCRIPTS = {
    "1 GiB of zeros": ("head -c 1G /dev/zero", 1024 * MIB),
    "10 million short lines": ("seq -f %07.0f 1 9999999", 79_999_992),
}


def plain_mib_per_s(script: str, size: int) -> float:
    """``bash | cat > file``."""
    with place() as directory:
        began = time.monotonic()
        subprocess.run(["bash", "-c", f"{{ {script}; }} | cat > '{directory}/file'"], check=True)
        return size / MIB / (time.monotonic() - began)


def measure(service: Service, script: str, size: int, *, follow: bool) -> tuple[float, dict[str, float]]:
    """MiB a second until its end is known, or until a follower has it all; and MiB that processes grew."""
    family = Family.of(service).named()
    before = {name: resident_bytes(pid) for name, pid in family.items()}
    most = dict(before)

    def look() -> None:
        most.update({name: max(most[name], resident_bytes(pid)) for name, pid in family.items()})

    limit = 2 * size if follow else 16 * MIB
    began = time.monotonic()
    command = service.run(script, timeout_s=None, output_limit_bytes=limit)
    if follow:
        got = 0
        with service.http.stream("GET", f"/v1/commands/{command.id}/output?follow=true", timeout=600) as answer:
            for chunk in answer.iter_raw():
                got += len(chunk)
                look()
        if got != size:
            raise RuntimeError(f"{got} of {size} bytes were followed")
    else:
        eventually(lambda: service.get(command, wait=0.1).status == "succeeded", within_s=600)
    seconds = time.monotonic() - began
    look()
    eventually(lambda: not (service.state_dir / "journals" / str(command.id)).exists(), within_s=600)
    return size / MIB / seconds, {name: (most[name] - before[name]) / MIB for name in most}


def main() -> int:
    """Measure, print one table."""
    parser = argparse.ArgumentParser(prog="python -m bench.output", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    rows = []
    with started() as service:
        service.done("echo warm")
        for name, (script, size) in SCRIPTS.items():
            plain: list[float] = []
            ours: dict[bool, list[float]] = {False: [], True: []}
            grown: dict[bool, list[float]] = {False: [], True: []}
            for _ in range(arguments.rounds):
                plain.append(plain_mib_per_s(script, size))
                for follow in (False, True):
                    rate, more = measure(service, script, size, follow=follow)
                    ours[follow].append(rate)
                    grown[follow].append(max(more.values()))
            rows.append([name, "bash | cat > file", report.spread(plain, 0), "", ""])
            for follow, what in ((False, "recorded to the limit"), (True, "recorded whole, and followed")):
                share = [one / other for one, other in zip(ours[follow], plain, strict=True)]
                most = report.spread(grown[follow], 0)
                rows.append(["", what, report.spread(ours[follow], 0), report.spread(share), most])
    print(report.circumstances())
    print(f"{arguments.rounds} rounds\n")
    print(report.table(["output", "how", "MiB a second", "of that", "most that a process grew, MiB"], rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
