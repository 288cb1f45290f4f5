"""Small loads for tests of the lab."""

import random

from picker.sim.asked import Asked, Load
from picker.sim.engine import EngineConfig
from picker.sim.gpus import H100
from picker.sim.world import Setting

KEY_TOKENS = 64


def conversation(turns: int, every_s: float) -> Load:
    """One conversation that grows by a block a turn; turns come at their times."""
    asked = [Asked(turn, turn * every_s, KEY_TOKENS * (turn + 1), 10, range(turn + 1)) for turn in range(turns)]
    return Load("conversation", tuple(asked), KEY_TOKENS)


def chats(people: int, turns: int, *, seed: int = 1, think_s: float = 1.0) -> Load:
    """Conversations: a turn's prompt is the last one with its answer and a new question of up to 200 tokens."""
    dice = random.Random(seed)
    asked: list[Asked] = []
    for person in range(people):
        at_s, tokens, last = dice.uniform(0.0, 5.0), 0, -1
        for _ in range(turns):
            prompt, answer = tokens + dice.randint(1, 200), dice.randint(1, 90)
            keys = [person << 20 | block for block in range(-(-(prompt + answer) // KEY_TOKENS))]
            asked.append(
                Asked(
                    len(asked),
                    at_s,
                    prompt,
                    answer,
                    keys[: -(-prompt // KEY_TOKENS)],
                    keys[prompt // KEY_TOKENS : (prompt + answer) // KEY_TOKENS],
                    tenant=str(person % 3),
                    session=person,
                    after=last,
                    think_s=think_s,
                )
            )
            last, tokens = len(asked) - 1, prompt + answer
    return Load("chats", in_order(asked), KEY_TOKENS)


def in_order(asked: list[Asked]) -> tuple[Asked, ...]:
    """By time, numbered anew."""
    from dataclasses import replace

    ordered = sorted(asked, key=lambda one: one.at_s)
    places = {one.index: place for place, one in enumerate(ordered)}
    return tuple(replace(one, index=places[one.index], after=places.get(one.after, -1)) for one in ordered)


def setting(engines: int = 3, *, blocks: int = 200, **more: object) -> Setting:
    config = EngineConfig(
        num_blocks=blocks,
        block_size=KEY_TOKENS,
        max_num_seqs=8,
        max_num_batched_tokens=256,
        max_lora=0,
        timing=H100.timing,
    )
    return Setting((config,) * engines, looks=True, **more)  # type: ignore[arg-type]
