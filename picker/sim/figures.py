"""What a run of the lab comes to: the figures of its contract, and more that help to read them."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from picker.sim.asked import Load
from picker.sim.gateway import FAILED, SERVED
from picker.sim.world import Outcome, Story


def quantile(ordered: Sequence[float], share: float) -> float:
    """The least value that at least `share` of them do not exceed (nearest rank); NaN of nothing."""
    return ordered[max(math.ceil(share * len(ordered)) - 1, 0)] if ordered else math.nan


@dataclass(frozen=True)
class Spread:
    """Times in milliseconds; NaN if there are none."""

    mean: float
    p50: float
    p90: float
    p99: float

    @classmethod
    def of(cls, seconds: Iterable[float]) -> "Spread":
        ordered = sorted(seconds)
        mean = sum(ordered) / len(ordered) if ordered else math.nan
        return cls(*(value * 1e3 for value in (mean, *(quantile(ordered, share) for share in (0.5, 0.9, 0.99)))))

    def told(self) -> dict[str, float | None]:
        given = {"mean": self.mean, "p50": self.p50, "p90": self.p90, "p99": self.p99}
        return {name: _told(value, 3) for name, value in given.items()}

    @classmethod
    def of_told(cls, told: Mapping[str, float | None]) -> "Spread":
        return cls(**{name: _of_told(value) for name, value in told.items()})


def _told(value: float, digits: int) -> float | None:
    """JSON knows no NaN."""
    return None if math.isnan(value) else round(value, digits)


def _of_told(value: float | None) -> float:
    return math.nan if value is None else value


@dataclass(frozen=True)
class Figures:
    """Of one policy. Hit rates are shares of the prompt tokens of those that were served.

    `hit_ceiling`: what one cache without end would have had; `hit_available`: what some replica had when the request
    was sent; `hit_captured`: what its replica had; `hit_rate`: what was found there when its turn came.
    `balance`: work of the busiest replica over the mean, in uncached prompt tokens and output tokens, each counted by
    how fast its replica is; 1.0 is even, the number of replicas is all on one; NaN if nobody was served.
    """

    policy: str
    requests: int
    rejected: int
    failed: int
    hit_rate: float
    hit_ceiling: float
    hit_available: float
    hit_captured: float
    ttft_ms: Spread
    e2e_ms: Spread
    output_tokens_per_s: float
    balance: float
    stall_s: float
    wall_s: float

    def told(self) -> dict[str, Any]:
        """As `picker sim --json` prints it."""
        return {
            "policy": self.policy,
            "requests": self.requests,
            "rejected": self.rejected,
            "hit_rate": round(self.hit_rate, 4),
            "hit_ceiling": round(self.hit_ceiling, 4),
            "ttft_ms": self.ttft_ms.told(),
            "e2e_ms": self.e2e_ms.told(),
            "output_tokens_per_s": round(self.output_tokens_per_s, 1),
            "balance": _told(self.balance, 4),
            "wall_s": round(self.wall_s, 2),
            "failed": self.failed,
            "hit_available": round(self.hit_available, 4),
            "hit_captured": round(self.hit_captured, 4),
            "stall_s": round(self.stall_s, 3),
        }

    @classmethod
    def of_told(cls, told: Mapping[str, Any]) -> "Figures":
        """The other way round; what it has besides is left out. KeyError for what is not there."""
        given = {name: told[name] for name in cls.__dataclass_fields__}
        spreads = {name: Spread.of_told(told[name]) for name in ("ttft_ms", "e2e_ms")}
        return cls(**{**given, **spreads, "balance": _of_told(told["balance"])})


def figures(policy: str, outcome: Outcome, ceiling: float, wall_s: float) -> Figures:
    stories = outcome.stories
    served = [story for story in stories if story.outcome == SERVED]
    failed = sum(story.outcome == FAILED for story in stories)
    prompts = max(sum(story.asked.prompt_tokens for story in served), 1)
    return Figures(
        policy,
        requests=len(stories),
        rejected=len(stories) - len(served) - failed,
        failed=failed,
        hit_rate=sum(story.cached_tokens for story in served) / prompts,
        hit_ceiling=ceiling,
        hit_available=sum(story.there_tokens for story in served) / prompts,
        hit_captured=sum(story.held_tokens for story in served) / prompts,
        ttft_ms=Spread.of(story.ttft_s for story in served),
        e2e_ms=Spread.of(story.end_s - story.at_s for story in served),
        output_tokens_per_s=sum(story.asked.output_tokens for story in served) / max(outcome.end_s, 1e-9),
        balance=balance(served, [prefill_rate(config) for config in outcome.setting.engines]),
        stall_s=outcome.longest_stall_s,
        wall_s=wall_s,
    )


def prefill_rate(config: Any) -> float:
    """Prompt tokens per second, alone."""
    rate: float = config.timing.speedup / config.timing.prefill_s_per_token
    return rate


def balance(served: Sequence[Story], rates: Sequence[float]) -> float:
    work = [0.0] * len(rates)
    for story in served:
        work[story.slot] += story.asked.tokens - story.cached_tokens
    times = [tokens / rate for tokens, rate in zip(work, rates, strict=True)]
    return max(times) * len(times) / sum(times) if any(times) else math.nan


def ceiling(load: Load) -> float:
    """The hit rate of one cache without end that knows each block as soon as it was asked for."""
    seen: set[object] = set()
    hits = prompts = 0
    for one in load.asked:
        names = one.cacheable(load.key_tokens)
        prompt = names[: (one.prompt_tokens - 1) // load.key_tokens]
        hits += next((depth for depth, name in enumerate(prompt) if name not in seen), len(prompt)) * load.key_tokens
        prompts += one.prompt_tokens
        seen.update(names)
    return hits / max(prompts, 1)
