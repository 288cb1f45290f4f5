"""`docs/flow-control.md` is what the code does: its files load and compile, its tables have every field and default."""

import re
from pathlib import Path

import msgspec
import pytest

from picker._core.engine import Engine
from picker.cli.main import main
from picker.config import load_config
from picker.config.admission import FRESH_S, ProbabilisticAdmitter, UtilizationDetector
from picker.config.catalogue import SUPPORTED, Role
from picker.config.document import drain
from picker.config.flow import FAIRNESS_HEADERS, BandPlan, FlowPlan
from picker.config.schema import FlowControl, PriorityBand
from picker.config.units import format_duration
from picker.policy.compile import compile_policy
from picker.resources.parse import parse_resources
from picker.resources.rules import objectives
from tests.support.readme import blocks
from tests.support.shared import ROOT

PAGE = ROOT / "docs" / "flow-control.md"
TEXT = PAGE.read_text()
FILES = [text for text in blocks(TEXT, "yaml") if "kind: EndpointPickerConfig" in text]
(OBJECTS,) = [text for text in blocks(TEXT, "yaml") if "kind: EndpointPickerConfig" not in text]


def plan(word: str) -> FlowPlan:
    (text,) = [text for text in FILES if word in text]
    return load_config(text, source=PAGE.name).flow_control


@pytest.mark.parametrize("text", FILES, ids=lambda text: text.splitlines()[-1])
def test_every_file_it_shows_runs_without_a_warning(text: str, tmp_path: Path) -> None:
    config = load_config(text, source=PAGE.name)
    assert config.warnings == ()
    file = tmp_path / "epp.yaml"
    file.write_text(text)
    assert main(["config", "check", str(file)]) == 0
    Engine(hash_seed=1).set_flow(compile_policy(config, installed={}).flow)


def test_the_objects_it_shows_are_priorities() -> None:
    found = drain(parse_resources(OBJECTS.encode(), source=PAGE.name))
    assert objectives(found) == {"interactive": 10, "batch": -10}


def test_each_file_does_what_it_is_shown_for() -> None:
    bands = dict(plan("priorityBands").bands)
    assert (bands[10].ttl_s, bands[10].ordering, bands[0].ttl_s) == (5.0, "slo-deadline", 30.0)
    assert plan("fairnessIdHeader").fairness_headers == ("x-tenant",)
    batch = plan("probabilistic-admitter")
    assert batch.evicts
    assert batch.admitters == (ProbabilisticAdmitter(),)
    assert "min(saturation⁵ × 300, 1)" in TEXT
    assert plan("noEndpointRequestTTL").no_endpoint_ttl_s == 600.0
    assert plan("minCeiling").detector == UtilizationDetector()
    assert not plan("flowControl=false").queues


def table(head: str) -> dict[str, str]:
    """The second column of a table by the names in the first."""
    lines = TEXT.partition(f"| {head} |")[2].splitlines()[2:]
    rows = [line.split(" | ") for line in lines[: lines.index("")]]
    return {name.partition(".")[0]: row[1] for row in rows for name in re.findall(r"`([\w.\[\]]+)`", row[0])}


def fields(struct: type[msgspec.Struct]) -> set[str]:
    return {field.encode_name for field in msgspec.structs.fields(struct)}


def test_the_tables_have_every_field() -> None:
    shown = {name.removesuffix("[]") for name in table("field of `flowControl`")}
    assert shown == fields(FlowControl)
    assert table("field of a band").keys() == fields(PriorityBand)


def test_the_defaults_it_names_are_the_codes() -> None:
    band, usual = BandPlan(), FlowPlan()
    assert table("field of a band")["maxRequests"] == f"`{band.max_requests}`"
    assert table("field of a band")["maxBytes"] == "`1G`"
    assert band.max_bytes == 10**9
    assert table("field of `flowControl`")["defaultRequestTTL"] == f"`{format_duration(band.ttl_s)}`"
    assert f"Who has waited {band.ttl_s:g} s is answered 429" in TEXT
    assert f"when {band.max_requests:,} requests, or 1 GB of bodies" in TEXT
    assert all(f"`{name}`" in TEXT for name in FAIRNESS_HEADERS)
    stale_s = UtilizationDetector().metricsStalenessThreshold
    assert f"older than {stale_s:g} s (`metricsStalenessThreshold`, at least `{FRESH_S:g}s`)" in TEXT
    assert usual.no_endpoint_ttl_s == 0.0


def test_it_names_every_policy() -> None:
    roles = (Role.DETECTOR, Role.FAIRNESS, Role.ORDERING, Role.USAGE_LIMIT)
    ours = {name for name, kind in SUPPORTED.items() if kind.role in roles and "program-aware" not in name}
    assert {name for name in ours if f"`{name}`" not in TEXT} == set()


def test_links_lead_somewhere() -> None:
    for link in re.findall(r"\]\(([^)#]+)", TEXT):
        assert (PAGE.parent / link).exists(), link
