"""What one side of a rollout did in some time: counts, and what they say. Pure arithmetic, no I/O, no clock."""

import math
from collections.abc import Iterable, Sequence
from functools import reduce

from msgspec import Struct

__all__ = ["NOTHING", "Figures", "exceeds_surely", "grew_surely", "sum_of"]

CHANCE = 0.005
"""What is less likely than this to come of chance alone is sure."""
UPPER = 1.645
"""Standard deviations: the true share of the old side is above such a bound once in 20 times."""


class Figures(Struct, frozen=True, kw_only=True):
    """Requests that ended, how many of them badly, and times to first token.

    `ttft_counts[i]` are those of at most `ttft_bounds_s[i]` seconds and above the bound before it; the last, one more
    than there are bounds, are those above all.
    """

    requests: float = 0.0
    errors: float = 0.0
    shed: float = 0.0
    canceled: float = 0.0
    ttft_bounds_s: tuple[float, ...] = ()
    ttft_counts: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if not all(0 <= count < math.inf for count in self.counts()):
            raise ValueError("a count is negative or not finite")
        bounds = self.ttft_bounds_s
        if len(self.ttft_counts) != (len(bounds) + 1 if bounds else 0):
            raise ValueError(f"{len(bounds)} bounds do not go with {len(self.ttft_counts)} counts")
        if not all(low < high < math.inf for low, high in zip((0.0, *bounds), bounds, strict=False)):
            raise ValueError("bounds do not rise from 0")

    def counts(self) -> tuple[float, ...]:
        """All of them in one order."""
        return self.requests, self.errors, self.shed, self.canceled, *self.ttft_counts

    @property
    def timed(self) -> float:
        """Requests whose time to first token is known."""
        return sum(self.ttft_counts)

    def plus(self, other: "Figures") -> "Figures":
        """Both together."""
        bounds = tuple(sorted({*self.ttft_bounds_s, *other.ttft_bounds_s}))
        pairs = zip(self._spread(bounds).counts(), other._spread(bounds).counts(), strict=True)
        return _figures(bounds, [mine + its for mine, its in pairs])

    def since(self, before: "Figures") -> "Figures":
        """What came after `before`, which the same counters said earlier. Counters that began anew say all of it."""
        if before.ttft_bounds_s not in ((), self.ttft_bounds_s):
            return self
        then = before._spread(self.ttft_bounds_s).counts()
        grown = [now - old for now, old in zip(self.counts(), then, strict=True)]
        return self if min(grown) < 0 else _figures(self.ttft_bounds_s, grown)

    def untimed(self) -> "Figures":
        """The same without times to first token."""
        return _figures((), self.counts()[:4])

    def _spread(self, bounds: tuple[float, ...]) -> "Figures":
        """The same over `bounds`, which hold all of its own."""
        if bounds == self.ttft_bounds_s:
            return self
        own = dict(zip((*self.ttft_bounds_s, math.inf), self.ttft_counts, strict=False))
        counts = [own.get(bound, 0.0) for bound in (*bounds, math.inf)]
        return _figures(bounds, [*self.counts()[:4], *counts])

    def ttft_quantile_s(self, quantile: float) -> float:
        """The time that this share of requests is not above, spread evenly within a bucket; NaN without requests.

        As PromQL's histogram_quantile: of those above all bounds it says the highest bound.
        """
        wanted, seen, low = quantile * self.timed, 0.0, 0.0
        for bound, count in zip(self.ttft_bounds_s, self.ttft_counts, strict=False):
            if count and seen + count >= wanted:
                return low + (bound - low) * max(0.0, wanted - seen) / count
            seen, low = seen + count, bound
        return low if self.timed else math.nan

    def slower_than(self, limit_s: float) -> float:
        """How many requests took longer to their first token, spread evenly within a bucket."""
        above, low = 0.0, 0.0
        for bound, count in zip(self.ttft_bounds_s, self.ttft_counts, strict=False):
            above += count * min(1.0, max(0.0, (bound - limit_s) / (bound - low)))
            low = bound
        return above + (self.ttft_counts[-1] if self.ttft_counts else 0.0)


def _figures(bounds: tuple[float, ...], counts: Sequence[float]) -> Figures:
    requests, errors, shed, canceled, *times = counts
    return Figures(
        requests=requests,
        errors=errors,
        shed=shed,
        canceled=canceled,
        ttft_bounds_s=bounds,
        ttft_counts=tuple(times) if bounds else (),
    )


NOTHING = Figures()


def sum_of(each: Iterable[Figures]) -> Figures:
    """All together."""
    return reduce(Figures.plus, each, NOTHING)


def _at_most(part: float, whole: float) -> float:
    """What the true share of `part` in `whole` is hardly above (the upper bound of Wilson's score interval)."""
    if whole <= 0:
        return 1.0
    share, squared = min(part / whole, 1.0), UPPER * UPPER
    reach = UPPER * math.sqrt(share * (1 - share) / whole + squared / (4 * whole * whole))
    return min(1.0, (share + squared / (2 * whole) + reach) / (1 + squared / whole))


def exceeds_surely(part: float, whole: float, limit: float) -> bool:
    """Whether the share of `part` in `whole` is above `limit`, and not by chance.

    Chernoff's bound on the tail of a binomial distribution: chance is less likely, never more, than it says.
    """
    if whole <= 0 or not 0 < limit < 1 or part / whole <= limit:
        return whole > 0 and limit <= 0 < part
    share = min(part / whole, 1.0)
    divergence = share * math.log(share / limit)
    if share < 1:
        divergence += (1 - share) * math.log((1 - share) / (1 - limit))
    return whole * divergence > -math.log(CHANCE)


def grew_surely(old: tuple[float, float], new: tuple[float, float], limit: float) -> bool:
    """Whether a share, given as (part, whole), grew by more than `limit` from old to new, and not by chance."""
    return exceeds_surely(*new, _at_most(*old) + limit)
