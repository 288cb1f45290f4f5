"""Who asks for what: bands, tenants, lengths of prompts and answers, bursts. Deterministic for a seed."""

import math
import random
from dataclasses import dataclass, field, replace

from picker.sim.asked import Asked
from picker.sim.engine import EngineConfig
from picker.sim.gpus import A100_40GB, H100
from picker.sim.world import Fault

BLOCK_TOKENS = 16


@dataclass(frozen=True)
class Lengths:
    """Tokens, lognormal: half of them below `median`; `sigma` of the logarithm; none above `most`."""

    median: float
    sigma: float
    most: int

    def draw(self, dice: random.Random) -> int:
        return min(max(round(dice.lognormvariate(math.log(self.median), self.sigma)), 1), self.most)


@dataclass(frozen=True)
class Mix:
    """What requests are like. Each tenant begins its prompts with the same `system_tokens` (besides `prompts`)."""

    name: str
    prompts: Lengths
    answers: Lengths
    system_tokens: int = 64


@dataclass(frozen=True)
class Band:
    """Traffic of one priority: its share of all, and the shares its tenants have of it."""

    name: str
    priority: int
    share: float
    tenants: tuple[float, ...] = (1.0,)


@dataclass(frozen=True)
class Phase:
    """`load` times the pool's capacity arrives for `seconds`."""

    seconds: float
    load: float


# One tenant of ten sends as much as the nine others together.
GREEDY = (0.5, *(0.5 / 9,) * 9)
BANDS = (Band("high", 10, 0.2), Band("middle", 0, 0.5, GREEDY), Band("low", -1, 0.3))
PHASES = (Phase(20.0, 0.7), Phase(30.0, 2.0), Phase(30.0, 0.7))

SHORT = Mix("short", Lengths(120, 1.0, 2_000), Lengths(110, 1.0, 1_000))
CHAT = Mix("chat", Lengths(600, 1.0, 8_000), Lengths(160, 0.8, 1_000))
LONG = Mix("long", Lengths(4_000, 0.7, 16_000), Lengths(100, 0.8, 800))
ANSWERS = Mix("answers", Lengths(200, 0.8, 2_000), Lengths(500, 0.7, 2_000))
PROMPTS = Mix("prompts", Lengths(600, 0.6, 3_000), Lengths(64, 0.6, 256))
MIXES = {mix.name: mix for mix in (SHORT, CHAT, LONG, ANSWERS, PROMPTS)}

# The A100 is the one of 40 GB with a 7B model that the public simulation was fitted to.
A100 = A100_40GB
ENGINES = {"A100": A100, "H100": H100}


@dataclass(frozen=True)
class Scenario:
    """One experiment. Times in seconds."""

    name: str
    engine: EngineConfig = A100
    mix: Mix = SHORT
    replicas: int = 8
    bands: tuple[Band, ...] = BANDS
    phases: tuple[Phase, ...] = PHASES
    faults: tuple[Fault, ...] = ()
    seed: int = 1
    network_s: float = 0.0005  # one way, to and from an endpoint
    scrape_delay_s: float = 0.005
    speeds: tuple[float, ...] = field(default=())  # by replica; empty: all alike

    @property
    def seconds(self) -> float:
        return sum(phase.seconds for phase in self.phases)


def traffic(scenario: Scenario, capacity: float) -> list[Asked]:
    """The scenario's requests in order of arrival; `capacity` in requests per second. Poisson arrivals in each phase.

    Each band draws from dice of its own, so that its requests are the same where the others are left out.
    """
    asked: list[Asked] = []
    for band in scenario.bands:
        dice = random.Random(f"{scenario.seed} {band.name}")
        start_s = 0.0
        for phase in scenario.phases:
            rate = capacity * phase.load * band.share
            at_s = start_s + dice.expovariate(rate) if rate > 0 else math.inf
            while at_s < start_s + phase.seconds:
                asked.append(_ask(scenario.mix, band, at_s, dice))
                at_s += dice.expovariate(rate)
            start_s += phase.seconds
    asked.sort(key=lambda one: one.at_s)
    return [replace(one, index=index) for index, one in enumerate(asked)]


def _ask(mix: Mix, band: Band, at_s: float, dice: random.Random) -> Asked:
    tenant = dice.choices(range(len(band.tenants)), band.tenants)[0]
    system = 1 + tenant + 1000 * (band.priority + 100)
    return Asked(
        index=-1,
        at_s=at_s,
        prompt_tokens=mix.system_tokens + mix.prompts.draw(dice),
        output_tokens=mix.answers.draw(dice),
        keys=[system << 16 | block for block in range(mix.system_tokens // BLOCK_TOKENS)],
        max_tokens=mix.answers.most,
        band=band.name,
        priority=band.priority,
        tenant=f"{band.name}-{tenant}",
    )
