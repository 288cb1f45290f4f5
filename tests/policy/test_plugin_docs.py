"""`docs/plugins.md` works as it stands: its class, installed under its entry point, runs under its configuration."""

import importlib.metadata
import sys
import tomllib
import types
from pathlib import Path

import pytest

from picker.cli.main import main
from picker.config.extras import GROUP, InstalledTypes
from picker.policy.host import BUDGET_S, REST_AFTER, REST_S
from tests.support.readme import blocks
from tests.support.rig import Rig, chat, endpoint, target
from tests.support.shared import ROOT

TEXT = (ROOT / "docs" / "plugins.md").read_text()


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> InstalledTypes:
    (source,), (table,) = blocks(TEXT, "python"), blocks(TEXT, "toml")
    ((name, value),) = tomllib.loads(table)["project"]["entry-points"][GROUP].items()
    module = types.ModuleType(value.partition(":")[0])
    monkeypatch.setitem(sys.modules, module.__name__, module)
    exec(compile(source, "docs/plugins.md", "exec"), module.__dict__)
    entry = importlib.metadata.EntryPoint(name, value, GROUP)
    monkeypatch.setattr("picker.config.extras.entry_points", lambda group: [entry] if group == GROUP else [])
    return InstalledTypes()


def test_the_example_runs(installed: InstalledTypes) -> None:
    (text,) = blocks(TEXT, "yaml")
    rig = Rig(text, [endpoint(1), endpoint(2)], extra_types=installed, installed=installed)
    rig.load(1, waiting=0, kv_usage=0.9)
    rig.load(2, waiting=0, kv_usage=0.2)
    assert {rig.pick(chat("s" * number)) for number in range(100, 120)} == {target(1), target(2)}
    assert {rig.pick(chat(letter * 40_000)) for letter in "abcdefgh"} == {target(2)}
    assert rig.scores() == {"room-scorer": pytest.approx(0.8), "active-request-scorer": 1.0}
    assert rig.policy.host is not None
    assert [record.errors for record in rig.policy.host.records.values()] == [0]


def test_checking_a_configuration_makes_it(
    installed: InstalledTypes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (text,) = blocks(TEXT, "yaml")
    file = tmp_path / "epp.yaml"
    file.write_text(text)
    assert main(["config", "check", str(file)]) == 0
    file.write_text(text.replace("4096", "many"))
    assert main(["config", "check", str(file)]) == 2
    assert "plugins[0].parameters.long_tokens: expected a whole number" in capsys.readouterr().err


def test_the_figures_it_names_are_the_codes() -> None:
    assert f"after {BUDGET_S * 1e3:g} ms" in TEXT
    assert f"After {REST_AFTER} failures in a row it is left alone for {REST_S:g} s" in TEXT
