"""``python -m bench.monkey --minutes 20``: a long trial."""

from __future__ import annotations

import argparse
import random
import shutil
import sys
import tempfile
import time
from pathlib import Path

from bench.monkey import trial
from tests.processes import adopt_orphans


def main() -> int:
    """Run one trial; exit status 1 when something happened that must not."""
    parser = argparse.ArgumentParser(prog="python -m bench.monkey", description=__doc__)
    parser.add_argument("--minutes", type=float, default=20.0, help="how long Bashd is beaten (%(default)s)")
    parser.add_argument("--seed", type=int, default=None, help="repeat the scripts and the schedule of a trial")
    parser.add_argument("--clients", type=int, default=12, help="clients at the same time (%(default)s)")
    arguments = parser.parse_args()
    seed = random.SystemRandom().randrange(10**6) if arguments.seed is None else arguments.seed
    place = Path(tempfile.mkdtemp(prefix="bashd-monkey-", dir="/tmp"))
    place.chmod(0o711)
    print(f"seed {seed}, in {place}", flush=True)
    adopt_orphans()
    began = time.monotonic()
    report = trial.run(place, seed=seed, seconds=arguments.minutes * 60, clients=arguments.clients)
    print(report.table())
    print(f"{(time.monotonic() - began) / 60:.1f} minutes")
    if report.violations:
        print(f"kept: {place}")
        return 1
    shutil.rmtree(place)
    return 0


if __name__ == "__main__":
    sys.exit(main())
