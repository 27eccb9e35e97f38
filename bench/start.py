"""``python -m bench.start``: from ``bashd serve`` until ``/readyz`` is green; the first time and later ones."""

from __future__ import annotations

import argparse
import sys
import time

from bench import report
from bench.place import place
from tests.processes import Service, adopt_orphans


def main() -> int:
    """Measure, print one table."""
    parser = argparse.ArgumentParser(prog="python -m bench.start", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    adopt_orphans()
    taken: dict[str, list[float]] = {"first, with initdb": [], "later": [], "after kill -9": []}
    for _ in range(arguments.rounds):
        with place() as directory, Service(directory / "state") as service:
            for name, seconds in taken.items():
                began = time.monotonic()
                service.start(within_s=120)
                seconds.append(time.monotonic() - began)
                if name == "later":
                    service.kill_init()
                else:
                    service.terminate()
    print(report.circumstances())
    print(f"{arguments.rounds} rounds\n")
    print(report.table(["start", "ready after s"], [[name, report.spread(seconds)] for name, seconds in taken.items()]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
