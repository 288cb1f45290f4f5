"""What a configuration comes to: profiles, defaults, warnings, and the types a caller adds."""

from pathlib import Path

import msgspec
import pytest

from picker.config import DEFAULT_CONFIG, PickerConfig, PluginType, Role, load_config
from picker.config import admission as a
from picker.config import parameters as p
from picker.config import support as s
from picker.config.catalogue import IMPLICIT, SUPPORTED
from picker.config.model import WeightedPlugin
from picker.config.refused import KNOWN_UNSUPPORTED
from picker.errors import ConfigError
from tests.support.config_samples import FOLDER, HEAD, SAMPLES


def load(body: str, **options: object) -> PickerConfig:
    return load_config(HEAD + body, source="epp.yaml", **options)  # type: ignore[arg-type]


def names(config: PickerConfig, role: Role) -> list[str]:
    return [plugin.spec.name for plugin in config.profile.of(role)]


@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.name)
def test_samples_load(path: Path) -> None:
    config = load_config(path.read_bytes(), source=path.name)
    assert len(config.profile.of(Role.PICKER)) == 1
    assert config.text == path.read_text()


def sample(name: str) -> PickerConfig:
    return load_config((FOLDER / name).read_text(), source=name)


def test_the_chart_of_old() -> None:
    config = sample("legacy-gie.yaml")
    weights = [(plugin.spec.type, plugin.weight) for plugin in config.profile.of(Role.SCORER)]
    assert weights == [
        ("queue-scorer", 1.0),
        ("kv-cache-utilization-scorer", 1.0),
        ("prefix-cache-scorer", 2.0),
        ("lora-affinity-scorer", 1.0),
    ]
    assert names(config, Role.PICKER) == ["max-score-picker"]
    assert [warning.split(": ")[:2] for warning in config.warnings] == [
        ["legacy-gie.yaml:9", "plugins[2].parameters.hashBlockSize"],
        ["legacy-gie.yaml:10", "plugins[2].parameters.maxPrefixBlocksToMatch"],
        ["legacy-gie.yaml:11", "plugins[2].parameters.lruCapacityPerServer"],
    ]


def test_without_profiles_every_scheduling_plugin_takes_part() -> None:
    config = sample("sticky-until-saturated.yaml")
    assert names(config, Role.FILTER) == ["prefix-cache-affinity-filter"]
    assert names(config, Role.SCORER) == ["token-load-scorer"]
    assert names(config, Role.PICKER) == ["max-score-picker"]
    found = config.parameters(p.PrefixCacheAffinityFilter)
    assert found == p.PrefixCacheAffinityFilter(
        affinityThreshold=0.8, explorationProbability=0, maxTTFTPenaltyMs=18000, peakPrefillThroughput=21000
    )


def test_parameters_are_decoded() -> None:
    config = sample("flow-control.yaml")
    selector = config.parameters(p.LabelSelectorFilter)
    assert selector is not None
    assert selector.matches({"gpu": "h100", "zone": "us-1"})
    assert selector.matches({"gpu": "h100"})
    assert not selector.matches({"gpu": "h100", "zone": "eu-1"})
    assert not selector.matches({"gpu": "h100", "drained": ""})
    assert not selector.matches({"gpu": "a100"})
    detector = config.parameters(a.UtilizationDetector)
    assert detector is not None
    assert detector.metricsStalenessThreshold == 1.0
    flow = config.flow_control
    assert flow.detector == detector
    assert (flow.max_bytes, flow.max_requests) == (10 << 30, 20_000)
    assert (flow.default_band.ttl_s, flow.no_endpoint_ttl_s) == (90.0, 600.0)
    assert [(priority, band.max_bytes, band.max_requests) for priority, band in flow.bands] == [
        (100, 10**9, 500),
        (-1, 10**8, 5000),
    ]
    assert config.warnings == ()


def test_the_rest_of_the_file() -> None:
    config = sample("default-plugins.yaml")
    assert [spec.type for spec in config.parsers] == ["openai-parser"]
    source = config.parameters(s.MetricsDataSource)
    assert source is not None
    assert source.interval == 0.1
    extractor = config.parameters(s.CoreMetricsExtractor)
    assert extractor is not None
    assert extractor.engineConfigs[0].customMetrics[0].optional
    discovery = sample("no-kubernetes.json").discovery
    assert discovery is not None
    assert discovery.parameters == s.FileDiscovery(path="/etc/picker/endpoints.yaml", watchFile=True)


def test_defaults_of_a_file_that_names_no_scheduling_plugin() -> None:
    for body in ("", "plugins: []\n", "plugins:\n- type: approx-prefix-cache-producer\n"):
        assert load(body).profiles == DEFAULT_CONFIG.profiles
    assert names(DEFAULT_CONFIG, Role.SCORER) == ["ttft-scorer"]
    assert names(DEFAULT_CONFIG, Role.PICKER) == ["max-score-picker"]


def test_a_profile_without_picker_takes_the_declared_one() -> None:
    body = """
plugins: [{type: queue-scorer}, {type: random-picker, name: dice}]
schedulingProfiles: [{name: x, plugins: [{pluginRef: queue-scorer}]}]
"""
    assert names(load(body), Role.PICKER) == ["dice"]


def test_names_tell_instances_of_one_type_apart() -> None:
    body = """
plugins:
- {type: load-aware-scorer, name: low, parameters: {threshold: 8}}
- {type: load-aware-scorer, name: high}
schedulingProfiles:
- name: x
  plugins: [{pluginRef: high, weight: 0.5}, {pluginRef: low, weight: 0}]
"""
    plugins = load(body).profile.of(Role.SCORER)
    assert [(plugin.spec.name, plugin.weight, plugin.spec.parameters) for plugin in plugins] == [
        ("high", 0.5, p.LoadAwareScorer(threshold=128)),
        ("low", 0.0, p.LoadAwareScorer(threshold=8)),
    ]


@pytest.mark.parametrize(
    ("body", "warning"),
    [
        ("featureGates: [prepareDataPlugins]", "featureGates[0]: feature gate prepareDataPlugins has no effect"),
        ("saturationDetector: {queueDepthThreshold: 5}", "saturationDetector is deprecated; use flowControl.saturat"),
        ("parser: {pluginRef: openai-parser}", "parser is deprecated; use requestHandler.parsers"),
        ("plugins: [{type: by-label, parameters: {label: a, validValues: [b]}}]", "by-label is deprecated"),
        (
            "plugins: [{type: active-request-scorer, parameters: {requestTimeout: 2m}}]",
            "plugins[0].parameters.requestTimeout: this has no effect: it is deprecated",
        ),
        (
            "plugins: [{type: token-producer, parameters: {vllm: {url: 'http://x'}, modelName: m}}]",
            "plugins[0].parameters.vllm: this has no effect",
        ),
        (
            "plugins: [{type: decode-filter}]\nschedulingProfiles: [{name: x, plugins: [{pluginRef: decode-filter}]}]",
            'profile "x" has no scorer: endpoints are picked at random',
        ),
        (
            "plugins: [{type: decode-filter}, {type: queue-scorer}]\n"
            "schedulingProfiles: [{name: x, plugins: [{pluginRef: queue-scorer}]}]",
            'epp.yaml:3: plugins[0]: filter "decode-filter" is in no profile',
        ),
        (
            "plugins: [{type: decode-filter}, {type: queue-scorer}]\n"
            "schedulingProfiles:\n- name: x\n"
            "  plugins: [{pluginRef: queue-scorer}, {pluginRef: decode-filter, weight: 2}]",
            "schedulingProfiles[0].plugins[1].weight: the weight of a filter has no effect",
        ),
    ],
)
def test_what_changes_nothing_is_a_warning(body: str, warning: str) -> None:
    found = load(body).warnings
    assert any(warning in text for text in found), found


def test_an_older_type_name_is_translated() -> None:
    spec = load("plugins: [{type: by-label-selector, parameters: {matchLabels: {a: b}}}]").plugins[0]
    assert (spec.type, spec.name) == ("label-selector-filter", "by-label-selector")


def test_each_notice_is_given_once() -> None:
    body = "plugins: [{type: concurrency-detector}]\nsaturationDetector: {pluginRef: concurrency-detector}"
    assert len(load(body).warnings) == 1


@pytest.mark.parametrize("gate", ["flowControl", "flowControl=true", "flowControl=false"])
def test_the_gate_of_flow_control_is_silent(gate: str) -> None:
    assert load(f"featureGates: [{gate}]").warnings == ()


def test_metrics_can_be_switched_off() -> None:
    assert load("dataLayer: {}").scraping
    assert not load("dataLayer: {injectDefaults: false}").scraping
    assert load("dataLayer: {injectDefaults: false, sources: [{pluginRef: metrics-data-source}]}").scraping


class Mine(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    size: int = 3


def test_types_a_caller_adds() -> None:
    extra = {"my-scorer": PluginType("my-scorer", Role.SCORER, Mine), "free": None, "bare": Mine}
    body = """
plugins:
- {type: my-scorer, parameters: {size: 4}}
- {type: free, parameters: {any: [1, {deep: true}]}}
- {type: bare}
"""
    config = load(body, extra_types=extra)
    found = [(plugin.spec.role, plugin.spec.parameters) for plugin in config.profile.plugins]
    assert found[:3] == [
        (Role.SCORER, Mine(size=4)),
        (Role.SCHEDULING, {"any": [1, {"deep": True}]}),
        (Role.SCHEDULING, Mine(size=3)),
    ]
    with pytest.raises(ConfigError, match=r'plugins\[0\].parameters.sise: unknown field; did you mean "size"'):
        load("plugins: [{type: my-scorer, parameters: {sise: 4}}]", extra_types=extra)
    with pytest.raises(ConfigError, match='did you mean "my-scorer"'):
        load("plugins: [{type: my-scorrer}]", extra_types=extra)


def test_an_added_picker_is_the_picker() -> None:
    extra = {"mine": PluginType("mine", Role.PICKER, None)}
    config = load("plugins: [{type: mine}, {type: queue-scorer}]", extra_types=extra)
    assert names(config, Role.PICKER) == ["mine"]


def test_an_added_type_may_stand_in_for_one_not_supported_yet() -> None:
    config = load("plugins: [{type: no-hit-lru-scorer}]", extra_types={"no-hit-lru-scorer": None})
    assert config.profile.plugins[0].spec.parameters == {}


NEEDS = {
    "label-selector-filter": "{matchLabels: {a: b}}",
    "by-label-selector": "{matchExpressions: [{key: a, operator: Exists}]}",
    "by-label": "{label: a, allowsNoLabel: true}",
    "file-discovery": "{path: /x}",
    "priority-holdback-policy": "{minCeiling: 0.5}",
}


@pytest.mark.parametrize("name", sorted(SUPPORTED))
def test_every_supported_type_loads_and_refuses_unknown_parameters(name: str) -> None:
    config = load(f"plugins: [{{type: {name}, parameters: {NEEDS.get(name, '{}')}}}]")
    assert config.plugins[0].role is SUPPORTED[name].role
    with pytest.raises(ConfigError, match=r"parameters.nonsense: unknown field"):
        load(f"plugins: [{{type: {name}, parameters: {{nonsense: 1}}}}]")


def test_the_tables_agree() -> None:
    assert not KNOWN_UNSUPPORTED.keys() & SUPPORTED.keys()
    assert SUPPORTED.keys() >= IMPLICIT


def test_the_peers_defaults() -> None:
    """Those of llm-d-router 0.10, where a wrong default would route differently without anyone noticing."""
    assert p.PrefixCacheAffinityFilter() == p.PrefixCacheAffinityFilter(
        affinityThreshold=0.80,
        explorationProbability=0.0,
        maxTTFTPenaltyMs=18_000.0,
        ttftSource="prefillThroughput",
        peakPrefillThroughput=15_928.0,
    )
    assert (p.PrefixCacheScorer().matchLengthWeight, p.PrefixCacheScorer().matchLengthScaleTokens) == (0.0, 8192)
    assert p.TokenLoadScorer().queueThresholdTokens == 4_194_304
    assert (p.ActiveRequestScorer().idleThreshold, p.ActiveRequestScorer().maxBusyScore) == (0, 1.0)
    assert p.LoadAwareScorer().threshold == 128
    affinity = p.SessionAffinityScorer()
    assert (affinity.strategy, affinity.headerName) == ("encoded_endpoint_header", "x-session-token")
    assert (affinity.evictionTtlSeconds, affinity.evictionSweepSeconds) == (300.0, 10.0)
    assert {p.MaxScorePicker().maxNumOfEndpoints, p.RandomPicker().maxNumOfEndpoints} == {1}
    producer = s.ApproxPrefixCacheProducer()
    assert (producer.blockSizeTokens, producer.maxPrefixTokensToMatch) == (16, 131_072)
    assert (producer.maxPrefixBlocksToMatch, producer.lruCapacityPerServer) == (2048, 31_250)
    busy, many = a.UtilizationDetector(), a.ConcurrencyDetector()
    assert (busy.queueDepthThreshold, busy.kvCacheUtilThreshold, busy.headroom) == (5, 0.8, 0.0)
    assert (many.concurrencyMode, many.maxConcurrency, many.maxTokenConcurrency) == ("requests", 100, 1_000_000)
    shed = a.ProbabilisticAdmitter()
    assert (shed.queueDepthThreshold, shed.kvCacheUtilThreshold, shed.power, shed.k) == (5, 0.8, 5.0, 300.0)
    assert a.StaticUsageLimitPolicy().threshold == a.PriorityHoldbackPolicy(minCeiling=0).maxCeiling == 1.0


def test_by_label() -> None:
    strict = p.ByLabelFilter(label="role", validValues=("decode", "both"))
    lenient = p.ByLabelFilter(label="role", validValues=("decode",), allowsNoLabel=True)
    assert strict.matches({"role": "both"})
    assert not strict.matches({})
    assert lenient.matches({})
    assert not lenient.matches({"role": "prefill"})


def test_a_configuration_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        DEFAULT_CONFIG.profile.plugins[0].weight = 2.0  # type: ignore[misc]
    assert isinstance(DEFAULT_CONFIG.profile.plugins[0], WeightedPlugin)
