"""What overload experiments make of outcomes, and of what client and servers say of the same requests."""

import csv
import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.live_overload import client, scene
from benchmarks.live_overload.run import compare
from benchmarks.overload_report import (
    GAVE_UP,
    LOST,
    Outcome,
    Run,
    Window,
    as_rows,
    fair_shares,
    fairness,
    jain,
    markdown,
    quantile,
    recovery,
    summarise,
    write_csv,
)
from picker.sim.overload.traffic import Phase

GOOD = Outcome(0, 0, "a", at_s=1.0, status=200, ttft_s=0.5, ended_s=2.0, prompt_tokens=90, output_tokens=10)
WINDOW = Window(0.0, 10.0)


def refused(number: int, status: int = 429, tenant: str = "a") -> Outcome:
    return replace(GOOD, number=number, status=status, ttft_s=None, tenant=tenant)


def test_quantiles_are_the_nearest_rank() -> None:
    assert quantile([3, 1, 2], 0.5) == 2
    assert quantile(range(1, 101), 0.99) == 99
    assert math.isnan(quantile([], 0.5))


def test_nobody_gains_by_wanting_more_than_a_fair_share() -> None:
    assert fair_shares({"a": 100, "b": 2, "c": 5}, 15) == {"b": 2, "c": 5, "a": 8}
    assert fair_shares({"a": 1, "b": 1}, 10) == {"a": 1, "b": 1}
    assert fair_shares({}, 10) == {}


def test_jain() -> None:
    assert jain([2, 2, 2]) == 1
    assert jain([1, 0, 0, 0]) == 0.25
    assert math.isnan(jain([0, 0]))


def test_serving_a_greedy_tenant_first_is_unfair() -> None:
    modest = [replace(GOOD, number=n, tenant=f"t{n}") for n in range(4)]
    greedy = [replace(GOOD, number=10 + n) for n in range(4)]
    even = [*modest, *greedy[:1], *(replace(each, status=429) for each in greedy[1:])]
    uneven = [*greedy, *modest[:1], *(replace(each, status=429) for each in modest[1:])]
    assert fairness(even, WINDOW) == 1
    assert fairness(uneven, WINDOW) < 0.6


def test_a_band_is_what_became_of_its_requests() -> None:
    gave_up = replace(refused(4, GAVE_UP), ended_s=9.0)
    outside = replace(GOOD, number=5, at_s=11.0)
    late = replace(GOOD, number=6, ended_s=18.5)
    other = replace(GOOD, priority=10)
    outcomes = [GOOD, refused(1), refused(2, 503), refused(3, LOST), gave_up, outside, late, other]
    high, band = summarise(outcomes, WINDOW)
    assert (high.priority, band.priority) == (10, 0)
    assert (band.offered, band.good, band.rejected, band.gave_up, band.failed) == (6, 2, 2, 1, 1)
    assert (band.ttft_p50_s, band.ttft_p99_s) == (0.5, 8.0)  # who gives up has waited at least that long
    assert band.goodput == pytest.approx((100 + 90 + 5) / 10)  # half of the late one's answer is given outside
    (_, other_window) = summarise(outcomes, WINDOW, Window(0.0, 1.5))
    assert (other_window.goodput, other_window.offered) == (0, 6)


def test_recovery_is_the_end_of_the_last_slow_window() -> None:
    burst = Window(10.0, 20.0)
    waits = [(float(at_s), 0.5 if at_s < 10 or at_s >= 23 else 2.0) for at_s in range(40)]
    outcomes = [replace(GOOD, number=n, at_s=at_s, ttft_s=wait) for n, (at_s, wait) in enumerate(waits)]
    assert recovery(outcomes, burst, 40.0) == 3.0
    assert recovery(outcomes, burst, 23.0) == math.inf
    greedy = [replace(each, tenant="greedy", ttft_s=9.0) for each in outcomes]
    assert recovery([*outcomes, *greedy], burst, 40.0, {"greedy"}) == 3.0
    fast = [replace(each, ttft_s=0.5) for each in outcomes]
    assert recovery(fast, burst, 40.0) == 0


def test_rows_are_written_for_machines_and_people(tmp_path: Path) -> None:
    runs = [Run("picker", summarise([GOOD, refused(1)], WINDOW), capacity=20.0, utilisation=0.9)]
    (row,) = as_rows([*runs])
    assert (row["run"], row["goodput"], row["share"], row["recovery_s"]) == ("picker", 10, 0.5, None)
    nothing = Run("nothing", summarise([refused(1)], WINDOW), 20.0, 0.0)
    assert json.loads(json.dumps(as_rows([nothing]), allow_nan=False))[0]["ttft_p50_s"] is None
    write_csv(tmp_path / "rows.csv", runs)
    lines = (tmp_path / "rows.csv").read_text().splitlines()
    assert [line["priority"] for line in csv.DictReader(lines)] == ["0"]
    assert "| picker | 0 | 2 | 500 ms | 500 ms | 1.00 | 50.0% | 50.0% |" in markdown(runs, 0.5)


def test_the_scene_is_made_from_its_seed() -> None:
    phases = [Phase(5, 0.5), Phase(5, 2.0)]
    load = scene.load(phases, 100.0, 1)
    assert load == scene.load(phases, 100.0, 1) != scene.load(phases, 100.0, 2)
    alone = scene.load(phases, 100.0, 1, [scene.HIGHEST])
    assert [each.at_s for each in alone] == [each.at_s for each in load if each.band == scene.HIGHEST.name]
    assert scene.greedy() == {"middle-0"}


def test_a_prompt_has_as_many_tokens_as_it_should_and_shares_none() -> None:
    one, other, *_ = scene.load([Phase(1, 1.0)], 100.0, 1)
    prompts = [json.loads(client.body(each, "run"))["prompt"] for each in (one, other)]
    assert [len(prompt) for prompt in prompts] == [4 * one.prompt_tokens, 4 * other.prompt_tokens]
    assert prompts[0][:20] != prompts[1][:20]


@pytest.mark.parametrize(
    ("status", "events", "said"),
    [
        (200, ["begin", "end"], []),
        (200, ["begin", "cut", "begin", "end"], []),
        (429, [], []),
        (LOST, ["begin", "cut"], []),
        (200, [], ["1 requests unheard (r-0)"]),
        (200, ["begin", "end", "begin", "end"], ["1 requests answered twice (r-0)"]),
        (429, ["begin", "end"], ["1 requests refused but served (r-0)"]),
    ],
)
def test_client_and_servers_must_agree(status: int, events: list[str], said: list[str]) -> None:
    found = compare([replace(GOOD, status=status)], [(event, "r-0") for event in events], "r")
    assert found.objections == said
    assert found.cut == (("r-0",) if "cut" in events else ())
