"""``python -m bench.history``: list, filter and get with a thousand rows and with two million, made through COPY."""

from __future__ import annotations

import argparse
import statistics
import sys
import time

import psycopg

from bench import report
from bench.family import socket_directory
from bench.place import started
from tests.processes import Service

ASKED = {
    "a page of 50": "/v1/commands?limit=50",
    "a page of 50 from the middle": "/v1/commands?limit=50&cursor={middle}",
    "50 that failed": "/v1/commands?limit=50&status=failed",
    "one command": "/v1/commands/{middle_id}",
    "its output": "/v1/commands/{middle_id}/output",
}


def fill(service: Service, count: int) -> int:
    """Add final commands, one in a hundred failed, each with a line of output; returns the id of the middle one."""
    with psycopg.connect(host=socket_directory(service), user="bashd", dbname="bashd", autocommit=True) as database:
        known = "select coalesce(max(id), 0), (select node_id from commands limit 1) from commands"
        row = database.execute(known).fetchone()
        assert row is not None
        first, node_id = int(row[0]) + 1, row[1]
        columns = "id, node_id, handed_boot_id, status, reason, exit_code, script, grace_s, leftovers, merge_stderr"
        more = "output_limit_bytes, created_at, started_at, ended_at, stdout_bytes"
        with database.cursor().copy(f"copy commands ({columns}, {more}) from stdin") as copy:
            for number in range(first, first + count):
                code = int(number % 100 == 0)
                status = "failed" if code else "succeeded"
                times = ["2026-01-01T00:00:00Z"] * 3
                spec = [f"echo {number}", 5, "kill", False, 1 << 24]
                copy.write_row([number, node_id, "boot", status, "exit", code, *spec, *times, 3])
        output = 'copy output (command_id, position, stream, "offset", time, bytes) from stdin'
        with database.cursor().copy(output) as copy:
            for number in range(first, first + count):
                copy.write_row([number, 0, 1, 0, "2026-01-01T00:00:00Z", b"hi\n"])
        database.execute("select setval(pg_get_serial_sequence('commands', 'id'), %s)", [first + count])
        database.execute("vacuum analyze commands, output")
    return first + count // 2


def measure(service: Service, middle_id: int, count: int) -> dict[str, float]:
    """The median of each question in seconds."""
    page = service.http.get(f"/v1/commands?limit=1&offset={100}").json()
    found = {}
    for name, path in ASKED.items():
        taken = []
        for _ in range(count):
            began = time.monotonic()
            service.http.get(path.format(middle=page["next"], middle_id=middle_id)).raise_for_status()
            taken.append(time.monotonic() - began)
        found[name] = statistics.median(taken)
    return found


def main() -> int:
    """Measure, print one table."""
    parser = argparse.ArgumentParser(prog="python -m bench.history", description=__doc__)
    parser.add_argument("--rows", type=int, nargs=2, default=[1_000, 2_000_000])
    parser.add_argument("--count", type=int, default=300, help="requests of each kind (%(default)s)")
    arguments = parser.parse_args()
    few, many = arguments.rows
    with started() as service:
        service.done("true")
        small = measure(service, fill(service, few), arguments.count)
        large = measure(service, fill(service, many - few), arguments.count)
    rows = [
        [name, f"{before * 1000:.1f}", f"{large[name] * 1000:.1f}", f"{large[name] / before:.2f}"]
        for name, before in small.items()
    ]
    print(report.circumstances())
    print(f"{arguments.count} requests of each kind, median\n")
    print(report.table(["asked for", f"{few:,} rows, ms", f"{many:,} rows, ms", "times that"], rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
