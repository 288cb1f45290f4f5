"""Overload experiments in virtual time, small: what orders of magnitude must hold whatever is tuned. Deterministic."""

import math
from dataclasses import replace
from functools import cache

import pytest

from benchmarks.overload_runs import GATEWAYS, Result, capacity, experiment, mean_tokens, run
from picker.sim.core import CoreGateway
from picker.sim.gateway import FAILED, SERVED
from picker.sim.overload.traffic import A100, BANDS, CHAT, SHORT, Lengths, Mix, Phase, Scenario, traffic
from picker.sim.overload.world import Trace
from picker.sim.world import Fault
from tests.sim.peer_flow import PeerFlow, RoundRobin

PHASES = (Phase(5.0, 0.7), Phase(12.0, 2.0), Phase(5.0, 0.7))
SCENARIO = Scenario("small", engine=A100, mix=CHAT, phases=PHASES)
BROKEN = replace(SCENARIO, phases=(Phase(5.0, 0.7), Phase(11.0, 1.5), Phase(2.0, 0.5)))


@cache
def result(policy: str) -> Result:
    return experiment(SCENARIO, policy, (1,), alone=policy == "picker")


@cache
def broken(fault: Fault) -> Trace:
    return run(replace(BROKEN, faults=(fault,)), CoreGateway)


# --- the experiment itself ---


def test_traffic_is_the_same_for_a_seed() -> None:
    assert traffic(SCENARIO, 20.0) == traffic(SCENARIO, 20.0)
    assert traffic(SCENARIO, 20.0) != traffic(replace(SCENARIO, seed=2), 20.0)


def test_a_band_asks_the_same_when_others_do_not() -> None:
    alone = traffic(replace(SCENARIO, bands=BANDS[:1]), 20.0)
    amid = [one for one in traffic(SCENARIO, 20.0) if one.band == "high"]
    assert [(one.at_s, one.tenant, one.tokens) for one in alone] == [(one.at_s, one.tenant, one.tokens) for one in amid]


def test_load_and_shares_are_as_stated() -> None:
    asked = traffic(replace(SCENARIO, phases=(Phase(500.0, 2.0),)), 20.0)
    assert len(asked) == pytest.approx(20_000, rel=0.03)
    middle = [one for one in asked if one.band == "middle"]
    assert len(middle) / len(asked) == pytest.approx(0.5, abs=0.02)
    assert sum(one.tenant == "middle-0" for one in middle) / len(middle) == pytest.approx(0.5, abs=0.02)


def test_an_engine_that_is_always_full_serves_what_its_times_say() -> None:
    """One request at a time, one prefill step and nine decode steps each."""
    mix = Mix("even", Lengths(100, 0.0, 100), Lengths(10, 0.0, 10), system_tokens=0)
    engine = replace(A100, max_num_seqs=1)
    timing = engine.timing
    steps = timing.step_s(100, 0, 0) + timing.decode_steps_s(9, 1, 101)
    assert mean_tokens(mix) == 110
    assert capacity(engine, mix, 2) == pytest.approx(2 * 110 / steps, rel=0.01)


@pytest.mark.parametrize("policy", GATEWAYS)
def test_every_request_ends_once(policy: str) -> None:
    assert result(policy).lost == 0
    assert all(band.failed == 0 for band in result(policy).run.bands)


def test_a_run_repeats_exactly() -> None:
    short = replace(SCENARIO, phases=(Phase(1.0, 0.7), Phase(2.0, 2.0)))
    for gateway in (CoreGateway, PeerFlow, RoundRobin):
        first, second = run(short, gateway), run(short, gateway)
        assert [story.end_s for story in first.stories] == [story.end_s for story in second.stories]


# --- what must show ---


def test_the_highest_band_hardly_feels_the_overload() -> None:
    mine = result("picker")
    assert mine.run.bands[0].rejected == 0
    assert mine.run.bands[0].ttft_p50_s < 2.0 * mine.alone_p50_s
    assert mine.run.bands[0].ttft_p99_s < 2.5 * mine.alone_p99_s
    for other in ("round robin", "peer"):
        assert 4 * mine.run.bands[0].ttft_p99_s < result(other).run.bands[0].ttft_p99_s


def test_nothing_is_wasted() -> None:
    assert result("picker").run.share > 0.9 * result("round robin").run.share
    assert result("picker").run.share > 1.1 * result("peer").run.share


def test_the_greedy_tenant_pays_for_himself() -> None:
    bands = {policy: result(policy).run.bands[1] for policy in GATEWAYS}
    assert bands["picker"].jain > 0.9 > bands["peer"].jain


def test_bands_are_served_in_their_order() -> None:
    high, middle, low = result("picker").run.bands
    assert high.ttft_p99_s < middle.ttft_p99_s
    assert high.good == high.offered and middle.rejected == 0
    assert low.rejected > 0.6 * low.offered  # told at once, rather than to wait for what will not come


def test_nobody_waits_where_there_is_no_load() -> None:
    trace = run(replace(SCENARIO, mix=SHORT, phases=(Phase(10.0, 0.2),)), CoreGateway)
    assert all(story.sent_s - story.asked.at_s < 0.1 and story.outcome == SERVED for story in trace.stories)
    waits = sorted(story.sent_s - story.asked.at_s for story in trace.stories)
    assert waits[len(waits) * 98 // 100] == 0.0


# --- faults ---


def test_metrics_may_stop() -> None:
    trace = broken(Fault("metrics", 8.0, 10.0))
    assert all(story.outcome == SERVED for story in trace.stories if story.asked.band != "low")
    assert trace.longest_stall_s < 1.0


def test_an_endpoint_may_die() -> None:
    trace = broken(Fault("dead", 10.0, 0.0, slots=(3,)))
    failed = [story for story in trace.stories if story.outcome == FAILED]
    assert {story.slot for story in failed} == {3}
    assert sum(story.sent_s > 10.0 for story in failed) <= 12  # until the breaker opens, and its probes
    assert all(story.ends == 1 and story.sends <= 1 for story in trace.stories)
    assert trace.longest_stall_s < 1.0


def test_capacity_may_halve() -> None:
    trace = broken(Fault("slow", 10.0, 6.0))
    assert all(story.ends == 1 and story.sends <= 1 for story in trace.stories)
    assert trace.longest_stall_s < 1.5
    high = [story.ttft_s for story in trace.stories if story.asked.band == "high"]
    assert sorted(high)[len(high) // 2] < 0.5


def test_an_unknown_fault_is_none() -> None:
    with pytest.raises(ValueError, match="flood"):
        run(replace(BROKEN, faults=(Fault("flood", 1.0, 1.0),)), RoundRobin)
    assert math.isfinite(result("picker").run.utilisation)
