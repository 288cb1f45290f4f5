"""What a file says of flow control comes to: as in the reference where it speaks, picker's own where it does not."""

import math

import pytest

from picker.config import admission as a
from picker.config import load_config
from picker.config.flow import FAIRNESS_HEADERS, BandPlan, FlowPlan
from tests.support.config_samples import HEAD


def plan(body: str) -> FlowPlan:
    return load_config(HEAD + body, source="epp.yaml").flow_control


def test_nothing_said_is_the_default() -> None:
    assert plan("") == FlowPlan()


def test_what_is_asked_for_with_nothing_else_waits_for_endpoints_as_long_as_for_room() -> None:
    for body in ("featureGates: [flowControl]", "flowControl: {}"):
        assert plan(body) == FlowPlan(no_endpoint_ttl_s=60.0)


@pytest.mark.parametrize(
    ("times", "expected_s"),
    [
        ("defaultRequestTTL: 90s", 90.0),
        ("defaultRequestTTL: 0s", math.inf),
        ("noEndpointRequestTTL: 10m", 600.0),
        ("noEndpointRequestTTL: 0s", math.inf),
        ("defaultRequestTTL: 90s, noEndpointRequestTTL: 1s", 1.0),
    ],
)
def test_how_long_a_request_waits_for_an_endpoint(times: str, expected_s: float) -> None:
    assert plan(f"flowControl: {{{times}}}").no_endpoint_ttl_s == expected_s


def test_a_gate_that_is_off_leaves_the_detector_and_nothing_else() -> None:
    body = "featureGates: [flowControl=false]\nflowControl: {saturationDetector: {queueDepthThreshold: 9}}"
    assert plan(body) == FlowPlan(queues=False, detector=a.UtilizationDetector(queueDepthThreshold=9))
    assert not plan("featureGates: [flowControl=false]\nflowControl: {enableEviction: true}").evicts


def test_bands_have_the_time_of_all_unless_they_have_their_own() -> None:
    found = plan("""
flowControl:
  defaultRequestTTL: 30s
  defaultPriorityBand: {defaultRequestTTL: 10s}
  priorityBands: [{priority: 1}, {priority: 2, defaultRequestTTL: 5s}, {priority: 3, defaultRequestTTL: 0s}, {}]
""")
    assert [(priority, band.ttl_s) for priority, band in found.bands] == [(1, 30.0), (2, 5.0), (3, 0.0), (0, 30.0)]
    assert found.default_band.ttl_s == found.default_negative_band.ttl_s == 10.0


def test_a_limit_of_nothing_is_the_default_of_a_band_and_none_of_all() -> None:
    found = plan(
        "flowControl: {maxBytes: 0, maxRequests: 0, priorityBands: [{priority: 1, maxBytes: 0, maxRequests: 0}]}"
    )
    assert found.bands == ((1, BandPlan()),)
    assert (found.max_requests, found.max_bytes) == (0, 0)


def test_negative_priorities_have_a_template_of_their_own() -> None:
    found = plan("flowControl: {defaultPriorityBand: {maxRequests: 9}, defaultNegativePriorityBand: {maxRequests: 1}}")
    assert (found.default_band.max_requests, found.default_negative_band.max_requests) == (9, 1)


def test_policies_by_reference() -> None:
    found = plan("""
plugins:
- {type: round-robin-fairness-policy, name: turns}
- {type: slo-deadline-ordering-policy}
- {type: priority-holdback-policy, name: hold, parameters: {minCeiling: 0.4}}
- {type: concurrency-detector, parameters: {maxConcurrency: 7}}
flowControl:
  priorityBands:
  - {priority: 1, fairnessPolicyRef: turns, orderingPolicyRef: slo-deadline-ordering-policy}
  - {priority: 2, fairnessPolicyRef: global-strict-fairness-policy, orderingPolicyRef: fcfs-ordering-policy}
  - {priority: 3}
  usageLimitPolicyPluginRef: hold
  saturationDetector: {pluginRef: concurrency-detector}
""")
    assert [(band.fairness, band.ordering) for _, band in found.bands] == [
        ("round-robin", "slo-deadline"),
        ("strict", "fcfs"),
        ("tokens", "fcfs"),
    ]
    assert found.usage_limit == a.PriorityHoldbackPolicy(minCeiling=0.4)
    assert found.detector == a.ConcurrencyDetector(maxConcurrency=7)


def test_a_policy_declared_by_the_name_that_the_reference_falls_back_to_is_meant() -> None:
    found = plan("""
plugins:
- {type: utilization-detector, parameters: {queueDepthThreshold: 9}}
- {type: global-strict-fairness-policy}
- {type: edf-ordering-policy, name: fcfs-ordering-policy}
- {type: static-usage-limit-policy, parameters: {threshold: 0.9}}
flowControl: {priorityBands: [{priority: 1, fairnessPolicyRef: token-fairness-policy}]}
""")
    assert found.detector == a.UtilizationDetector(queueDepthThreshold=9)
    assert (found.default_band.fairness, found.default_band.ordering) == ("strict", "edf")
    assert found.bands[0][1].fairness == "tokens"
    assert found.usage_limit == a.StaticUsageLimitPolicy(threshold=0.9)


def test_a_detector_in_a_profile_is_a_filter_and_no_more() -> None:
    body = """
plugins: [{type: utilization-detector}, {type: random-picker}]
schedulingProfiles: [{name: a, plugins: [{pluginRef: utilization-detector}, {pluginRef: random-picker}]}]
"""
    assert plan(body).detector == a.AdaptiveDetector()
    named = body + "flowControl: {saturationDetector: {pluginRef: utilization-detector}}"
    assert plan(named).detector == a.UtilizationDetector()


def test_thresholds_of_before_detectors_were_plugins() -> None:
    body = "saturationDetector: {queueDepthThreshold: 9, kvCacheUtilThreshold: 0, metricsStalenessThreshold: 3s}"
    expected = a.UtilizationDetector(queueDepthThreshold=9, metricsStalenessThreshold=3.0)  # type: ignore[arg-type]
    assert plan(body).detector == expected


def test_who_a_request_is_from() -> None:
    assert plan("flowControl: {fairnessIdHeader: X-Tenant}").fairness_headers == ("x-tenant",)
    agents = plan("plugins: [{type: agent-identity, parameters: {additionalSessionHeaders: [X-Mine, session-id]}}]")
    assert agents.fairness_headers == (
        *FAIRNESS_HEADERS,
        "x-mine",
        "session-id",
        "x-claude-code-session-id",
        "x-session-affinity",
        "session_id",
    )


def test_admitters_work_by_being_declared() -> None:
    found = plan("plugins: [{type: latency-slo-admitter}, {type: probabilistic-admitter, parameters: {k: 9}}]")
    assert found.admitters == (a.LatencySloAdmitter(), a.ProbabilisticAdmitter(k=9.0))
