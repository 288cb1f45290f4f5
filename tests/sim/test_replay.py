"""The trace replay: small made-up traces, and the public one where the reference data is at hand."""

import json
from functools import cache
from pathlib import Path

import pytest

from picker.sim.replay import (
    LongestPrefix,
    Policy,
    Random,
    ReplayResult,
    RoundRobin,
    TraceRequest,
    engine_config,
    load_trace,
    replay,
)
from tests.support.shared import SHARED, needs_shared

CACHE_64K = 65_536 * 64  # tokens: the "64k" setting of PEERS.md


def conversation(turns: int, every_s: float) -> list[TraceRequest]:
    """One conversation that grows by a block a turn."""
    return [TraceRequest(turn, turn * every_s, 512 * (turn + 1), 10, tuple(range(turn + 1))) for turn in range(turns)]


class Recorder(RoundRobin):
    """Round robin that remembers what it was told."""

    def __init__(self, engines: int) -> None:
        super().__init__(engines)
        self.log: list[tuple[float, str, int]] = []

    def choose(self, request: TraceRequest, now_s: float) -> int:
        self.log.append((now_s, "choose", request.index))
        return super().choose(request, now_s)

    def first_token(self, request: TraceRequest, slot: int, now_s: float, cached_tokens: int) -> None:
        self.log.append((now_s, "first", request.index))

    def finished(self, request: TraceRequest, slot: int, now_s: float) -> None:
        self.log.append((now_s, "finished", request.index))


def test_a_conversation_on_one_engine_hits_all_but_its_new_block() -> None:
    result = replay(conversation(10, 60.0), RoundRobin(1), engines=1, config=engine_config(CACHE_64K))
    assert result.hit_rate == pytest.approx(sum(range(10)) / sum(range(1, 11)))
    assert result.work_tokens == (10 * (512 + 10),)
    assert result.balance == 1.0


def test_the_same_spread_over_two_engines_hits_less() -> None:
    result = replay(conversation(10, 60.0), RoundRobin(2), engines=2, config=engine_config(CACHE_64K))
    assert result.hit_rate == pytest.approx(sum(range(9)) / sum(range(1, 11))), "each sees every other turn"


def test_callbacks_come_in_order_and_once_each() -> None:
    policy = Recorder(3)
    trace = conversation(40, 0.05)
    replay(trace, policy, engines=3, config=engine_config(CACHE_64K), arrival_speedup=2.0)
    assert [at_s for at_s, _, _ in policy.log] == sorted(at_s for at_s, _, _ in policy.log)
    for request in trace:
        assert [what for _, what, index in policy.log if index == request.index] == ["choose", "first", "finished"]
    assert max(at_s for at_s, what, _ in policy.log if what == "choose") == pytest.approx(39 * 0.025)


def test_a_slot_that_is_not_there_is_an_error() -> None:
    with pytest.raises(ValueError, match="chose slot 2 of 2"):
        replay(conversation(3, 1.0), RoundRobin(3), engines=2, config=engine_config(CACHE_64K))


def test_reads_a_trace_in_order_of_arrival(tmp_path: Path) -> None:
    entries = [
        {"timestamp": 2500, "input_length": 600, "output_length": 0, "hash_ids": [0, 2]},
        {"timestamp": 1000, "input_length": 512, "output_length": 7, "hash_ids": [0]},
    ]
    path = tmp_path / "trace.jsonl"
    path.write_text("\n".join(json.dumps(entry) for entry in entries))
    assert load_trace(path) == [TraceRequest(1, 1.0, 512, 7, (0,)), TraceRequest(0, 2.5, 600, 1, (0, 2))]
    assert len(load_trace(path, limit=1)) == 1


@cache
def mooncake() -> list[TraceRequest]:
    return load_trace(SHARED / "traces" / "mooncake_conversation.jsonl")


def over_eight(policy: Policy, trace: list[TraceRequest]) -> ReplayResult:
    result = replay(trace, policy, engines=8, config=engine_config(CACHE_64K))
    print(f"{type(policy).__name__}: {result}")
    return result


@needs_shared
def test_round_robin_on_the_mooncake_trace_is_as_published() -> None:
    """PEERS.md, replay block, "conversation 64k, 1x": hit rate 0.127; balance 1.04 by another simulator."""
    result = over_eight(RoundRobin(8), mooncake())
    assert result.requests == 12_031
    assert result.hit_rate == pytest.approx(0.127, abs=0.01)
    assert result.balance < 1.1


@needs_shared
def test_random_on_the_mooncake_trace_is_as_published() -> None:
    """PEERS.md: 0.128 and 1.13, without a cache limit."""
    result = over_eight(Random(8, seed=1), mooncake())
    assert result.hit_rate == pytest.approx(0.128, abs=0.015)
    assert result.balance < 1.2


@needs_shared
def test_the_naive_policy_sends_everything_to_one_engine() -> None:
    """PEERS.md: all requests share block 0, so balance is the number of engines. A third of the trace shows it."""
    result = over_eight(LongestPrefix(8), mooncake()[:4000])
    assert result.balance == 8.0


@needs_shared
def test_the_replay_repeats_exactly() -> None:
    assert over_eight(Random(8, seed=3), mooncake()[:1500]) == over_eight(Random(8, seed=3), mooncake()[:1500])
