"""The parameters of the plugins of flow control: who may wait, in which order, and for what.

Names and defaults are the peer's, see `parameters.py`; `AdaptiveDetector` and `TokenFairness` are picker's own, and
what runs where a file says nothing.
"""

from typing import Annotated, ClassVar, Literal

from msgspec import Meta

from picker.config.parameters import HEADER_NAME, NonNegative, NoParameters, Parameters, Positive, PositiveCount
from picker.config.units import Seconds

__all__ = [
    "AGENT_HEADERS",
    "FRESH_S",
    "NO_FAIRNESS_HEADER",
    "AdaptiveDetector",
    "AgentIdentity",
    "ConcurrencyDetector",
    "EdfOrdering",
    "FcfsOrdering",
    "GlobalStrictFairness",
    "LatencySloAdmitter",
    "PriorityHoldbackPolicy",
    "PriorityThenTimeOrdering",
    "ProbabilisticAdmitter",
    "ProgramAwareFairness",
    "RoundRobinFairness",
    "SheddableFilter",
    "SloDeadlineOrdering",
    "SoftReflectiveCeilingPolicy",
    "StaticUsageLimitPolicy",
    "TokenFairness",
    "UtilizationDetector",
    "is_fairness_header",
]

PositiveRatio = Annotated[float, Meta(gt=0, le=1)]

AGENT_HEADERS = ("x-claude-code-session-id", "x-session-affinity", "session-id", "session_id")
"""What coding agents say their session by, in the peer's order."""

FRESH_S = 1.0
"""The shortest `metricsStalenessThreshold`: endpoints are scraped every 200 ms when busy, every 2 s when idle."""

MOST_SESSION_HEADERS = 8

NO_FAIRNESS_HEADER = "no header name of at most 63 characters"

_TOKENS = "flows take turns by tokens of work, as with token-fairness-policy"


def is_fairness_header(name: str) -> bool:
    """Whether it names a header that the core reads a fairness id from (`PK_FLOW_HEADER_BYTES`)."""
    return HEADER_NAME.fullmatch(name) is not None and len(name) < 64


# --- saturation detectors: whether an endpoint has room for one more request ---


class AdaptiveDetector(NoParameters, frozen=True):
    """picker's own default: how much an endpoint can take is learned from its answers and its metrics."""


class UtilizationDetector(Parameters, frozen=True):
    """No room at an endpoint whose queue or KV usage has come to a threshold; what it was sent since it was scraped
    counts as queue. In a profile: a filter that keeps the endpoints below both.

    Metrics older than `metricsStalenessThreshold` give way to what picker has booked; they stop no traffic.
    """

    queueDepthThreshold: PositiveCount = 5
    kvCacheUtilThreshold: PositiveRatio = 0.8
    metricsStalenessThreshold: Seconds = Seconds(5)
    headroom: NonNegative = 0.0


class ConcurrencyDetector(Parameters, frozen=True):
    """No room at an endpoint that has so many requests, tokens, or either of them, in flight. In a profile: a filter
    that keeps the endpoints below them."""

    concurrencyMode: Literal["requests", "tokens", "hybrid"] = "requests"
    maxConcurrency: PositiveCount = 100
    maxTokenConcurrency: PositiveCount = 1_000_000
    headroom: NonNegative = 0.0


# --- fairness: which flow of a band is next ---


class TokenFairness(NoParameters, frozen=True):
    """picker's own default: the flows of a band take turns by tokens of work, so that long prompts buy no more."""


class RoundRobinFairness(NoParameters, frozen=True):
    """The flows of a band take turns, one request each."""


class GlobalStrictFairness(NoParameters, frozen=True):
    """All flows of a band are one, in the order of its ordering policy."""


class ProgramAwareFairness(Parameters, frozen=True):
    """The flow that was served least goes first: taken for `token-fairness-policy`, which has nothing to tune."""

    strategy: str = "las"
    evictionTtlSeconds: NonNegative = 3600.0
    evictionSweepSeconds: Positive = 300.0
    lasWeightService: NonNegative = 0.8
    lasWeightHeadWait: NonNegative = 0.2
    lasDecayFactor: PositiveRatio = 0.99997
    lasHalfLifeSeconds: NonNegative = 60.0

    no_effect: ClassVar = {
        "strategy": _TOKENS,
        "evictionTtlSeconds": "flows are forgotten when they have nothing waiting",
        "evictionSweepSeconds": "flows are forgotten when they have nothing waiting",
        "lasWeightService": _TOKENS,
        "lasWeightHeadWait": _TOKENS,
        "lasDecayFactor": _TOKENS,
        "lasHalfLifeSeconds": _TOKENS,
    }


# --- ordering: which request of a flow is next ---


class FcfsOrdering(NoParameters, frozen=True):
    """First come, first served."""


class EdfOrdering(NoParameters, frozen=True):
    """The request whose time to wait ends soonest goes first."""


class SloDeadlineOrdering(NoParameters, frozen=True):
    """By arrival plus the time to first token that the header x-llm-d-slo-ttft-ms asks for; those without it last."""


# --- usage limits: how much of the pool a priority may fill ---


class StaticUsageLimitPolicy(Parameters, frozen=True):
    """Nobody is let through where the pool is fuller than this share."""

    threshold: Positive = 1.0


class PriorityHoldbackPolicy(Parameters, frozen=True):
    """The lowest priority may fill `minCeiling` of the pool, the highest `maxCeiling`, those between a share between.

    `domain`: by the rank of the priorities that are in use, or in proportion to their values.
    """

    minCeiling: Annotated[float, Meta(ge=0, lt=1)]
    maxCeiling: PositiveRatio = 1.0
    shape: Literal["linear"] = "linear"
    domain: Literal["rank", "value"] = "rank"

    def __post_init__(self) -> None:
        if self.minCeiling > self.maxCeiling:
            raise ValueError("minCeiling is above maxCeiling")


class SoftReflectiveCeilingPolicy(NoParameters, frozen=True):
    """The fuller the pool, the less of it lower priorities may fill; past that they are let through now and then."""


# --- admitters: who is turned away before it could wait ---


class ProbabilisticAdmitter(Parameters, frozen=True):
    """Of the requests with a priority below 0 it turns away min(saturation ** power * k, 1), at random."""

    queueDepthThreshold: PositiveCount = 5
    kvCacheUtilThreshold: PositiveRatio = 0.8
    power: Positive = 5.0
    k: Positive = 300.0


class LatencySloAdmitter(NoParameters, frozen=True):
    """Turns away a request with a priority below 0 that asks by x-llm-d-slo-ttft-ms for more than any endpoint can
    do."""


# --- who a request is from ---


class AgentIdentity(Parameters, frozen=True):
    """Requests without a fairness id are told apart by the session headers of coding agents."""

    additionalSessionHeaders: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if len(self.additionalSessionHeaders) > MOST_SESSION_HEADERS:
            raise ValueError(f"at most {MOST_SESSION_HEADERS} additionalSessionHeaders")
        if not all(map(is_fairness_header, self.additionalSessionHeaders)):
            raise ValueError(f"additionalSessionHeaders has what is {NO_FAIRNESS_HEADER}")


# --- eviction ---


class SheddableFilter(NoParameters, frozen=True):
    """What may be taken back with `flowControl.enableEviction`: requests with a priority below 0."""


class PriorityThenTimeOrdering(NoParameters, frozen=True):
    """Which of them goes first: the lowest priority, and of those the newest."""
