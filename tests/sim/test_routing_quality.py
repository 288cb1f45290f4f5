"""The default policy on a public trace, through the whole core in virtual time: deterministic, so it may gate.

All requests of the trace share their first block: "longest prefix" sends everything to one endpoint (balance 8.0),
round robin reaches a hit rate of 0.13. Never judge by one of the two alone.
"""

from functools import cache

import pytest

from picker.sim.figures import Figures
from picker.sim.lab import Lab, Pool, lab
from picker.sim.traces import FORMATS
from tests.support.shared import SHARED, needs_shared

pytestmark = needs_shared


@cache
def conversation() -> Lab:
    load = FORMATS["mooncake"](SHARED / "traces" / "mooncake_conversation.jsonl", 1)
    return lab(load, Pool(replicas=8, gpus=("h100",), cache_tokens=65_536 * 64))


@cache
def figures(policy: str) -> Figures:
    return conversation().run(policy)[0]


def test_round_robin_is_as_published() -> None:
    """Dynamo's own replay of it: hit rate 0.127 (docs/routing-baselines.md), under a ceiling of 0.374; balance 1.04."""
    assert figures("round-robin").hit_rate == pytest.approx(0.127, abs=0.002)
    assert figures("round-robin").hit_ceiling == pytest.approx(0.374, abs=0.001)
    assert figures("round-robin").balance == pytest.approx(1.04, abs=0.02)


def test_every_request_is_served() -> None:
    assert (figures("picker").requests, figures("picker").rejected, figures("picker").failed) == (12_031, 0, 0)


def test_hit_rate_is_near_the_ceiling() -> None:
    assert figures("picker").hit_rate >= 0.35
    assert figures("picker").hit_rate > 2.7 * figures("round-robin").hit_rate


def test_what_is_captured_is_delivered() -> None:
    found = figures("picker")
    assert found.hit_rate == pytest.approx(found.hit_captured, abs=0.005)
    assert found.hit_captured < found.hit_available < found.hit_ceiling


def test_work_is_spread() -> None:
    assert figures("picker").balance <= 1.15


def test_first_tokens_come_sooner() -> None:
    mine, theirs = figures("picker").ttft_ms, figures("round-robin").ttft_ms
    assert mine.mean < 0.7 * theirs.mean
    assert mine.p50 < 0.75 * theirs.p50
    assert mine.p99 < 0.8 * theirs.p99
