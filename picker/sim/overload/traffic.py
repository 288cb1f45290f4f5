"""Who asks for what: bands, tenants, lengths of prompts and answers, bursts. Deterministic for a seed."""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, field

from picker.sim.engine import EngineConfig
from picker.sim.timing import TimingModel

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


@dataclass(frozen=True)
class Fault:
    """From `at_s` on, for `seconds`: "metrics" (cannot be read), "slow" (`factor` times slower), "dead" (refuses).

    `slots`: whom it strikes; empty for all.
    """

    kind: str
    at_s: float
    seconds: float
    slots: tuple[int, ...] = ()
    factor: float = 2.0


@dataclass(frozen=True, slots=True)
class Asked:
    """One request of the traffic."""

    index: int
    at_s: float
    band: str
    priority: int
    tenant: str
    system: int  # which system prompt it begins with
    system_tokens: int
    prompt_tokens: int
    answer_tokens: int

    @property
    def tokens(self) -> int:
        return self.prompt_tokens + self.answer_tokens


# One tenant of ten sends as much as the nine others together.
GREEDY = (0.5, *(0.5 / 9,) * 9)
BANDS = (Band("high", 10, 0.2), Band("middle", 0, 0.5, GREEDY), Band("low", -1, 0.3))
PHASES = (Phase(20.0, 0.7), Phase(30.0, 2.0), Phase(30.0, 0.7))

SHORT = Mix("short", Lengths(120, 1.0, 2_000), Lengths(110, 1.0, 1_000))
CHAT = Mix("chat", Lengths(600, 1.0, 8_000), Lengths(160, 0.8, 1_000))
LONG = Mix("long", Lengths(4_000, 0.7, 16_000), Lengths(100, 0.8, 800))
ANSWERS = Mix("answers", Lengths(200, 0.8, 2_000), Lengths(500, 0.7, 2_000))
MIXES = {mix.name: mix for mix in (SHORT, CHAT, LONG, ANSWERS)}

# The engine the public simulation was fitted to, with its memory (PROTOCOL.md 9.1): an A100 of 40 GB with a 7B model
# that keeps half a MB for each token. Batches as vLLM serves by default on such a GPU: 2,048 tokens, 256 sequences.
A100 = EngineConfig(num_blocks=2_810, max_num_batched_tokens=2_048, max_num_seqs=256, max_lora=0)
# By arithmetic, not by measurement: an H100 of 80 GB with an 8B model of grouped queries. Weights are read in 7 ms,
# 131 kB for each token at 2.2 TB/s, 16 GFLOP for a prompt's token at half of peak; 57 GB are left for the cache.
# Batches again by vLLM's defaults for the GPU: 8,192 tokens, 1,024 sequences.
H100 = EngineConfig(
    num_blocks=27_000,
    max_num_batched_tokens=8_192,
    max_num_seqs=1_024,
    max_lora=0,
    timing=TimingModel(
        prefill_base_s=0.009, prefill_s_per_token=3.3e-5, decode_base_s=0.007, decode_s_per_kv_token=6e-8,
        decode_s_per_sequence=2e-5,
    ),
)  # fmt: skip
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
    return [_numbered(index, one) for index, one in enumerate(asked)]


def _ask(mix: Mix, band: Band, at_s: float, dice: random.Random) -> Asked:
    tenant = dice.choices(range(len(band.tenants)), band.tenants)[0]
    prompt_tokens = mix.system_tokens + mix.prompts.draw(dice)
    return Asked(
        index=-1,
        at_s=at_s,
        band=band.name,
        priority=band.priority,
        tenant=f"{band.name}-{tenant}",
        system=1 + tenant + 1000 * (band.priority + 100),
        system_tokens=mix.system_tokens,
        prompt_tokens=prompt_tokens,
        answer_tokens=mix.answers.draw(dice),
    )


def _numbered(index: int, one: Asked) -> Asked:
    return Asked(
        index, one.at_s, one.band, one.priority, one.tenant, one.system, one.system_tokens, one.prompt_tokens,
        one.answer_tokens,
    )  # fmt: skip


def keys(asked: Asked) -> Sequence[tuple[int, int]]:
    """The engine's names for the blocks of its prompt that others begin with, too."""
    return [(asked.system, block) for block in range(asked.system_tokens // BLOCK_TOKENS)]
