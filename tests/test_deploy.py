"""What lies in deploy/ asks for metrics and labels that a running service has, so that no panel or alert is empty."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]
from prometheus_client.parser import text_string_to_metric_families

from tests.conftest import StartService
from tests.processes import REPOSITORY, eventually, kill

DASHBOARD = REPOSITORY / "deploy" / "grafana-dashboard.json"
ALERTS = REPOSITORY / "deploy" / "alerts.yml"
OPERATIONS = (REPOSITORY / "docs" / "operations.md").read_text()

OF_THE_SCRAPE = {"instance", "job"}  # labels that Prometheus gives to everything
Labels = dict[str, set[str]]
Known = dict[str, Labels]  # name of a series → its labels → their values

_METRIC = re.compile(r"\b(?P<name>up|bashd_[a-z_]+)(?:\{(?P<labels>[^}]*)\})?")
_MATCHER = re.compile(r'(\w+)\s*(=~|!~|!=|=)\s*"([^"]*)"')
_GROUPING = re.compile(r"\b(?:by|without|on|ignoring|group_left|group_right)\s*\(([^)]*)\)")
_SHOWN = re.compile(r"\{\{\s*(?:\$labels\.)?(\w+)\s*\}\}")
_WORD = re.compile(r"[a-zA-Z_]\w*")
_FUNCTIONS = {"sum", "min", "max", "by", "rate", "increase", "histogram_quantile", "label_values"}


def _faults(expression: str, known: Known, shown: str = "") -> list[str]:
    """What a PromQL expression, whose series are ``shown`` so, asks for that is not there."""
    faults = [f"{word} is not known" for word in _words(expression) if word not in _FUNCTIONS]
    found: set[str] = set()
    for metric in _METRIC.finditer(expression):
        name = metric["name"]
        if name not in known:
            faults.append(f"there is no {name}")
            continue
        found |= set(known[name])
        for label, how, value in _MATCHER.findall(metric["labels"] or ""):
            if label not in {*known[name], *OF_THE_SCRAPE}:
                faults.append(f"{name} has no {label}")
            elif how == "=" and label not in OF_THE_SCRAPE and value not in known[name][label]:
                faults.append(f"{name} never has the {label} {value}")
        is_counter = name.endswith(("_total", "_count", "_sum", "_bucket"))
        if is_counter != bool(re.search(rf"\b(rate|increase)\({name}\b", expression)):
            faults.append(f"{name} says something by its rate alone" if is_counter else f"{name} has no rate")
    grouped = [label.strip() for one in _GROUPING.findall(expression) for label in one.split(",")]
    faults += [f"no metric here has the label {one}" for one in grouped if one not in found | OF_THE_SCRAPE]
    kept = set(grouped) if grouped else found | OF_THE_SCRAPE
    faults += [f"{one} is shown and not kept" for one in _SHOWN.findall(shown) if one not in kept]
    return faults + (["a bracket is open"] if expression.count("(") != expression.count(")") else [])


def _words(expression: str) -> Iterator[str]:
    """What is neither a metric nor a label nor a string nor a length of time: functions, aggregations, mistakes."""
    bare = re.sub(r'"[^"]*"|\[[^\]]*\]', " ", _GROUPING.sub(" ", _METRIC.sub(" ", expression)))
    yield from _WORD.findall(bare)


def _of_dashboard(panels: list[dict[str, Any]]) -> Iterator[tuple[str, str]]:
    """Every expression with how its series are called."""
    for panel in panels:
        for target in panel["targets"]:
            yield target["expr"], target["legendFormat"]


def _of_alerts(rules: list[dict[str, Any]]) -> Iterator[tuple[str, str]]:
    """Every expression with what is said when it is true."""
    for rule in rules:
        said = rule["annotations"]["summary"] + rule["annotations"]["description"]
        yield rule["expr"], re.sub(r"\{\{\s*\$value[^}]*\}\}", "", said)


def _rules() -> list[dict[str, Any]]:
    rules: list[dict[str, Any]] = yaml.safe_load(ALERTS.read_text())["groups"][0]["rules"]
    return rules


def _known(text: str) -> Known:
    known: Known = {"up": {}}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = known.setdefault(sample.name, {})
            for label, value in sample.labels.items():
                labels.setdefault(label, set()).add(value)
    return known


@pytest.fixture
def known(own_service: StartService) -> Known:
    """The series of a service that has something to tell."""
    service = own_service().start()
    service.done("echo hi; echo err >&2; sleep 100 & setsid sleep 100 &")
    kill(service.pid("bashd: api"))
    eventually(service.is_ready)
    service.done("echo hi; echo err >&2; sleep 100 & setsid sleep 100 &")

    def all_told() -> Known | None:
        found = _known(service.http.get("/metrics").text)
        ended = found.get("bashd_commands_ended_total", {}).get("status", set())
        return found if "succeeded" in ended and "bashd_http_requests_total" in found else None

    return eventually(all_told)


def test_dashboard_alerts_and_page_know_the_metrics_that_there_are(known: Known) -> None:
    """Every name, every label, every value that is asked for; and the page tells of all that there are."""
    dashboard = json.loads(DASHBOARD.read_text())
    asked = [*_of_dashboard(dashboard["panels"]), *_of_alerts(_rules())]
    asked += [(one["query"]["query"].replace(", instance", ""), "") for one in dashboard["templating"]["list"][1:]]

    faults = {expression: _faults(expression, known, shown) for expression, shown in asked}

    assert {expression: found for expression, found in faults.items() if found} == {}
    assert len(asked) > 35
    documented = set(re.findall(r"\bbashd_[a-z_]+", OPERATIONS))
    families = {re.sub(r"_(bucket|sum|count)$", "", name) for name in known if name != "up"}
    assert families == documented


@pytest.mark.parametrize(
    ("expression", "shown", "fault"),
    [
        ("bashd_comands_running", "", "there is no bashd_comands_running"),
        ('bashd_commands{state="lost"}', "", "bashd_commands has no state"),
        ('bashd_commands{status="losst"}', "", "bashd_commands never has the status losst"),
        ("sum by (reason) (bashd_commands)", "", "no metric here has the label reason"),
        ("sum by (status) (bashd_commands)", "{{instance}}", "instance is shown and not kept"),
        ("bashd_commands", "{{ $labels.reason }}", "reason is shown and not kept"),
        ("sum(bashd_commands", "", "a bracket is open"),
        ("summ(bashd_commands)", "", "summ is not known"),
        ("bashd_ends_total", "", "bashd_ends_total says something by its rate alone"),
        ("rate(bashd_commands[5m])", "", "bashd_commands has no rate"),
        ('sum by (instance, status) (bashd_commands{status="lost"}) > 0', "{{status}}", None),
        ("sum by (le) (rate(bashd_ends_total[$__rate_interval]))", "", "no metric here has the label le"),
        ('rate(bashd_ends_total{job="x",instance=~"$instance"}[5m])', "{{job}}", None),
    ],
)  # fmt: skip
def test_an_expression_that_asks_for_what_is_not_there_is_found(expression: str, shown: str, fault: str | None) -> None:
    """Else the test above would be true of anything."""
    known: Known = {"bashd_commands": {"status": {"lost", "failed"}}, "bashd_ends_total": {}}

    assert _faults(expression, known, shown) == ([] if fault is None else [fault])


def test_the_dashboard_can_be_imported() -> None:
    """It has a place of its own, its panels do not lie on each other, and each can be told from the others."""
    dashboard = json.loads(DASHBOARD.read_text())
    panels = dashboard["panels"]

    assert dashboard["uid"] == "bashd"
    assert len({panel["id"] for panel in panels}) == len({panel["title"] for panel in panels}) == len(panels)
    covered = [
        (x, y)
        for place in (panel["gridPos"] for panel in panels)
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(set(covered)) == len(covered)
    assert max(x for x, _ in covered) == 23


def test_every_alert_says_how_bad_it_is_and_what_to_do() -> None:
    """A name of its own, a severity, a summary, a description."""
    rules = _rules()

    assert len({rule["alert"] for rule in rules}) == len(rules)
    assert {rule["labels"]["severity"] for rule in rules} == {"warning", "critical"}
    assert all({"summary", "description"} == set(rule["annotations"]) for rule in rules)


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not on PATH")
def test_prometheus_takes_the_rules() -> None:
    """As its own tool has it."""
    checked = subprocess.run(["promtool", "check", "rules", ALERTS], capture_output=True, text=True, check=False)

    assert checked.returncode == 0, checked.stdout + checked.stderr
