"""docs/metrics-flow-control.md: what it names is on the page."""

import re

import pytest
import yaml

from tests.admin.test_metrics import parsed, snapshot
from tests.support.crowd import Crowd
from tests.support.readme import blocks
from tests.support.shared import ROOT

TEXT = (ROOT / "docs" / "metrics-flow-control.md").read_text()
SHOWN, _, NOT_SHOWN = TEXT.partition("Not shown: ")
ROW = re.compile(r"^\| (`[a-z].*?) \| ([a-z_, ]*) \|", re.MULTILINE)
NAMES = sorted(
    set(re.findall(r"\b(?:picker|llm_d_epp|inference_extension|inference_objective)_[a-z0-9_]+[a-z0-9]", TEXT))
)


@pytest.fixture(scope="module")
def page() -> set[str]:
    """Names of families and of samples."""
    crowd = Crowd()
    crowd.ask("a")
    crowd.ask("a")
    crowd.ask("b", "batch")
    families = parsed(snapshot(crowd), "")
    return set(families) | {sample.name for family in families.values() for sample in family.samples}


@pytest.mark.parametrize("name", [name for name in NAMES if not name.endswith("_flow_control")])
def test_full_names_are_on_the_page(name: str, page: set[str]) -> None:
    beginnings = {"inference_objective_request"}  # "all `inference_objective_request_*`"
    assert name in page or name in beginnings or f"{name}_request" in page or name == "llm_d_epp_request"


def test_the_peers_names_are_on_the_page(page: set[str]) -> None:
    table, _, _ = SHOWN.partition("## Whose requests")
    found = [name for cells, _ in ROW.findall(table) for name in re.findall(r"`([a-z_]+)`", cells)]
    assert len(found) >= 10
    for name in found:
        base = f"{found[found.index(name) - 1].removesuffix('requests')}bytes" if name == "_bytes" else name
        for prefix in ("inference_extension_flow_control_", "llm_d_epp_flow_control_"):
            assert prefix + base in page


def test_what_it_says_is_not_there_is_not(page: set[str]) -> None:
    sentence, _, _ = NOT_SHOWN.partition("Outcomes:")
    for name in re.findall(r"`([a-z_]+)`", sentence):
        assert not [known for known in page if known.endswith(name)]


def test_the_example_of_an_autoscaler_is_one_and_asks_for_what_is_there(page: set[str]) -> None:
    (shown,) = (yaml.safe_load(block) for block in blocks(TEXT, "yaml"))
    (trigger,) = shown["spec"]["triggers"]
    (name,) = re.findall(r"(picker_[a-z_]+)\{", trigger["metadata"]["query"])
    assert (shown["kind"], name in page) == ("ScaledObject", True)
