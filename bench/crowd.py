"""``python -m bench.crowd``: many sleeping commands at once: memory, answers meanwhile, needless wake-ups."""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path

from bench import load, report
from bench.family import Family, cpu_s, private_bytes, resident_bytes, workers
from bench.place import address, started
from tests.processes import TOKEN, Service, eventually

MIB = 1024 * 1024
QUIET_S = 10.0


def main() -> int:
    """Measure, print one table."""
    parser = argparse.ArgumentParser(prog="python -m bench.crowd", description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[1, 100, 1000, 3000])
    arguments = parser.parse_args()
    rows = []
    with started(max_running=10_000) as service:
        service.done("true")
        running = 0
        for size in arguments.sizes:
            load.post(
                address(service),
                TOKEN,
                {"script": "exec sleep 100000", "timeout_s": None, "grace_s": 1},
                clients=16,
                count=size - running,
                query="",
            )
            running = size
            eventually(lambda size=size: len(workers(service)) >= size, within_s=300)  # type: ignore[misc]
            rows.append(_measure(service, size))
        service.tell()
        service.wait(within_s=300)
    print(report.circumstances())
    print()
    header = ["running", "a worker, private MiB", "supervisor MiB", "forker MiB", "api MiB", "GET p99 ms"]
    print(report.table([*header, "POST ?wait p50 ms", f"wake-ups in {QUIET_S:.0f} s", "CPU ms in that"], rows))
    return 0


def _measure(service: Service, size: int) -> list[object]:
    family = Family.of(service)
    ours = [*family.named().values()]
    some = workers(service)[:: max(1, size // 50)]
    time.sleep(2)  # what was begun is recorded
    before = _wakeups(ours + some), sum(sum(cpu_s(pid)) for pid in ours)
    time.sleep(QUIET_S)
    after = _wakeups(ours + some), sum(sum(cpu_s(pid)) for pid in ours)
    gets = []
    for _ in range(300):
        began = time.monotonic()
        service.http.get("/v1/commands?limit=50").raise_for_status()
        gets.append(time.monotonic() - began)
    posts = load.post(address(service), TOKEN, {"script": "echo hi"}, clients=1, count=50, query="?wait=10").latencies_s
    return [
        size,
        f"{statistics.median(private_bytes(pid) for pid in some) / MIB:.2f}",
        f"{resident_bytes(family.supervisor) / MIB:.0f}",
        f"{resident_bytes(family.forker) / MIB:.0f}",
        f"{resident_bytes(family.api) / MIB:.0f}",
        f"{report.percentile(gets, 0.99) * 1000:.1f}",
        f"{report.percentile(posts, 0.5) * 1000:.1f}",
        max(after[0].get(pid, 0) - before[0].get(pid, 0) for pid in before[0]),
        f"{(after[1] - before[1]) * 1000:.0f}",
    ]


def _wakeups(pids: list[int]) -> dict[int, int]:
    """How often each went to sleep by itself so far (proc_pid_status(5))."""
    found = {}
    for pid in pids:
        text = Path(f"/proc/{pid}/status").read_text()
        found[pid] = int(text.partition("\nvoluntary_ctxt_switches:")[2].split()[0])
    return found


if __name__ == "__main__":
    sys.exit(main())
