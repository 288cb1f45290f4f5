"""Configurations into pipelines: every plugin type, in the right order, with the right parameters."""

from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from msgspec import inspect

from picker._core import score
from picker._core.score import Pipeline
from picker.config import DEFAULT_CONFIG, PluginType, Role, load_config
from picker.config.catalogue import SUPPORTED
from picker.config.model import PickerConfig, PluginSpec, Profile, WeightedPlugin
from picker.config.parameters import MaxScorePicker, QueueScorer
from picker.errors import ConfigError
from picker.policy.api import Filter, Picker, Plugin, Scorer
from picker.policy.compile import ROLE_LABEL, Policy, compile_policy
from tests.support.config_samples import HEAD, SAMPLES

# type: parameters as in a file, the step's kind, its parameters, its bits
STEPS: dict[str, tuple[str, int, tuple[float, ...], int]] = {
    "label-selector-filter": ("{matchLabels: {a: b}}", score.FILTER_LABELS, (), 1),
    "by-label-selector": ("{matchLabels: {a: b}}", score.FILTER_LABELS, (), 1),
    "by-label": ("{label: a, validValues: [b]}", score.FILTER_LABELS, (), 1),
    "decode-filter": ("{}", score.FILTER_LABELS, (), 1),
    "prefill-filter": ("{}", score.FILTER_LABELS, (), 1),
    "encode-filter": ("{}", score.FILTER_LABELS, (), 1),
    "prefix-cache-affinity-filter": (
        "{affinityThreshold: 0.5, explorationProbability: 0.25, maxTTFTPenaltyMs: 1500, peakPrefillThroughput: 9000}",
        score.FILTER_PREFIX,
        (0.5, 0.25, 1.5, 9000.0),
        0,
    ),
    "queue-scorer": ("{}", score.SCORE_QUEUE, (), 0),
    "running-requests-size-scorer": ("{}", score.SCORE_RUNNING, (), 0),
    "kv-cache-utilization-scorer": ("{}", score.SCORE_KV, (), 0),
    "prefix-cache-scorer": (
        "{matchLengthWeight: 0.5, matchLengthScaleTokens: 100}",
        score.SCORE_PREFIX,
        (0.5, 100.0),
        0,
    ),
    "lora-affinity-scorer": ("{}", score.SCORE_LORA, (), 0),
    "load-aware-scorer": ("{threshold: 7}", score.SCORE_LOAD_AWARE, (7.0,), 0),
    "token-load-scorer": ("{queueThresholdTokens: 900}", score.SCORE_TOKEN_LOAD, (900.0,), 0),
    "active-request-scorer": ("{idleThreshold: 2, maxBusyScore: 0.5}", score.SCORE_ACTIVE, (2.0, 0.5), 0),
    "session-affinity-scorer": ("{}", score.SCORE_SESSION, (), 0),
    "ttft-scorer": (
        "{residentTokenWeight: 0.5, waitingRequestTokens: 9, uncachedTokenWeight: 3}",
        score.SCORE_TTFT,
        (0.5, 9.0, 3.0),
        0,
    ),
    "max-score-picker": ("{}", score.PICK_MAX, (), 0),
    "weighted-random-picker": ("{}", score.PICK_WEIGHTED, (), 0),
    "random-picker": ("{}", score.PICK_RANDOM, (), 0),
}
DEFAULT_PARAMETERS = {
    "prefix-cache-affinity-filter": (0.8, 0.0, 18.0, 15928.0),
    "prefix-cache-scorer": (0.0, 8192.0),
    "load-aware-scorer": (128.0,),
    "token-load-scorer": (4194304.0,),
    "active-request-scorer": (0.0, 1.0),
    "ttft-scorer": (0.05, 512.0, 2.0),
}
NO_STEP = "header-based-testing-filter"  # the engine reads it with the request
SCHEDULING = {
    name: kind
    for name, kind in SUPPORTED.items()
    if kind.role in (Role.FILTER, Role.SCORER, Role.PICKER) and name != NO_STEP
}


def compiled(body: str) -> Policy:
    return compile_policy(load_config(HEAD + body, source="epp.yaml"), installed={})


def test_the_table_here_has_every_type() -> None:
    assert set(STEPS) == set(SCHEDULING)


@pytest.mark.parametrize("name", STEPS)
def test_each_type_becomes_its_step(name: str) -> None:
    given, kind, parameters, bits = STEPS[name]
    policy = compiled(f"plugins: [{{type: {name}, parameters: {given}}}]")
    index = policy.names.index(name)
    assert policy.steps[index] == (kind, 1.0, parameters, bits)
    Pipeline(policy.steps, [{}])  # the core takes it


@pytest.mark.parametrize("name", DEFAULT_PARAMETERS)
def test_defaults_are_the_peers(name: str) -> None:
    policy = compiled(f"plugins: [{{type: {name}}}]")
    assert policy.steps[policy.names.index(name)][2] == DEFAULT_PARAMETERS[name]


def extremes(name: str) -> Iterator[tuple[str, float]]:
    """Each number among the parameters of a type, at the limits its declaration sets."""
    found = inspect.type_info(SCHEDULING[name].parameters)
    assert isinstance(found, inspect.StructType)
    for field in found.fields:
        if isinstance(field.type, inspect.IntType | inspect.FloatType):
            for limit in (field.type.ge, field.type.le, field.type.gt):
                if limit is not None:
                    yield field.encode_name, limit or (1e-300 if field.type.gt == 0 else 0)


@pytest.mark.parametrize(("name", "member", "value"), [(n, m, v) for n in SCHEDULING for m, v in extremes(n)])
def test_the_core_takes_whatever_a_configuration_may_say(name: str, member: str, value: float) -> None:
    needed = STEPS[name][0].strip("{}")
    given = msgspec.yaml.decode(f"{{{needed}}}") | {member: value}
    policy = compiled(f"plugins: [{{type: {name}, parameters: {msgspec.json.encode(given).decode()}}}]")
    Pipeline(policy.steps, [{}], wanted=policy.wanted, prior_rate=policy.prior_rate)


@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.name)
def test_configurations_as_found_in_deployments(path: Any) -> None:
    policy = compile_policy(load_config(path.read_text(), source=path.name), installed={})
    Pipeline(policy.steps, [{}], wanted=policy.wanted)


def test_the_default_policy() -> None:
    policy = compile_policy(DEFAULT_CONFIG)
    assert policy.names == ("ttft-scorer", "max-score-picker")
    assert [step[0] for step in policy.steps] == [score.SCORE_TTFT, score.PICK_MAX]
    assert (policy.wanted, policy.prior_rate, policy.session_header) == (1, 15_000.0, "x-session-token")
    assert (policy.host, policy.selectors, policy.label_bits({"a": "b"})) == (None, (), 0)


# --- what the engine does beside the pipeline ---


@pytest.mark.parametrize(
    ("parsers", "apis"),
    [
        ([], None),
        (["openai-parser"], ("openai",)),
        (["anthropic-parser", "passthrough-parser"], ("anthropic",)),
        (["passthrough-parser"], ()),
        (["vllmhttp-parser", "vllmgrpc-parser", "sglanghttp-parser"], ("vllmhttp", "vllmgrpc", "sglanghttp")),
    ],
)
def test_parsers_say_which_apis_are_read(parsers: list[str], apis: tuple[str, ...] | None) -> None:
    declared = msgspec.json.encode([{"type": name} for name in parsers]).decode()
    named = msgspec.json.encode([{"pluginRef": name} for name in parsers]).decode()
    assert compiled(f"plugins: {declared}\nrequestHandler: {{parsers: {named}}}").apis == apis


def test_a_parser_that_is_declared_and_not_named_limits_nothing() -> None:
    assert compiled("plugins: [{type: openai-parser}]").apis is None


def test_conformance_aids_are_on_only_where_they_are_declared() -> None:
    plain = compiled("plugins: [{type: queue-scorer}]")
    assert (plain.reads_test_header, plain.tells_served) == (False, False)
    both = compiled("plugins: [{type: header-based-testing-filter}, {type: destination-endpoint-served-verifier}]")
    assert (both.reads_test_header, both.tells_served) == (True, True)
    assert both.names == ("max-score-picker",)
    unused = compiled(
        "plugins: [{type: header-based-testing-filter}, {type: queue-scorer}]\n"
        "schedulingProfiles: [{name: a, plugins: [{pluginRef: queue-scorer}]}]"
    )
    assert unused.reads_test_header is False


@pytest.mark.parametrize(
    ("plugin", "most"),
    [
        ("{type: utilization-detector, name: d}", (5.0, 0.8, 0.0, 0.0)),
        (
            "{type: utilization-detector, name: d, parameters:"
            " {queueDepthThreshold: 10, kvCacheUtilThreshold: 0.5, headroom: 0.5}}",
            (15.0, 0.75, 0.0, 0.0),
        ),
        ("{type: concurrency-detector, name: d}", (0.0, 0.0, 100.0, 0.0)),
        (
            "{type: concurrency-detector, name: d, parameters: {concurrencyMode: tokens, headroom: 1}}",
            (0.0, 0.0, 0.0, 2e6),
        ),
        (
            "{type: concurrency-detector, name: d, parameters:"
            " {concurrencyMode: hybrid, maxConcurrency: 7, maxTokenConcurrency: 1000000000000, headroom: 1}}",
            (0.0, 0.0, 14.0, 1e12),
        ),
    ],
)
def test_detectors_are_filters_in_a_profile(plugin: str, most: tuple[float, ...]) -> None:
    policy = compiled(
        f"plugins: [{{type: queue-scorer}}, {{type: decode-filter}}, {plugin}]\n"
        "schedulingProfiles: [{name: a, plugins:"
        " [{pluginRef: queue-scorer}, {pluginRef: d}, {pluginRef: decode-filter}]}]"
    )
    assert policy.names == ("d", "decode-filter", "queue-scorer", "max-score-picker")
    assert policy.steps[0] == (score.FILTER_LOAD, 1.0, pytest.approx(most), 0)
    Pipeline(policy.steps, [{}])


# --- order and weights ---

MIXED = """\
plugins:
- {type: max-score-picker, parameters: {maxNumOfEndpoints: 3}}
- {type: queue-scorer, name: q}
- {type: decode-filter}
- {type: kv-cache-utilization-scorer}
- {type: label-selector-filter, parameters: {matchLabels: {zone: a}}}
schedulingProfiles:
- name: default
  plugins:
  - {pluginRef: max-score-picker}
  - {pluginRef: q, weight: 2.5}
  - {pluginRef: label-selector-filter}
  - {pluginRef: kv-cache-utilization-scorer}
  - {pluginRef: decode-filter}
"""


def test_filters_run_first_then_scorers_then_the_picker_each_in_the_files_order() -> None:
    policy = compiled(MIXED)
    assert policy.names == (
        "label-selector-filter", "decode-filter", "q", "kv-cache-utilization-scorer", "max-score-picker",
    )  # fmt: skip
    assert [weight for _, weight, _, _ in policy.steps] == [1.0, 1.0, 2.5, 1.0, 1.0]
    assert [bits for *_, bits in policy.steps] == [1, 2, 0, 0, 0]
    assert policy.wanted == 3


def test_only_scorers_explain_a_decision() -> None:
    assert compiled(MIXED).explain([9, 9, 0.5, 0.25, -1]) == {"q": 0.5, "kv-cache-utilization-scorer": 0.25}


def test_label_bits_follow_the_filters() -> None:
    policy = compiled(MIXED)
    assert policy.label_bits({"zone": "a"}) == 0b11
    assert policy.label_bits({"zone": "a", ROLE_LABEL: "prefill"}) == 0b01
    assert policy.label_bits({"zone": "b", ROLE_LABEL: "decode"}) == 0b10
    assert policy.label_bits({"zone": "b", ROLE_LABEL: "encode"}) == 0


# --- what decides a label bit ---

ROLES = ["decode", "prefill", "encode", "prefill-decode", "encode-prefill", "encode-prefill-decode", "both", "other"]
KEEPS = {
    "decode-filter": {"decode", "prefill-decode", "encode-prefill-decode", "both", None},
    "prefill-filter": {"prefill", "prefill-decode", "encode-prefill", "encode-prefill-decode", "both"},
    "encode-filter": {"encode", "encode-prefill", "encode-prefill-decode"},
}


@pytest.mark.parametrize("name", KEEPS)
def test_role_filters(name: str) -> None:
    policy = compiled(f"plugins: [{{type: {name}}}]")
    kept = {role for role in ROLES if policy.label_bits({ROLE_LABEL: role})}
    unlabelled = {None} if policy.label_bits({"other": "label"}) else set()
    assert kept | unlabelled == KEEPS[name]


@pytest.mark.parametrize(
    ("selector", "kept"),
    [
        ("{matchLabels: {a: x}}", "x"),
        ("{matchLabels: {a: x, b: y}}", ""),
        ("{matchExpressions: [{key: a, operator: In, values: [x, y]}]}", "xy"),
        ("{matchExpressions: [{key: a, operator: NotIn, values: [x]}]}", "yz-"),
        ("{matchExpressions: [{key: a, operator: Exists}]}", "xyz"),
        ("{matchExpressions: [{key: a, operator: DoesNotExist}]}", "-"),
        ("{matchLabels: {a: x}, matchExpressions: [{key: a, operator: NotIn, values: [x]}]}", ""),
    ],
)
def test_label_selectors_decide_as_kubernetes_does(selector: str, kept: str) -> None:
    policy = compiled(f"plugins: [{{type: label-selector-filter, parameters: {selector}}}]")
    assert "".join(value for value in "xyz" if policy.label_bits({"a": value})) + "-" * policy.label_bits({}) == kept


@pytest.mark.parametrize(("allowed", "kept"), [("false", "x"), ("true", "x-")])
def test_by_label(allowed: str, kept: str) -> None:
    policy = compiled(
        f"plugins: [{{type: by-label, parameters: {{label: a, validValues: [x], allowsNoLabel: {allowed}}}}}]"
    )
    assert "".join(value for value in "xyz" if policy.label_bits({"a": value})) + "-" * policy.label_bits({}) == kept


# --- settings that belong to no step ---

TWO = """\
plugins:
- {{type: {kind}, name: one, parameters: {{{member}: {first}}}}}
- {{type: {kind}, name: two, parameters: {{{member}: {second}}}}}
schedulingProfiles:
- name: default
  plugins: [{used}]
"""


@pytest.mark.parametrize(
    ("kind", "member", "attribute", "values"),
    [
        ("session-affinity-scorer", "headerName", "session_header", ("X-One", "x-two")),
        ("ttft-scorer", "priorPrefillTokensPerSecond", "prior_rate", (1000.0, 2000.0)),
    ],
)
def test_they_come_from_the_plugin_in_use(kind: str, member: str, attribute: str, values: tuple[Any, Any]) -> None:
    text = TWO.format(kind=kind, member=member, first=values[0], second=values[1], used="{pluginRef: two}")
    assert getattr(compiled(text), attribute) == values[1]
    text = TWO.format(
        kind=kind, member=member, first=values[0], second=values[1], used="{pluginRef: one}, {pluginRef: two}"
    )
    with pytest.raises(ConfigError, match=f"epp.yaml: plugins of one type differ in {member}"):
        compiled(text)
    equal = TWO.format(
        kind=kind, member=member, first=values[0], second=values[0], used="{pluginRef: one}, {pluginRef: two}"
    )
    assert getattr(compiled(equal), attribute) == values[0]


def test_too_many_plugins_are_refused_at_the_start() -> None:
    plugins = "\n".join(f"- {{type: queue-scorer, name: q{number}}}" for number in range(score.MAX_STEPS))
    with pytest.raises(ConfigError, match=f"has {score.MAX_STEPS + 1} plugins; at most {score.MAX_STEPS} can run"):
        compiled(f"plugins:\n{plugins}\n")


# --- Python plugins ---


class Even(Scorer):
    def __init__(self, parameters: Any) -> None:
        self.given = parameters


class Keep(Filter):
    pass


class First(Picker):
    pass


class Fragile(Scorer):
    def __init__(self, parameters: Any) -> None:
        raise LookupError("no model file")


class Rootless(Plugin):
    role = "scorer"


ROLES_OF = {"even": Role.SCORER, "keep": Role.FILTER, "first": Role.PICKER, "fragile": Role.SCORER}
TYPES = {name: PluginType(name, role, None) for name, role in ROLES_OF.items()}
CLASSES: dict[str, object] = {"even": Even, "keep": Keep, "first": First, "fragile": Fragile}


def foreign(body: str, installed: dict[str, object] | None = None) -> Policy:
    config = load_config(HEAD + body, source="epp.yaml", extra_types=TYPES)
    return compile_policy(config, installed=CLASSES if installed is None else installed)


def test_python_plugins_become_plugin_steps() -> None:
    policy = foreign(
        "plugins: [{type: even, name: e, parameters: {x: [1]}}, {type: queue-scorer}, {type: keep}, {type: first}]\n"
        "schedulingProfiles:\n- name: p\n  plugins: [{pluginRef: keep}, {pluginRef: queue-scorer},"
        " {pluginRef: e, weight: 3}, {pluginRef: first}]\n"
    )
    assert policy.names == ("keep", "queue-scorer", "e", "first")
    assert [(kind, weight) for kind, weight, _, _ in policy.steps] == [
        (score.FILTER_PLUGIN, 1.0), (score.SCORE_QUEUE, 1.0), (score.SCORE_PLUGIN, 3.0), (score.PICK_PLUGIN, 1.0),
    ]  # fmt: skip
    assert policy.host is not None
    assert {number: (r.type, r.name) for number, r in policy.host.records.items()} == {
        0: ("keep", "keep"), 2: ("even", "e"), 3: ("first", "first"),
    }  # fmt: skip
    even = policy.host.records[2].plugin
    assert isinstance(even, Even)
    assert even.given == {"x": [1]}
    assert policy.explain([0, 0.5, 0.25, 9]) == {"queue-scorer": 0.5, "e": 0.25}


@pytest.mark.parametrize(
    ("body", "installed", "message"),
    [
        ("plugins: [{type: even}]", {}, "no installed package brings plugin type 'even'"),
        ("plugins: [{type: even}]", {"even": Keep}, "plugin type 'even' is no subclass of picker.policy.api.Scorer"),
        ("plugins: [{type: even}]", {"even": Rootless}, "is no subclass of picker.policy.api.Scorer"),
        ("plugins: [{type: even}]", {"even": Even({})}, "is no subclass of picker.policy.api.Scorer"),
        ("plugins: [{type: fragile, name: f}]", None, "epp.yaml: plugin f: plugin type 'fragile' cannot be made: Look"),
    ],
)
def test_plugins_that_cannot_be_used(body: str, installed: dict[str, object] | None, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        foreign(body, installed)


def test_a_plugin_must_say_its_role() -> None:
    config = load_config(HEAD + "plugins: [{type: x}]", source="epp.yaml", extra_types={"x": None})
    with pytest.raises(ConfigError, match="'x' does not say whether it filters, scores or picks"):
        compile_policy(config, installed={})


@pytest.mark.parametrize(
    ("role", "parameters", "base", "kind"),
    [
        (Role.SCORER, QueueScorer(), Scorer, score.SCORE_PLUGIN),
        (Role.PICKER, MaxScorePicker(maxNumOfEndpoints=4), Picker, score.PICK_PLUGIN),
    ],
)
def test_a_plugin_may_borrow_the_parameters_of_a_native_one(
    role: Role, parameters: msgspec.Struct, base: type[Plugin], kind: int
) -> None:
    made = type("Mine", (base,), {})
    plugins = [PluginSpec(type="mine", name="mine", role=role, parameters=parameters), DEFAULT_CONFIG.plugins[1]]
    used = tuple(map(WeightedPlugin, plugins[:1] if role is Role.PICKER else plugins))
    policy = compile_policy(PickerConfig(profiles=(Profile("p", used),), plugins=()), installed={"mine": made})
    assert policy.steps[0][0] == kind
    assert policy.wanted == 1
