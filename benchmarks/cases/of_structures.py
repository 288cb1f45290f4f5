"""The structures under the others, as their own faces drive them: what a face costs is in the figure."""

import itertools
import random

from benchmarks.cases.case import Action, Case, Growth
from benchmarks.cases.data import blocks
from picker._core.deadlines import Deadlines
from picker._core.heap import Heap
from picker._core.holders import Holders
from picker._core.lru import Lru
from picker._core.names import Names
from picker._core.runs import Runs
from picker._core.wheel import TICK_NS, Wheel

TIMES = 1000


def ranking(size: int) -> Action:
    """A thousand times the first of so many comes behind all others."""
    heap, rng = Heap(size), random.Random(1)
    for key in range(size):
        heap.push(key, 0, rng.randrange(1 << 40))
    order = itertools.count(1 << 40)

    def turn() -> None:
        for _ in range(TIMES):
            key = heap.first()
            assert key is not None
            heap.move(key, 0, next(order))

    return turn


def due(made: Deadlines | Wheel, size: int) -> Action:
    """A thousand times the first of so many is due, and is waited for again behind all."""
    for key in range(size):
        made.set(key, (key + 1) * TICK_NS)
    now = [0]

    def turn() -> None:
        for _ in range(TIMES):
            now[0] += TICK_NS
            found = made.due(now[0])
            assert found is not None
            made.set(found[0], now[0] + size * TICK_NS)

    return turn


def recency(slots: int) -> Action:
    """A thousand entries are used again, of as many slots."""
    lru = Lru(slots)
    entries = [lru.add(1 + number, number % slots, 8) for number in range(TIMES)]
    return lambda: [lru.move(entry) for entry in entries]


def membership(width: int) -> Action:
    """So many join a node, are found and leave."""
    holders = Holders(width)

    def turn() -> None:
        for slot in range(width):
            holders.join(slot, slot + 1, slot % 2 == 0)
        for slot in range(width):
            holders.find(slot)
        for slot in range(width):
            holders.leave(slot)

    return turn


def coming_back(width: int) -> Action:
    """Of so many holders of a node, 64 leave and join again."""
    holders = Holders(width)
    for slot in range(width):
        holders.join(slot, slot + 1, True)
    some = range(0, width, width // 64)

    def turn() -> None:
        for slot in some:
            holders.leave(slot)
        for slot in some:
            holders.join(slot, slot + 1, True)

    return turn


def trie(children: int) -> Action:
    """A thousand children of the root are looked for, among so many."""
    runs = Runs()
    hashes = [blocks(16, seed=number) for number in range(children)]
    for run in hashes:
        runs.add(0, run)
    firsts = [hashes[number * 7 % children][0] for number in range(TIMES)]
    return lambda: [runs.find(first, 0) for first in firsts]


def splitting(count: int) -> Action:
    """A run of so many blocks is cut off block by block, as prompts leave it, and is dropped."""
    runs, run = Runs(), blocks(count)

    def turn() -> None:
        rest = runs.add(0, run)
        heads = [runs.split(rest, 1) for _ in range(count - 1)]
        for node in (rest, *reversed(heads)):
            runs.drop(node)

    return turn


def naming(count: int) -> Action:
    names = Names({b"adapter-%d" % number: b"base-%d" % (number % 3) for number in range(count)})
    keys = [b"adapter-%d" % (number * 7 % count) for number in range(TIMES)]
    return lambda: [names.find(key) for key in keys]


CASES = [
    Case("heap: the first of 10,000 comes last", lambda: ranking(10_000), "ns", per=TIMES),
    Case("deadlines: one of 10,000 is due", lambda: due(Deadlines(10_000), 10_000), "ns", per=TIMES),
    Case("wheel: one of 10,000 is due", lambda: due(Wheel(10_000), 10_000), "ns", per=TIMES),
    Case("lru: an entry is used", lambda: recency(8), "ns", per=TIMES),
    Case("holders: 256 join, are found, leave", lambda: membership(256)),
    Case("runs: find one of 10,000 children", lambda: trie(10_000), "ns", per=TIMES),
    Case("runs: split a run of 256 at each block", lambda: splitting(256)),
    Case("names: find one of 1,000", lambda: naming(1000), "ns", per=TIMES),
]
GROWTHS = [
    Growth("heap: the first of n comes last", ranking, 1000, "log n"),
    Growth("deadlines: one of n is due", lambda n: due(Deadlines(n), n), 1000, "log n"),
    Growth("wheel: one of n is due", lambda n: due(Wheel(n), n), 1000, "log n"),
    Growth("holders: 64 of n leave and come back", coming_back, 64, "n"),
    Growth("runs: find one of n children", trie, 1000, "1"),
    Growth("names: find one of n", naming, 1000, "1"),
]
