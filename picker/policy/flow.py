"""Compiles the flow control of a `PickerConfig` into what `Engine.set_flow` takes."""

from typing import Any

from picker.config import admission as a
from picker.config.flow import Admitter, BandPlan, Detector, FlowPlan, UsageLimit
from picker.config.model import PickerConfig

__all__ = ["compile_flow"]


def compile_flow(config: PickerConfig) -> dict[str, Any]:
    """The rules of `config`'s flow control, every key given, whatever the file says. Times in seconds.

    A `ttl_s` of 0 never ends; `no_endpoint_ttl_s` is 0 for 503 at once, and infinite if it never ends.
    """
    plan = config.flow_control
    return {
        "queues": plan.queues,
        "detector": _detector(plan.detector),
        "bands": [(priority, *_band(band)) for priority, band in plan.bands],
        "default_band": _band(plan.default_band),
        "default_negative_band": _band(plan.default_negative_band),
        "max_requests": plan.max_requests,
        "max_bytes": plan.max_bytes,
        "no_endpoint_ttl_s": plan.no_endpoint_ttl_s,
        "ceiling": _ceiling(plan),
        "fairness_headers": plan.fairness_headers,
        "admitters": [_admitter(admitter) for admitter in plan.admitters],
        "evicts": plan.evicts,
    }


def _band(band: BandPlan) -> tuple[str, str, int, int, float]:
    return band.ordering, band.fairness, band.max_requests, band.max_bytes, band.ttl_s


def _detector(detector: Detector) -> tuple[Any, ...]:
    match detector:
        case a.UtilizationDetector():
            fresh_s = max(float(detector.metricsStalenessThreshold), a.FRESH_S)
            most = detector.queueDepthThreshold, detector.kvCacheUtilThreshold
            return "utilization", *most, detector.headroom, fresh_s
        case a.ConcurrencyDetector():
            most = detector.maxConcurrency, detector.maxTokenConcurrency
            return "concurrency", detector.concurrencyMode, *most, detector.headroom
        case _:
            return ("adaptive",)


def _ceiling(plan: FlowPlan) -> tuple[Any, ...] | None:
    limit: UsageLimit | None = plan.usage_limit
    match limit:
        case a.StaticUsageLimitPolicy():
            return "static", limit.threshold
        case a.PriorityHoldbackPolicy():
            return "holdback", limit.shape, limit.domain, limit.minCeiling, limit.maxCeiling
        case a.SoftReflectiveCeilingPolicy():
            return ("reflective",)
        case _:
            return None


def _admitter(admitter: Admitter) -> tuple[Any, ...]:
    if isinstance(admitter, a.ProbabilisticAdmitter):
        most = admitter.queueDepthThreshold, admitter.kvCacheUtilThreshold
        return "probabilistic", *most, admitter.power, admitter.k
    return ("latency-slo",)
