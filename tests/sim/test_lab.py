"""The lab: what a run comes to, by hand; replicas and failures as they are asked for."""

import json
import math
from dataclasses import replace

import pytest

from picker.errors import UsageError
from picker.sim.asked import Asked, Load
from picker.sim.failures import failure
from picker.sim.figures import Figures, Spread, balance, ceiling, figures
from picker.sim.gateway import PolicyGateway
from picker.sim.gpus import GPUS, fleet
from picker.sim.lab import Lab, Pool, gateway_of, lab
from picker.sim.policies.round_robin import RoundRobin
from picker.sim.show import rows
from picker.sim.world import Fault, Story, World
from tests.sim.loads import chats, conversation, setting

LOAD = chats(30, 5)
POOL = Pool(replicas=3, gpus=("mixed",), cache_tokens=64 * 300)


def small() -> Lab:
    return lab(LOAD, POOL)


# --- figures ---


def test_spreads_are_nearest_ranks() -> None:
    assert Spread.of(place / 128 for place in range(1, 101)) == Spread(*(value / 0.128 for value in (50.5, 50, 90, 99)))
    assert Spread.of([]).told() == {"mean": None, "p50": None, "p90": None, "p99": None}


def test_balance_is_the_busiest_over_the_mean() -> None:
    def story(slot: int, prompt: int, output: int, cached: int) -> Story:
        return Story(Asked(0, 0.0, prompt, output), slot=slot, cached_tokens=cached)

    assert balance([story(0, 80, 20, 0), story(1, 250, 50, 0)], [1.0, 1.0]) == 300 / 200
    assert balance([story(0, 80, 20, 0), story(1, 250, 50, 200)], [1.0, 1.0]) == 1.0
    assert balance([story(0, 80, 20, 0), story(1, 250, 50, 0)], [1.0, 3.0]) == 1.0, "the second is as fast as it works"
    assert math.isnan(balance([], [1.0]))


def test_the_ceiling_counts_what_was_asked_for_before() -> None:
    asked = [Asked(0, 0.0, 130, 1, (1, 2)), Asked(1, 1.0, 200, 1, (1, 2, 3)), Asked(2, 2.0, 128, 1, (1, 2))]
    # Of the last one's two blocks one counts: an engine computes at least one token.
    assert ceiling(Load("three", tuple(asked), 64)) == (0 + 128 + 64) / (130 + 200 + 128)


def test_figures_of_a_run() -> None:
    load = conversation(4, 5.0)
    outcome = World(setting(1), load, PolicyGateway(RoundRobin())).run()
    found = figures("round-robin", outcome, ceiling(load), 1.5)
    assert (found.requests, found.rejected, found.failed, found.balance) == (4, 0, 0, 1.0)
    assert found.hit_rate == found.hit_captured == found.hit_available == found.hit_ceiling == 6 / 10
    assert found.output_tokens_per_s == pytest.approx(40 / outcome.end_s)
    assert list(found.told())[:10] == [
        "policy", "requests", "rejected", "hit_rate", "hit_ceiling", "ttft_ms", "e2e_ms", "output_tokens_per_s",
        "balance", "wall_s",
    ]  # fmt: skip


def test_what_is_told_can_be_read_again() -> None:
    found = small().run("round-robin")[0]
    again = Figures.of_told(json.loads(json.dumps({"load": "small", **found.told()})))
    assert again.told() == found.told()


def test_nothing_served_is_json_all_the_same() -> None:
    outcome = World(setting(1, faults=(Fault("dead", 0.0, 0.0),)), conversation(4, 5.0), PolicyGateway(RoundRobin()))
    found = figures("round-robin", outcome.run(), 0.5, 1.0)
    assert (found.rejected + found.failed, found.told()["balance"], found.told()["ttft_ms"]["p50"]) == (4, None, None)
    assert Figures.of_told(json.loads(json.dumps(found.told(), allow_nan=False))).told() == found.told()
    assert not any("nan" in cell for cells in rows([found]) for cell in cells)


def test_regret_is_against_the_oracle() -> None:
    run = World(setting(1), conversation(4, 5.0), PolicyGateway(RoundRobin())).run()
    mine = figures("mine", run, 0.5, 1.0)
    best = replace(mine, policy="oracle", ttft_ms=replace(mine.ttft_ms, mean=mine.ttft_ms.mean - 7.0))
    place = 10
    assert [cells[place] for cells in rows([mine, best])] == ["7 ms", "0 ms"]
    assert [cells[place] for cells in rows([mine])] == ["-"]


# --- what is asked for ---


def test_all_but_wall_time_repeats_for_a_seed() -> None:
    first, second = (replace(small().run("picker")[0], wall_s=0.0) for _ in range(2))
    assert first == second


def test_a_fleet_is_of_its_gpus_in_turn() -> None:
    assert fleet(("h200", "mixed"), 5) == ("h200", "a100", "h100", "h200", "h200")
    assert small().setting.gpus == ("a100", "h100", "h200")
    assert [config.timing for config in small().setting.engines] == [
        GPUS[kind].timing for kind in ("a100", "h100", "h200")
    ]


def test_a_cache_has_room_for_the_same_tokens_whatever_the_load_calls_a_block() -> None:
    coarse = replace(LOAD, key_tokens=256)
    assert {config.num_blocks * config.block_size for config in lab(coarse, POOL).setting.engines} == {64 * 300}
    h200 = lab(LOAD, Pool(1, ("h200",), cache_tokens=0)).setting.engines[0]
    assert h200.num_blocks * h200.block_size == pytest.approx(51_500 * 16, abs=64)


def test_a_faster_pool_answers_sooner() -> None:
    slow, fast = (lab(LOAD, replace(POOL, speedup=speedup)).run("round-robin")[0] for speedup in (1.0, 2.0))
    assert fast.ttft_ms.mean < 0.7 * slow.ttft_ms.mean


def test_load_is_a_share_of_what_the_replicas_can_do() -> None:
    """By hand: replicas that have room for one request, which takes a prefill step and nine decode steps."""
    asked = tuple(Asked(place, 0.5 * place, 640, 10) for place in range(200))
    made = lab(Load("even", asked, 64), Pool(2, cache_tokens=64 * 11))
    timing = made.setting.engines[0].timing
    steps_s = timing.step_s(640, 0, 0) + timing.decode_steps_s(9, 1, 641)
    assert made.capacity() == pytest.approx(2 / steps_s, rel=0.02)
    half = made.at_load(0.5)
    assert len(asked) / half.load.asked[-1].at_s == pytest.approx(0.5 * made.capacity(), rel=0.01)
    assert half.run("round-robin")[0].ttft_ms.mean < 3 * made.run("round-robin")[0].ttft_ms.mean


@pytest.mark.parametrize(
    ("load", "pool", "message"),
    [
        (LOAD, replace(POOL, gpus=("h1000",)), 'no GPU "h1000": did you mean "h100"'),
        (LOAD, replace(POOL, replicas=0), "give --replicas 1 or more"),
        (LOAD, replace(POOL, replicas=4097), "at most 4096 replicas"),
        (LOAD, replace(POOL, cache_tokens=128), "give more --blocks"),
        (LOAD.scaled(1e-8), POOL, "after more than a year"),
        (replace(LOAD, asked=()), POOL, "chats holds no request"),
        (Load("l", (Asked(0, 0.0, 9, 9, lora="a"),), 64), POOL, "give --max-lora"),
    ],
)
def test_what_cannot_be_served_is_said(load: Load, pool: Pool, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        lab(load, pool)


def test_a_policy_there_is_not_has_a_near_name() -> None:
    with pytest.raises(UsageError, match='did you mean "round-robin"'):
        gateway_of("roundrobin", 1)


# --- failures ---


def test_failures_are_read() -> None:
    assert failure("dead@600+60:0") == Fault("dead", 600.0, 60.0, (0,))
    assert failure("slow@1.5+60x3:1/2") == Fault("slow", 1.5, 60.0, (1, 2), 3.0)
    assert failure("metrics@5+1") == Fault("metrics", 5.0, 1.0)
    assert failure("dead@7") == Fault("dead", 7.0, 0.0)


@pytest.mark.parametrize(
    "text", ["", "dead", "flood@1+1", "slow@5", "slow@5+1x0", "slow@5+1x1001", "dead@5:", "dead@-1", "dead@5:0,1"]
)
def test_what_is_no_failure_is_said(text: str) -> None:
    with pytest.raises(ValueError, match=r"failure|how long|factor from"):
        failure(text)


def test_a_failure_of_nobody_is_said() -> None:
    with pytest.raises(UsageError, match="numbered 0 to 2"):
        lab(LOAD, POOL, faults=[failure("dead@1:3")])


@pytest.mark.parametrize("texts", [("dead@9+1:2", "dead@1"), ("dead@1+5:2", "dead@6+5"), ("dead@1:1/1",)])
def test_nobody_dies_twice(texts: tuple[str, ...]) -> None:
    with pytest.raises(UsageError, match="but is dead"):
        lab(LOAD, POOL, faults=[failure(text) for text in texts])
    lab(LOAD, POOL, faults=[failure(text) for text in ("dead@1+5:2", "dead@6.1+5:2", "dead@3:1", "slow@3+3")])
