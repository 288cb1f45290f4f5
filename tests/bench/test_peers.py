"""What compares picker with its peers, without the peers: turns, ratios, pages."""

import re

import pytest

from benchmarks import results
from benchmarks.peers import document, environment, messages, pairs, told
from benchmarks.results import Row

SECONDS = {"picker": 1e-6, "peer": 3e-6}


def ways(order: list[str]) -> dict[str, pairs.Slice]:
    """Ways that take what `SECONDS` says, and say when they are asked."""

    def way(who: str) -> pairs.Slice:
        def run(count: int) -> float:
            order.append(who)
            return SECONDS[who] * count

        return run

    return {who: way(who) for who in SECONDS}


def test_takes_turns_in_both_orders() -> None:
    order: list[str] = []
    pairs.take(ways(order), rounds=1)
    turns = order[-3 * pairs.SLICES :]
    assert turns[:6] == ["picker", "peer", "picker", "picker", "peer", "picker"]
    assert turns.count("picker") == 2 * turns.count("peer") == 2 * pairs.SLICES


def test_tells_times_and_ratios_with_their_range() -> None:
    taken = pairs.Taken({"picker": (1e-6, 2e-6, 4e-6), "peer": (3e-6, 4e-6, 4e-6), pairs.AGAIN: (1e-6, 2e-6, 5e-6)})
    case = told.Case("group", "work")
    peer, ratio = told.rows(case, taken, {"peer": "how"}, [("peer", "picker", ">= 2")])
    assert (peer.value, peer.low, peer.high, peer.unit, peer.note) == pytest.approx((4.0, 3.0, 4.0, "µs", "how"))
    assert (ratio.value, ratio.low, ratio.high) == (2.0, 1.0, 3.0)
    assert ratio.who == "peer / picker" and ratio.met and ratio.note == "A/A within 25.0%"


def test_best_slice_of_a_round_counts() -> None:
    slow = iter([9.0] * 20 + [9.0, 2.0] * 100)
    taken = pairs.take({"picker": lambda count: next(slow) * count}, rounds=2)
    assert taken.rounds["picker"] == (2.0, 2.0)


def test_peers_are_pinned_exactly() -> None:
    lines = [line for line in environment.WANTED.read_text().splitlines() if not line.startswith("#")]
    assert all(re.fullmatch(r"[A-Za-z0-9_.-]+==[A-Za-z0-9_.]+", line) for line in lines)
    assert {"xxhash", "ai-dynamo-runtime", "sglang-router", "vllm-router"} <= set(environment.versions())


def test_prompts_are_what_the_bodies_say() -> None:
    prompts = messages.token_prompts(32)
    assert len(prompts) == messages.PROMPTS and {len(prompt) for prompt in prompts} == {32 * messages.BLOCK}


def test_the_page_says_what_the_results_say() -> None:
    text = document.PAGE.read_text()
    assert document.filled(text, results.rows("peers")) == text


def test_a_page_without_a_place_is_refused() -> None:
    with pytest.raises(ValueError, match="circumstances"):
        document.filled("nothing", [Row("hashing", "a", "b", 1.0, "s", "c")])
