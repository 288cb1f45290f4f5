"""A body in thousands of framings: what comes back is what was sent, headers before body before trailers.

Seeded; PICKER_FRAMING_CASES says how many, PICKER_FRAMING_SEED which.
"""

import asyncio
import itertools
import os
import random

import pytest

from tests.protocol.play import MODES
from tests.protocol.player import Player, chat, played

CASES = int(os.environ.get("PICKER_FRAMING_CASES", "300"))
SEED = os.environ.get("PICKER_FRAMING_SEED", "0")
AT_ONCE = 20
BATCHES = max(4, CASES // 75)
"""So that no test takes longer than its deadline."""


def cut(dice: random.Random, body: bytes) -> list[bytes]:
    count = dice.choice((0, 0, 1, 2, 5, 30))
    edges = [0, *sorted(dice.randrange(len(body) + 1) for _ in range(count)), len(body)]
    return [body[start:end] for start, end in itertools.pairwise(edges)]


async def one(play: Player, number: int) -> None:
    try:
        await framed(play, number)
    except AssertionError as problem:
        problem.add_note(f"case {number} of seed {SEED}")
        raise


async def framed(play: Player, number: int) -> None:
    dice = random.Random(f"{SEED}-{number}")
    size = dice.choice((0, 1, 100, 61_999, 62_000, 124_000, 200_000, dice.randrange(400_000)))
    is_read = dice.random() < 0.6
    body = chat("x" * size) if is_read else dice.randbytes(size)
    answer = dice.randbytes(dice.choice((0, 1, 1000, 70_000)))
    names = dice.choice([*MODES]), dice.choice([*MODES])
    endings = [dice.choice(("chunk", "empty", "trailers")) for _ in names]
    exchange = play.exchange(*names)
    await exchange.headers("/v1/chat/completions" if is_read else "/x")
    await exchange.body(cut(dice, body), ending=endings[0])
    await exchange.answer(200, cut(dice, answer), ending=endings[1], kind="application/octet-stream")
    exchange.complete()
    for way, sent in ((exchange.request, body), (exchange.response, answer)):
        assert way.forwarded == (b"" if way.mode == 0 else sent), f"{names}, {endings}"
    assert await exchange.finish() == "OK"


@pytest.mark.parametrize("batch", range(BATCHES))
@played
async def test_what_comes_back_is_what_was_sent(play: Player, batch: int) -> None:
    gate = asyncio.Semaphore(AT_ONCE)

    async def gated(number: int) -> None:
        async with gate:
            await one(play, number)

    await asyncio.gather(*map(gated, range(batch, CASES, BATCHES)))
