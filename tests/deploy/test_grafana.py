"""deploy/grafana: dashboards ask for what picker's page has, by labels that are there."""

import dataclasses
import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

from tests.admin.test_metrics import parsed, snapshot
from tests.admin.test_ratelimits import counted
from tests.support.crowd import Crowd
from tests.support.shared import ROOT

DASHBOARD = json.loads((ROOT / "deploy" / "grafana" / "picker.json").read_text())
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
EXPRESSIONS = [target["expr"] for panel in PANELS for target in panel["targets"]]
METRIC = re.compile(r"\b((?:picker|llm_d_epp|inference)_[a-z0-9_]+)\{")
BY = re.compile(r"\bby \(([^)]*)\)")
STORE = {"batches": 1, "requests": 1, "errors": 0, "seconds": 0.1, "lost": 0, "is_reachable": True}
COUNTERS = {"picker_scrape_failures": ("Pages not read.", ("reason",), [(("timeout",), 1.0)])}


@pytest.fixture(scope="module")
def labels() -> dict[str, set[str]]:
    """Of each sample's name on the page; those of a family without rows are as they are."""
    crowd = Crowd()
    crowd.ask("a")
    crowd.ask("a")
    crowd.ask("b", "batch").close(crowd.now_ns)
    shown = dataclasses.replace(snapshot(crowd, counters=COUNTERS), rate_limits=[{**counted(), "store": STORE}])
    found: dict[str, set[str]] = {}
    for family in parsed(shown, "").values():
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
        found.setdefault(family.name, {"endpoint", "name"})
    return found


def named(expression: str) -> Iterator[str]:
    yield from METRIC.findall(expression)


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_every_metric_is_on_the_page_with_its_labels(expression: str, labels: dict[str, set[str]]) -> None:
    metrics = list(named(expression))
    assert metrics
    for metric in metrics:
        assert metric in labels
        for by in BY.findall(expression):
            assert {label.strip() for label in by.split(",")} <= labels[metric] | {"job"}


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_counters_are_rates_and_histograms_quantiles(expression: str) -> None:
    for metric in named(expression):
        if metric.endswith(("_total", "_bucket", "_sum", "_count")):
            assert f"rate({metric}{{" in expression
        assert f'{metric}{{job=~"$job"}}' in expression


def test_panels_stand_beside_and_below_each_other() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken and max(x for x, _ in cells) < 24
        taken |= cells
    numbers: list[Any] = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(numbers)) == len(numbers)


def test_the_basics_and_flow_control_are_there() -> None:
    assert [panel["title"] for panel in DASHBOARD["panels"] if panel["type"] == "row"] == [
        "Requests",
        "Flow control",
        "Endpoints",
        "Rate limits",
        "picker itself",
    ]
