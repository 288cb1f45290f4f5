"""The demo's load, made from a seed: tenants with a long system prompt each, and conversations that grow turn by turn.

The same plan is played in both halves. Sizes are in tokens of the simulated servers (four bytes each).
"""

import random
from dataclasses import dataclass

GROUPS_PER_ENDPOINT = 3
SYSTEM_TOKENS = 4000
QUESTION_TOKENS = (40, 400)
ANSWER_TOKENS = (24, 72)
TURNS = (2, 6)
THINK_MEAN_S = 1.0
CONVERSATIONS_PER_ENDPOINT_S = 0.6
WORDS = (
    "account agent answer before carrier change check claim could customer delivery detail every first follow given"
    " however invoice letter manual message minute number order other people please policy produce question reason"
    " refund report return second service should status ticket under update value where which window without would"
).split()


@dataclass(frozen=True)
class Turn:
    """What the user says, how long an answer is asked for, and how long it takes to think of the next question."""

    question: str
    answer_tokens: int
    think_s: float


@dataclass(frozen=True)
class Conversation:
    start_s: float
    group: int
    turns: tuple[Turn, ...]


@dataclass(frozen=True)
class Workload:
    """`system_prompts` by group; conversations in order of their start."""

    system_prompts: tuple[str, ...]
    conversations: tuple[Conversation, ...]
    duration_s: float


def make_workload(*, endpoints: int, duration_s: float, seed: int) -> Workload:
    """Conversations begin as a Poisson process whose rate goes with the number of endpoints."""
    dice = random.Random(seed)
    prompts = tuple(_text(dice, SYSTEM_TOKENS) for _ in range(endpoints * GROUPS_PER_ENDPOINT))
    conversations: list[Conversation] = []
    now_s, rate = 0.0, endpoints * CONVERSATIONS_PER_ENDPOINT_S
    while True:
        now_s += dice.expovariate(rate)
        if now_s >= duration_s:
            return Workload(prompts, tuple(conversations), duration_s)
        conversations.append(_conversation(dice, now_s, dice.randrange(len(prompts))))


def _conversation(dice: random.Random, start_s: float, group: int) -> Conversation:
    turns = tuple(
        Turn(
            _text(dice, dice.randint(*QUESTION_TOKENS)),
            dice.randint(*ANSWER_TOKENS),
            dice.expovariate(1 / THINK_MEAN_S),
        )
        for _ in range(dice.randint(*TURNS))
    )
    return Conversation(start_s, group, turns)


def _text(dice: random.Random, tokens: int) -> str:
    text = " ".join(dice.choices(WORDS, k=tokens))  # the shortest word has five letters: never too short
    return text[: tokens * 4]
