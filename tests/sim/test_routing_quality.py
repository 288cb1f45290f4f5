"""The default policy on a public trace, through the whole core in virtual time: deterministic, so it may gate.

All requests of the trace share their first block: "longest prefix" would send everything to one endpoint (balance
8.0), round robin reaches a hit rate of 0.13. Never judge by one of the two alone.
"""

import pytest

from benchmarks.replay import TRACE, CorePolicy, run
from picker.sim.replay import ReplayResult, RoundRobin, load_trace
from tests.support.shared import needs_shared

pytestmark = needs_shared

ENDPOINTS = 8
CACHE_TOKENS = 4 << 20


@pytest.fixture(scope="module")
def results() -> dict[str, ReplayResult]:
    trace = load_trace(TRACE)
    policies = {"picker": CorePolicy(ENDPOINTS, CACHE_TOKENS), "round robin": RoundRobin(ENDPOINTS)}
    return {
        name: run(trace, policy, endpoints=ENDPOINTS, cache_tokens=CACHE_TOKENS, speedup=1.0)
        for name, policy in policies.items()
    }


def test_every_request_is_served_and_released() -> None:
    policy = CorePolicy(ENDPOINTS, CACHE_TOKENS)
    result = run(load_trace(TRACE, 1000), policy, endpoints=ENDPOINTS, cache_tokens=CACHE_TOKENS, speedup=1.0)
    assert result.requests == 1000
    assert (policy.engine.in_flight, policy.engine.sessions) == (0, 0)
    assert all(entry["resident_tokens"] == 0 for entry in policy.engine.endpoints(0))


def test_hit_rate_is_near_the_ceiling_of_an_infinite_cache(results: dict[str, ReplayResult]) -> None:
    assert results["picker"].hit_rate > 0.32  # ceiling 0.374; round robin 0.127
    assert results["picker"].hit_rate > 2.4 * results["round robin"].hit_rate


def test_work_is_spread(results: dict[str, ReplayResult]) -> None:
    assert results["picker"].balance < 1.25


def test_first_tokens_come_sooner(results: dict[str, ReplayResult]) -> None:
    mine, theirs = results["picker"], results["round robin"]
    assert mine.ttft_mean_s < 0.75 * theirs.ttft_mean_s
    assert mine.ttft_p50_s < 0.75 * theirs.ttft_p50_s
    assert mine.ttft_p99_s < 0.85 * theirs.ttft_p99_s
