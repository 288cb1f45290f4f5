"""What the README shows is what the code does."""

import re
from pathlib import Path

from picker.cli.main import main
from picker.config.load import load_config
from picker.config.parameters import TtftScorer
from picker.discovery.file import read_endpoints
from tests.support.readme import CONFIGURATION, PAGES, README, TABLES, blocks, regenerated
from tests.support.shared import ROOT

TEXT = README.read_text()


def test_generated_parts_are_current() -> None:
    for page in PAGES:
        text = page.read_text()
        assert regenerated(text) == text, f"{page.name} is not current: run `make docs`"


def test_each_generated_part_stands_somewhere() -> None:
    together = "".join(page.read_text() for page in PAGES)
    assert [name for name in TABLES if together.count(f"<!-- {name}: begin (make docs writes this) -->") != 1] == []


def test_the_configuration_page_works_as_it_stands(tmp_path: Path) -> None:
    shown = blocks(CONFIGURATION.read_text(), "yaml")
    assert len(shown) == 2
    for text in shown:
        assert load_config(text, source="configuration.md").warnings == ()
        file = tmp_path / "config.yaml"
        file.write_text(text)
        assert main(["config", "check", str(file)]) == 0


def test_the_configuration_it_shows_loads(tmp_path: Path) -> None:
    (shown,) = blocks(TEXT, "yaml")
    assert load_config(shown, source="README.md").warnings == ()
    file = tmp_path / "config.yaml"
    file.write_text(shown)
    assert main(["config", "check", str(file)]) == 0


def test_the_endpoints_file_it_shows_loads(tmp_path: Path) -> None:
    (shell,) = blocks(TEXT, "bash")
    file = tmp_path / "endpoints.yaml"
    file.write_text(shell.split("<<'END'\n")[1].split("END\n")[0])
    assert [endpoint.target for endpoint in read_endpoints(file)] == ["10.0.0.11:8000", "[fd00::12]:8000"]


def test_the_make_targets_it_names_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    named = set(re.findall(r"make ([a-z][a-z-]+)", TEXT)) - {"and"}
    assert named <= targets


def test_the_weight_in_the_formula_is_the_default() -> None:
    assert f"{TtftScorer().residentTokenWeight:g} × tokens of running requests" in TEXT
    assert f"{TtftScorer().uncachedTokenWeight:g} × uncached tokens of this prompt" in TEXT


def test_links_lead_somewhere() -> None:
    for page in PAGES:
        for link in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
            assert (page.parent / link).exists(), link
