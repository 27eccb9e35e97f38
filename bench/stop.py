"""``python -m bench.stop``: from the request until the last process of a tree is gone; a tenth of it are escapees."""

from __future__ import annotations

import argparse
import sys
import time

from bench import report
from bench.place import started
from tests.processes import Service, descendants, eventually, is_alive, unique_seconds

TREE = """
import os, signal, sys
hear, told = os.pipe()
for number in range(int(sys.argv[1])):
    if os.fork() == 0:
        if number % 10 == 9:
            os.setsid()
        os.write(told, b"."); signal.pause()
for _ in range(int(sys.argv[1])):
    os.read(hear, 1)
print("ready", flush=True)
signal.pause()
"""


def measure(service: Service, size: int) -> float:
    """Seconds for a tree of about ``size`` processes below bash, with KILL."""
    mark = unique_seconds()
    script = f"'{sys.executable}' -I -S -E -c \"$TREE\" {size - 1} {mark}; true"
    command = service.run(script, env={"TREE": TREE}, timeout_s=None)
    service.says(command, b"ready")
    tree = descendants(service.get(command).worker_pid)
    began = time.monotonic()
    service.stop(command, signal="KILL")
    while any(is_alive(pid) for pid in tree):
        pass
    seconds = time.monotonic() - began
    ended = service.ended(command)
    if ended.status != "stopped" or ended.swept["group"] + ended.swept["escaped"] != len(tree) - 1:
        raise RuntimeError(f"a tree of {len(tree)} ended as {ended}")
    return seconds


def main() -> int:
    """Measure, print one table."""
    parser = argparse.ArgumentParser(prog="python -m bench.stop", description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[1, 10, 100, 1000])
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    taken: dict[int, list[float]] = {size: [] for size in arguments.sizes}
    with started() as service:
        measure(service, 2)  # warm
        for _ in range(arguments.rounds):
            for size in arguments.sizes:
                taken[size].append(measure(service, size) * 1000)
                eventually(lambda: not service.page(status="running"))
    print(report.circumstances())
    print(f"{arguments.rounds} rounds, KILL\n")
    print(report.table(["processes", "gone after ms"], [[size, report.spread(taken[size], 0)] for size in taken]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
