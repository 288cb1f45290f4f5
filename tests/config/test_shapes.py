"""Every shape an EndpointPickerConfig of the reference picker may take, one by one.

Each runs and says nothing, or is taken with a warning that names what has no effect, or is refused with a message
that names it and says what to use instead. Nothing is ignored in silence, and the table has no holes: it names every
type the reference knows, every field of the file, and every parameter of every type that picker takes.
"""

from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
import yaml
from msgspec import inspect

from picker._core.engine import Engine
from picker.config import PickerConfig, load_config
from picker.config.catalogue import SUPPORTED, Role
from picker.config.refused import KNOWN_UNSUPPORTED
from picker.config.schema import EndpointPickerConfig
from picker.errors import ConfigError
from picker.policy.compile import compile_policy
from tests.support.config_samples import HEAD

# Every plugin type that the reference registers, in its order.
PEER_TYPES = """
openai-parser anthropic-parser vllmhttp-parser vllmgrpc-parser sglanghttp-parser vertexai-parser passthrough-parser
queue-scorer running-requests-size-scorer kv-cache-utilization-scorer prefix-cache-scorer lora-affinity-scorer
load-aware-scorer token-load-scorer active-request-scorer no-hit-lru-scorer context-length-aware latency-scorer
mm-embeddings-cache-scorer precise-prefix-cache-scorer session-affinity-scorer header-label-affinity-scorer
topology-affinity-scorer endpoint-attribute-scorer
multicluster-queue-scorer multicluster-kv-cache-utilization-scorer multicluster-prefix-cache-scorer
label-selector-filter by-label by-label-selector decode-filter prefill-filter encode-filter
prefix-cache-affinity-filter slo-headroom-tier-filter utilization-filter endpoint-attribute-filter
topology-affinity-filter session-affinity-filter
max-score-picker random-picker weighted-random-picker
single-profile-handler header-profile-handler disagg-profile-handler prefix-based-pd-decider
always-disagg-pd-decider always-disagg-multimodal data-parallel-profile-handler pd-profile-handler
disagg-headers-handler prefill-header-handler
approx-prefix-cache-producer burst-prefix-cache-producer precise-prefix-cache-producer inflight-load-producer
predicted-latency-producer token-producer session-id-producer mm-embeddings-cache-producer p2p-source-producer
latency-slo-admitter probabilistic-admitter agent-identity request-attribute-reporter
disaggregatedset-rollout-screener header-based-testing-filter destination-endpoint-served-verifier
utilization-detector concurrency-detector static-usage-limit-policy priority-holdback-policy
soft-reflective-ceiling-policy fcfs-ordering-policy edf-ordering-policy slo-deadline-ordering-policy
global-strict-fairness-policy round-robin-fairness-policy program-aware-fairness-policy
sheddable-filter priority-then-time-ordering
metrics-data-source core-metrics-extractor models-data-source dcgm-data-source k8s-notification-source
endpoint-notification-source topology-extractor file-discovery
""".split()

PRODUCERS = "{type: approx-prefix-cache-producer}, {type: inflight-load-producer}"
PICKER = "{type: random-picker}"


def plugin(kind: str, parameters: str = "{}", *, beside: str = PICKER) -> str:
    return f"plugins: [{{type: {kind}, parameters: {parameters}}}, {beside}]"


def parser(kind: str) -> str:
    return plugin(kind) + f"\nrequestHandler: {{parsers: [{{pluginRef: {kind}}}]}}"


def rate_limits(*kinds: str) -> str:
    """Every member of the section, which is picker's own, with limits of these kinds."""
    rules = []
    for kind in kinds:
        limits = ", ".join(f"{kind}Per{window}: 9k" for window in ("Second", "Minute", "Hour", "Day"))
        source = "claim: {namespace: n, path: [a, b]}" if kind == "cost" else "header: x-api-key"
        rules.append(
            f"  - {{name: {kind}, key: {{{source}}}, limits: {{{limits}}}, withoutKey: {{{limits}}}, models: [m],\n"
            f"    perModel: true, weights: {{request: 1, input: 2, cached: 0.5, output: 4}},\n"
            f"    keys: [{{name: a, values: [b], file: /dev/null, limits: {{{limits}}}}}]}}\n"
        )
    store = "{redis: {url: 'redis://r', passwordFile: /dev/null, prefix: p}, timeout: 1s, onFailure: failOpen}"
    most = "maxCounters: 9, outputEstimate: learned"
    return "rateLimits:\n  rules:\n" + "".join(rules) + f"  store: {store}\n  " + most.replace(", ", "\n  ")


# What runs, without a word.
RUNS = {
    **{kind: parser(kind) for kind in SUPPORTED if SUPPORTED[kind].role is Role.PARSER},
    "several parsers": plugin("openai-parser", beside="{type: anthropic-parser}")
    + "\nrequestHandler: {parsers: [{pluginRef: anthropic-parser}, {pluginRef: openai-parser}]}",
    "the old API group": "apiVersion: inference.networking.x-k8s.io/v1alpha1\nkind: EndpointPickerConfig\n",
    "queue-scorer": plugin("queue-scorer"),
    "running-requests-size-scorer": plugin("running-requests-size-scorer"),
    "kv-cache-utilization-scorer": plugin("kv-cache-utilization-scorer"),
    "prefix-cache-scorer": plugin(
        "prefix-cache-scorer",
        "{prefixMatchInfoProducerName: approx-prefix-cache-producer, matchLengthWeight: 0.5,"
        " matchLengthScaleTokens: 9}",
        beside=PRODUCERS,
    ),
    "lora-affinity-scorer": plugin("lora-affinity-scorer"),
    "load-aware-scorer": plugin("load-aware-scorer", "{threshold: 64}"),
    "token-load-scorer": plugin(
        "token-load-scorer",
        "{queueThresholdTokens: 9, inFlightLoadProducerName: inflight-load-producer}",
        beside=PRODUCERS,
    ),
    "active-request-scorer": plugin("active-request-scorer", "{idleThreshold: 2, maxBusyScore: 0.9}"),
    "session-affinity-scorer": plugin(
        "session-affinity-scorer", "{strategy: encoded_endpoint_header, headerName: x-session-id}"
    ),
    "ttft-scorer": plugin(
        "ttft-scorer",
        "{priorPrefillTokensPerSecond: 9, residentTokenWeight: 0.1, uncachedTokenWeight: 1, waitingRequestTokens: 1}",
    ),
    "label-selector-filter": plugin(
        "label-selector-filter",
        "{matchLabels: {a: b}, matchExpressions: [{key: c, operator: In, values: [d]}, {key: e, operator: Exists}]}",
    ),
    "decode-filter": plugin("decode-filter"),
    "prefill-filter": plugin("prefill-filter"),
    "encode-filter": plugin("encode-filter"),
    "prefix-cache-affinity-filter": plugin(
        "prefix-cache-affinity-filter",
        "{affinityThreshold: 0.5, explorationProbability: 0.1, maxTTFTPenaltyMs: 5, ttftSource: prefillThroughput,"
        " peakPrefillThroughput: 9, prefixMatchInfoProducerName: approx-prefix-cache-producer,"
        " inFlightLoadProducerName: inflight-load-producer}",
        beside=PRODUCERS,
    ),
    "header-based-testing-filter": plugin("header-based-testing-filter"),
    "destination-endpoint-served-verifier": plugin("destination-endpoint-served-verifier"),
    **{
        kind: plugin(kind, "{maxNumOfEndpoints: 2}", beside="{type: queue-scorer}")
        for kind in SUPPORTED
        if SUPPORTED[kind].role is Role.PICKER
    },
    "single-profile-handler": plugin("single-profile-handler"),
    "approx-prefix-cache-producer": plugin(
        "approx-prefix-cache-producer",
        "{autoTune: true, lruCapacityPerServer: 9, blockSizeTokens: 16, maxPrefixTokensToMatch: 131072,"
        " maxPrefixBlocksToMatch: 2048}",
    ),
    "inflight-load-producer": plugin(
        "inflight-load-producer",
        "{addEstimatedOutputTokens: false, prefixMatchInfoProducerName: approx-prefix-cache-producer}",
        beside=PRODUCERS.partition(", ")[0],
    ),
    "token-producer": plugin("token-producer"),
    "metrics-data-source": plugin(
        "metrics-data-source",
        "{scheme: https, path: /m, port: 9, interval: 50ms, insecureSkipVerify: false, caCertPath: /a,"
        " clientCertPath: /b, clientKeyPath: /c}",
    ),
    "core-metrics-extractor": plugin(
        "core-metrics-extractor",
        "{engineLabelKey: e, defaultEngine: mine, engineConfigs: [{name: mine, queuedRequestsSpec: 'a{b=c}',"
        " runningRequestsSpec: a, kvUsageSpec: a, loraSpec: a, cacheInfoSpec: a, cacheBlockSizeLabelName: b,"
        " cacheNumBlocksLabelName: c, cacheBlockSizeSpec: a, cacheNumBlocksSpec: a}]}",
    ),
    "file-discovery": plugin("file-discovery", "{path: /x}") + "\ndataLayer: {discovery: {pluginRef: file-discovery}}",
    **{
        f"{kind} as a filter": plugin(kind, "{headroom: 0.2}")
        + f"\nschedulingProfiles: [{{name: a, plugins: [{{pluginRef: {kind}}}, {{pluginRef: random-picker}}]}}]"
        for kind in ("utilization-detector", "concurrency-detector")
    },
    "featureGates, off": "featureGates: [flowControl=false]",
    "featureGates, on": "featureGates: [flowControl]",
    "flowControl": "plugins: [{type: round-robin-fairness-policy}, {type: edf-ordering-policy}]\n"
    "flowControl:\n  {maxBytes: 1G, maxRequests: 9, defaultRequestTTL: 9s, noEndpointRequestTTL: 0s,\n"
    "  defaultPriorityBand: {maxBytes: 1, maxRequests: 1}, defaultNegativePriorityBand: {defaultRequestTTL: 1s},\n"
    "  priorityBands: [{priority: 1, maxBytes: 1, maxRequests: 1, defaultRequestTTL: 1s,\n"
    "  fairnessPolicyRef: round-robin-fairness-policy, orderingPolicyRef: edf-ordering-policy}],\n"
    "  usageLimitPolicyPluginRef: static-usage-limit-policy,\n"
    "  saturationDetector: {pluginRef: utilization-detector}, enableEviction: true, fairnessIdHeader: x-tenant}",
    "utilization-detector": plugin(
        "utilization-detector",
        "{queueDepthThreshold: 9, kvCacheUtilThreshold: 0.5, metricsStalenessThreshold: 1s, headroom: 0.1}",
    ),
    "concurrency-detector": plugin(
        "concurrency-detector",
        "{concurrencyMode: hybrid, maxConcurrency: 9, maxTokenConcurrency: 9, headroom: 0.1}",
    )
    + "\nflowControl: {saturationDetector: {pluginRef: concurrency-detector}}",
    **{
        kind: plugin(kind) + f"\nflowControl: {{defaultPriorityBand: {{{member}: {kind}}}}}"
        for role, member in ((Role.FAIRNESS, "fairnessPolicyRef"), (Role.ORDERING, "orderingPolicyRef"))
        for kind in SUPPORTED
        if SUPPORTED[kind].role is role
    },
    "global-strict-fairness-policy, meant": plugin("global-strict-fairness-policy"),
    "fcfs-ordering-policy, meant": plugin("fcfs-ordering-policy"),
    "adaptive-detector, meant": plugin("adaptive-detector"),
    "token-fairness-policy, meant": plugin("token-fairness-policy"),
    "static-usage-limit-policy, meant": plugin("static-usage-limit-policy", "{threshold: 0.5}"),
    "priority-holdback-policy": plugin(
        "priority-holdback-policy", "{shape: linear, domain: value, minCeiling: 0.4, maxCeiling: 0.9}"
    )
    + "\nflowControl: {usageLimitPolicyPluginRef: priority-holdback-policy}",
    "soft-reflective-ceiling-policy": plugin("soft-reflective-ceiling-policy")
    + "\nflowControl: {usageLimitPolicyPluginRef: soft-reflective-ceiling-policy}",
    "probabilistic-admitter": plugin(
        "probabilistic-admitter", "{queueDepthThreshold: 9, kvCacheUtilThreshold: 0.5, power: 2, k: 100}"
    ),
    "latency-slo-admitter": plugin("latency-slo-admitter"),
    "agent-identity": plugin("agent-identity", "{additionalSessionHeaders: [x-session-id]}"),
    "eviction": plugin("eviction-sheddable-filter", beside="{type: eviction-priority-then-time-ordering}")
    + "\nflowControl: {enableEviction: true}",
    "plugins by name": "plugins: [{type: queue-scorer, name: q}]\n"
    "schedulingProfiles: [{name: default, plugins: [{pluginRef: q, weight: 2.5}]}]",
    "dataLayer.injectDefaults": "dataLayer: {injectDefaults: false}",
    "dataLayer.sources": "plugins: [{type: metrics-data-source}, {type: core-metrics-extractor}]\n"
    "dataLayer: {sources: [{pluginRef: metrics-data-source, extractors: [{pluginRef: core-metrics-extractor}]}]}",
    "responseTracking": "responseTracking: full",
    "rateLimits": rate_limits("requests", "inputTokens", "outputTokens"),
    "rateLimits, others": rate_limits("tokens", "cost"),
}

# What is taken and has no effect, and the words of the warning that tells it.
WARNS = {
    "by-label": (plugin("by-label", "{label: a, validValues: [b], allowsNoLabel: true}"), "use label-selector-filter"),
    "by-label-selector": (plugin("by-label-selector", "{matchLabels: {a: b}}"), "use label-selector-filter"),
    **{
        f"prefix-cache-scorer {name}": (
            plugin("prefix-cache-scorer", f"{{{name}: {value}}}"),
            f"plugins[0].parameters.{name}: this has no effect",
        )
        for name, value in {
            "autoTune": "true",
            "hashBlockSize": 64,
            "blockSize": 64,
            "maxPrefixBlocksToMatch": 256,
            "lruCapacityPerServer": 9,
        }.items()
    },
    **{
        f"approx-prefix-cache-producer {name}": (
            plugin("approx-prefix-cache-producer", f"{{{name}: {value}}}"),
            f"plugins[0].parameters.{name}: this has no effect",
        )
        for name, value in {
            "autoTune": "false",
            "blockSizeTokens": 64,
            "blockSize": 64,
            "maxPrefixBlocksToMatch": 9,
            "maxPrefixTokensToMatch": 9,
        }.items()
    },
    **{
        f"inflight-load-producer {name}": (
            plugin("inflight-load-producer", f"{{{name}: {value}}}"),
            f"plugins[0].parameters.{name}: this has no effect",
        )
        for name, value in {
            "addEstimatedOutputTokens": "true",
            "outputRatio": 2,
            "maxEstimatedOutputTokens": 9,
            "syncCrossReplicaState": "true",
        }.items()
    },
    **{
        f"token-producer {name}": (
            plugin("token-producer", f"{{{name}: {value}}}"),
            f"plugins[0].parameters.{name}: this has no effect",
        )
        for name, value in {"modelName": "m", "estimate": "{mode: static}", "vllm": "{url: 'http://x'}"}.items()
    },
    **{
        f"session-affinity-scorer {name}": (
            plugin("session-affinity-scorer", f"{{{name}: {value}}}"),
            f"plugins[0].parameters.{name}: this has no effect",
        )
        for name, value in {
            "profileName": "x",
            "sources": "[{header: x}, {attribute: a, producer: p}]",
            "evictionTtlSeconds": 9,
            "evictionSweepSeconds": 9,
        }.items()
    },
    "active-request-scorer requestTimeout": (
        plugin("active-request-scorer", "{requestTimeout: 2m}"),
        "plugins[0].parameters.requestTimeout: this has no effect",
    ),
    "metrics-data-source families": (
        plugin("metrics-data-source", "{families: [a]}"),
        "plugins[0].parameters.families: this has no effect",
    ),
    "core-metrics-extractor customMetrics": (
        plugin(
            "core-metrics-extractor",
            "{engineConfigs: [{name: a},"
            " {name: b, customMetrics: [{attributeKey: a, metricSpec: m, optional: true}]}]}",
        ),
        "plugins[0].parameters.engineConfigs[1].customMetrics: this has no effect",
    ),
    "file-discovery watchFile": (
        plugin("file-discovery", "{path: /x, watchFile: true}")
        + "\ndataLayer: {discovery: {pluginRef: file-discovery}}",
        "plugins[0].parameters.watchFile: this has no effect",
    ),
    "utilization-detector metricsStalenessThreshold": (
        plugin("utilization-detector", "{metricsStalenessThreshold: 200ms}"),
        "plugins[0].parameters.metricsStalenessThreshold: this is taken for 1s",
    ),
    "utilization-detector metricsStalenessThreshold, as a filter": (
        plugin("utilization-detector", "{metricsStalenessThreshold: 9s}")
        + "\nschedulingProfiles: [{name: a, plugins: [{pluginRef: utilization-detector}, {pluginRef: random-picker}]}]",
        "plugins[0].parameters.metricsStalenessThreshold: this has no effect: a filter goes by metrics of any age",
    ),
    "static-usage-limit-policy, switched off": (
        plugin("static-usage-limit-policy") + "\nfeatureGates: [flowControl=false]",
        '"static-usage-limit-policy" does nothing: the feature gate flowControl is off',
    ),
    "concurrency-detector without responses": (
        plugin("concurrency-detector")
        + "\nresponseTracking: off\nflowControl: {saturationDetector: {pluginRef: concurrency-detector}}",
        'flowControl.saturationDetector.pluginRef: "concurrency-detector" has no effect: with responseTracking off',
    ),
    "concurrency-detector named nowhere": (
        plugin("concurrency-detector"),
        'saturation detector "concurrency-detector" does nothing: flowControl names it nowhere',
    ),
    **{
        f"{kind} named nowhere": (
            plugin(kind, parameters),
            f'plugins[0]: {SUPPORTED[kind].role.value} "{kind}" does nothing: flowControl names it nowhere',
        )
        for kind, parameters in {
            "round-robin-fairness-policy": "{}",
            "program-aware-fairness": "{}",
            "edf-ordering-policy": "{}",
            "slo-deadline-ordering-policy": "{}",
            "priority-holdback-policy": "{minCeiling: 0.5}",
            "soft-reflective-ceiling-policy": "{}",
        }.items()
    },
    **{
        f"program-aware-fairness {name}": (
            plugin("program-aware-fairness", f"{{{name}: {value}}}"),
            f"plugins[0].parameters.{name}: this has no effect",
        )
        for name, value in {
            "strategy": "ewma",
            "evictionTtlSeconds": 9,
            "evictionSweepSeconds": 9,
            "lasWeightService": 0.5,
            "lasWeightHeadWait": 0.5,
            "lasDecayFactor": 0.5,
            "lasHalfLifeSeconds": 9,
        }.items()
    },
    **{
        f"{kind} without eviction": (plugin(kind), f'"{kind}" does nothing: flowControl.enableEviction is not in force')
        for kind in SUPPORTED
        if SUPPORTED[kind].role is Role.EVICTION
    },
    "probabilistic-admitter twice": (
        plugin("probabilistic-admitter", beside="{type: probabilistic-admitter, name: b}"),
        'plugins[1]: "b" has no effect: the first probabilistic-admitter counts',
    ),
    "agent-identity beside a verified header": (
        plugin("agent-identity") + "\nflowControl: {fairnessIdHeader: x-tenant}",
        'request header plugin "agent-identity" has no effect: x-tenant alone says who a request is from',
    ),
    "featureGates, others": (
        "featureGates: [haPopulateNonLeaderDatastore=false]",
        "feature gate haPopulateNonLeaderDatastore has no effect",
    ),
    **{
        f"flowControl.{name}, switched off": (
            f"featureGates: [flowControl=false]\nflowControl: {{{name}: {value}}}",
            f"flowControl.{name}: this has no effect: the feature gate flowControl is off",
        )
        for name, value in {"maxBytes": "1G", "priorityBands": "[]", "enableEviction": "true"}.items()
    },
    "flowControl.enableEviction without responses": (
        "responseTracking: off\nflowControl: {enableEviction: true}",
        "flowControl.enableEviction: this has no effect: with responseTracking off nothing is known to be under way",
    ),
    "flowControl.defaultPriorityBand.priority": (
        "flowControl: {defaultPriorityBand: {priority: 1}}",
        "flowControl.defaultPriorityBand.priority: this has no effect: it is for the priorities that no band is given",
    ),
    "saturationDetector": (
        "saturationDetector: {pluginRef: utilization-detector}",
        "saturationDetector: saturationDetector is deprecated; use flowControl.saturationDetector",
    ),
    "saturationDetector, older": (
        "saturationDetector: {queueDepthThreshold: 5, kvCacheUtilThreshold: 0.8, metricsStalenessThreshold: 200ms}",
        "saturationDetector.metricsStalenessThreshold: this is taken for 1s",
    ),
    "saturationDetector, older and newer": (
        "saturationDetector: {queueDepthThreshold: 5}\nflowControl: {saturationDetector: {kvCacheUtilThreshold: 0.5}}",
        "saturationDetector: this has no effect: flowControl.saturationDetector counts",
    ),
    "saturationDetector, thresholds beside a plugin": (
        "saturationDetector: {pluginRef: utilization-detector, queueDepthThreshold: 5}",
        'saturationDetector.queueDepthThreshold: this has no effect: "utilization-detector" has its own',
    ),
    "parser": ("parser: {pluginRef: openai-parser}", "parser: parser is deprecated; use requestHandler.parsers"),
    "dataLayer.crossReplicaSyncInterval": (
        "dataLayer: {crossReplicaSyncInterval: 1s}",
        "dataLayer.crossReplicaSyncInterval: this has no effect: replicas share no state yet",
    ),
    "a scorer in no profile": (
        "plugins: [{type: queue-scorer}, {type: load-aware-scorer}]\n"
        "schedulingProfiles: [{name: a, plugins: [{pluginRef: queue-scorer}]}]",
        'scorer "load-aware-scorer" is in no profile: it does nothing',
    ),
}

# What is refused, and how the message begins and ends; types picker does not run: `KNOWN_UNSUPPORTED`.
REFUSED = {
    "session-affinity-scorer by id": (
        plugin("session-affinity-scorer", "{strategy: session_id, sources: [{header: x}]}"),
        "session-affinity-scorer keeps no table of session ids yet; use strategy encoded_endpoint_header",
    ),
    "adaptive-detector in a profile": (
        plugin("adaptive-detector") + "\nschedulingProfiles: [{name: a, plugins: [{pluginRef: adaptive-detector}]}]",
        '"adaptive-detector" is no filter; it takes no part in a profile; name it under flowControl.saturationDetector',
    ),
    "a priority with two bands": (
        "flowControl: {priorityBands: [{priority: 1}, {priority: 1}]}",
        "flowControl.priorityBands[1].priority: priority 1 has two bands; keep one",
    ),
    "flowControl.fairnessIdHeader of secrets": (
        "flowControl: {fairnessIdHeader: Authorization}",
        'flowControl.fairnessIdHeader: "Authorization" holds secrets, and fairness ids are seen in metrics; have the',
    ),
    "agent-identity by a header of secrets": (
        plugin("agent-identity", "{additionalSessionHeaders: [x-session-id, Cookie]}"),
        'plugins[0]: "cookie" holds secrets, and fairness ids are seen in metrics; have the',
    ),
    "flowControl.fairnessIdHeader that is none": (
        "flowControl: {fairnessIdHeader: 'a b'}",
        'flowControl.fairnessIdHeader: "a b" is no header name of at most 63 characters',
    ),
    "more bands than can be": (
        f"flowControl: {{priorityBands: [{', '.join(f'{{priority: {number}}}' for number in range(257))}]}}",
        "flowControl.priorityBands: 257 bands are given; at most 256",
    ),
    "more headers than can be": (
        "plugins:\n"
        + "\n".join(
            f"- {{type: agent-identity, name: {name}, parameters: {{additionalSessionHeaders: "
            f"[{', '.join(f'{name}{number}' for number in range(8))}]}}}}"
            for name in "ab"
        ),
        "plugins[1]: 22 headers may say who a request is from; at most 16",
    ),
    "agent-identity by what is no header": (
        plugin("agent-identity", "{additionalSessionHeaders: ['a:b']}"),
        "additionalSessionHeaders has what is no header name",
    ),
    "priority-holdback-policy upside down": (
        plugin("priority-holdback-policy", "{minCeiling: 0.9, maxCeiling: 0.4}"),
        "minCeiling is above maxCeiling",
    ),
    "prefix-cache-affinity-filter by predictor": (
        plugin("prefix-cache-affinity-filter", "{ttftSource: latencyPredictor}"),
        "prefix-cache-affinity-filter asks no latency predictor; use ttftSource prefillThroughput",
    ),
    "several profiles": (
        "plugins: [{type: queue-scorer}]\n"
        "schedulingProfiles: [{name: prefill, plugins: [{pluginRef: queue-scorer}]}, {name: decode}]",
        "2 profiles are given; keep one, and use a picker for each: there is no header-profile-handler or "
        "disagg-profile-handler here",
    ),
    "dataLayer.peerDiscovery": (
        "dataLayer: {peerDiscovery: {pluginRef: peers}}",
        'plugin "peers" cannot be used: replicas share no state yet; remove it: each replica learns by itself',
    ),
    "dataLayer.crossReplicaSyncerPluginRef": (
        "dataLayer: {crossReplicaSyncerPluginRef: syncer}",
        'plugin "syncer" cannot be used: replicas share no state yet; remove it: each replica learns by itself',
    ),
}


def whole(body: str) -> str:
    return body if body.startswith("apiVersion") else HEAD + body


def put_in_force(config: PickerConfig) -> None:
    """Compiles, and the core takes it."""
    Engine(hash_seed=1, limits={"endpoints": 1}).set_flow(compile_policy(config, installed={}).flow)


@pytest.mark.parametrize("shape", RUNS)
def test_it_runs(shape: str) -> None:
    config = load_config(whole(RUNS[shape]), source="epp.yaml")
    told = [text for text in config.warnings if "has no scorer: endpoints are picked at random" not in text]
    assert told == []
    put_in_force(config)


@pytest.mark.parametrize("shape", WARNS)
def test_it_is_said_to_have_no_effect(shape: str) -> None:
    body, words = WARNS[shape]
    config = load_config(whole(body), source="epp.yaml")
    assert [text for text in config.warnings if words in text], config.warnings
    put_in_force(config)


@pytest.mark.parametrize("shape", REFUSED)
def test_it_is_refused_with_what_to_use(shape: str) -> None:
    body, words = REFUSED[shape]
    with pytest.raises(ConfigError) as caught:
        load_config(whole(body), source="epp.yaml")
    assert words in str(caught.value)


@pytest.mark.parametrize("kind", KNOWN_UNSUPPORTED)
def test_a_type_is_refused_by_name_with_what_to_use(kind: str) -> None:
    instead = KNOWN_UNSUPPORTED[kind]
    with pytest.raises(ConfigError) as caught:
        load_config(whole(plugin(kind)), source="epp.yaml")
    expected = f'epp.yaml:3: plugins[0].type: plugin type "{kind}" is known, but picker does not run it; {instead}'
    assert str(caught.value) == expected
    assert instead.startswith(("use ", "remove it", "bound ", "read "))
    named = {word.strip(",:;.") for word in instead.split() if word.strip(",:;.").endswith(_KINDS)}
    assert named <= SUPPORTED.keys() | KNOWN_UNSUPPORTED.keys()  # what is advised exists


_KINDS = ("-scorer", "-filter", "-picker", "-handler", "-producer", "-parser", "-source", "-extractor", "-policy")


# --- the table has no holes ---


def test_every_type_of_the_reference_is_known() -> None:
    assert set(PEER_TYPES) <= SUPPORTED.keys() | KNOWN_UNSUPPORTED.keys()


def bodies() -> Iterator[Any]:
    shapes = [*RUNS.values(), *(body for body, _ in (*WARNS.values(), *REFUSED.values()))]
    return (yaml.safe_load(whole(body)) for body in shapes)


def test_every_type_that_is_taken_has_a_shape() -> None:
    found = {entry["type"] for body in bodies() for entry in body.get("plugins", [])}
    assert found == SUPPORTED.keys()


def members(value: Any, wanted: inspect.Type, path: str) -> Iterator[str]:
    """The fields of `wanted` that `value` gives, at any depth, by path."""
    for part in wanted.types if isinstance(wanted, inspect.UnionType) else (wanted,):
        if isinstance(part, inspect.StructType) and isinstance(value, dict):
            for field in part.fields:
                if field.encode_name in value:
                    yield f"{path}.{field.encode_name}"
                    yield from members(value[field.encode_name], field.type, f"{path}.{field.encode_name}")
        elif isinstance(part, inspect.VarTupleType) and isinstance(value, list):
            for item in value:
                yield from members(item, part.item_type, path)


def every(wanted: inspect.Type, path: str) -> Iterator[str]:
    for part in wanted.types if isinstance(wanted, inspect.UnionType) else (wanted,):
        if isinstance(part, inspect.StructType):
            for field in part.fields:
                yield f"{path}.{field.encode_name}"
                yield from every(field.type, f"{path}.{field.encode_name}")
        elif isinstance(part, inspect.VarTupleType):
            yield from every(part.item_type, path)


def test_every_field_of_the_file_has_a_shape() -> None:
    wanted = inspect.type_info(EndpointPickerConfig)
    found = {path for body in bodies() for path in members(body, wanted, "")}
    missing = set(every(wanted, "")) - found
    # A band is one kind of thing in three places, a detector in two.
    assert {path for path in missing if "PriorityBand." not in path and "aturationDetector." not in path} == set()


@pytest.mark.parametrize("kind", SUPPORTED)
def test_every_parameter_that_is_taken_has_a_shape(kind: str) -> None:
    parameters = SUPPORTED[kind].parameters
    assert parameters is not None
    assert issubclass(parameters, msgspec.Struct)
    wanted = inspect.type_info(parameters)
    same = {name for name in SUPPORTED if SUPPORTED[name] is SUPPORTED[kind]}
    entries = [entry for body in bodies() for entry in body.get("plugins", []) if entry["type"] in same]
    found = {path for entry in entries for path in members(entry.get("parameters", {}), wanted, "")}
    assert found == set(every(wanted, ""))
