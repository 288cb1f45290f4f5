"""The parameters of every scheduling plugin (scorer, filter, picker), one frozen struct per type.

Names and defaults are the peer's (llm-d router and Gateway API Inference Extension), so they are camelCase like the
file that holds them. Two class attributes drive checks in `load.py`: `no_effect` names parameters that are accepted
and change nothing (with the reason, told as a warning where the value is not the default), `plugin_refs` those that
name another plugin.
"""

import re
from typing import Annotated, ClassVar, Literal

import msgspec
from msgspec import Meta

from picker.config.units import Seconds

__all__ = [
    "HEADER_NAME",
    "ActiveRequestScorer",
    "ByLabelFilter",
    "DecodeFilter",
    "EncodeFilter",
    "HeaderBasedTestingFilter",
    "KvCacheUtilizationScorer",
    "LabelRequirement",
    "LabelSelectorFilter",
    "LoadAwareScorer",
    "LoraAffinityScorer",
    "MaxScorePicker",
    "NoParameters",
    "Parameters",
    "PrefillFilter",
    "PrefixCacheAffinityFilter",
    "PrefixCacheScorer",
    "QueueScorer",
    "RandomPicker",
    "RunningRequestsSizeScorer",
    "SessionAffinityScorer",
    "SessionSource",
    "TokenLoadScorer",
    "TtftScorer",
    "WeightedRandomPicker",
]

_LARGEST = 10**12  # what the core computes with
Count = Annotated[int, Meta(ge=0, le=_LARGEST)]
PositiveCount = Annotated[int, Meta(ge=1, le=_LARGEST)]
Ratio = Annotated[float, Meta(ge=0, le=1)]
NonNegative = Annotated[float, Meta(ge=0, le=_LARGEST)]
Positive = Annotated[float, Meta(gt=0, le=_LARGEST)]
Text = Annotated[str, Meta(min_length=1)]
Endpoints = Annotated[int, Meta(ge=1, le=8)]

_HASHED_BY_PICKER = "picker hashes prompts in blocks of its own"
_INDEX_OF_PICKER = "it belongs to approx-prefix-cache-producer; set it there"
_ONE_PROFILE = "there is one profile"
_OF_SESSION_ID = "it belongs to strategy session_id"
HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,64}")
"""The name of a header that picker reads: at most 64 characters."""


class Parameters(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of all parameter structs: frozen, and unknown members are errors."""

    no_effect: ClassVar[dict[str, str]] = {}
    plugin_refs: ClassVar[tuple[str, ...]] = ()


class NoParameters(Parameters, frozen=True):
    """A plugin that takes no parameters."""


# --- scorers: each gives a score in 0..1 per endpoint ---


class QueueScorer(NoParameters, frozen=True):
    """(max - q) / (max - min) over the waiting requests of the candidates; all equal: 1."""


class RunningRequestsSizeScorer(NoParameters, frozen=True):
    """(max - r) / (max - min) over the running requests of the candidates; all equal: 1."""


class KvCacheUtilizationScorer(NoParameters, frozen=True):
    """1 - KV cache usage."""


class LoraAffinityScorer(NoParameters, frozen=True):
    """Adapter running 1.0; room for it 0.8; waiting 0.6; else 0."""


class PrefixCacheScorer(Parameters, frozen=True):
    """(1 - w) * match / total + w * min(1, matched tokens / scale) ** 2, with w = `matchLengthWeight`.

    The last five belonged to this plugin up to GIE 1.5 and are still found in deployed configurations.
    """

    prefixMatchInfoProducerName: str = ""
    matchLengthWeight: Ratio = 0.0
    matchLengthScaleTokens: PositiveCount = 8192
    autoTune: bool | None = None
    hashBlockSize: Count | None = None
    blockSize: Count | None = None
    maxPrefixBlocksToMatch: Count | None = None
    lruCapacityPerServer: Count | None = None

    no_effect: ClassVar = {
        "autoTune": _INDEX_OF_PICKER,
        "hashBlockSize": _HASHED_BY_PICKER,
        "blockSize": _HASHED_BY_PICKER,
        "maxPrefixBlocksToMatch": _INDEX_OF_PICKER,
        "lruCapacityPerServer": _INDEX_OF_PICKER,
    }
    plugin_refs: ClassVar = ("prefixMatchInfoProducerName",)


class LoadAwareScorer(Parameters, frozen=True):
    """0.5 * (1 - min(q, threshold) / threshold) with q waiting requests."""

    threshold: PositiveCount = 128


class TokenLoadScorer(Parameters, frozen=True):
    """1 - min(T, threshold) / threshold; T = tokens in flight + this request's uncached tokens."""

    queueThresholdTokens: PositiveCount = 4_194_304
    inFlightLoadProducerName: str = ""

    plugin_refs: ClassVar = ("inFlightLoadProducerName",)


class ActiveRequestScorer(Parameters, frozen=True):
    """Requests in flight c: c <= idle 1, else (max - c) / max * `maxBusyScore`."""

    idleThreshold: Count = 0
    maxBusyScore: Ratio = 1.0
    requestTimeout: Seconds | None = None

    no_effect: ClassVar = {"requestTimeout": "it is deprecated; a request counts until its stream ends"}


class SessionSource(Parameters, frozen=True):
    """Where a session id is read: a request header, or an attribute some producer published."""

    header: str = ""
    attribute: str = ""
    producer: str = ""

    def __post_init__(self) -> None:
        if bool(self.header) == bool(self.attribute):
            raise ValueError("a session source needs either header or attribute")


class SessionAffinityScorer(Parameters, frozen=True):
    """1 for the endpoint the session used before, else 0.

    `encoded_endpoint_header`: the header holds base64 of `namespace/name` and is issued again with each response;
    `session_id`: picker remembers which endpoint served the id, for `evictionTtlSeconds` after its last use.
    """

    strategy: Literal["encoded_endpoint_header", "session_id"] = "encoded_endpoint_header"
    headerName: Text = "x-session-token"
    sources: tuple[SessionSource, ...] = ()
    evictionTtlSeconds: Positive = 300.0
    evictionSweepSeconds: Positive = 10.0
    profileName: str = ""

    no_effect: ClassVar = {
        "profileName": _ONE_PROFILE,
        "sources": _OF_SESSION_ID,
        "evictionTtlSeconds": _OF_SESSION_ID,
        "evictionSweepSeconds": _OF_SESSION_ID,
    }

    def __post_init__(self) -> None:
        if not HEADER_NAME.fullmatch(self.headerName):
            raise ValueError("headerName is no header name of at most 64 characters")
        if self.strategy == "session_id":
            raise ValueError(
                "session-affinity-scorer keeps no table of session ids yet; use strategy encoded_endpoint_header"
            )


class TtftScorer(Parameters, frozen=True):
    """picker's own default policy: the least estimated time to first token scores highest.

    (work ahead + `uncachedTokenWeight` x own uncached tokens + `residentTokenWeight` x tokens of running requests
    + `waitingRequestTokens` x requests of others) / learned prefill rate. Work ahead is booked prefill, less what is
    done by now. A token to compute delays those behind it too, and takes cache: hence its weight. The rate is
    `priorPrefillTokensPerSecond` until it is learned.
    """

    priorPrefillTokensPerSecond: Positive = 15000.0
    residentTokenWeight: Ratio = 0.05
    uncachedTokenWeight: NonNegative = 2.0
    waitingRequestTokens: NonNegative = 512.0


# --- filters ---


class LabelRequirement(Parameters, frozen=True):
    """One `matchExpressions` entry of a Kubernetes label selector."""

    key: Text
    operator: Literal["In", "NotIn", "Exists", "DoesNotExist"]
    values: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.operator in ("In", "NotIn") and not self.values:
            raise ValueError(f"operator {self.operator} needs values")
        if self.operator in ("Exists", "DoesNotExist") and self.values:
            raise ValueError(f"operator {self.operator} takes no values")

    def matches(self, labels: dict[str, str]) -> bool:
        """As Kubernetes decides it: NotIn and DoesNotExist hold for an absent label."""
        present = self.key in labels
        if self.operator == "Exists" or self.operator == "DoesNotExist":
            return present == (self.operator == "Exists")
        return (present and labels[self.key] in self.values) == (self.operator == "In")


class LabelSelectorFilter(Parameters, frozen=True):
    """Keeps the endpoints whose labels satisfy every entry (metav1.LabelSelector)."""

    matchLabels: dict[str, str] = {}
    matchExpressions: tuple[LabelRequirement, ...] = ()

    def __post_init__(self) -> None:
        if not self.matchLabels and not self.matchExpressions:
            raise ValueError("selects every endpoint; give matchLabels or matchExpressions")

    def matches(self, labels: dict[str, str]) -> bool:
        """Whether an endpoint with these labels is kept."""
        wanted = self.matchLabels.items() <= labels.items()
        return wanted and all(requirement.matches(labels) for requirement in self.matchExpressions)


class ByLabelFilter(Parameters, frozen=True):
    """Keeps the endpoints whose label has one of the values, or is absent where that is allowed."""

    label: Text
    validValues: tuple[str, ...] = ()
    allowsNoLabel: bool = False

    def __post_init__(self) -> None:
        if not self.validValues and not self.allowsNoLabel:
            raise ValueError("keeps no endpoint; give validValues or allowsNoLabel: true")

    def matches(self, labels: dict[str, str]) -> bool:
        """Whether an endpoint with these labels is kept."""
        return labels[self.label] in self.validValues if self.label in labels else self.allowsNoLabel


class DecodeFilter(NoParameters, frozen=True):
    """Keeps endpoints whose role (label `llm-d.ai/role`) can decode, and those without a role."""


class PrefillFilter(NoParameters, frozen=True):
    """Keeps endpoints whose role can prefill."""


class EncodeFilter(NoParameters, frozen=True):
    """Keeps endpoints whose role can encode."""


class PrefixCacheAffinityFilter(Parameters, frozen=True):
    """Keeps the endpoints that hold the prefix, unless that costs more than `maxTTFTPenaltyMs` of waiting."""

    affinityThreshold: Ratio = 0.80
    explorationProbability: Ratio = 0.0
    maxTTFTPenaltyMs: NonNegative = 18_000.0
    ttftSource: Literal["prefillThroughput", "latencyPredictor"] = "prefillThroughput"
    peakPrefillThroughput: Positive = 15_928.0
    prefixMatchInfoProducerName: str = ""
    inFlightLoadProducerName: str = ""

    plugin_refs: ClassVar = ("prefixMatchInfoProducerName", "inFlightLoadProducerName")

    def __post_init__(self) -> None:
        if self.ttftSource == "latencyPredictor":
            raise ValueError("prefix-cache-affinity-filter asks no latency predictor; use ttftSource prefillThroughput")


class HeaderBasedTestingFilter(NoParameters, frozen=True):
    """For conformance tests: the request header test-epp-endpoint-selection names the endpoints to pick from.

    A comma list of `ip` or `ip:port`, read like the gateway's subset hint and instead of it. Any client can send it.
    """


# --- pickers ---


class MaxScorePicker(Parameters, frozen=True):
    """The highest score; ties at random. More than one endpoint: an ordered fallback list."""

    maxNumOfEndpoints: Endpoints = 1


class WeightedRandomPicker(Parameters, frozen=True):
    """At random in proportion to the score."""

    maxNumOfEndpoints: Endpoints = 1


class RandomPicker(Parameters, frozen=True):
    """Uniformly at random."""

    maxNumOfEndpoints: Endpoints = 1
