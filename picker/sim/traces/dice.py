"""What generators of loads draw from. Deterministic for a seed, on every platform."""

import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Lognormal:
    """Half of what is drawn is below `median`; `sigma` is that of the logarithm; all are from `least` to `most`."""

    median: float
    sigma: float
    least: float
    most: float

    def draw(self, dice: random.Random) -> float:
        return min(max(dice.lognormvariate(math.log(self.median), self.sigma), self.least), self.most)

    def tokens(self, dice: random.Random) -> int:
        return round(self.draw(dice))


@dataclass(frozen=True)
class Stage:
    """So many requests a second, for so long."""

    rate: float
    seconds: float


def poisson(stages: Sequence[Stage], dice: random.Random) -> Iterator[float]:
    """Moments in seconds, rising."""
    begin_s = 0.0
    for stage in stages:
        at_s = begin_s
        begin_s += stage.seconds
        while (at_s := at_s + dice.expovariate(stage.rate)) < begin_s:
            yield at_s
