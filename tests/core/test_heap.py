import random

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from picker._core.heap import Heap
from tests.model import heap as model
from tests.support.builds import debug_build_only
from tests.support.leaks import assert_flat, failing_allocations

KEYS = 12


def test_the_least_comes_first() -> None:
    heap = Heap(4)
    assert heap.first() is None
    heap.push(0, 2, -5)
    heap.push(1, 1, 9)
    heap.push(3, 1, 8)
    heap.push(2, 1, 8)
    firsts = []
    while (key := heap.first()) is not None:
        firsts.append(key)
        heap.drop(key)
        heap._check()
    assert firsts == [2, 3, 1, 0]


def test_ranks_have_the_whole_domain() -> None:
    heap = Heap(4)
    heap.push(0, 2**64 - 1, -(2**63))
    heap.push(1, 0, 2**63 - 1)
    heap.push(2, 2**63, 0)
    heap.push(3, 0, -(2**63))
    order = []
    while (key := heap.first()) is not None:
        order.append(key)
        heap.drop(key)
    assert order == [3, 1, 2, 0]


def test_refuses_what_is_not_there() -> None:
    heap = Heap(2)
    heap.push(0, 1, 1)
    with pytest.raises(ValueError, match="0 is in the heap already"):
        heap.push(0, 2, 2)
    for call in (lambda: heap.drop(1), lambda: heap.move(1, 0, 0)):
        with pytest.raises(KeyError):
            call()
    for call in (lambda: heap.push(2, 1, 1), lambda: heap.drop(2), lambda: heap.move(2, 0, 0)):
        with pytest.raises(IndexError):
            call()
    with pytest.raises(OverflowError):
        heap.push(1, -1, 0)
    with pytest.raises(MemoryError):
        Heap(2**62)
    assert (len(heap), heap.first()) == (1, 0)


def test_one_that_gets_another_rank_moves() -> None:
    heap = Heap(20)
    for key in range(20):
        heap.push(key, key, 0)
    heap.move(17, 0, -1)
    assert heap.first() == 17
    heap.move(17, 18, 1)
    heap.move(3, 3, 0)
    heap._check()
    order = []
    while (key := heap.first()) is not None:
        order.append(key)
        heap.drop(key)
    assert order == [*range(17), 18, 17, 19]


@pytest.mark.parametrize("ranks", [range(2000), range(2000, 0, -1), random.Random(1).sample(range(9000), 2000)])
def test_many_come_in_order(ranks: range | list[int]) -> None:
    """Ascending, descending, mixed; with holes anywhere, filled from the end."""
    heap = Heap(len(ranks))
    for key, tag in enumerate(ranks):
        heap.push(key, tag, 0)
    heap._check()
    gone = set(random.Random(2).sample(range(2000), 900))
    for key in gone:
        heap.drop(key)
    heap._check()
    told = []
    while (key := heap.first()) is not None:
        told.append(ranks[key])
        heap.drop(key)
    assert told == sorted(tag for key, tag in enumerate(ranks) if key not in gone)


class HeapMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.core = Heap(KEYS)
        self.model = model.Heap()

    @rule(key=st.integers(0, KEYS - 1), tag=st.integers(0, 2), order=st.integers(-1, 1))
    def push(self, key: int, tag: int, order: int) -> None:
        if key not in self.model.ranks:
            self.core.push(key, tag, order)
            self.model.push(key, tag, order)

    @precondition(lambda self: self.model.ranks)
    @rule(data=st.data())
    def drop(self, data: st.DataObject) -> None:
        key = data.draw(st.sampled_from(sorted(self.model.ranks)))
        self.core.drop(key)
        self.model.drop(key)

    @precondition(lambda self: self.model.ranks)
    @rule(data=st.data(), tag=st.integers(0, 2), order=st.integers(-1, 1))
    def move(self, data: st.DataObject, tag: int, order: int) -> None:
        key = data.draw(st.sampled_from(sorted(self.model.ranks)))
        self.core.move(key, tag, order)
        self.model.push(key, tag, order)

    @invariant()
    def equal(self) -> None:
        self.core._check()
        assert len(self.core) == len(self.model)
        assert self.core.first() == self.model.first()


HeapMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestHeap = HeapMachine.TestCase


def churn() -> None:
    heap = Heap(50)
    for key in range(50):
        heap.push(key, key % 7, key)


def test_leaks_nothing() -> None:
    assert_flat(churn, calls=50)


@debug_build_only
def test_survives_failing_allocations() -> None:
    assert failing_allocations(churn) == 5  # for 50 nodes; for 8, 16, 32, 64 entries
