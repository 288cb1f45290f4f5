"""Exact leak checks: after warm-up, traced bytes must not move at all."""

import contextlib
import gc
import tracemalloc
from array import array
from collections.abc import Callable, Iterator

from picker._core import alloc

WARM_UP = 20


@contextlib.contextmanager
def own_garbage() -> Iterator[None]:
    """Inside, collections look at new objects only. All that a long test run has gathered takes the sanitizers a second
    to look through, which a loop over allocations would do hundreds of times."""
    gc.collect()  # what earlier tests left to the collector must not be counted
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


@own_garbage()
def traced_bytes(action: Callable[[], object], rounds: int = 5, calls: int = 200) -> list[int]:
    """Bytes traced after each of `rounds` rounds of `calls` calls, garbage collected first."""
    for _ in range(WARM_UP):
        action()
    readings = array("q", [0] * rounds)  # plain words: keeping a reading must not itself be counted
    gc.collect()
    tracemalloc.start()
    try:
        for index in range(rounds):
            for _ in range(calls):
                action()
            gc.collect()
            readings[index] = tracemalloc.get_traced_memory()[0]
        return list(readings)
    finally:
        tracemalloc.stop()


@own_garbage()
def assert_flat(action: Callable[[], object], rounds: int = 5, calls: int = 200) -> None:
    """Fails unless the last rounds hold exactly as many bytes as the second one, and no core block is left over."""
    live_before = alloc.live_blocks()
    readings = traced_bytes(action, rounds, calls)
    assert len(set(readings[1:])) == 1, f"traced bytes moved between rounds: {readings}"
    assert alloc.live_blocks() == live_before, f"core blocks left over: {alloc.live_blocks() - live_before}"


@own_garbage()
def failing_allocations(action: Callable[[], object], limit: int = 200) -> int:
    """Runs `action` with the 1st, 2nd, ... allocation failing until it succeeds; returns how many failed.

    `action` must let MemoryError out and leave nothing behind. Only meaningful in the debug build.
    """
    for after in range(limit):
        gc.collect()
        live_before = alloc.live_blocks()
        if succeeds(action, after):
            return after
        gc.collect()
        assert alloc.live_blocks() == live_before, f"allocation {after} failing left blocks behind"
    raise AssertionError(f"still failing after {limit} allocations")


def succeeds(action: Callable[[], object], after: int) -> bool:
    """Runs `action` with the allocation after `after` others failing. A caught error no longer holds its frames."""
    alloc.fail_allocation(after)
    try:
        action()
    except MemoryError:
        return False
    finally:
        alloc.fail_allocation(-1)
    return True


@own_garbage()
def each_allocation_failing(action: Callable[[], object], most: int = 2000) -> int:
    """As `failing_allocations`, for what may go on without the memory: how many allocations `action` makes."""
    live_before = alloc.live_blocks()
    for after in range(most):
        alloc.fail_allocation(after)
        try:
            with contextlib.suppress(MemoryError):
                action()
        finally:
            has_failed = not alloc.fail_allocation(-1)
        if alloc.live_blocks() != live_before:
            gc.collect()
        assert alloc.live_blocks() == live_before, f"allocation {after} failing left blocks behind"
        if not has_failed:
            return after
    raise AssertionError(f"more than {most} allocations")
