"""Groups of users with a long prompt in common: each request is a prefix that its group shares, and a question.

The shape is that of llm-d's benchmark "b2b-saas" (llm-d#2071): 150 groups of 6,000 tokens, questions of 1,200, answers
of 1,000, Poisson arrivals from 3 to 60 requests a second. Here every question is asked once.
"""

import random
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from picker.sim.asked import Asked, Load
from picker.sim.traces.dice import Stage, poisson
from picker.sim.traces.errors import TraceError

KEY_TOKENS = 200  # divides all of these lengths
NAME = "shared-prefix"


@dataclass(frozen=True)
class SharedPrefix:
    """Lengths in tokens. Raises ValueError for a prefix that does not end with a block, or for nothing."""

    groups: int
    prefix_tokens: int
    question_tokens: int
    answer_tokens: int
    stages: tuple[Stage, ...]

    def __post_init__(self) -> None:
        if self.prefix_tokens % KEY_TOKENS or min(self.groups, self.question_tokens, self.answer_tokens) < 1:
            raise ValueError(f"a prefix is of whole blocks of {KEY_TOKENS} tokens, and nothing else of none")


SHARED_PREFIX = SharedPrefix(150, 6_000, 1_200, 1_000, tuple(Stage(3.0 * step, 20.0) for step in range(1, 21)))


def generate(shape: SharedPrefix, seed: int) -> Load:
    dice = random.Random(seed)
    names = count()
    shared = [tuple(next(names) for _ in range(shape.prefix_tokens // KEY_TOKENS)) for _ in range(shape.groups)]
    own = -(-shape.question_tokens // KEY_TOKENS)
    asked = []
    for index, at_s in enumerate(poisson(shape.stages, dice)):
        group = dice.randrange(shape.groups)
        keys = (*shared[group], *(next(names) for _ in range(own)))
        prompt_tokens = shape.prefix_tokens + shape.question_tokens
        asked.append(Asked(index, at_s, prompt_tokens, shape.answer_tokens, keys, tenant=f"group-{group}"))
    return Load(NAME, tuple(asked), KEY_TOKENS)


def read(path: Path | None, seed: int = 0) -> Load:
    """With the defaults. Raises TraceError for a path: this load is generated."""
    if path is not None:
        raise TraceError(f"{NAME} is generated: give no --trace, {path} would not be read")
    return generate(SHARED_PREFIX, seed)
