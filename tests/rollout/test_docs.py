"""The manifests of docs/rollouts.md are what Kubernetes takes, and what the commands they run take."""

import functools
import re
from typing import Any

import kubernetes_validate
import pytest
import yaml

from picker.cli import lora_sync, rollout
from picker.cli.flags import FlagParser
from picker.config.document import drain
from picker.lora.config import parse_config
from tests.support.readme import blocks
from tests.support.shared import ROOT

PAGE = (ROOT / "docs" / "rollouts.md").read_text()
VERSION = "1.32"


@functools.cache
def objects() -> tuple[dict[str, Any], ...]:
    return tuple(each for text in blocks(PAGE, "yaml") for each in yaml.safe_load_all(text))


@pytest.mark.parametrize("number", range(8))
def test_kubernetes_takes_them(number: int) -> None:
    assert len(objects()) == 8
    kubernetes_validate.validate(objects()[number], VERSION, strict=True)


def parser_of(module: Any) -> FlagParser:
    parser = FlagParser(prog="picker")
    module.configure(parser)
    return parser


def test_the_commands_in_it_are_taken() -> None:
    (job,) = (each for each in objects() if each["kind"] == "Job")
    args = job["spec"]["template"]["spec"]["containers"][0]["args"]
    assert args[0] == "rollout"
    rollout._check(parser_of(rollout).parse(args[1:]))
    for line in PAGE.splitlines():
        if line.startswith("picker rollout "):
            rollout._check(parser_of(rollout).parse(line.partition("#")[0].split()[2:]))


def test_the_adapters_in_it_are_taken() -> None:
    (config,) = (each for each in objects() if each["kind"] == "ConfigMap")
    found = drain(parse_config(config["data"]["configmap.yaml"].encode(), source="docs"))
    assert (len(found.wanted), found.unwanted, found.warnings) == (2, ("food-review-v0",), ())


def test_every_flag_it_names_exists() -> None:
    known = {flag for each in (rollout, lora_sync) for flag in parser_of(each)._option_string_actions}
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", PAGE))
    elsewhere = {"--served-model-name", "--model", "--enable-lora", "--port", "--metrics-endpoint-auth"}
    assert named - known <= elsewhere
