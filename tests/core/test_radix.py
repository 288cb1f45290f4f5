import gc
import tracemalloc
from array import array
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from picker._core import alloc, radix
from tests.model import radix as model
from tests.support.builds import debug_build_only
from tests.support.leaks import assert_flat, succeeds

PROMPTS = st.lists(st.integers(0, 1), max_size=7)


def chain(tokens: Sequence[int]) -> "array[int]":
    """Chained hashes of a prompt of small tokens. They differ in the upper half; few homes in the table, many ties."""
    hashes = array("Q")
    path = 0
    for token in tokens:
        path = path * 5 + token + 1
        hashes.append(path << 32 | path % 3)
    return hashes


def index(width: int = 4, capacity: int = 100, max_blocks: int = 1000) -> radix.Radix:
    return radix.Radix(width, capacity=capacity, max_blocks=max_blocks)


class RadixMachine(RuleBasedStateMachine):
    """The core against the model, evictions included. Equal after each step: everything a match can tell."""

    @initialize(width=st.sampled_from([1, 2, 3, 70]), capacity=st.integers(0, 12), max_blocks=st.integers(0, 30))
    def start(self, width: int, capacity: int, max_blocks: int) -> None:
        self.core = radix.Radix(width, capacity=capacity, max_blocks=max_blocks)
        self.model = model.Radix(width, capacity=capacity, max_blocks=max_blocks)
        self.prompts: set[tuple[int, ...]] = {()}

    def draw_slot(self, data: st.DataObject) -> int:
        width = len(self.model.blocks)
        return data.draw(st.sampled_from([slot for slot in (0, 1, 2, 63, 64, width - 1) if slot < width]))

    @rule(data=st.data(), prompt=PROMPTS)
    def insert(self, data: st.DataObject, prompt: list[int]) -> None:
        slot = self.draw_slot(data)
        self.core.insert(chain(prompt), slot)
        self.model.insert(chain(prompt), slot)
        self.prompts.add(tuple(prompt))

    @rule(data=st.data(), more=PROMPTS | st.just([]))
    def go_on(self, data: st.DataObject, more: list[int]) -> None:
        """A later turn of a conversation, a branch of it, or an earlier turn again."""
        start = data.draw(st.sampled_from(sorted(self.prompts)))
        self.insert(data, [*start[: data.draw(st.integers(0, len(start)))], *more][:14])

    @rule(prompt=PROMPTS)
    def match(self, prompt: list[int]) -> None:
        self.prompts.add(tuple(prompt))

    @rule(data=st.data())
    def forget(self, data: st.DataObject) -> None:
        slot = self.draw_slot(data)
        self.core.forget(slot)
        self.model.forget(slot)

    @rule(data=st.data(), blocks=st.integers(0, 15))
    def set_capacity(self, data: st.DataObject, blocks: int) -> None:
        slot = self.draw_slot(data)
        self.core.set_capacity(slot, blocks)
        self.model.set_capacity(slot, blocks)

    @rule(width=st.integers(0, 70))
    def widen(self, width: int) -> None:
        self.core.widen(width)
        self.model.widen(width)

    @invariant()
    def equal(self) -> None:
        width = len(self.model.blocks)
        assert self.core.width == width
        assert len(self.core) == len(self.model)
        assert [self.core.held(slot) for slot in range(width)] == [self.model.held(slot) for slot in range(width)]
        for prompt in self.prompts:
            hashes = chain(prompt)
            answers = self.model.match(hashes)
            assert self.core.match(hashes) == answers
            assert self.core.match_into(hashes, array("I", [9] * width)) == max(answers)
        self.core._check()


class FailingRadixMachine(RadixMachine):
    """The same with failing allocations: the index stays valid, and what other endpoints hold stays as it was."""

    @rule(data=st.data(), prompt=PROMPTS, after=st.integers(0, 6))
    def insert_in_vain(self, data: st.DataObject, prompt: list[int], after: int) -> None:
        slot = self.draw_slot(data)
        alloc.fail_allocation(after)
        try:
            self.core.insert(chain(prompt), slot)
        except MemoryError:
            self.core._check()
        finally:
            alloc.fail_allocation(-1)
        self.core.forget(slot)
        self.model.forget(slot)


RadixMachine.TestCase.settings = settings(max_examples=120, stateful_step_count=30, deadline=None)
FailingRadixMachine.TestCase.settings = RadixMachine.TestCase.settings
TestRadix = RadixMachine.TestCase
TestFailingRadix = debug_build_only(FailingRadixMachine.TestCase)


HASHES = st.lists(st.sampled_from([0, 1, 2, 2**32, 2**63, 2**64 - 1]), max_size=6)


@given(st.lists(st.tuples(HASHES, st.integers(0, 2), st.booleans()), max_size=20), st.integers(0, 9))
def test_hashes_that_are_not_chained_do_no_harm(steps: list[tuple[list[int], int, bool]], capacity: int) -> None:
    tree = index(3, capacity, 20)
    for hashes, slot, keep in steps:
        if keep:
            tree.insert(array("Q", hashes), slot)
        else:
            tree.forget(slot)
        tree._check()
        assert all(answer <= len(hashes) for answer in tree.match(array("Q", hashes)))


def test_each_endpoint_gets_its_leading_match() -> None:
    tree = index()
    tree.insert(chain([0, 0, 0, 0]), 0)
    tree.insert(chain([0, 0]), 1)
    tree.insert(chain([0, 0, 1]), 2)
    assert tree.match(chain([0, 0, 0, 0, 0])) == [4, 2, 2, 0]
    assert tree.match(chain([0, 0, 1, 1])) == [2, 2, 3, 0]
    assert tree.match(chain([0])) == [1, 1, 1, 0]
    assert tree.match(chain([1])) == tree.match(chain([])) == [0, 0, 0, 0]
    assert (tree.held(0), tree.held(3), len(tree)) == (4, 0, 9)


def test_a_conversation_that_one_endpoint_holds_is_one_run() -> None:
    tree = index()
    for length in range(10):
        tree.insert(chain([0] * length), 0)
    assert tree.nodes == 1
    tree.insert(chain([0] * 5), 1)  # holds a part: nothing is cut for it
    assert tree.nodes == 1
    tree.insert(chain([0, 0, 1]), 1)
    assert tree.nodes == 3


def test_evicts_what_was_touched_longest_ago_the_deepest_first() -> None:
    tree = index(capacity=6)
    tree.insert(chain([0, 0, 0]), 0)
    tree.insert(chain([0, 1, 1]), 0)  # touches the first block again
    tree.insert(chain([1, 1]), 0)  # seven blocks: one too many
    assert tree.match(chain([0, 0, 0]))[0] == 2
    tree.insert(chain([1, 1, 0]), 0)
    assert tree.match(chain([0, 0, 0]))[0] == 1
    tree.insert(chain([1, 1, 0, 0]), 0)
    assert tree.match(chain([0, 1, 1]))[0] == 2
    assert tree.match(chain([1, 1, 0, 0]))[0] == 4


def test_what_lies_behind_a_repeated_shorter_prompt_ages() -> None:
    tree = index(capacity=5)
    tree.insert(chain([0, 0, 0]), 0)
    tree.insert(chain([1, 1]), 0)
    tree.insert(chain([0, 0]), 0)
    tree.insert(chain([1, 0, 0]), 0)
    assert (tree.match(chain([0, 0, 0]))[0], tree.match(chain([1, 1]))[0]) == (2, 1)


def test_keeps_the_head_of_a_prompt_that_has_no_room() -> None:
    tree = index(capacity=3)
    tree.insert(chain([1]), 0)
    tree.insert(chain([0] * 5), 0)
    assert tree.match(chain([0] * 5))[0] == tree.held(0) == 3
    assert tree.match(chain([1]))[0] == 0


def test_no_endpoint_grows_at_another_ones_cost() -> None:
    tree = index(capacity=10, max_blocks=8)
    tree.insert(chain([0] * 6), 0)
    tree.insert(chain([1] * 4), 1)
    assert tree.match(chain([1] * 4))[1] == 2  # nothing of its own to evict
    tree.insert(chain([0, 1]), 1)
    assert (tree.held(0), tree.held(1), len(tree)) == (6, 2, 8)
    assert tree.match(chain([1]))[1] == 0


def test_a_lower_capacity_evicts_at_once() -> None:
    tree = index()
    tree.insert(chain([0] * 6), 0)
    tree.set_capacity(0, 4)
    assert tree.held(0) == 4
    tree.set_capacity(0, 0)
    tree.insert(chain([1]), 0)
    assert (tree.held(0), tree.nodes, len(tree)) == (0, 0, 0)


def test_a_forgotten_endpoint_starts_empty_and_others_keep_theirs() -> None:
    tree = index()
    for slot in range(3):
        tree.insert(chain([0, 0, slot]), slot)
    tree.forget(1)
    tree.forget(1)
    assert tree.match(chain([0, 0, 1])) == [2, 0, 2, 0]
    tree.insert(chain([0, 0, 1]), 1)
    assert tree.match(chain([0, 0, 1])) == [2, 3, 2, 0]


def test_widens_past_the_words_of_existing_holder_sets() -> None:
    tree = index(width=2)
    for slot in range(2):
        tree.insert(chain([0, 0]), slot)
    tree.widen(200)
    tree.widen(1)
    tree.insert(chain([0, 0, 1]), 199)
    assert tree.match(chain([0, 0, 1])) == [2, 2] + [0] * 197 + [3]
    tree._check()


def test_many_endpoints_lost_at_one_node_are_all_written() -> None:
    """Words of 64 endpoints are written whole, by vectors or one by one; this meets all three."""
    tree = index(width=150, max_blocks=10_000)
    for slot in range(150):
        tree.insert(chain([0] * 4), slot)
    for slot in [*range(64, 100), 3, 149]:
        tree.insert(chain([0] * 8), slot)
    answers = tree.match(chain([0] * 9))
    assert answers == [8 if slot in (3, 149) or 64 <= slot < 100 else 4 for slot in range(150)]


def test_refuses_endpoints_beyond_the_width() -> None:
    tree = index(width=4)
    for call in (
        lambda: tree.insert(chain([0]), 4),
        lambda: tree.forget(4),
        lambda: tree.set_capacity(2**32 - 1, 1),
        lambda: tree.held(4),
    ):
        with pytest.raises(ValueError, match="not below the width, 4"):
            call()
    with pytest.raises(ValueError, match="room for 3 of 4"):
        tree.match_into(chain([0]), array("I", [0] * 3))
    assert len(tree) == 0


def test_refuses_what_is_not_an_array_of_hashes() -> None:
    tree = index()
    with pytest.raises((TypeError, ValueError)):
        tree.insert([1, 2], 0)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="mismatch"):
        tree.match(array("I", [1]))
    with pytest.raises(OverflowError):
        tree.insert(chain([0]), -1)
    with pytest.raises(ValueError, match="below 2"):
        index(max_blocks=2**31)


def test_an_index_for_nobody_holds_nothing() -> None:
    tree = radix.Radix(0, capacity=5, max_blocks=0)
    assert tree.match(chain([0])) == []
    tree.widen(1)
    tree.insert(chain([0]), 0)
    assert tree.match(chain([0])) == [0]


def churn() -> None:
    tree = index(width=3, capacity=40, max_blocks=100)
    for turn in range(60):
        tree.insert(chain([turn >> bit & 1 for bit in range(turn % 13)]), turn % 3)
        tree.match(chain([0, turn % 2]))
    tree.widen(100)
    tree.insert(chain([0, 1]), 99)
    tree.set_capacity(1, 5)
    tree.forget(0)


def test_leaks_nothing() -> None:
    assert_flat(churn, calls=20)


def test_says_how_much_memory_it_has() -> None:
    """To the byte: every allocation goes through the traced allocator."""
    prompts = [chain([turn >> bit & 1 for bit in range(turn % 13)]) for turn in range(60)]
    traced, counted = array("q", [0, 0]), array("q", [0, 0])
    tracemalloc.start()
    try:
        tree = index(width=3)
        for reading in range(2):
            traced[reading] = tracemalloc.get_traced_memory()[0]
            counted[reading] = tree.memory_bytes
            for turn, prompt in enumerate(prompts):
                tree.insert(prompt, turn % 3)
    finally:
        tracemalloc.stop()
    assert counted[1] - counted[0] == traced[1] - traced[0] > 1000


@debug_build_only
def test_survives_failing_allocations() -> None:
    """Giving memory back may fail unnoticed, so the first success does not mean that nothing else can fail."""
    gc.collect()
    live_before = alloc.live_blocks()
    survived = [succeeds(churn, after) for after in range(200)]
    gc.collect()
    assert alloc.live_blocks() == live_before
    assert survived.count(False) > 50 and survived[-1]
