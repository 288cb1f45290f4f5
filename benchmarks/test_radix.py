"""The prefix index on trees of realistic shape, and on the worst ones.

`match` is measured as Python calls it, into an array; the call with nothing to match says how much of that is the call.
"""

import itertools
import os
import random
import tracemalloc
from array import array
from time import perf_counter

import pytest

from picker._core import hashing
from picker._core.radix import Radix

SYSTEM_PROMPT = 32  # blocks that all endpoints hold
CONVERSATIONS = 2000
TURNS = 5
LENGTHS = (20, 100, 480, 480)  # blocks of a conversation behind the system prompt: 270 on average
HOLDERS = (1, 1, 2, 3)  # endpoints that serve a conversation


def blocks(count: int) -> "array[int]":
    return array("Q", os.urandom(8 * count))


def conversations(tree: Radix) -> list["array[int]"]:
    """Fill the tree: about a million (block, endpoint) pairs; conversations grow turn by turn."""
    rng = random.Random(1)
    system = blocks(SYSTEM_PROMPT)
    for slot in range(tree.width):
        tree.insert(system, slot)
    prompts = []
    for _ in range(CONVERSATIONS):
        prompt = system + blocks(rng.choice(LENGTHS))
        prompts.append(prompt)
        for slot in rng.sample(range(tree.width), rng.choice(HOLDERS)):
            for turn in range(1, TURNS + 1):
                tree.insert(prompt[: len(prompt) * turn // TURNS], slot)
    return prompts


def index(width: int = 256) -> Radix:
    return Radix(width, capacity=1 << 20, max_blocks=1 << 30)


def age(tree: Radix, slot: int) -> None:
    """Let something else be the newest, so that the next prompt is cut where it ends."""
    tree.insert(blocks(1), slot)


def one_block_runs(tree: Radix, count: int) -> "array[int]":
    """What a client could do: the same prompt at every length, the longest first."""
    prompt = blocks(count)
    for length in range(count, 0, -1):
        tree.insert(prompt[:length], 0)
        age(tree, 0)
    assert tree.nodes >= count
    return prompt


@pytest.mark.parametrize("width", [256, 1024])
def test_match_512(width: int, seconds, target) -> None:
    tree, out = index(width), array("I", [0] * width)
    prompt = next(prompt for prompt in conversations(tree) if len(prompt) == 512)
    took = seconds(lambda: tree.match_into(prompt, out))
    assert max(out) == 512
    target(f"radix: match of 512 blocks over {width} endpoints", took * 1e6, 1.0, "µs")


def test_match_512_of_all_conversations_in_turn(seconds, target) -> None:
    tree, out = index(), array("I", [0] * 256)
    prompts = itertools.cycle([prompt for prompt in conversations(tree) if len(prompt) == 512])
    took = seconds(lambda: [tree.match_into(next(prompts), out) for _ in range(1000)]) / 1000
    target("radix: the same, another conversation each time", took * 1e6, 1.0, "µs")


def test_match_8192(seconds, target) -> None:
    tree, out = index(), array("I", [0] * 256)
    conversations(tree)
    prompt = blocks(8192)
    for length, holders in ((32, 256), (1024, 128), (4000, 16), (8192, 3)):
        for slot in range(holders):
            tree.insert(prompt[:length] + blocks(4), slot)
    took = seconds(lambda: tree.match_into(prompt, out))
    assert sorted(set(out)) == [32, 1024, 4000, 8192]
    target("radix: match of 8,192 blocks", took * 1e6, 3.0, "µs")


def test_match_of_nothing_is_the_cost_of_the_call(seconds) -> None:
    tree, out = index(), array("I", [0] * 256)
    conversations(tree)
    nothing = blocks(0)
    seconds(lambda: tree.match_into(nothing, out))


def test_match_where_each_endpoint_leaves_at_another_depth(seconds, target) -> None:
    tree, out, prompt = index(), array("I", [0] * 256), blocks(512)
    for slot in range(256):
        tree.insert(prompt[: 1 + 2 * slot] + blocks(4), slot)
    took = seconds(lambda: tree.match_into(prompt, out))
    assert len(set(out)) == 256
    target("radix: worst shape for 512: each endpoint leaves elsewhere", took * 1e6, 1.0, "µs")


@pytest.mark.parametrize("count", [512, 8192])
def test_match_of_one_block_runs(count: int, seconds, target) -> None:
    tree, out = index(), array("I", [0] * 256)
    prompt = one_block_runs(tree, count)
    took = seconds(lambda: tree.match_into(prompt, out))
    text, started = os.urandom(count * 256), perf_counter()
    for _ in range(20):
        hashing.block_hashes([text], 1, count)
    hashed = (perf_counter() - started) / 20
    target(f"radix: {count} one-block runs, of the time to hash them", took / hashed, 1.0, "")


def test_insert_of_a_next_turn(seconds) -> None:
    """A conversation of 512 blocks grows by 8 until it is too long for the endpoint, which then evicts its oldest."""
    tree = index()
    conversations(tree)
    tree.set_capacity(0, 4096)
    turns = [blocks(512) for _ in range(10)]
    turns = [start + blocks(8 * turn) for start in turns for turn in range(20)]
    seconds(lambda: [tree.insert(prompt, 0) for prompt in turns])


@pytest.mark.parametrize("run", [8, 16, 84])
def test_memory_at_a_million_blocks(run: int, target) -> None:
    """Prompts that share nothing. The Mooncake conversation trace leaves runs of 84 in the mean, evicting or not."""
    tracemalloc.start()
    tree = index()
    for prompt in range(1_000_000 // run):
        tree.insert(blocks(run), prompt % 256)
    traced = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert 0 <= traced - tree.memory_bytes < 10_000
    target(f"radix: memory, 1 M blocks in private runs of {run}", traced / len(tree), 24.0, "B/pair")
