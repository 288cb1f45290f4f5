"""The plugin types of the reference picker that picker does not run, and what to write instead.

One line each, for the person whose configuration names one: what does the job here, or why nothing has to.
"""

from collections.abc import Mapping
from types import MappingProxyType

__all__ = ["KNOWN_UNSUPPORTED"]

_LEARNS = "use ttft-scorer, which learns each endpoint's speed from the answers it sees and needs no predictor"
_MEDIA = "use prefix-cache-scorer: media are hashed with the prompt they stand in"
_NO_STAGES = "use single-profile-handler with decode-filter: prefill and decode of a request have one endpoint"
_NO_DECIDER = "remove it with the disagg-profile-handler it decides for; use single-profile-handler"
_NO_EVENTS = "use approx-prefix-cache-producer, which picker feeds by its own picks: cache events are not read"
_NO_PEER = (
    "use label-selector-filter on the label of the host, rack or zone: without disaggregation no endpoint has a peer"
)
_NO_KUBERNETES = "remove it: picker follows the endpoints by itself (--endpoints-file)"
_NO_DCGM = "use metrics-data-source with core-metrics-extractor: load is what the model servers tell of themselves"
_NO_MODELS = "remove it: models are those that requests name, adapters those that metrics show as loaded"


def _elsewhere(name: str) -> str:
    return f"use {name}, and a picker for each cluster: endpoints of other clusters are not known"


KNOWN_UNSUPPORTED: Mapping[str, str] = MappingProxyType(
    {
        # scorers
        "no-hit-lru-scorer": "use ttft-scorer or token-load-scorer, which spread by load what is cached nowhere",
        "context-length-aware": "use label-selector-filter, with a pool and a picker of its own for long prompts",
        "latency-scorer": _LEARNS,
        "mm-embeddings-cache-scorer": _MEDIA,
        "precise-prefix-cache-scorer": "use prefix-cache-scorer: cache events are not read, the index is fed by picks",
        "header-label-affinity-scorer": "use a route by that header, to a pool and a picker for each label",
        "topology-affinity-scorer": _NO_PEER,
        "endpoint-attribute-scorer": "use the scorer of the load it stands for: queue-scorer, "
        "running-requests-size-scorer or kv-cache-utilization-scorer",
        # filters
        "slo-headroom-tier-filter": "use ttft-scorer, which takes who answers soonest; who waits can go by SLO headers",
        "utilization-filter": "use utilization-detector or concurrency-detector in the profile, as filters",
        "endpoint-attribute-filter": "use label-selector-filter for what labels say; other attributes are not kept",
        "topology-affinity-filter": _NO_PEER,
        "session-affinity-filter": "use session-affinity-scorer with a weight above the others' sum",
        # profile handlers and deciders
        "header-profile-handler": "use single-profile-handler, and a route by that header to a picker for each profile",
        "disagg-profile-handler": _NO_STAGES,
        "pd-profile-handler": _NO_STAGES,
        "disagg-headers-handler": _NO_STAGES,
        "prefill-header-handler": _NO_STAGES,
        "data-parallel-profile-handler": "use single-profile-handler, and list each rank's port as an endpoint",
        "prefix-based-pd-decider": _NO_DECIDER,
        "always-disagg-pd-decider": _NO_DECIDER,
        "always-disagg-multimodal": _NO_DECIDER,
        "always-disagg-multimodal-decider": _NO_DECIDER,
        # producers
        "burst-prefix-cache-producer": "use approx-prefix-cache-producer: each pick counts at once, so that "
        "requests of a burst see each other without being held",
        "precise-prefix-cache-producer": _NO_EVENTS,
        "predicted-latency-producer": _LEARNS,
        "session-id-producer": "use session-affinity-scorer, which reads its header itself; cookies are not read",
        "mm-embeddings-cache-producer": _MEDIA,
        "p2p-source-producer": "remove it: caches are not moved between model servers",
        "tokenizer": "use token-producer: tokens are estimated from the prompt's bytes",
        # responses, screeners
        "request-attribute-reporter": "read tokens by model on /metrics: usage is not told to the gateway",
        "disaggregatedset-rollout-screener": "use label-selector-filter on the revision, or weighted routes to pools",
        "models-responder": "remove it: /v1/models is passed on to a model server, which answers it",
        # parsers
        "vertexai-parser": "use passthrough-parser: such calls are placed by load, their prompt is not read",
        # data layer
        "models-data-source": _NO_MODELS,
        "models-data-extractor": _NO_MODELS,
        "dcgm-data-source": _NO_DCGM,
        "dcgm-extractor": _NO_DCGM,
        "topology-extractor": "use label-selector-filter: labels of the endpoints file say where an endpoint stands",
        "k8s-notification-source": _NO_KUBERNETES,
        "endpoint-notification-source": _NO_KUBERNETES,
        # several clusters
        "multicluster-queue-scorer": _elsewhere("queue-scorer"),
        "multicluster-kv-cache-utilization-scorer": _elsewhere("kv-cache-utilization-scorer"),
        "multicluster-prefix-cache-scorer": _elsewhere("prefix-cache-scorer"),
        "multicluster-session-affinity-filter": _elsewhere("session-affinity-scorer"),
        "multicluster-approx-prefix-cache-producer": _elsewhere("approx-prefix-cache-producer"),
        "multicluster-file-discovery": _elsewhere("file-discovery"),
        "multicluster-metrics-data-source": _elsewhere("metrics-data-source"),
        "multicluster-metrics-extractor": _elsewhere("core-metrics-extractor"),
    }
)
"""Naming one is an error that says what to use instead."""
