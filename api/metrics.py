"""What Prometheus is told: counters of what this API has seen since it began, and what is true when it is asked."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry, Counter, Histogram, disable_created_metrics
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import generate_latest
from sanic import Request

from api.command import Command
from api.rows import STREAMS
from protocol import starts
from protocol.places import Places

START_S = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60, 300, 1800, 7200)
DURATION_S = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60, 300, 900, 3600, 14400, 86400)

LOST_FOR = ("worker_died", "host_died", "journal_gone")
PARTS = ("disk", "draining", "supervisor", "postgres")  # that may keep us from accepting commands

# A series more for each counter, which says what a counter that begins anew says too.
disable_created_metrics()  # type: ignore[no-untyped-call]


class Metrics:
    """The counters. Each belongs to this process and begins at 0 with it, as Prometheus expects."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self._ended = Counter(
            "bashd_commands_ended_total", "Commands whose end was recorded.", ["status", "reason"], registry=registry
        )
        self._start = Histogram(
            "bashd_command_start_seconds", "From the request to bash.", buckets=START_S, registry=registry
        )
        self._duration = Histogram(
            "bashd_command_duration_seconds", "How long bash ran.", buckets=DURATION_S, registry=registry
        )
        self._output = Counter(
            "bashd_output_bytes_total", "What commands printed, as far as recorded.", ["stream"], registry=registry
        )
        self._swept = Counter(
            "bashd_swept_processes_total",
            "Processes that ended commands had left: killed in the group, killed outside it, or left alive.",
            ["where"],
            registry=registry,
        )
        self._requests = Counter(
            "bashd_http_requests_total", "Answers by route and class.", ["method", "route", "status"], registry=registry
        )
        # Of what every command counts the series are looked up once.
        self._printed = [(f"{name}_bytes", self._output.labels(name)) for name in STREAMS]
        self._left = [(f"swept_{where}", self._swept.labels(where)) for where in ("group", "escaped", "left")]
        self._answers: dict[tuple[str, str, int], Counter] = {}  # (method, path of the route, class of status) → series
        for reason in LOST_FOR:
            # From the beginning, for of a series that begins with 1 nobody can say that it has grown.
            self._ended.labels("lost", reason)

    def recorded(self, before: Command, after: Command) -> None:
        """A command's row was written: from what it was to what it is."""
        if before.started_at is None and after.started_at is not None:
            self._start.observe(max(0.0, (after.started_at - after.created_at).total_seconds()))
        for name, printed in self._printed:
            if more := max(0, getattr(after, name) - getattr(before, name)):
                printed.inc(more)
        if not after.final or before.final:
            return
        self._ended.labels(after.status, after.reason or "").inc()
        if after.duration_s is not None:
            self._duration.observe(after.duration_s)
        for name, left in self._left:
            if count := getattr(after, name):
                left.inc(count)

    def answered(self, request: Request, status: int) -> None:
        """A request was answered. Its path counts by the route it took: there are few of those."""
        method, path = ("other", "") if request.route is None else (request.method, str(request.route.path))
        known = self._answers.get((method, path, status // 100))
        if known is None:
            route = "none" if request.route is None else f"/{path.replace(':str>', '}').replace('<', '{').strip('/')}"
            known = self._requests.labels(method, route, f"{status // 100}xx")
            self._answers[method, path, status // 100] = known
        known.inc()


@dataclass(slots=True)
class Facts:
    """What is true at the moment of a scrape. What PostgreSQL would have to say is None while it is away."""

    version: str
    running: int
    queued: int
    counts: dict[str, int] | None
    unrecorded_bytes: int
    unrecorded_s: float
    max_running: int
    max_queued: int
    disk_free_bytes: int | None  # None: it cannot be asked
    min_free_bytes: int
    unready: set[str]  # the parts that keep us from accepting commands
    pool: dict[str, int] = field(default_factory=dict)


class Scrape:
    """One answer to Prometheus."""

    def __init__(self, metrics: Metrics, places: Places, facts: Facts) -> None:
        self._metrics = metrics
        self._places = places
        self._facts = facts

    def text(self) -> bytes:
        """In Prometheus' own format."""
        return generate_latest(self)

    def collect(self) -> Iterator[Metric]:
        """All metrics, those of this moment first."""
        facts = self._facts
        build = GaugeMetricFamily("bashd_build_info", "What runs here; always 1.", labels=["version", "python"])
        build.add_metric([facts.version, platform.python_version()], 1)
        yield build
        yield GaugeMetricFamily("bashd_database_up", "1 when PostgreSQL answers.", int(facts.counts is not None))
        yield GaugeMetricFamily("bashd_commands_running", "Commands handed over and not ended.", facts.running)
        yield GaugeMetricFamily("bashd_commands_queued", "Commands that wait for their turn.", facts.queued)
        yield GaugeMetricFamily("bashd_max_running", "How many may run at the same time.", facts.max_running)
        yield GaugeMetricFamily("bashd_max_queued", "How many may wait.", facts.max_queued)
        yield GaugeMetricFamily("bashd_ready", "1 when commands are accepted.", int(not facts.unready))
        unready = {part: int(part in facts.unready) for part in PARTS}
        yield _gauge("bashd_unready", "1 for each part that keeps commands from being accepted.", "part", unready)
        if facts.disk_free_bytes is not None:
            yield GaugeMetricFamily(
                "bashd_disk_free_bytes", "Free on the disk of the state directory.", facts.disk_free_bytes
            )
        yield GaugeMetricFamily(
            "bashd_min_free_bytes", "Free at least, for a command to be accepted.", facts.min_free_bytes
        )
        if facts.counts is not None:
            yield _gauge("bashd_commands", "Commands in the record.", "status", facts.counts)
        yield GaugeMetricFamily("bashd_unrecorded_bytes", "Of journals, not yet in PostgreSQL.", facts.unrecorded_bytes)
        yield GaugeMetricFamily(
            "bashd_unrecorded_seconds", "Age of the oldest change not yet in PostgreSQL.", facts.unrecorded_s
        )
        number, size = _journals(self._places.journals)
        yield GaugeMetricFamily("bashd_journals", "Journals of commands.", number)
        yield GaugeMetricFamily("bashd_journals_bytes", "What they take on the disk.", size)
        yield _gauge("bashd_database_pool_connections", "Connections of the pool.", "state", facts.pool)
        restarted = CounterMetricFamily(
            "bashd_process_restarts", "Starts because the process before had ended, ever.", labels=["process"]
        )
        for name, count in sorted(starts.restarts(self._places).items()):
            restarted.add_metric([name], count)
        yield restarted
        yield from self._metrics.registry.collect()


def _gauge(name: str, words: str, label: str, values: Mapping[str, int]) -> GaugeMetricFamily:
    gauge = GaugeMetricFamily(name, words, labels=[label])
    for value, number in values.items():
        gauge.add_metric([value], number)
    return gauge


def _journals(directory: str) -> tuple[int, int]:
    """How many there are, and the bytes that they take, room that they keep included."""
    number = size = 0
    try:
        for entry in os.scandir(directory):
            try:
                size += entry.stat().st_blocks * 512
                number += 1
            except FileNotFoundError:
                continue  # its command was recorded this moment
    except FileNotFoundError:
        pass  # the state directory is gone, which /readyz says
    return number, size
