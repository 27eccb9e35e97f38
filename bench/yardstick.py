"""How fast this machine starts bash at all: the yardstick that every figure of the benchmarks is a ratio to.

``posix_spawn`` of ``bash -c ':'`` with an environment of PATH alone, as many at a time as there are cores, from a bare
interpreter. Nothing that runs a script in bash can be faster.
"""

from __future__ import annotations

import os
import subprocess
import sys

_PROGRAM = """
import os, sys, time
count, at_once = int(sys.argv[1]), len(os.sched_getaffinity(0))
environment = {"PATH": os.environ["PATH"]}
def start():
    os.posix_spawn("/bin/bash", ["bash", "-c", ":"], environment)
began = time.monotonic()
for _ in range(at_once):
    start()
for _ in range(count - at_once):
    os.waitpid(-1, 0)
    start()
for _ in range(at_once):
    os.waitpid(-1, 0)
print(count / (time.monotonic() - began))
"""


def spawns_per_s(count: int = 2000) -> float:
    """How many bash this machine starts and ends in a second, measured now."""
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-E", "-c", _PROGRAM, str(count)],
        env={"PATH": os.environ["PATH"]},
        stdout=subprocess.PIPE,
        check=True,
    )
    return float(done.stdout)
