"""Prompts that have nothing in common: what affinity can only spoil. Poisson arrivals, lognormal lengths."""

import random
from dataclasses import dataclass
from pathlib import Path

from picker.sim.asked import Asked, Load
from picker.sim.traces.dice import Lognormal, Stage, poisson
from picker.sim.traces.errors import TraceError

KEY_TOKENS = 512
NAME = "zero-reuse"


@dataclass(frozen=True)
class ZeroReuse:
    """Lengths in tokens."""

    prompt: Lognormal
    answer: Lognormal
    stages: tuple[Stage, ...]


ZERO_REUSE = ZeroReuse(
    prompt=Lognormal(2_000.0, 1.2, 16.0, 100_000.0),
    answer=Lognormal(200.0, 1.0, 1.0, 4_000.0),
    stages=(Stage(10.0, 900.0),),
)


def generate(shape: ZeroReuse, seed: int) -> Load:
    dice = random.Random(seed)
    asked = (
        Asked(index, at_s, shape.prompt.tokens(dice), shape.answer.tokens(dice))
        for index, at_s in enumerate(poisson(shape.stages, dice))
    )
    return Load(NAME, tuple(asked), KEY_TOKENS)


def read(path: Path | None, seed: int = 0) -> Load:
    """With the defaults. Raises TraceError for a path: this load is generated."""
    if path is not None:
        raise TraceError(f"{NAME} is generated: give no --trace, {path} would not be read")
    return generate(ZERO_REUSE, seed)
