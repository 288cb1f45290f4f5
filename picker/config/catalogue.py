"""Every plugin type that picker takes; those it knows of and refuses are in `refused.py`."""

import enum
from dataclasses import dataclass
from types import MappingProxyType
from typing import TypeAlias

import msgspec

from picker.config import admission as a
from picker.config import parameters as p
from picker.config import support as s

__all__ = [
    "ALIASES",
    "DEPRECATED",
    "IMPLICIT",
    "SCHEDULING",
    "SUPPORTED",
    "ParameterType",
    "PluginType",
    "Role",
]

ParameterType: TypeAlias = type[msgspec.Struct] | None


class Role(enum.Enum):
    """Where a plugin takes part."""

    FILTER = "filter"
    SCORER = "scorer"
    PICKER = "picker"
    SCHEDULING = "scheduling plugin"  # one of the three above; added by a caller that did not say which
    PROFILE_HANDLER = "profile handler"
    PRODUCER = "data producer"
    DATA_SOURCE = "data source"
    EXTRACTOR = "extractor"
    PARSER = "parser"
    DISCOVERY = "discovery"
    DETECTOR = "saturation detector"
    FAIRNESS = "fairness policy"
    ORDERING = "ordering policy"
    USAGE_LIMIT = "usage limit policy"
    ADMITTER = "admitter"
    IDENTITY = "request header plugin"
    EVICTION = "eviction policy"
    RESPONSE = "response plugin"


SCHEDULING = frozenset([Role.FILTER, Role.SCORER, Role.PICKER, Role.SCHEDULING])


@dataclass(frozen=True, slots=True)
class PluginType:
    """A plugin type: its role and the struct its parameters decode to (None: any mapping, kept as a dict)."""

    name: str
    role: Role
    parameters: ParameterType = p.NoParameters


_TYPES = (
    PluginType("ttft-scorer", Role.SCORER, p.TtftScorer),
    PluginType("queue-scorer", Role.SCORER, p.QueueScorer),
    PluginType("running-requests-size-scorer", Role.SCORER, p.RunningRequestsSizeScorer),
    PluginType("kv-cache-utilization-scorer", Role.SCORER, p.KvCacheUtilizationScorer),
    PluginType("prefix-cache-scorer", Role.SCORER, p.PrefixCacheScorer),
    PluginType("lora-affinity-scorer", Role.SCORER, p.LoraAffinityScorer),
    PluginType("load-aware-scorer", Role.SCORER, p.LoadAwareScorer),
    PluginType("token-load-scorer", Role.SCORER, p.TokenLoadScorer),
    PluginType("active-request-scorer", Role.SCORER, p.ActiveRequestScorer),
    PluginType("session-affinity-scorer", Role.SCORER, p.SessionAffinityScorer),
    PluginType("label-selector-filter", Role.FILTER, p.LabelSelectorFilter),
    PluginType("by-label", Role.FILTER, p.ByLabelFilter),
    PluginType("decode-filter", Role.FILTER, p.DecodeFilter),
    PluginType("prefill-filter", Role.FILTER, p.PrefillFilter),
    PluginType("encode-filter", Role.FILTER, p.EncodeFilter),
    PluginType("prefix-cache-affinity-filter", Role.FILTER, p.PrefixCacheAffinityFilter),
    PluginType("header-based-testing-filter", Role.FILTER, p.HeaderBasedTestingFilter),
    PluginType("max-score-picker", Role.PICKER, p.MaxScorePicker),
    PluginType("weighted-random-picker", Role.PICKER, p.WeightedRandomPicker),
    PluginType("random-picker", Role.PICKER, p.RandomPicker),
    PluginType("single-profile-handler", Role.PROFILE_HANDLER, s.SingleProfileHandler),
    PluginType("metrics-data-source", Role.DATA_SOURCE, s.MetricsDataSource),
    PluginType("core-metrics-extractor", Role.EXTRACTOR, s.CoreMetricsExtractor),
    PluginType("approx-prefix-cache-producer", Role.PRODUCER, s.ApproxPrefixCacheProducer),
    PluginType("inflight-load-producer", Role.PRODUCER, s.InflightLoadProducer),
    PluginType("token-producer", Role.PRODUCER, s.TokenProducer),
    PluginType("openai-parser", Role.PARSER, s.OpenAIParser),
    PluginType("anthropic-parser", Role.PARSER, s.AnthropicParser),
    PluginType("vllmhttp-parser", Role.PARSER, s.VllmHttpParser),
    PluginType("vllmgrpc-parser", Role.PARSER, s.VllmGrpcParser),
    PluginType("sglanghttp-parser", Role.PARSER, s.SglangHttpParser),
    PluginType("passthrough-parser", Role.PARSER, s.PassthroughParser),
    PluginType("file-discovery", Role.DISCOVERY, s.FileDiscovery),
    PluginType("adaptive-detector", Role.DETECTOR, a.AdaptiveDetector),
    PluginType("utilization-detector", Role.DETECTOR, a.UtilizationDetector),
    PluginType("concurrency-detector", Role.DETECTOR, a.ConcurrencyDetector),
    PluginType("token-fairness-policy", Role.FAIRNESS, a.TokenFairness),
    PluginType("round-robin-fairness-policy", Role.FAIRNESS, a.RoundRobinFairness),
    PluginType("global-strict-fairness-policy", Role.FAIRNESS, a.GlobalStrictFairness),
    PluginType("program-aware-fairness", Role.FAIRNESS, a.ProgramAwareFairness),
    PluginType("fcfs-ordering-policy", Role.ORDERING, a.FcfsOrdering),
    PluginType("edf-ordering-policy", Role.ORDERING, a.EdfOrdering),
    PluginType("slo-deadline-ordering-policy", Role.ORDERING, a.SloDeadlineOrdering),
    PluginType("static-usage-limit-policy", Role.USAGE_LIMIT, a.StaticUsageLimitPolicy),
    PluginType("priority-holdback-policy", Role.USAGE_LIMIT, a.PriorityHoldbackPolicy),
    PluginType("soft-reflective-ceiling-policy", Role.USAGE_LIMIT, a.SoftReflectiveCeilingPolicy),
    PluginType("probabilistic-admitter", Role.ADMITTER, a.ProbabilisticAdmitter),
    PluginType("latency-slo-admitter", Role.ADMITTER, a.LatencySloAdmitter),
    PluginType("agent-identity", Role.IDENTITY, a.AgentIdentity),
    PluginType("eviction-sheddable-filter", Role.EVICTION, a.SheddableFilter),
    PluginType("eviction-priority-then-time-ordering", Role.EVICTION, a.PriorityThenTimeOrdering),
    PluginType("destination-endpoint-served-verifier", Role.RESPONSE, s.DestinationEndpointServedVerifier),
)

_BY_NAME = {kind.name: kind for kind in _TYPES}
ALIASES = MappingProxyType(
    {
        "by-label-selector": "label-selector-filter",
        "program-aware-fairness-policy": "program-aware-fairness",
        "sheddable-filter": "eviction-sheddable-filter",
        "priority-then-time-ordering": "eviction-priority-then-time-ordering",
    }
)
"""Other names of types."""

SUPPORTED = MappingProxyType(_BY_NAME | {alias: _BY_NAME[name] for alias, name in ALIASES.items()})
"""Every type picker accepts, by any of its names."""

DEPRECATED = MappingProxyType({"by-label": "label-selector-filter", "by-label-selector": "label-selector-filter"})
"""Accepted types the peer is about to drop, and what replaces them."""

IMPLICIT = frozenset(
    """
    openai-parser utilization-detector metrics-data-source core-metrics-extractor
    global-strict-fairness-policy fcfs-ordering-policy static-usage-limit-policy
    adaptive-detector token-fairness-policy
    """.split()
)
"""Types that are there by themselves, the peer's and picker's, so that they may be referred to without an entry under
`plugins`."""
