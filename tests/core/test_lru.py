import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from picker._core import lru
from tests.model import lru as model
from tests.support.builds import debug_build_only
from tests.support.leaks import assert_flat, failing_allocations


class LruMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.core = lru.Lru(2)
        self.model = model.Lru(2)

    def draw_place(self, data: st.DataObject, slot: int, entry: int = 0) -> int:
        return data.draw(st.sampled_from([0, *(other for other in self.model.lists[slot] if other != entry)]))

    @rule(data=st.data(), node=st.integers(1, 9), held=st.integers(0, 1000))
    def add(self, data: st.DataObject, node: int, held: int) -> None:
        slot = data.draw(st.integers(0, len(self.model.lists) - 1))
        newer = self.draw_place(data, slot)
        self.model.add(self.core.add(node, slot, held, newer), node, slot, held, newer)

    @precondition(lambda self: self.model.entries)
    @rule(data=st.data(), held=st.integers(0, 1000))
    def change(self, data: st.DataObject, held: int) -> None:
        entry = data.draw(st.sampled_from(sorted(self.model.entries)))
        newer = self.draw_place(data, self.model.entries[entry][1], entry)
        for both in (self.core, self.model):
            both.move(entry, newer)
            both.hold(entry, held)

    @precondition(lambda self: self.model.entries)
    @rule(data=st.data())
    def drop(self, data: st.DataObject) -> None:
        entry = data.draw(st.sampled_from(sorted(self.model.entries)))
        self.core.drop(entry)
        self.model.drop(entry)
        with pytest.raises(KeyError):
            self.core.drop(entry)

    @rule(width=st.integers(0, 5))
    def widen(self, width: int) -> None:
        self.core.widen(width)
        self.model.widen(width)

    @invariant()
    def equal(self) -> None:
        for slot in range(len(self.model.lists)):
            assert self.core.order(slot) == self.model.order(slot)
            assert self.core.held(slot) == self.model.held(slot)
        assert len(self.core) == len(self.model)
        self.core._check()


LruMachine.TestCase.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)
TestLru = LruMachine.TestCase


def churn() -> None:
    lists = lru.Lru(2)
    entries = [lists.add(1, slot % 2, slot) for slot in range(100)]
    for entry in entries[::3]:
        lists.drop(entry)
    lists.widen(100)
    lists.add(1, 99, 5)


def test_refuses_what_does_not_exist() -> None:
    lists = lru.Lru(2)
    entry = lists.add(1, 0, 1)
    other = lists.add(1, 1, 1)
    for call in (lambda: lists.add(1, 2, 1), lambda: lists.held(2), lambda: lists.order(2), lambda: lists.hold(9, 1)):
        with pytest.raises(KeyError):
            call()
    for call in (lambda: lists.add(0, 0, 1), lambda: lists.add(1, 0, 1, other), lambda: lists.move(entry, entry)):
        with pytest.raises(ValueError, match=r"node 0|not one of slot 0|behind itself"):
            call()


def test_leaks_nothing() -> None:
    assert_flat(churn, calls=20)


@debug_build_only
def test_survives_failing_allocations() -> None:
    assert failing_allocations(churn) > 4
