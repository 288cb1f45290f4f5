"""Targets that are about more than one case: ratios, differences, memory."""

import time
import tracemalloc
from array import array
from collections.abc import Callable

import pytest
from prometheus_client.parser import text_string_to_metric_families

from benchmarks.cases.case import Action
from benchmarks.cases.data import blocks
from benchmarks.cases.exchanges import engine_with, life, small_exchange
from benchmarks.cases.of_h2 import REQUESTS, connection
from benchmarks.cases.of_hashing import chained
from benchmarks.cases.of_promtext import page, scanning
from benchmarks.cases.of_queue import BANDS, FLOWS, TTL_NS, filled, growing
from benchmarks.cases.of_radix import index, one_block_runs
from benchmarks.conftest import Target
from picker._core.queue import EDF, FCFS, SLO, Queue

Seconds = Callable[[Callable[[], object]], float]


def best_of(action: Action, rounds: int) -> float:
    """Least seconds of one call; for what a figure is told relative to."""
    best = 1e9
    for _ in range(rounds):
        began = time.perf_counter()
        action()
        best = min(best, time.perf_counter() - began)
    return best


def test_small_request_above_the_session(seconds: Seconds, target: Target) -> None:
    whole = seconds(connection()) / REQUESTS
    alone = best_of(life(engine_with(8), small_exchange()), 2000)
    target("h2: small request above `session`", (whole - alone) * 1e6, 10.0, "us")


@pytest.mark.parametrize("count", [512, 8192])
def test_match_of_one_block_runs(count: int, seconds: Seconds, target: Target) -> None:
    took = seconds(one_block_runs(count))
    hashed = best_of(chained(count * 256), 20)
    target(f"radix: {count} one-block runs, of the time to hash them", took / hashed, 1.0, "")


def test_page_beside_the_library(seconds: Seconds, target: Target) -> None:
    text = page().decode()
    took = seconds(scanning(page()))
    library = best_of(lambda: list(text_string_to_metric_families(text)), 3)
    target("promtext: times faster than prometheus_client.parser", library / took, 100, "x", higher_is_better=True)


@pytest.mark.parametrize("run", [8, 16, 84])
def test_memory_at_a_million_blocks(run: int, target: Target) -> None:
    """Prompts that share nothing. The Mooncake conversation trace leaves runs of 84 in the mean, evicting or not."""
    tracemalloc.start()
    tree = index()
    hashes = blocks(1_000_000)
    known = tracemalloc.get_traced_memory()[0] - tree.memory_bytes
    for number in range(1_000_000 // run):
        tree.insert(array("Q", hashes[number * run : (number + 1) * run]), number % 256)
    traced = tracemalloc.get_traced_memory()[0] - known
    tracemalloc.stop()
    assert 0 <= traced - tree.memory_bytes < 10_000
    target(f"radix: memory, 1 M blocks in private runs of {run}", traced / len(tree), 24.0, "B/pair")


@pytest.mark.parametrize(("order", "name"), [(FCFS, "first come"), (SLO, "objective")])
def test_growth_in_time(target: Target, order: int, name: str) -> None:
    """Eight times as many flows and requests, all of it in use: what is above log n is the caches'."""
    small, large = growing(order, 1000), growing(order, 8000)
    best = {small: 1e9, large: 1e9}
    for action in [small, large] * 50:
        best[action] = min(best[action], best_of(action, 1))
    target(f"queue: cost of one, 16,000 waiting : 2,000, {name}", best[large] / best[small], 2.0, "x")


# --- what is over after one call ---


def emptied(make: Callable[[], Queue], action: Callable[[Queue], object], rounds: int = 5) -> float:
    """Least seconds of the processor for an action after which there is nothing left to repeat it on.

    It takes as long as a turn of the processor, so that a clock would count what others run meanwhile.
    """
    best = 1e9
    for _ in range(rounds):
        queue = make()
        began = time.process_time()
        action(queue)
        best = min(best, time.process_time() - began)
        assert len(queue) == 0
    return best


def test_a_backlog_goes(target: Target) -> None:
    count = BANDS * FLOWS
    took = emptied(lambda: filled(BANDS, FLOWS), lambda queue: queue.dispatch(count))
    target("queue: dispatch of 40,000, 5,000 flows x 8 bands", took / count * 1e6, 0.5, "us")


def test_cancel_storm(target: Target) -> None:
    """All clients go at once, in any order; each is told by a call of the face."""
    keys = [number * 7919 % 100_000 for number in range(100_000)]

    def cancel(queue: Queue) -> None:
        for key in keys:
            queue.remove(key)

    took = emptied(lambda: filled(1, FLOWS, 20, order=EDF), cancel)
    target("queue: cancel one of 100,000, in any order", took / len(keys) * 1e6, 1.0, "us")


def test_all_expire_at_once(target: Target) -> None:
    def expire(queue: Queue) -> None:
        while queue.expired(2 * TTL_NS) is not None:
            pass

    took = emptied(lambda: filled(BANDS, FLOWS), expire)
    target("queue: expire one of 40,000, all at once", took / (BANDS * FLOWS) * 1e6, 1.0, "us")
