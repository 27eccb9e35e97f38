"""The benchmarks work, and the page that they write keeps what was written by hand."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from bench import load, page, plots, report
from bench.all import PAGE, WITHIN_S
from bench.report import Report
from tests.processes import REPOSITORY

FIGURES: dict[str, dict[str, Any]] = {
    "throughput": {
        "lines": [
            {
                "commands_per_worker": 1,
                "clients": clients,
                "ratio": [0.5, 0.4, 0.6],
                "rate": [500, 400, 600],
                "cpu_ms": dict.fromkeys(("client", "api", "supervisor", "forker", "workers", "bash", "postgres"), 0.5),
            }
            for clients in (4, 16)
        ]
    },
    "peers": {"clients": 16, "peers": [{"name": "other", "rate": [100, 90, 110], "ratio": [0.1, 0.1, 0.1]}]},
    "latency": {"bars": [{"clients": 1, "who": "Bashd", "share": "p50", "ms": [5, 4, 6]}]},
    "crowd": {"sizes": [{"running": size, "worker_mib": 1.3, "resident_mib": {"api": 50}} for size in (1, 100)]},
}


@contextmanager
def server_that_answers(status: int, body: bytes) -> Iterator[tuple[str, int]]:
    """An HTTP server on loopback that says the same to everybody."""

    class Answer(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass  # nobody reads it

    with ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        thread = Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield "127.0.0.1", server.server_address[1]
        finally:
            server.shutdown()
            thread.join()


def test_the_load_generator_counts_what_it_was_answered() -> None:
    """As many requests as asked for, an id for each good answer."""
    with server_that_answers(201, b'{"id": 7, "status": "queued"}') as address:
        done = load.send(address, load.Post("/", {}, expected={"status": "queued"}), clients=3, count=10)

    assert done.ids == [7] * 10
    assert len(done.latencies_s) == 10
    assert done.refused == 0


@pytest.mark.parametrize(("status", "body"), [(503, b"{}"), (200, b'{"exitCode": 1}')])
def test_the_load_generator_takes_no_bad_answer_for_a_good_one(status: int, body: bytes) -> None:
    """Neither another status than 2xx, nor one whose fields are not as expected."""
    with server_that_answers(status, body) as address:
        done = load.send(address, load.Post("/", {}, expected={"exitCode": 0}), clients=2, count=4)

    assert done.refused == 4
    assert done.ids == []
    assert done.complaint.startswith(str(status))


def test_a_spread_is_the_median_and_the_range() -> None:
    """As text for the table, and as numbers for the plots."""
    assert report.spread([3, 1, 2000], 1) == "3.0 (1.0–2,000.0)"
    assert report.span([3, 1, 2]) == [2, 1, 3]
    assert report.ratios([2, 9], [1, 3]) == [2, 3]
    assert report.percentile(range(100), 0.99) == 99


def test_a_report_that_was_written_can_be_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """JSON holds all that was printed, and what the plots are drawn from."""
    path = tmp_path / "stop.json"
    said = Report("stop", "one round", ["processes", "ms"], [["1", "2.0"]], {"sizes": [1]})

    said.finish(argparse.Namespace(json=path))
    found = Report.read(path)

    assert "| processes | ms  |" in capsys.readouterr().out
    assert (found.bench, found.rows, found.figures) == ("stop", said.rows, said.figures)
    assert found.command.startswith("python -m bench.stop")
    assert "cores of" in found.circumstances


def test_the_page_keeps_what_was_written_by_hand(tmp_path: Path) -> None:
    """Only what stands between markers changes, and a second time changes nothing; plots are small."""
    hand_written, figures = tmp_path / "performance.md", tmp_path / "performance"
    figures.mkdir()
    for name, found in FIGURES.items():
        written = Report(name, "a note", ["a"], [[f"the figure of {name}"]], found, f"python -m bench.{name}", "here")
        (figures / f"{name}.json").write_text(json.dumps(vars(written)))
    marked = "".join(f"Words on {name}.\n<!-- measured: {name} -->\nold\n<!-- /measured -->\n" for name in FIGURES)
    hand_written.write_text(f"# Title\n{marked}Words in the end.\n")

    drawn = plots.draw(figures, figures)
    page.write(hand_written, figures)
    once = hand_written.read_text()
    page.write(hand_written, figures)

    assert hand_written.read_text() == once
    assert "old" not in once
    assert all(f"Words on {name}." in once and f"the figure of {name}" in once for name in FIGURES)
    assert once.startswith("# Title\n")
    assert once.endswith("Words in the end.\n")
    assert sorted(path.name for path in drawn) == [f"{name}.svg" for name in sorted(plots.PLOTS)]
    assert all(f"(performance/{path.name})" in once and path.stat().st_size < 100_000 for path in drawn)


def test_every_benchmark_has_a_place_on_the_page() -> None:
    """A section for each that ``bench.all`` runs."""
    text = PAGE.read_text()

    assert [name for name in (*WITHIN_S, "circumstances") if f"<!-- measured: {name} -->" not in text] == []


def test_a_benchmark_runs_from_its_command_to_its_figures(place: Path) -> None:
    """The throughput of a handful of commands: every command is run, and accounted for."""
    figures = place / "throughput.json"
    short = ["--rounds", "1", "--count", "10", "--clients", "2", "--commands-per-worker", "1"]

    subprocess.run(
        [sys.executable, "-m", "bench.throughput", *short, "--json", figures],
        cwd=REPOSITORY,
        check=True,
        capture_output=True,
        timeout=120,
    )
    [line] = Report.read(figures).figures["lines"]

    assert line["rate"][0] > 0
    assert 0 < line["ratio"][0] < 1
    assert line["cpu_ms"]["bash"] > 0
