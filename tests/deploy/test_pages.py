"""docs/kubernetes.md: what it says to apply is right, what it says to run renders."""

import os
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml

from picker.config.load import load_config
from tests.support.manifests import CHART, KUSTOMIZE, Json, build, needs_helm, needs_kubectl, refused, render
from tests.support.readme import README, blocks
from tests.support.shared import ROOT

PAGE = ROOT / "docs" / "kubernetes.md"
TEXT = PAGE.read_text()
SHELL = [block.replace("\\\n", " ") for block in (*blocks(TEXT, "bash"), *blocks(README.read_text(), "sh"))]
YAML = [thing for block in blocks(TEXT, "yaml") for thing in yaml.safe_load_all(block)]


def helm_commands() -> list[list[str]]:
    lines = [line for block in SHELL for line in block.splitlines() if line.startswith("helm ")]
    return [shlex.split(line, comments=True) for line in lines]


def values_of(words: list[str]) -> Json:
    """What `--set` comes to, as far as the pages use it."""
    values: Json = {}
    sets = [words[number + 1] for number, word in enumerate(words) if word == "--set"]
    for one in (part for text in sets for part in re.split(r",(?![^{]*\})", text)):
        path, _, text = one.partition("=")
        put(values, re.findall(r"[^.\[\]]+", path), read(text))
    return values


def read(text: str) -> Any:
    if text.startswith("{"):
        return [read(part) for part in text[1:-1].split(",")]
    return {"true": True, "false": False}.get(text, int(text) if text.isdigit() else text)


def put(values: Any, path: list[str], value: Any) -> None:
    name, *rest = path
    if name.isdigit():
        index = int(name)
        values.extend({} for _ in range(index + 1 - len(values)))
        put(values[index], rest, value)
    elif rest:
        put(values.setdefault(name, [] if rest[0].isdigit() else {}), rest, value)
    else:
        values[name] = value


def test_the_values_of_a_command_are_read_as_helm_reads_them() -> None:
    words = shlex.split("helm install x --set a.b=1,c=t --set 'd={x,y}' --set e[0].f=g,e[0].h=true")
    assert values_of(words) == {"a": {"b": 1}, "c": "t", "d": ["x", "y"], "e": [{"f": "g", "h": True}]}


@needs_helm
@pytest.mark.parametrize("words", [pytest.param(words, id=" ".join(words)[:60]) for words in helm_commands()])
def test_helm_commands_render(words: list[str]) -> None:
    chart = next(word for word in words if word.startswith("deploy/"))
    assert ROOT / chart == CHART
    values = values_of(words)
    if words[1] == "upgrade" and "--install" not in words:  # of a release that is there
        assert "--reuse-values" in words
        values = {"pools": ["chat"], **values}
    assert refused(render(values), "1.37") == {}


def objects() -> list[Json]:
    return [thing for thing in YAML if "metadata" in thing]


def test_objects_are_what_a_cluster_takes() -> None:
    assert {"Deployment", "Gateway", "HTTPRoute", "InferencePool"} <= {each["kind"] for each in objects()}
    for version in ("1.30", "1.37"):
        assert refused(objects(), version) == {}


@needs_kubectl
def test_the_kustomization_builds(tmp_path: Path) -> None:
    (own,) = (thing for thing in YAML if thing.get("kind") == "Kustomization")
    there = os.path.relpath(KUSTOMIZE, tmp_path)
    for part in ("resources", "components"):
        own[part] = [path.replace("deploy/kustomize", there) for path in own[part]]
    (tmp_path / "kustomization.yaml").write_text(yaml.safe_dump(own))
    built = build(tmp_path)
    assert refused(built, "1.37") == {}
    (picker,) = (each for each in built if each["kind"] == "Deployment")
    (container,) = picker["spec"]["template"]["spec"]["containers"]
    assert container["image"] == "registry.example.com/picker:0.1.0" and "--pool-name=code" in container["args"]


def test_the_configuration_is_one() -> None:
    (values,) = (thing for thing in YAML if "config" in thing)
    defaults = {"apiVersion": "llm-d.ai/v1alpha1", "kind": "EndpointPickerConfig"}
    assert load_config(yaml.safe_dump({**defaults, **values["config"]}), source=PAGE.name).warnings == ()


@needs_helm
def test_values_it_names_are_values() -> None:
    known = yaml.safe_load((CHART / "values.yaml").read_text())
    named = {match for match in re.findall(r"`([a-z][A-Za-z]+(?:\.[a-z][A-Za-z]+)*)(?:=[^`]*)?`", TEXT) if "." in match}
    for path in named - ELSEWHERE:
        thing = known
        for name in path.split("."):
            assert isinstance(thing, dict) and name in thing, path
            thing = thing[name]


ELSEWHERE = {
    "llm-d.ai",
    "inferenceExtension.enabled",
    "endpointPickerRef.name",
    "standard-install.yaml",
    "manifests.yaml",
}


def test_links_lead_somewhere() -> None:
    headings = {
        re.sub(r"[^a-z0-9 -]", "", line.lower()).replace(" ", "-") for line in re.findall(r"^#+ (.*)", TEXT, re.M)
    }
    for link in re.findall(r"\]\(([^)]+)\)", TEXT):
        page, _, heading = link.partition("#")
        assert not page or (PAGE.parent / page).exists(), link
        assert page or heading in headings, link
