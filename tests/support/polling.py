"""Waiting for what sets no event: looked at again and again, under a deadline."""

import asyncio
import time
from collections.abc import Callable

__all__ = ["DEADLINE_S", "until", "wait_until"]

DEADLINE_S = 60.0
PAUSE_S = 0.005


async def until(condition: Callable[[], object]) -> None:
    """Returns when it holds. Raises AssertionError if it does not within the deadline."""
    end_s = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < end_s, f"not within {DEADLINE_S:g} s"
        await asyncio.sleep(PAUSE_S)


def wait_until(condition: Callable[[], object]) -> None:
    """The same without a loop."""
    end_s = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < end_s, f"not within {DEADLINE_S:g} s"
        time.sleep(PAUSE_S)
