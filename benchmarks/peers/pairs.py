"""Taking turns: how long each of several ways to do the same work takes, in slices that alternate.

A round gives each way `SLICES` short slices in turns, their order reversed every time, and keeps each way's best slice
(the least disturbed one). A ratio is taken round by round and told as the median of the rounds with its lowest and
highest. Garbage collection is off meanwhile. The first way is taken twice, under another name: what their ratio differs
from 1 by is what the method itself is good for (A/A).
"""

import gc
import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from time import perf_counter

ROUNDS, SLICES = 7, 25
SLICE_S = 0.001
AGAIN = "again"

Slice = Callable[[int], float]
"""Do it so many times; the seconds that took."""


@dataclass(frozen=True)
class Taken:
    """Seconds of one call by way, the best slice of each round."""

    rounds: Mapping[str, tuple[float, ...]]

    def us(self, who: str) -> tuple[float, float, float]:
        """Median, least and most of the rounds in microseconds."""
        return _spread([took * 1e6 for took in self.rounds[who]])

    def ratio(self, above: str, below: str) -> tuple[float, float, float]:
        """How many times as long `above` takes, round by round: median, least, most."""
        pairs = zip(self.rounds[above], self.rounds[below], strict=True)
        return _spread([one / other for one, other in pairs])

    @property
    def noise(self) -> float:
        """How far the rounds' A/A ratios are from 1 at most."""
        first = next(iter(self.rounds))
        return max(abs(ratio - 1) for ratio in self.ratio(AGAIN, first))


def calls(action: Callable[[], object]) -> Slice:
    """A slice of plain calls."""

    def run(count: int) -> float:
        begun = perf_counter()
        for _ in range(count):
            action()
        return perf_counter() - begun

    return run


def take(ways: Mapping[str, Slice], rounds: int = ROUNDS) -> Taken:
    """All ways in turns."""
    first = next(iter(ways))
    turns = {**ways, AGAIN: ways[first]}
    counts = {who: _enough(run) for who, run in ways.items()}
    counts[AGAIN] = counts[first]
    best: dict[str, list[float]] = {who: [] for who in turns}
    gc.collect()
    gc.disable()
    try:
        for _ in range(rounds):
            for who, took in _round(turns, counts).items():
                best[who].append(took)
    finally:
        gc.enable()
    return Taken({who: tuple(took) for who, took in best.items()})


def _round(turns: Mapping[str, Slice], counts: Mapping[str, int]) -> dict[str, float]:
    best = dict.fromkeys(turns, float("inf"))
    for turn in range(SLICES):
        for who in tuple(turns)[:: 1 if turn % 2 == 0 else -1]:
            best[who] = min(best[who], turns[who](counts[who]) / counts[who])
    return best


def _enough(run: Slice) -> int:
    """How many calls fill a slice; by the way warms up what is to be warm."""
    once = min(run(1) for _ in range(20))
    return max(1, int(SLICE_S / once))


def _spread(values: list[float]) -> tuple[float, float, float]:
    return statistics.median(values), min(values), max(values)
