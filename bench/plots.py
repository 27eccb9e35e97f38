"""``python -m bench.plots FIGURES PLOTS``: draws what the benchmarks wrote into FIGURES as SVG files in PLOTS."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("svg")  # before anything looks for a screen

from matplotlib import pyplot
from matplotlib.axes import Axes

from bench.report import Report
from bench.throughput import PARTS

Reports = dict[str, Report]  # by benchmark

STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",  # text stays text: small files, searchable
    "svg.hashsalt": "bashd",  # the same figures give the same file
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.alpha": 0.3,
}
COLOURS = ("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#bbbbbb")
Span = Sequence[float]  # median, least, most


def main() -> int:
    """Draw every plot whose figures are there."""
    parser = argparse.ArgumentParser(prog="python -m bench.plots", description=__doc__)
    parser.add_argument("figures", type=Path)
    parser.add_argument("plots", type=Path)
    arguments = parser.parse_args()
    for path in draw(arguments.figures, arguments.plots):
        print(path)
    return 0


def draw(figures: Path, plots: Path) -> list[Path]:
    """Draw every plot whose figures are there; returns the files."""
    plots.mkdir(parents=True, exist_ok=True)
    reports = {path.stem: Report.read(path) for path in sorted(figures.glob("*.json"))}
    drawn = []
    with mpl.rc_context(STYLE):
        for name, (bench, plot) in PLOTS.items():
            if bench not in reports:
                continue
            figure, axes = pyplot.subplots(figsize=(7, 3.6), layout="constrained")
            plot(axes, reports)
            path = plots / f"{name}.svg"
            figure.savefig(path, metadata={"Date": None})
            pyplot.close(figure)
            drawn.append(path)
    return drawn


def throughput(axes: Axes, reports: Reports) -> None:
    """Commands a second as a share of the yardstick, by clients; the peers where they were measured."""
    lines = reports["throughput"].figures["lines"]
    ways = dict.fromkeys(line["commands_per_worker"] for line in lines)
    for colour, each in zip(COLOURS, ways, strict=False):
        mine = [line for line in lines if line["commands_per_worker"] == each]
        label = f"Bashd, {each} a worker"
        _with_range(axes, [line["clients"] for line in mine], [line["ratio"] for line in mine], label, colour, "o-")
    if "peers" in reports:
        figures = reports["peers"].figures
        others = [peer for peer in figures["peers"] if not peer["name"].startswith("Bashd")]
        for colour, marker, peer in zip(COLOURS[len(ways) :], "sD^v", others, strict=False):
            _with_range(axes, [figures["clients"]], [peer["ratio"]], peer["name"], colour, marker)
    clients = sorted({line["clients"] for line in lines})
    axes.axhline(1, color="black", linewidth=1, linestyle="--", label="yardstick: bash alone")
    axes.set_xscale("log", base=2)
    axes.set_xticks(clients, labels=[str(one) for one in clients])
    axes.set_ylim(0, 1.05)
    axes.set(title="Commands a second", xlabel="clients", ylabel="share of the yardstick")
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)


def peers(axes: Axes, reports: Reports) -> None:
    """Commands a second of each."""
    figures = reports["peers"].figures
    found = figures["peers"][::-1]
    spans = [peer["rate"] for peer in found]
    colours = [COLOURS[0] if peer["name"].startswith("Bashd") else COLOURS[6] for peer in found]
    axes.barh([peer["name"] for peer in found], [span[0] for span in spans], xerr=_error(spans), color=colours)
    axes.grid(visible=False, axis="y")
    axes.set(title=f"Commands a second, {figures['clients']} clients", xlabel="a second")


def cpu(axes: Axes, reports: Reports) -> None:
    """Processor time of a command, stacked by process."""
    lines = reports["throughput"].figures["lines"]
    names = [f"{line['commands_per_worker']} a worker, {line['clients']} clients" for line in lines]
    _stacked(axes, names, {part: [line["cpu_ms"][part] for line in lines] for part in PARTS if part != "client"})
    axes.set(title="Processor time of one command", xlabel="ms")


def latency(axes: Axes, reports: Reports) -> None:
    """Percentiles, Bashd's beside those of subprocess.run."""
    bars = reports["latency"].figures["bars"]
    places = list(dict.fromkeys(map(_place, bars)))
    series = list(dict.fromkeys(bar["who"] for bar in bars))
    width = 0.8 / len(series)
    for number, (who, colour) in enumerate(zip(series, COLOURS, strict=False)):
        spans = [bar["ms"] for place in places for bar in bars if (bar["who"], _place(bar)) == (who, place)]
        at = [index + (number - (len(series) - 1) / 2) * width for index in range(len(places))]
        axes.bar(at, [span[0] for span in spans], width, yerr=_error(spans), label=who, color=colour)
    axes.set_xticks(range(len(places)), labels=[f"{share}\n{_clients(clients)}" for clients, share in places])
    axes.grid(visible=False, axis="x")
    axes.set(title="From the request to the answer that `echo hi` has ended", ylabel="ms")
    axes.legend(frameon=False)


def crowd(axes: Axes, reports: Reports) -> None:
    """Memory by how many commands sleep: of each process, and of all workers together."""
    sizes = reports["crowd"].figures["sizes"]
    running = [size["running"] for size in sizes]
    for colour, name in zip(COLOURS, sizes[0]["resident_mib"], strict=False):
        axes.plot(running, [size["resident_mib"][name] for size in sizes], "o-", color=colour, label=name)
    of_workers = [size["worker_mib"] * size["running"] for size in sizes]
    axes.plot(running, of_workers, "o--", color="black", label="all workers (private)")
    axes.set(title="Memory while commands sleep", xlabel="running", ylabel="MiB", xscale="log", yscale="log")
    axes.set_xticks(running, labels=[f"{one:,}" for one in running])
    axes.minorticks_off()
    axes.yaxis.set_major_formatter("{x:,g}")
    axes.legend(frameon=False)


def _with_range(axes: Axes, x: Sequence[float], spans: Sequence[Span], label: str, colour: str, style: str) -> None:
    axes.errorbar(x, [span[0] for span in spans], _error(spans), fmt=style, color=colour, label=label, capsize=2)


def _error(spans: Sequence[Span]) -> list[list[float]]:
    """How far the least and the most lie from the median, as matplotlib wants it."""
    return [[middle - least for middle, least, _ in spans], [most - middle for middle, _, most in spans]]


def _stacked(axes: Axes, names: Sequence[str], parts: dict[str, list[float]]) -> None:
    below = [0.0] * len(names)
    for colour, (part, values) in zip(COLOURS, parts.items(), strict=False):
        shown = [max(0.0, value) for value in values]  # ticks of the kernel's clock may make nothing less than nothing
        axes.barh(names, shown, 0.6, left=below, label=part, color=colour)
        below = [lower + value for lower, value in zip(below, shown, strict=True)]
    axes.invert_yaxis()
    axes.grid(visible=False, axis="y")
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)


def _place(bar: dict[str, Any]) -> tuple[int, str]:
    return bar["clients"], bar["share"]


def _clients(count: int) -> str:
    return "1 client" if count == 1 else f"{count} clients"


# The file → the benchmark that it needs, and who draws it.
PLOTS: dict[str, tuple[str, Callable[[Axes, Reports], None]]] = {
    "throughput": ("throughput", throughput),
    "peers": ("peers", peers),
    "cpu": ("throughput", cpu),
    "latency": ("latency", latency),
    "crowd": ("crowd", crowd),
}


if __name__ == "__main__":
    sys.exit(main())
