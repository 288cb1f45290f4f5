"""What overload experiments make of outcomes, and of what client and servers say of the same requests."""

import csv
import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.live_overload import client, scene
from benchmarks.live_overload.run import compare
from benchmarks.live_overload.scene import Phase
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
    late = replace(GOOD, number=6, ended_s=12.0)
    other = replace(GOOD, priority=10)
    outcomes = [GOOD, refused(1), refused(2, 503), refused(3, LOST), gave_up, outside, late, other]
    high, band = summarise(outcomes, WINDOW)
    assert (high.priority, band.priority) == (10, 0)
    assert (band.offered, band.good, band.rejected, band.gave_up, band.failed) == (6, 2, 2, 1, 1)
    assert (band.ttft_p50_s, band.ttft_p99_s) == (0.5, 8.0)  # who gives up has waited at least that long
    assert band.goodput == 20  # two that ended inside, one of them due outside


def test_recovery_is_the_last_slow_request_after_the_burst() -> None:
    slow = replace(GOOD, ttft_s=2.0)
    outcomes = [replace(slow, at_s=4.0), replace(slow, at_s=6.5), replace(GOOD, at_s=8.0)]
    assert recovery(outcomes, 5.0, 1.0) == 1.5
    assert recovery(outcomes[2:], 5.0, 1.0) == 0


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
    phases = [Phase(5, 20), Phase(5, 200)]
    load = scene.arrivals(phases, 1)
    assert load == scene.arrivals(phases, 1) != scene.arrivals(phases, 2)
    assert [each.number for each in load] == list(range(len(load)))
    assert sorted(each.at_s for each in load) == [each.at_s for each in load]
    assert 50 < sum(each.at_s < 5 for each in load) < 150 < 800 < len(load) < 1200
    greedy = sum(each.tenant == scene.GREEDY for each in load)
    assert 0.45 < greedy / len(load) < 0.6
    assert {each.priority for each in scene.arrivals(phases, 1, {100: 1.0})} == {100}


def test_a_prompt_has_as_many_tokens_as_it_should_and_shares_none() -> None:
    one, other = (scene.Arrival(number, 0.0, 0, "a", 40, 5) for number in (1, 2))
    prompts = [json.loads(client.body(each, "run"))["prompt"] for each in (one, other)]
    assert [len(prompt) for prompt in prompts] == [160, 160]
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
