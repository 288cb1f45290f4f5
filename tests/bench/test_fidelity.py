"""What compares live runs with the lab, without a live run: the same requests in both, and the verdict."""

from dataclasses import replace

import msgspec
import pytest

from benchmarks import results
from benchmarks.fidelity import live, processor, scene, verdict
from benchmarks.fidelity.__main__ import PAGE, told, virtual
from picker.sim import openai
from picker.sim.figures import Figures, Spread

LOAD = scene.load(1, 5.0)
FIGURES = Figures("", 1, 0, 0, 0.5, 0.5, 0.5, 0.5, Spread(1, 1, 1, 1), Spread(1, 1, 1, 1), 1.0, 1.0, 0.0, 0.0)


def pair(name: str, p50_live: float, p50_lab: float) -> verdict.Pair:
    both = (replace(FIGURES, ttft_ms=Spread(p50, p50, p50, p50)) for p50 in (p50_live, p50_lab))
    one, other = both
    return verdict.Pair(name, [one], [other])


def test_live_requests_are_the_labs() -> None:
    for asked in LOAD.asked:
        ask = openai.decode(live.body(asked, LOAD.key_tokens), chat=False)
        assert (ask.prompt_tokens, ask.output_tokens) == (asked.prompt_tokens, asked.output_tokens)
        assert ask.include_usage and ask.stream


def test_what_requests_share_in_the_lab_they_share_live() -> None:
    def live_keys(index: int) -> list[int]:
        ask = openai.decode(live.body(LOAD.asked[index], LOAD.key_tokens), chat=False)
        return openai.block_keys(ask, [], block_size=LOAD.key_tokens, adapter="")

    first, *others = range(len(LOAD.asked))
    shared = 0
    for other in others:
        names = [LOAD.asked[index].cacheable(LOAD.key_tokens) for index in (first, other)]
        in_lab = [one == two for one, two in zip(*names, strict=False)]
        in_live = [one == two for one, two in zip(live_keys(first), live_keys(other), strict=False)]
        assert in_live == in_lab
        shared += any(in_lab)
    assert shared


def test_keys_are_read_out_of_prompts() -> None:
    for asked in LOAD.asked:
        read = msgspec.json.decode(live.body(asked, LOAD.key_tokens), type=processor._Body)
        assert processor.keys(read.prompt) == asked.keys


@pytest.mark.parametrize("way", scene.WAYS, ids=lambda way: way.name)
def test_each_policy_runs_in_the_lab_and_is_deterministic(way: scene.Way) -> None:
    one, two = (told(way, virtual(way, LOAD, 1), LOAD) for _ in range(2))
    assert one == two
    assert one.requests == len(LOAD.asked) and not one.rejected and not one.failed


def test_a_median_may_be_15_percent_apart() -> None:
    assert pair("a", 1.14, 1.0).agrees and pair("a", 0.86, 1.0).agrees
    assert not pair("a", 1.16, 1.0).agrees and not pair("a", 0.84, 1.0).agrees


def test_only_a_clear_order_can_be_wrong() -> None:
    assert verdict.disorder([pair("a", 2.0, 1.0), pair("b", 1.0, 1.05)]) == []
    assert verdict.disorder([pair("a", 1.0, 1.0), pair("b", 2.0, 1.5)]) == []
    assert verdict.disorder([pair("b", 1.0, 1.5), pair("a", 2.0, 1.0)]) == [
        "a is before b in virtual time, behind it live (TTFT p50)"
    ]


def test_the_page_shows_the_results() -> None:
    page = PAGE.read_text().splitlines()
    table = verdict.table(results.rows("fidelity"))
    assert len(table) > len(scene.WAYS) and set(table) <= set(page)
