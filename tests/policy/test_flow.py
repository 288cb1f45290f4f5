"""Flow control of a configuration as the engine takes it."""

import math

import pytest

from picker.config import DEFAULT_CONFIG, load_config
from picker.policy.compile import compile_policy
from picker.policy.flow import compile_flow
from tests.support.config_samples import FOLDER, HEAD


def test_the_default() -> None:
    usual = ("fcfs", "tokens", 5000, 1_000_000_000, 60.0)
    assert compile_flow(DEFAULT_CONFIG) == {
        "queues": True,
        "detector": ("adaptive",),
        "bands": [],
        "default_band": usual,
        "default_negative_band": usual,
        "max_requests": 0,
        "max_bytes": 0,
        "no_endpoint_ttl_s": 0.0,
        "ceiling": None,
        "fairness_headers": ("x-llm-d-inference-fairness-id", "x-gateway-inference-fairness-id"),
        "admitters": [],
        "evicts": False,
    }


def test_a_file() -> None:
    config = load_config((FOLDER / "flow-control.yaml").read_text())
    flow = compile_policy(config, installed={}).flow
    assert flow["detector"] == ("utilization", 10, 0.9, 0.0, 1.0)
    assert flow["bands"] == [
        (100, "slo-deadline", "round-robin", 500, 10**9, 90.0),
        (-1, "fcfs", "tokens", 5000, 10**8, 90.0),
    ]
    assert (flow["max_requests"], flow["max_bytes"], flow["no_endpoint_ttl_s"]) == (20_000, 10 << 30, 600.0)
    assert flow["ceiling"] == ("static", 0.95)


@pytest.mark.parametrize(
    ("kind", "parameters", "expected"),
    [
        ("utilization-detector", "{}", ("utilization", 5, 0.8, 0.0, 5.0)),
        ("utilization-detector", "{metricsStalenessThreshold: 200ms}", ("utilization", 5, 0.8, 0.0, 1.0)),
        ("concurrency-detector", "{}", ("concurrency", "requests", 100, 1_000_000, 0.0)),
        (
            "concurrency-detector",
            "{concurrencyMode: hybrid, maxConcurrency: 7, maxTokenConcurrency: 9, headroom: 0.5}",
            ("concurrency", "hybrid", 7, 9, 0.5),
        ),
        ("adaptive-detector", "{}", ("adaptive",)),
    ],
)
def test_detectors(kind: str, parameters: str, expected: tuple[object, ...]) -> None:
    body = f"plugins: [{{type: {kind}, name: x, parameters: {parameters}}}]\n"
    config = load_config(HEAD + body + "flowControl: {saturationDetector: {pluginRef: x}}")
    assert compile_flow(config)["detector"] == expected


@pytest.mark.parametrize(
    ("kind", "parameters", "expected"),
    [
        ("static-usage-limit-policy", "{threshold: 0.5}", ("static", 0.5)),
        ("priority-holdback-policy", "{minCeiling: 0.5}", ("holdback", "linear", "rank", 0.5, 1.0)),
        (
            "priority-holdback-policy",
            "{minCeiling: 0, maxCeiling: 0.9, domain: value}",
            ("holdback", "linear", "value", 0.0, 0.9),
        ),
        ("soft-reflective-ceiling-policy", "{}", ("reflective",)),
    ],
)
def test_ceilings(kind: str, parameters: str, expected: tuple[object, ...]) -> None:
    body = f"plugins: [{{type: {kind}, name: x, parameters: {parameters}}}]\n"
    config = load_config(HEAD + body + "flowControl: {usageLimitPolicyPluginRef: x}")
    assert compile_flow(config)["ceiling"] == expected


def test_admitters_and_eviction() -> None:
    body = (
        "plugins: [{type: probabilistic-admitter}, {type: latency-slo-admitter}]\nflowControl: {enableEviction: true}"
    )
    flow = compile_flow(load_config(HEAD + body))
    assert flow["admitters"] == [("probabilistic", 5, 0.8, 5.0, 300.0), ("latency-slo",)]
    assert flow["evicts"] is True


def test_a_wait_without_end() -> None:
    flow = compile_flow(load_config(HEAD + "flowControl: {defaultRequestTTL: 0s}"))
    assert flow["default_band"][-1] == 0.0
    assert flow["no_endpoint_ttl_s"] == math.inf
