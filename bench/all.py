"""``python -m bench.all``: every benchmark, one after the other, and docs/performance.md written from what they found.

Each is a process of its own with a time of its own, and leaves its figures in a file, so that what is there survives
whatever becomes of the rest: ``--resume`` measures only what is missing, ``--only`` what is named, ``--page`` nothing.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
from pathlib import Path

from bench import page, plots
from tests.processes import (
    REPOSITORY,
    adopt_orphans,
    children,
    descendants,
    eventually,
    kill,
    reap_orphans,
    started_here,
)

PAGE = REPOSITORY / "docs" / "performance.md"
FIGURES = REPOSITORY / "docs" / "performance"
END_WITHIN_S = 60.0  # after it was interrupted

# How long each may take; usually it is done in half of that.
WITHIN_S = {
    "throughput": 300,
    "latency": 180,
    "stop": 180,
    "output": 300,
    "crowd": 420,
    "history": 300,
    "start": 180,
    "peers": 420,
    "endurance": 900,
}


def main() -> int:
    """Measure, draw, write; exit status 1 when one of the benchmarks failed."""
    parser = argparse.ArgumentParser(prog="python -m bench.all", description=__doc__)
    parser.add_argument("--only", nargs="+", choices=WITHIN_S, metavar="NAME", help=f"of {', '.join(WITHIN_S)}")
    parser.add_argument("--resume", action="store_true", help="leave out those whose figures are there")
    parser.add_argument("--page", action="store_true", help="measure nothing: only draw, and write the page")
    parser.add_argument("--quick", action="store_true", help="small counts, only to see that it works")
    parser.add_argument("--into", type=Path, default=FIGURES, help="where figures and plots lie (docs/performance)")
    arguments = parser.parse_args()
    into: Path = arguments.into.absolute()
    into.mkdir(parents=True, exist_ok=True)
    failed = [name for name in _chosen(arguments, into) if not _run(name, into, quick=arguments.quick)]
    plots.draw(into, into)
    if into == FIGURES:
        page.write(PAGE, FIGURES)
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


def _chosen(arguments: argparse.Namespace, into: Path) -> list[str]:
    if arguments.page:
        return []
    names = arguments.only or list(WITHIN_S)
    return [name for name in names if not (arguments.resume and (into / f"{name}.json").exists())]


def _run(name: str, into: Path, *, quick: bool) -> bool:
    """Run one benchmark; True when it has written its figures. Nothing of it is alive afterwards."""
    # Inherited as ignored, as from a shell's background, the interrupt below would reach nobody.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    adopt_orphans()
    before = set(children(os.getpid()))
    print(f"\n{name}", flush=True)
    command = [sys.executable, "-m", f"bench.{name}", "--json", str(into / f"{name}.json"), *["--quick"][:quick]]
    with subprocess.Popen(command, cwd=REPOSITORY) as bench:
        started_here.add(bench.pid)
        try:
            bench.wait(WITHIN_S[name])
        except subprocess.TimeoutExpired:
            print(f"{name} is not done within {WITHIN_S[name]} s", file=sys.stderr)
            bench.send_signal(signal.SIGINT)
            try:
                bench.wait(END_WITHIN_S)
            except subprocess.TimeoutExpired:
                bench.kill()
    started_here.discard(bench.pid)
    eventually(lambda: _nothing_left(before))
    return bench.returncode == 0


def _nothing_left(before: set[int]) -> bool:
    """End what a benchmark left to us; True when there is nothing."""
    reap_orphans()
    roots = set(children(os.getpid())) - before
    left = [*roots, *(pid for root in roots for pid in descendants(root))]
    for pid in left:
        kill(pid)
    return not left


if __name__ == "__main__":
    sys.exit(main())
