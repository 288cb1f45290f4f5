"""The prefix index as Python calls it: `Radix` against Dynamo's `RadixTree`, filled alike.

The tree: 2,000 conversations of 52 to 512 blocks behind a system prompt that all 256 endpoints hold, grown turn by turn
on one to three endpoints: about a million (block, endpoint) pairs. Both get the same 64-bit numbers as block hashes and
must answer the same for every endpoint.

Not the same: `RadixTree` hands each call to a thread of its own and takes its hashes as Python numbers; picker reads
an array, where the core has them anyway. So the walk alone is told too: a call less one in which nothing matches.
"""

import itertools
import json
import random
from array import array
from collections.abc import Callable

from dynamo._core import RadixTree

from benchmarks.peers.pairs import AGAIN, Taken, calls, take
from benchmarks.peers.told import Case, rows
from benchmarks.results import Row
from picker._core.radix import Radix

GROUP = "prefix index"
WIDTH = 256
SYSTEM, CONVERSATIONS, TURNS = 32, 2000, 5
LENGTHS, HOLDERS = (20, 100, 480, 480), (1, 1, 2, 3)
WALK = "walk alone"


def blocks(dice: random.Random, count: int) -> "array[int]":
    """So many block hashes, of 63 bits: Dynamo reads some numbers as signed."""
    return array("Q", [dice.getrandbits(63) for _ in range(count)])


class Trees:
    """The same contents on both sides."""

    def __init__(self, dice: random.Random) -> None:
        self.ours = Radix(WIDTH, capacity=1 << 20, max_blocks=1 << 30)
        self.theirs = RadixTree()
        self._events = 0
        self.prompts: list[array[int]] = []
        system = blocks(dice, SYSTEM)
        for slot in range(WIDTH):
            self._insert(slot, system, 0)
        for _ in range(CONVERSATIONS):
            prompt = system + blocks(dice, dice.choice(LENGTHS))
            self.prompts.append(prompt)
            for slot in dice.sample(range(WIDTH), dice.choice(HOLDERS)):
                self._grow(slot, prompt)

    def _grow(self, slot: int, prompt: "array[int]") -> None:
        ends = [len(prompt) * turn // TURNS for turn in range(TURNS + 1)]
        for before, end in itertools.pairwise(max(SYSTEM, end) for end in ends):
            if end > before:
                self._insert(slot, prompt[:end], before)

    def _insert(self, slot: int, prompt: "array[int]", held: int) -> None:
        """To Dynamo as the event that an engine sends: what is new, behind what it follows."""
        self.ours.insert(prompt, slot)
        self._events += 1
        stored = [{"block_hash": block, "tokens_hash": block} for block in prompt[held:]]
        parent = prompt[held - 1] if held else None
        data = {"stored": {"parent_hash": parent, "blocks": stored}}
        self.theirs.apply_event(slot, json.dumps({"event_id": self._events, "data": data, "dp_rank": 0}).encode())

    def check(self, prompt: "array[int]") -> None:
        """RuntimeError unless both know the same."""
        theirs = {worker: held for (worker, _), held in self.theirs.find_matches(list(prompt)).scores.items()}
        ours = {slot: held for slot, held in enumerate(self.ours.match(prompt)) if held}
        if ours != theirs:
            raise RuntimeError(f"picker and Dynamo disagree: {ours} and {theirs}")


def measure() -> list[Row]:
    """All cases."""
    dice = random.Random(1)
    trees = Trees(dice)
    long = [prompt for prompt in trees.prompts if len(prompt) == 512]
    for prompt in long[:50]:
        trees.check(prompt)
    return [*_same(trees, long[0], blocks(dice, 512)), *_in_turn(trees, long)]


def _same(trees: Trees, prompt: "array[int]", other: "array[int]") -> list[Row]:
    ours, theirs, out = trees.ours, trees.theirs, array("I", [0] * WIDTH)
    listed, strange = list(prompt), list(other)
    taken = take(
        {
            "picker": calls(lambda: ours.match_into(prompt, out)),
            "picker, into a list": calls(lambda: ours.match(prompt)),
            "picker, from a list": calls(lambda: ours.match(array("Q", listed))),
            "nothing matches": calls(lambda: ours.match_into(other, out)),
            "Dynamo, from an array": calls(lambda: theirs.find_matches(prompt)),
            "Dynamo, nothing matches": calls(lambda: theirs.find_matches(strange)),
            "Dynamo": calls(lambda: theirs.find_matches(listed)),
        }
    )
    notes = {
        "picker": "array in, array out",
        "picker, into a list": "array in, list out",
        "picker, from a list": "list in, list out",
        "Dynamo, from an array": "",
        "Dynamo": "list in; its scores are not read",
    }
    case = Case(GROUP, "match of 512 blocks over 256 endpoints")
    return [
        *rows(case, taken, notes, [("Dynamo", "picker", ">= 20"), ("Dynamo", "picker, from a list", "")]),
        *_walk(taken),
    ]


def _walk(taken: Taken) -> list[Row]:
    """What a call costs more than one that finds nothing: no conversion, no change of threads."""

    def less(who: str, nothing: str) -> tuple[float, ...]:
        return tuple(one - base for one, base in zip(taken.rounds[who], taken.rounds[nothing], strict=True))

    ours = less("picker", "nothing matches")
    notes = {"picker": "", "Dynamo": ""}
    walks = Taken(
        {"picker": ours, AGAIN: less(AGAIN, "nothing matches"), "Dynamo": less("Dynamo", "Dynamo, nothing matches")}
    )
    return rows(Case(GROUP, f"the same, {WALK}"), walks, notes, [("Dynamo", "picker", "")])


def _in_turn(trees: Trees, prompts: list["array[int]"]) -> list[Row]:
    """Another conversation each time, so that nothing of the last one is at hand."""
    out = array("I", [0] * WIDTH)

    def over(prompts: list, ask: Callable[[object], object]) -> Callable[[], object]:
        turns = itertools.cycle(prompts)
        return lambda: ask(next(turns))

    taken = take(
        {
            "picker": calls(over(prompts, lambda prompt: trees.ours.match_into(prompt, out))),
            "Dynamo": calls(over([list(prompt) for prompt in prompts], trees.theirs.find_matches)),
        }
    )
    case = Case(GROUP, "the same, another conversation each time")
    return rows(case, taken, {"picker": "", "Dynamo": ""}, [("Dynamo", "picker", ">= 20")])
