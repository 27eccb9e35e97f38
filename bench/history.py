"""``python -m bench.history``: list, filter and get with a thousand rows and with two million, made through COPY."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import psycopg

from bench import report
from bench.family import socket_directory
from bench.place import started
from tests.processes import Service

NOTHING = "/healthz"  # a request that asks neither for a command nor PostgreSQL: what HTTP itself takes
ASKED = {
    "nothing": NOTHING,
    "a page of 50": "/v1/commands?limit=50",
    "a page of 50 from the middle": "/v1/commands?limit=50&cursor={cursor}",
    "50 that failed": "/v1/commands?limit=50&status=failed",
    "50 of an hour in the middle": "/v1/commands?limit=50&since={since}&until={until}",
    "50 that failed on that day": "/v1/commands?limit=50&status=failed&since={midnight}&until={until}",
    "one command": "/v1/commands/{id}",
    "its output": "/v1/commands/{id}/output",
}
FIRST_AT = datetime(2025, 1, 1, tzinfo=UTC)
EVERY = timedelta(seconds=10)
ONE_FAILED_IN = 20
AT_ONCE = 10_000  # rows in a block
AT_MOST = 10_000_000

Taken = dict[str, list[float]]  # what was asked → the median of each round in milliseconds


def _at(number: int) -> datetime:
    return FIRST_AT + number * EVERY


def _stamp(moment: datetime) -> str:
    return f"{moment:%Y-%m-%dT%H:%M:%SZ}"


def fill(service: Service, count: int) -> int:
    """Add final commands, one in twenty failed, each with a line of output; returns the id of the middle one."""
    if not 0 < count <= AT_MOST:
        raise ValueError(f"{count} rows are not between 1 and {AT_MOST}")
    with psycopg.connect(host=socket_directory(service), user="bashd", dbname="bashd", autocommit=True) as database:
        known = "select coalesce(max(id), 0), (select node_id from commands limit 1) from commands"
        row = database.execute(known).fetchone()
        assert row is not None
        first, node_id = int(row[0]) + 1, row[1]
        columns = "id, node_id, handed_boot_id, status, reason, exit_code, script, grace_s, leftovers, merge_stderr"
        more = "output_limit_bytes, created_at, started_at, ended_at, stdout_bytes"
        with database.cursor().copy(f"copy commands ({columns}, {more}) from stdin") as copy:
            for numbers in _blocks(first, count):
                copy.write("".join(_command(number, node_id) for number in numbers))
        output = 'copy output (command_id, position, stream, "offset", time, bytes) from stdin'
        with database.cursor().copy(output) as copy:
            for numbers in _blocks(first, count):
                copy.write("".join(f"{number}\t0\t1\t0\t{_stamp(_at(number))}\t\\\\x68690a\n" for number in numbers))
        database.execute("select setval(pg_get_serial_sequence('commands', 'id'), %s)", [first + count])
        database.execute("vacuum analyze commands, output")
    return first + count // 2


def _blocks(first: int, count: int) -> Iterator[range]:
    for start in range(first, first + count, AT_ONCE):
        yield range(start, min(start + AT_ONCE, first + count))


def _command(number: int, node_id: object) -> str:
    """A line as COPY reads it."""
    end = "failed\texit\t1" if number % ONE_FAILED_IN == 0 else "succeeded\texit\t0"
    at = _stamp(_at(number))
    return f"{number}\t{node_id}\tboot\t{end}\techo {number}\t5\tkill\tf\t16777216\t{at}\t{at}\t{at}\t3\n"


def measure(service: Service, middle_id: int, *, rounds: int, count: int) -> Taken:
    """What each question takes; those that this API does not know are left out."""
    middle = _at(middle_id)
    paths = {
        name: path.format(
            id=middle_id,
            cursor=_cursor(service, middle_id),
            since=_stamp(middle - timedelta(hours=1)),
            until=_stamp(middle),
            midnight=_stamp(middle - timedelta(days=1)),
        )
        for name, path in ASKED.items()
    }
    known = {name: path for name, path in paths.items() if service.http.get(path).status_code != 400}
    taken: Taken = {name: [] for name in known}
    for _ in range(rounds):
        for name, path in known.items():
            taken[name].append(report.median([_ms(service, path) for _ in range(count)]))
    return taken


def _cursor(service: Service, command_id: int) -> str:
    """Where the page begins that follows this command: cursors are ids, which the ``next`` of a page shows."""
    return str(service.http.get(f"/v1/commands?limit=1&cursor={command_id}").raise_for_status().json()["next"])


def _ms(service: Service, path: str) -> float:
    began = time.monotonic()
    service.http.get(path).raise_for_status()
    return (time.monotonic() - began) * 1000


def main() -> int:
    """Measure, print one table."""
    parser = report.parser("history", __doc__)
    parser.add_argument("--rows", type=int, nargs=2, help="(1000 2000000; with --quick 1000 20000)")
    parser.add_argument("--count", type=int, help="requests of each kind a round (100; with --quick 20)")
    arguments = parser.parse_args()
    arguments.rows = arguments.rows or ([1_000, 20_000] if arguments.quick else [1_000, 2_000_000])
    arguments.count = arguments.count or (20 if arguments.quick else 100)
    few, many = arguments.rows
    found = []
    with started() as service:
        service.done("true")
        for more in (few, many - few):
            middle_id = fill(service, more)
            found.append(measure(service, middle_id, rounds=report.rounds(arguments), count=arguments.count))
    _report(arguments, *found).finish(arguments)
    return 0


def _report(arguments: argparse.Namespace, small: Taken, large: Taken) -> report.Report:
    rows = []
    for name in ASKED:
        if name not in large:
            rows.append([name, "not known to this API", "", "", "", ""])
            continue
        rows.append(
            [
                name,
                report.spread(small[name], 1),
                report.spread(report.ratios(small[name], small["nothing"])),
                report.spread(large[name], 1),
                report.spread(report.ratios(large[name], large["nothing"])),
                f"{report.median(large[name]) / report.median(small[name]):.2f}",
            ]
        )
    few, many = arguments.rows
    figures = [{"asked": name, "ms": [report.span(small[name]), report.span(large[name])]} for name in large]
    return report.Report(
        bench="history",
        note=f"{report.rounds(arguments)} rounds of {arguments.count} requests of each kind, each over a connection of "
        f"its own; of each round the median; nothing is `GET {NOTHING}`",
        header=[
            "asked for",
            f"{few:,} rows, ms",
            "times nothing",
            f"{many:,} rows, ms",
            "times nothing",
            "many by few",
        ],
        rows=rows,
        figures={"rows": arguments.rows, "lines": figures},
    )


if __name__ == "__main__":
    sys.exit(main())
