"""What a file of objects may hold, and what a person reads when it holds something else."""

import re
from pathlib import Path

import pytest

from picker._core.rewrite import Rewrites
from picker.config.document import drain
from picker.errors import ResourcesError
from picker.resources.documents import Manifest, read_manifests
from picker.resources.objects import (
    MODEL_BYTES,
    MOST_TARGETS,
    InferenceModel,
    InferenceModelRewrite,
    InferenceObjective,
    Resource,
)
from picker.resources.parse import parse_resources
from picker.resources.rules import rewrite_rules
from tests.support.shared import ROOT

SAMPLES = Path(__file__).parent / "samples"


def parse(text: str) -> tuple[Resource, ...]:
    return drain(parse_resources(text.encode(), source="r.yaml"))


def manifests(text: str) -> tuple[Manifest, ...]:
    return drain(read_manifests(text.encode(), source="r.yaml"))


def sample(name: str) -> tuple[Resource, ...]:
    return parse((SAMPLES / name).read_text())


def test_a_rollout() -> None:
    rewrite, objective = sample("rollout.yaml")
    assert isinstance(rewrite, InferenceModelRewrite)
    assert (rewrite.metadata.name, rewrite.metadata.namespace) == ("food-review", "prod")
    assert rewrite.metadata.labels == {"team": "search"}
    assert rewrite.metadata.creationTimestamp is not None
    assert rewrite.metadata.creationTimestamp.isoformat() == "2026-01-31T12:00:00+00:00"
    assert [target.weight for target in rewrite.spec.rules[0].targets] == [90, 10]
    assert isinstance(objective, InferenceObjective)
    assert (objective.spec.priority, objective.spec.poolRef.name) == (-1, "vllm-llama3")


def test_a_list_of_retired_objects() -> None:
    chatbot, plain = sample("legacy.yaml")
    assert isinstance(chatbot, InferenceModel)
    assert isinstance(plain, InferenceModel)
    assert chatbot.spec.criticality == "Critical"
    assert plain.spec.targetModels == ()


def test_json_is_taken_too() -> None:
    assert rewrite_rules(sample("rules.json")) == (("json", None, (("m", None),)),)


@pytest.mark.parametrize("text", ["", "---\n---\n", "# nothing\n", "{apiVersion: v1, kind: List, items: []}"])
def test_no_objects_are_no_error(text: str) -> None:
    assert parse(text) == ()


def test_both_groups_may_use_one_name() -> None:
    text = (SAMPLES / "rules.json").read_text()
    assert len(parse(f"{text}\n---\n{text.replace('inference.networking.x-k8s.io', 'llm-d.ai')}")) == 2


def test_what_picker_passes_over_is_not_looked_into() -> None:
    """Metadata is Kubernetes' own, a status is nobody's business, and config maps are read elsewhere."""
    assert parse("apiVersion: v1\nkind: ConfigMap\nnonsense: [1, {a: b}]\n") == ()
    objective = "apiVersion: llm-d.ai/v1alpha2\nkind: InferenceObjective\nspec: {poolRef: {name: p}}\nstatus: {x: 1}\n"
    assert len(parse(objective + "metadata: {name: a, uid: 7, more: {x: [1]}}")) == 1


HEAD = "apiVersion: llm-d.ai/v1alpha2\nkind: InferenceModelRewrite\nmetadata: {name: a}\n"
POOL = "spec:\n  poolRef: {name: p}\n"
GOOD = HEAD + POOL + "  rules:\n  - targets: [{modelRewrite: m}]\n"
MISTAKES = {
    "[]": "r.yaml:1: expected a Kubernetes object; begin with apiVersion and kind, and part objects with ---",
    "a: 1": "r.yaml:1: apiVersion: apiVersion is missing; add apiVersion",
    "apiVersion: v1": "r.yaml:1: kind: kind is missing; add kind",
    "apiVersion: 1\nkind: X": "r.yaml:1: apiVersion: expected text; add apiVersion",
    "apiVersion: v1\nkind: Secret": (
        'r.yaml:2: kind: "Secret" is no kind that picker obeys; '
        "there are InferenceModel, InferenceModelRewrite, InferenceObjective"
    ),
    "apiVersion: llm-d.ai/v1\nkind: InferenceObjective": (
        'r.yaml:1: apiVersion: version "llm-d.ai/v1" of InferenceObjective is not supported; '
        'did you mean "llm-d.ai/v1alpha2"?'
    ),
    "apiVersion: v1\nkind: List\nitems: {}": "r.yaml:3: items: expected a list; write [] if there are none",
    "apiVersion: v1\nkind: List\nitems:\n- a": (
        "r.yaml:4: items[0]: expected a Kubernetes object; begin with apiVersion and kind, and part objects with ---"
    ),
    HEAD: 'r.yaml:1: required field "spec" is missing; add spec',
    HEAD + "spec: {rules: []}": 'r.yaml:4: spec: required field "poolRef" is missing; add poolRef',
    HEAD + POOL: 'r.yaml:4: spec: required field "rules" is missing; add rules',
    GOOD.replace("name: a", "name: 7"): ('r.yaml:3: metadata.name: expected text, got a whole number; quote it: "7"'),
    GOOD.replace("name: a", "name: ''"): "r.yaml:3: metadata.name: must not be empty",
    GOOD.replace("name: a", "name: a, creationTimestamp: 2026-01-01"): (
        "r.yaml:3: metadata.creationTimestamp: Invalid RFC3339 encoded datetime"
    ),
    GOOD.replace("rules:", "rule:"): 'r.yaml:6: spec.rule: unknown field; did you mean "rules"?',
    GOOD.replace("modelRewrite", "model"): (
        'r.yaml:7: spec.rules[0].targets[0].model: unknown field; did you mean "modelRewrite"?'
    ),
    GOOD.replace("[{modelRewrite: m}]", "[]"): ("r.yaml:7: spec.rules[0].targets: Expected `array` of length >= 1"),
    GOOD.replace("m}", "m, weight: 0}"): (
        "r.yaml:7: spec.rules[0].targets[0].weight: 0 is out of range; write at least 1"
    ),
    GOOD.replace("m}", "m, weight: 1000001}"): (
        "r.yaml:7: spec.rules[0].targets[0].weight: 1000001 is out of range; write at most 1000000"
    ),
    GOOD.replace("m}", "m, weight: 1}, {modelRewrite: n}"): (
        "r.yaml:7: spec.rules[0]: some targets have a weight and some have not; give all of them one, or none"
    ),
    GOOD.replace("m}]", "m}]\n    matches:\n    - model: {type: Prefix, value: l}"): (
        'r.yaml:9: spec.rules[0].matches[0].model.type: "Prefix" is not a valid value; use one of: Exact'
    ),
    GOOD.replace("m}]", "m}]\n    matches: [{model: {value: ''}}]"): (
        "r.yaml:8: spec.rules[0].matches[0].model: the name of a model has 1 to 256 bytes, not 0"
    ),
    GOOD.replace("Rewrite: m", "Rewrite: " + "é" * 129): (
        "r.yaml:7: spec.rules[0].targets[0]: the name of a model has 1 to 256 bytes, not 258"
    ),
    GOOD.replace("Rewrite: m", 'Rewrite: "a\\nb"'): (
        "r.yaml:7: spec.rules[0].targets[0]: the name of a model holds a control character"
    ),
    f"{GOOD}---\n{GOOD}": (
        'r.yaml:11: metadata.name: InferenceModelRewrite "a" is given twice; the first is on line 1'
    ),
    f"{GOOD}---\n{GOOD.replace('name: a', 'name: b').replace('- targets', '- target')}": (
        'r.yaml:15: spec.rules[0].target: unknown field; did you mean "targets"?'
    ),
    f"{GOOD}---\n- [": (
        "r.yaml:10: is not valid YAML: did not find expected node content; check the indentation and quotes there"
    ),
}


@pytest.mark.parametrize("text", MISTAKES)
def test_mistakes(text: str) -> None:
    with pytest.raises(ResourcesError) as caught:
        parse(text)
    assert str(caught.value) == MISTAKES[text]
    assert caught.value.exit_code == 2


def test_the_good_one_is_good() -> None:
    assert rewrite_rules(parse(GOOD)) == (("a", None, (("m", None),)),)


def test_the_example_in_the_docs_works() -> None:
    (example,) = re.findall(r"^```yaml\n(.*?)^```", (ROOT / "docs" / "rewrite.md").read_text(), re.M | re.S)
    targets = (("food-review-v1", 90), ("food-review-v2", 10))
    assert rewrite_rules(parse(example), pool="vllm-llama3") == (("food-review", "food-review", targets),)


def test_limits_are_those_of_the_core() -> None:
    def rules(size: int, targets: int) -> str:
        many = ", ".join(f"{{modelRewrite: m{number}}}" for number in range(targets))
        return GOOD.replace("name: a", "name: " + "a" * 253).replace("{modelRewrite: m}", many) + (
            f"    matches: [{{model: {{value: {'x' * size}}}}}]\n"
        )

    Rewrites(rewrite_rules(parse(rules(MODEL_BYTES, MOST_TARGETS))))
    for size, targets in ((MODEL_BYTES + 1, 1), (1, MOST_TARGETS + 1)):
        with pytest.raises(ResourcesError, match=r"at most 100|has 1 to 256 bytes"):
            parse(rules(size, targets))
        with pytest.raises(ValueError, match="rule 0"):
            Rewrites([("a", "x" * size, [(str(number), None) for number in range(targets)])])


def test_manifests_for_other_readers() -> None:
    text = (SAMPLES / "rollout.yaml").read_text()
    *_, config_map = manifests(text)
    assert (config_map.kind, config_map.api_version, config_map.line(("data", "baseModel"))) == ("ConfigMap", "v1", 36)
    assert config_map.value["data"] == {"baseModel": "llama"}
    problem = config_map.failure("is odd", ("data", "baseModel"), hint="mend it")
    assert str(problem) == "r.yaml:36: data.baseModel: is odd; mend it"
