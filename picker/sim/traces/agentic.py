"""Agents at work: long conversations with tools, each turn the whole of what was said before and a little more.

A session begins with the instructions and tools that all agents of its kind have, and a task. Each turn the model
answers; the answer and what a tool, or at times a person, says to it make the next prompt, until the session is over or
its context is full. A turn comes after the answer to the one before it and a time to think. The shape is made up: long
contexts (to 240,000 tokens), short answers, most of each prompt known, as published agent traces have them.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from picker.sim.asked import Load
from picker.sim.traces.dice import Lognormal, Stage, poisson
from picker.sim.traces.errors import TraceError
from picker.sim.traces.turns import Turn

KEY_TOKENS = 128
NAME = "agentic"


@dataclass(frozen=True)
class Agentic:
    """Lengths in tokens, times in seconds; `stages` are of sessions."""

    kinds: tuple[int, ...]  # instructions and tools of each kind of agents
    task: Lognormal
    tool: Lognormal  # what it says, or a person
    answer: Lognormal
    turns: Lognormal
    context: int
    tool_s: Lognormal
    person_s: Lognormal
    person: float  # share of turns that a person answers
    stages: tuple[Stage, ...]

    def __post_init__(self) -> None:
        """Raises ValueError for a kind that does not end with a block, or leaves no room in the context."""
        if any(tokens % KEY_TOKENS or tokens + 40_000 > self.context for tokens in self.kinds):
            raise ValueError(f"what a kind of agents shares is of whole blocks of {KEY_TOKENS} tokens and fits into it")


AGENTIC = Agentic(
    kinds=(4_096, 8_192, 8_192, 12_288, 16_384, 24_576),
    task=Lognormal(1_500.0, 1.0, 50.0, 30_000.0),
    tool=Lognormal(900.0, 1.3, 20.0, 30_000.0),
    answer=Lognormal(180.0, 0.9, 8.0, 4_000.0),
    turns=Lognormal(14.0, 0.8, 1.0, 120.0),
    context=240_000,
    tool_s=Lognormal(2.0, 1.2, 0.05, 120.0),
    person_s=Lognormal(25.0, 0.8, 2.0, 300.0),
    person=0.1,
    stages=(Stage(0.3, 900.0),),
)


class _Sessions:
    """Draws sessions one after the other."""

    def __init__(self, shape: Agentic, seed: int) -> None:
        self.shape = shape
        self.dice = random.Random(seed)
        self.names = count()
        self.shared = [tuple(next(self.names) for _ in range(tokens // KEY_TOKENS)) for tokens in shape.kinds]

    def turns(self, session: int, at_s: float) -> Iterator[Turn]:
        shape, dice = self.shape, self.dice
        kind = dice.randrange(len(shape.kinds))
        known = list(self.shared[kind])
        tokens = shape.kinds[kind] + shape.task.tokens(dice)
        think_s = 0.0
        before = None
        for _ in range(shape.turns.tokens(dice)):
            answer = shape.answer.tokens(dice)
            if tokens + answer > shape.context:
                return
            begin, end = tokens // KEY_TOKENS, (tokens + answer) // KEY_TOKENS
            known.extend(next(self.names) for _ in range(end - len(known)))
            keys, answer_keys = known[:begin], known[begin:end]
            before = Turn(at_s, tokens, answer, keys, answer_keys, before, think_s, session)
            yield before
            tokens += answer + shape.tool.tokens(dice)
            think_s = (shape.person_s if dice.random() < shape.person else shape.tool_s).draw(dice)
            at_s += think_s


def generate(shape: Agentic, seed: int) -> Load:
    sessions = _Sessions(shape, seed)
    starts = list(poisson(shape.stages, random.Random(seed + 1)))
    turns = [turn for session, at_s in enumerate(starts) for turn in sessions.turns(session, at_s)]
    turns.sort(key=lambda turn: turn.at_s)
    for index, turn in enumerate(turns):
        turn.index = index
    return Load(NAME, tuple(turn.asked() for turn in turns), KEY_TOKENS)


def read(path: Path | None, seed: int = 0) -> Load:
    """With the defaults. Raises TraceError for a path: this load is generated."""
    if path is not None:
        raise TraceError(f"{NAME} is generated: give no --trace, {path} would not be read")
    return generate(AGENTIC, seed)
