"""What the file says of flow control, fully resolved: who may wait, how long, in which order, and for what. Frozen.

The defaults are what runs where the file says nothing.
"""

from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from picker.config.admission import (
    AdaptiveDetector,
    ConcurrencyDetector,
    LatencySloAdmitter,
    PriorityHoldbackPolicy,
    ProbabilisticAdmitter,
    SoftReflectiveCeilingPolicy,
    StaticUsageLimitPolicy,
    UtilizationDetector,
)

__all__ = [
    "FAIRNESS_HEADERS",
    "Admitter",
    "BandPlan",
    "Detector",
    "Fairness",
    "FlowPlan",
    "Ordering",
    "UsageLimit",
]

Ordering = Literal["fcfs", "edf", "slo-deadline"]
Fairness = Literal["strict", "round-robin", "tokens"]
Detector: TypeAlias = AdaptiveDetector | UtilizationDetector | ConcurrencyDetector
UsageLimit: TypeAlias = StaticUsageLimitPolicy | PriorityHoldbackPolicy | SoftReflectiveCeilingPolicy
Admitter: TypeAlias = ProbabilisticAdmitter | LatencySloAdmitter

FAIRNESS_HEADERS = ("x-llm-d-inference-fairness-id", "x-gateway-inference-fairness-id")
"""What clients say who they are by, unless the file names a header that the gateway sets."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BandPlan:
    """How requests of one priority wait. `ttl_s` 0: for as long as their clients do."""

    ordering: Ordering = "fcfs"
    fairness: Fairness = "tokens"
    max_requests: int = 5000
    max_bytes: int = 1_000_000_000
    ttl_s: float = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class FlowPlan:
    """Flow control as it runs.

    `queues` False: nothing waits, and under saturation only requests with a priority below 0 are turned away. Caps of
    0: none. `no_endpoint_ttl_s`: how long a request may wait for an endpoint to exist; 0: not at all, infinite: for as
    long as its client does. `usage_limit` None: picker's own reserve for higher priorities. `fairness_headers`: the
    first that a request has tells its flow, in lower case.
    """

    queues: bool = True
    detector: Detector = field(default_factory=AdaptiveDetector)
    bands: tuple[tuple[int, BandPlan], ...] = ()
    default_band: BandPlan = field(default_factory=BandPlan)
    default_negative_band: BandPlan = field(default_factory=BandPlan)
    max_requests: int = 0
    max_bytes: int = 0
    no_endpoint_ttl_s: float = 0.0
    usage_limit: UsageLimit | None = None
    fairness_headers: tuple[str, ...] = FAIRNESS_HEADERS
    admitters: tuple[Admitter, ...] = ()
    evicts: bool = False
