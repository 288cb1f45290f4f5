"""`docs/body-based-router.md` works as it stands: its plugin, its ConfigMap, its filter, its commands, its figures."""

import importlib.metadata
import json
import shlex
import sys
import tomllib
import types
from pathlib import Path

import pytest
import yaml

from picker._core.bbr import Router
from picker.bbr import catalogue
from picker.bbr.catalogue import Plan, compile_plugins
from picker.bbr.host import BUDGET_S, REST_AFTER, REST_S
from picker.bbr.models import parse_base_models
from picker.cli import bbr
from picker.cli.flags import FlagParser
from picker.config.bbr import BbrSettings
from picker.config.document import drain
from picker.demo.envoy import Gateway, add_body_router, envoy_config, validate
from tests.support.bodies import BodyGateway
from tests.support.readme import blocks
from tests.support.shared import ROOT

TEXT = (ROOT / "docs" / "body-based-router.md").read_text()
COMMANDS = [block for block in blocks(TEXT, "") if block.startswith("picker bbr")]
CHAT = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}


def settings(command: str) -> BbrSettings:
    parser = FlagParser(prog="picker bbr")
    bbr.configure(parser)
    return bbr.settings_from(parser.parse(shlex.split(command.replace("\\\n", ""))[2:]))


@pytest.fixture
def plan(monkeypatch: pytest.MonkeyPatch) -> Plan:
    """What the command with plugins comes to, the example installed."""
    (source,), (table,) = blocks(TEXT, "python"), blocks(TEXT, "toml")
    ((name, value),) = tomllib.loads(table)["project"]["entry-points"][catalogue.GROUP].items()
    module = types.ModuleType(value.partition(":")[0])
    monkeypatch.setitem(sys.modules, module.__name__, module)
    exec(compile(source, "docs/body-based-router.md", "exec"), module.__dict__)
    entry = importlib.metadata.EntryPoint(name, value, catalogue.GROUP)
    monkeypatch.setattr(catalogue, "entry_points", lambda group: [entry] if group == catalogue.GROUP else [])
    return compile_plugins(settings(COMMANDS[1]).routing.plugins)


def gateway_of(plan: Plan) -> BodyGateway:
    return BodyGateway(Router(plan.request, plan.response, headers=plan.headers, host=plan.host()))


def test_the_example_stops_prompts(plan: Plan) -> None:
    gateway = gateway_of(plan)
    gateway.post(json.dumps(CHAT).encode(), headers={"x-word-guard": "spoofed"})
    assert gateway.headers["x-word-guard"] == "passed"
    assert gateway.headers["x-gateway-model-name"] == "m"
    gateway = gateway_of(plan)
    gateway.post(json.dumps(CHAT).replace("hi", "hunter2").encode())
    status, error = gateway.error()
    assert (status, error["error"]["code"]) == (403, "word_guard")


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        ({"choices": [{"message": {"content": "it is hunter2"}}]}, "application/json"),
        ({"choices": [{"delta": {"content": "it is hunter2"}}]}, "text/event-stream"),
    ],
)
def test_the_example_blanks_answers(plan: Plan, body: object, kind: str) -> None:
    gateway = gateway_of(plan)
    gateway.post(json.dumps(CHAT).encode())
    gateway.response.change = lambda sent: sent.replace(b"hunter2", b"***")
    text = json.dumps(body).encode()
    gateway.respond([b"data: " + text + b"\n\n" if "stream" in kind else text], kind=kind, ending="chunk")
    gateway.response.demand_complete()
    assert [record.errors for record in (*plan.request_records, *plan.response_records)] == [0] * 4


def test_the_commands_are_right() -> None:
    assert settings(COMMANDS[0]).routing.base_models_file == "models.yaml"
    assert len(COMMANDS) == 2


def test_the_config_map_is_right() -> None:
    text = next(block for block in blocks(TEXT, "yaml") if "ConfigMap" in block)
    found = drain(parse_base_models(text.encode(), source="docs"))
    assert found == {"llama": "llama", "food-review": "llama", "travel": "llama"}


def test_envoy_takes_the_filter(tmp_path: Path) -> None:
    text = next(block for block in blocks(TEXT, "yaml") if "ext_proc" in block)
    config = envoy_config(["127.0.0.1:1"], "127.0.0.1:2")
    add_body_router(config, "picker", "127.0.0.1:3", Gateway(), {})
    listener = next(each for each in config["static_resources"]["listeners"] if each["name"] == "picker")
    filters = listener["filter_chains"][0]["filters"][0]["typed_config"]["http_filters"]
    filters[0] = yaml.safe_load(text)
    assert validate(config, tmp_path / "envoy.json") is None


def test_the_figures_it_names_are_the_codes() -> None:
    assert f"`budget` ({BUDGET_S * 1e3:g} ms)" in TEXT
    assert f"after {REST_AFTER} failures in a row for {REST_S:g} s" in TEXT
