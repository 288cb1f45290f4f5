"""The prefix index on trees of realistic shape, and on the worst ones.

`match` is measured as Python calls it, into an array; the call with nothing to match says how much of that is the call.
"""

import itertools
import random
from array import array
from functools import lru_cache

from benchmarks.cases.case import Action, Case, Growth
from benchmarks.cases.data import blocks
from picker._core.radix import Radix

SYSTEM_PROMPT = 32  # blocks that all endpoints hold
TURNS = 5
LENGTHS = (20, 100, 480, 480)  # blocks of a conversation behind the system prompt: 270 on average
HOLDERS = (1, 1, 2, 3)  # endpoints that serve a conversation
PAIRS_EACH = 500  # (block, endpoint) pairs that a conversation comes to
MILLION = 1_000_000


def index(width: int = 256) -> Radix:
    return Radix(width, capacity=1 << 22, max_blocks=1 << 30)


@lru_cache(2)
def conversations(pairs: int = MILLION, width: int = 256) -> tuple[Radix, list["array[int]"]]:
    """A tree of about so many (block, endpoint) pairs, and its prompts; conversations grew turn by turn."""
    tree, rng = index(width), random.Random(1)
    system = blocks(SYSTEM_PROMPT)
    for slot in range(width):
        tree.insert(system, slot)
    prompts = []
    for number in range(pairs // PAIRS_EACH):
        prompt = system + blocks(rng.choice(LENGTHS), seed=number)
        prompts.append(prompt)
        for slot in rng.sample(range(width), rng.choice(HOLDERS)):
            for turn in range(1, TURNS + 1):
                tree.insert(prompt[: len(prompt) * turn // TURNS], slot)
    return tree, prompts


def matching(tree: Radix, prompt: "array[int]") -> Action:
    out = array("I", [0] * tree.width)
    return lambda: tree.match_into(prompt, out)


def match_512(pairs: int = MILLION, width: int = 256) -> Action:
    tree, prompts = conversations(pairs, width)
    return matching(tree, next(prompt for prompt in prompts if len(prompt) == 512))


def match_in_turn(pairs: int = MILLION) -> Action:
    """A thousand matches of 512 blocks, another conversation each: what is not in the processor's caches."""
    tree, prompts = conversations(pairs)
    out = array("I", [0] * tree.width)
    turn = itertools.cycle([prompt for prompt in prompts if len(prompt) == 512])
    return lambda: [tree.match_into(next(turn), out) for _ in range(1000)]


def match_8192() -> Action:
    tree, prompt = index(), blocks(8192)
    for length, holders in ((32, 256), (1024, 128), (4000, 16), (8192, 3)):
        for slot in range(holders):
            tree.insert(prompt[:length] + blocks(4, seed=slot), slot)
    return matching(tree, prompt)


def match_of_nothing() -> Action:
    return matching(conversations()[0], blocks(0))


def match_unknown() -> Action:
    return matching(conversations()[0], blocks(512, seed=-1))


def leaving_at_each_depth() -> Action:
    tree, prompt = index(), blocks(512)
    for slot in range(256):
        tree.insert(prompt[: 1 + 2 * slot] + blocks(4, seed=slot), slot)
    return matching(tree, prompt)


def one_block_runs(count: int) -> Action:
    """What a client could do: the same prompt at every length, the longest first."""
    tree, prompt = index(), blocks(count)
    for length in range(count, 0, -1):
        tree.insert(prompt[:length], 0)
        tree.insert(blocks(1, seed=length), 0)  # something else is newer, so that the next is cut where it ends
    return matching(tree, prompt)


def next_turns() -> Action:
    """A conversation of 512 blocks grows by 8 until it is too long for the endpoint, which then evicts its oldest."""
    tree = index()
    tree.set_capacity(0, 4096)
    starts = [blocks(512, seed=number) for number in range(10)]
    turns = [start + blocks(8 * turn, seed=turn) for start in starts for turn in range(20)]
    return lambda: [tree.insert(prompt, 0) for prompt in turns]


def a_restart() -> Action:
    """An endpoint that held 100 conversations is empty, and gets them again."""
    tree = index(8)
    prompts = [blocks(300, seed=number) for number in range(100)]

    def restart() -> None:
        tree.forget(0)
        for prompt in prompts:
            tree.insert(prompt, 0)

    return restart


def match_whole(length: int) -> Action:
    """A prompt of so many blocks in five turns, among others: nodes on the path are the same for any length."""
    tree, prompt = index(), blocks(length)
    for slot in range(4):
        for turn in range(1, TURNS + 1):
            tree.insert(prompt[: length * turn // TURNS], slot)
            tree.insert(blocks(1, seed=turn), slot)
    return matching(tree, prompt)


def match_over(width: int) -> Action:
    """All endpoints hold the system prompt, one in eight all of it."""
    tree, prompt = index(width), blocks(512)
    for slot in range(width):
        tree.insert(prompt if slot % 8 == 0 else prompt[:SYSTEM_PROMPT], slot)
    return matching(tree, prompt)


def insert(length: int) -> Action:
    """A new prompt where there is no room: what is oldest goes. Per 64 prompts in turn."""
    tree = index(8)
    tree.set_capacity(0, 4 * length)
    prompts = [blocks(length, seed=number) for number in range(64)]
    return lambda: [tree.insert(prompt, 0) for prompt in prompts]


CASES = [
    Case("radix: match of 512 blocks, 8 endpoints", lambda: match_512(100_000, 8), limit=1.0),
    Case("radix: match of 512 blocks, 256 endpoints", match_512, limit=1.0),
    Case("radix: match of 512 blocks, 1,024 endpoints", lambda: match_512(MILLION, 1024), limit=1.0),
    Case("radix: match of 512 blocks, 4,096 endpoints", lambda: match_512(MILLION, 4096)),
    Case("radix: match of 512 blocks, another conversation each time", match_in_turn, limit=1.0, per=1000),
    Case(
        "radix: the same among 10 M blocks", lambda: match_in_turn(10 * MILLION), limit=1.0, per=1000, is_counted=False
    ),
    Case("radix: match of 8,192 blocks", match_8192, limit=3.0),
    Case("radix: match of nothing (the call)", match_of_nothing),
    Case("radix: match of 512 blocks nobody holds", match_unknown, limit=1.0),
    Case("radix: match of 512 blocks, each endpoint leaves elsewhere", leaving_at_each_depth, limit=1.0),
    Case("radix: match of 512 one-block runs", lambda: one_block_runs(512)),
    Case("radix: match of 8,192 one-block runs", lambda: one_block_runs(8192), is_counted=False),
    Case("radix: insert a conversation's next turn", next_turns, per=200),
    Case("radix: an endpoint restarts and gets 30,000 blocks again", a_restart, unit="ms"),
]
GROWTHS = [
    Growth("radix: match of n blocks", match_whole, 512, "log n"),
    Growth("radix: match over n endpoints", match_over, 128, "n"),
    Growth("radix: match among 1,000 n blocks", lambda n: match_512(1000 * n), 100, "log n"),
    Growth("radix: insert n blocks where as many go", insert, 128, "n"),
]
