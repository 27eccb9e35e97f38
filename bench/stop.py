"""``python -m bench.stop``: from the request until the last process of a tree is gone; a tenth of it are escapees."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time

from bench import report
from bench.place import started
from tests.processes import Service, descendants, eventually, is_alive, kill, reap_orphans, unique_seconds

GONE_WITHIN_S = 60.0
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


def _script(size: int) -> str:
    return f"'{sys.executable}' -I -S -E -c \"$TREE\" {size - 1} {unique_seconds()}; true"


def _seconds_until_gone(tree: list[int], began: float) -> float:
    left = list(tree)
    while left := [pid for pid in left if is_alive(pid)]:
        if time.monotonic() > began + GONE_WITHIN_S:
            raise RuntimeError(f"{len(left)} of {len(tree)} are alive after {GONE_WITHIN_S} s")
    return time.monotonic() - began


def plain_s(size: int) -> float:
    """Seconds for somebody who knows every pid of the same tree, and sends SIGKILL to one after the other."""
    environment = {"PATH": os.environ["PATH"], "TREE": TREE}
    with subprocess.Popen(["bash", "-c", _script(size)], env=environment, stdout=subprocess.PIPE) as bash:
        assert bash.stdout is not None
        bash.stdout.readline()
        tree = [bash.pid, *descendants(bash.pid)]
        began = time.monotonic()
        for pid in tree:
            kill(pid)
        bash.wait()
        seconds = _seconds_until_gone(tree, began)
    reap_orphans()
    return seconds


def measure(service: Service, size: int) -> float:
    """Seconds for a tree of ``size`` processes below bash, with KILL."""
    command = service.run(_script(size), env={"TREE": TREE}, timeout_s=None)
    service.says(command, b"ready")
    tree = descendants(service.get(command).worker_pid)
    began = time.monotonic()
    service.stop(command, signal="KILL")
    seconds = _seconds_until_gone(tree, began)
    ended = service.ended(command)
    if ended.status != "stopped" or ended.swept["group"] + ended.swept["escaped"] != len(tree) - 1:
        raise RuntimeError(f"a tree of {len(tree)} ended as {ended}")
    return seconds


def main() -> int:
    """Measure, print one table."""
    parser = report.parser("stop", __doc__)
    parser.add_argument("--sizes", type=int, nargs="+", help="processes (1 10 100 1000; with --quick 1 10 100)")
    arguments = parser.parse_args()
    sizes = arguments.sizes or ([1, 10, 100] if arguments.quick else [1, 10, 100, 1000])
    taken: dict[int, list[float]] = {size: [] for size in sizes}
    plain: dict[int, list[float]] = {size: [] for size in sizes}
    with started() as service:
        measure(service, 2)  # warm
        for _ in range(report.rounds(arguments)):
            for size in sizes:
                plain[size].append(plain_s(size) * 1000)
                taken[size].append(measure(service, size) * 1000)
                eventually(lambda: not service.page(status="running"))
    _report(arguments, taken, plain).finish(arguments)
    return 0


def _report(
    arguments: argparse.Namespace, taken: dict[int, list[float]], plain: dict[int, list[float]]
) -> report.Report:
    rows = [
        [
            str(size),
            report.spread(taken[size], 1),
            report.spread(plain[size], 1),
            report.spread(report.ratios(taken[size], plain[size]), 1),
        ]
        for size in taken
    ]
    figures = [{"size": size, "ms": report.span(taken[size]), "plain_ms": report.span(plain[size])} for size in taken]
    return report.Report(
        bench="stop",
        note=f"{report.rounds(arguments)} rounds, KILL; plain is SIGKILL to every process of the same tree by somebody "
        "who knows all pids and need not look for them",
        header=["processes", "gone after ms", "plain, ms", "times plain"],
        rows=rows,
        figures={"sizes": figures},
    )


if __name__ == "__main__":
    sys.exit(main())
