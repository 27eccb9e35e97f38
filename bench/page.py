"""The page that shows the figures: prose by hand, and between markers what was measured, written anew each time.

A marker is ``<!-- measured: NAME -->``, and ``<!-- /measured -->`` ends it. NAME is a benchmark, or ``circumstances``.
Nothing outside of them is touched.
"""

from __future__ import annotations

import re
from pathlib import Path

from bench.plots import PLOTS
from bench.report import Report, table

_MARKED = re.compile(r"(<!-- measured: (\w+) -->\n).*?(<!-- /measured -->)", re.DOTALL)


def write(page: Path, figures: Path) -> None:
    """Bring ``page`` up to date with the JSON and SVG files in ``figures``, which must lie below its directory."""
    reports = {path.stem: Report.read(path) for path in sorted(figures.glob("*.json"))}
    plots = figures.relative_to(page.parent)

    def measured(found: re.Match[str]) -> str:
        begin, name, end = found.groups()
        if name == "circumstances":
            return f"{begin}\n{_circumstances(reports)}\n\n{end}"
        drawn = [path for path in _plots_of(name) if (figures / path).exists()]
        images = "".join(f"\n![{Path(path).stem}]({plots / path})\n" for path in drawn)
        return f"{begin}\n{_section(name, reports.get(name))}\n{images}\n{end}"

    page.write_text(_MARKED.sub(measured, page.read_text()))


def _circumstances(reports: dict[str, Report]) -> str:
    benches: dict[str, list[str]] = {}
    for name, report in reports.items():
        benches.setdefault(report.circumstances, []).append(name)
    lines = [f"* {', '.join(names)}: {circumstances}" for circumstances, names in benches.items()]
    return "\n".join(lines) or "Nothing was measured yet."


def _section(name: str, report: Report | None) -> str:
    if report is None:
        return f"Not measured yet: `python -m bench.{name}`"
    return f"`{report.command}`: {report.note}.\n\n{table(report.header, report.rows)}"


def _plots_of(bench: str) -> list[str]:
    return [f"{name}.svg" for name, (needed, _) in PLOTS.items() if needed == bench]
