"""The load: three bands, ten tenants of which one is greedy, prompts and answers of many lengths; made from a seed."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

BANDS = {100: 0.1, 0: 0.5, -10: 0.4}
"""Priority to the share of what is offered. With twice what the servers can do, the highest takes a fifth of them."""
OBJECTIVES = {100: "critical", 0: "standard", -10: "sheddable"}
TENANTS = tuple(f"tenant-{number}" for number in range(10))
GREEDY, GREED = TENANTS[0], 10.0  # asks for that many times what each of the others does
PROMPT_TOKENS, PROMPT_SIGMA, PROMPT_RANGE = 600, 0.6, (32, 3000)  # lognormal: median, spread
OUTPUT_TOKENS = (8, 24)


@dataclass(frozen=True)
class Arrival:
    """One request: when it is due, who sends it, and how long prompt and answer are."""

    number: int
    at_s: float
    priority: int
    tenant: str
    prompt_tokens: int
    output_tokens: int


@dataclass(frozen=True)
class Phase:
    """`rate` requests per second for so long."""

    seconds: float
    rate: float


def arrivals(phases: Sequence[Phase], seed: int, bands: dict[int, float] | None = None) -> list[Arrival]:
    """A Poisson process whose rate changes from phase to phase; in order of time."""
    dice = random.Random(seed)
    shares = bands or BANDS
    made: list[Arrival] = []
    begun_s = 0.0
    for phase in phases:
        at_s = begun_s + dice.expovariate(phase.rate)
        while at_s < begun_s + phase.seconds:
            made.append(_arrival(dice, len(made), at_s, shares))
            at_s += dice.expovariate(phase.rate)
        begun_s += phase.seconds
    return made


def _arrival(dice: random.Random, number: int, at_s: float, shares: dict[int, float]) -> Arrival:
    (priority,) = dice.choices(list(shares), list(shares.values()))
    (tenant,) = dice.choices(TENANTS, [GREED if name == GREEDY else 1.0 for name in TENANTS])
    low, high = PROMPT_RANGE
    prompt_tokens = min(max(int(PROMPT_TOKENS * dice.lognormvariate(0, PROMPT_SIGMA)), low), high)
    return Arrival(number, at_s, priority, tenant, prompt_tokens, dice.randint(*OUTPUT_TOKENS))
