"""Whatever the text, `load_config` answers with a configuration or a `ConfigError` that points into the text."""

import json
import os
import random
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from picker.config import load_config
from picker.config.catalogue import SUPPORTED, Role
from picker.config.describe import describe
from picker.config.document import compose, drain
from picker.config.refused import KNOWN_UNSUPPORTED
from picker.errors import ConfigError
from tests.support.config_samples import HEAD, SAMPLES, line_count

CASES = int(os.environ.get("PICKER_FUZZ_CASES", "20000")) // 5  # a case is a whole file, some 0.4 ms
PIECES = [
    "\n",
    " ",
    "  ",
    "- ",
    ": ",
    "{",
    "}",
    "[",
    "]",
    '"',
    "'",
    "#",
    "&a ",
    "*a",
    "*a : ",
    "!!str ",
    "~",
    "-1",
    "1e400",
    "0",
]
PIECES += [
    "true",
    "99999999999999999999",
    "null",
    "plugins",
    "type",
    "parameters",
    "pluginRef",
    "\t",
    "\x00",
    "é",
    "<<",
]


def answered(text: str | bytes) -> bool:
    """Whether the text loads; anything but a well-formed refusal is a failure."""
    try:
        config = load_config(text, source="f")
    except ConfigError as error:
        lines = line_count(text.decode(errors="replace") if isinstance(text, bytes) else text)
        assert error.line is None or 1 <= error.line <= lines + 1
        assert str(error).startswith("f:")
        assert str(error).isprintable()
        assert len(str(error)) < 2000
        return False
    assert all(line.isprintable() for line in describe(config).splitlines())
    return True


def mutated(text: str, rng: random.Random) -> str:
    """The text with one to four small accidents of editing."""
    for _ in range(rng.randint(1, 4)):
        at, length = rng.randrange(len(text) + 1), rng.choice([0, 0, 1, 1, 3, 12])
        lines = text.splitlines(keepends=True) or [""]
        other = rng.choice(lines)
        new = rng.choice([rng.choice(PIECES), "", other, chr(rng.randrange(0x250))])
        text = text[:at] + new + text[at + length :]
    return text


@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.name)
def test_mutated_samples(path: Path) -> None:
    rng = random.Random(path.name)
    text = path.read_text()
    loaded = sum(answered(mutated(text, rng)) for _ in range(CASES // len(SAMPLES)))
    assert loaded  # small accidents often do no harm; if none loads, the mutations are too wild to mean anything


@given(st.text(max_size=300))
@settings(max_examples=200)
def test_any_text(text: str) -> None:
    answered(HEAD + text)
    answered(text)


@given(st.binary(max_size=100))
def test_any_bytes(data: bytes) -> None:
    answered(data)
    answered(HEAD.encode() + data)


FLOW_ROLES = (
    Role.DETECTOR,
    Role.FAIRNESS,
    Role.ORDERING,
    Role.USAGE_LIMIT,
    Role.ADMITTER,
    Role.IDENTITY,
    Role.EVICTION,
)
MEMBERS = st.sampled_from(
    """
    plugins schedulingProfiles name type parameters pluginRef weight dataLayer sources extractors discovery parsers
    requestHandler flowControl priorityBands priority maxBytes defaultRequestTTL saturationDetector featureGates
    matchLabels matchExpressions key operator values path interval maxNumOfEndpoints engineConfigs customMetrics
    strategy threshold fairnessPolicyRef fairnessIdHeader minCeiling
    """.split()
)
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.sampled_from([*SUPPORTED, *sorted(KNOWN_UNSUPPORTED)[:5], "In", "1Gi", "5s", "flowControl", "x"])
    | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(MEMBERS | st.text(max_size=3), inner, max_size=5),
    max_leaves=20,
)


@given(st.dictionaries(MEMBERS, VALUES, max_size=6))
@settings(max_examples=200)
def test_any_structure(members: dict[str, object]) -> None:
    head = {"apiVersion": "llm-d.ai/v1alpha1", "kind": "EndpointPickerConfig"}
    answered(json.dumps(head | members))


PLUGINS = st.lists(
    st.fixed_dictionaries(
        {"type": st.sampled_from(sorted(SUPPORTED))},
        optional={"name": st.sampled_from("abc"), "parameters": st.dictionaries(MEMBERS, VALUES, max_size=2)},
    ),
    max_size=4,
)
REFS = st.sampled_from([*"abc", *sorted(SUPPORTED)])
PROFILE = st.fixed_dictionaries(
    {"name": st.just("default")},
    optional={"plugins": st.lists(st.fixed_dictionaries({"pluginRef": REFS}, optional={"weight": VALUES}), max_size=4)},
)


@given(PLUGINS, st.lists(PROFILE, max_size=2))
@settings(max_examples=200)
def test_nearly_right_structures(plugins: list[object], profiles: list[object]) -> None:
    head = {"apiVersion": "llm-d.ai/v1alpha1", "kind": "EndpointPickerConfig"}
    answered(json.dumps(head | {"plugins": plugins, "schedulingProfiles": profiles}))


FLOW_PLUGINS = sorted(name for name, kind in SUPPORTED.items() if kind.role in FLOW_ROLES)
FLOW_REFS = st.sampled_from([*"ab", *FLOW_PLUGINS])
TIMES = st.sampled_from(["0s", "1s", "9h"])
BAND = st.fixed_dictionaries(
    {},
    optional={
        "priority": st.integers(-2, 2),
        "maxBytes": st.sampled_from([0, "1Gi"]),
        "maxRequests": st.integers(0, 9),
        "defaultRequestTTL": TIMES,
        "fairnessPolicyRef": FLOW_REFS,
        "orderingPolicyRef": FLOW_REFS,
    },
)
DETECTOR = st.fixed_dictionaries(
    {},
    optional={
        "pluginRef": FLOW_REFS,
        "queueDepthThreshold": st.integers(-1, 9),
        "kvCacheUtilThreshold": st.floats(0, 1.1),
        "metricsStalenessThreshold": TIMES,
    },
)
FLOW = st.fixed_dictionaries(
    {},
    optional={
        "maxRequests": st.integers(0, 9),
        "defaultRequestTTL": TIMES,
        "noEndpointRequestTTL": TIMES,
        "defaultPriorityBand": BAND,
        "defaultNegativePriorityBand": BAND,
        "priorityBands": st.lists(BAND, max_size=3),
        "usageLimitPolicyPluginRef": FLOW_REFS,
        "saturationDetector": DETECTOR,
        "enableEviction": st.booleans(),
        "fairnessIdHeader": st.sampled_from(["", "x-a", "cookie", "é"]),
    },
)
FLOW_PLUGIN = st.fixed_dictionaries(
    {"type": st.sampled_from(FLOW_PLUGINS)},
    optional={"name": st.sampled_from("ab"), "parameters": st.sampled_from([{"minCeiling": 0.5}, {"k": 1}])},
)


@given(
    st.lists(FLOW_PLUGIN, max_size=4),
    st.fixed_dictionaries(
        {},
        optional={
            "flowControl": FLOW,
            "saturationDetector": DETECTOR,
            "featureGates": st.sampled_from([["flowControl"], ["flowControl=false"]]),
        },
    ),
)
@settings(max_examples=200)
def test_nearly_right_flow_control(plugins: list[object], rest: dict[str, object]) -> None:
    head = {"apiVersion": "llm-d.ai/v1alpha1", "kind": "EndpointPickerConfig"}
    answered(json.dumps(head | {"plugins": plugins} | rest))


@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.name)
def test_yaml_and_json_of_the_same_configuration_agree(path: Path) -> None:
    value = drain(compose(path.read_text(), source="f")).value
    plain, flat = (load_config(text, source="f") for text in (yaml.safe_dump(value), json.dumps(value)))
    assert (plain.profiles, plain.plugins) == (flat.profiles, flat.plugins)
    again = load_config(path.read_text(), source="f")
    assert again.profiles == plain.profiles
