from array import array

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from picker._core import runs
from tests.model import runs as model
from tests.support.builds import debug_build_only
from tests.support.leaks import assert_flat, failing_allocations

# Few homes in the table and few tags, so that nodes collide.
HASHES = st.builds(lambda high, low: high << 32 | low, st.integers(0, 2), st.sampled_from([0, 1, 15, 2**32 - 1]))
RUN = st.lists(HASHES, min_size=1, max_size=6)


def words(hashes: list[int]) -> "array[int]":
    return array("Q", hashes)


class RunsMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.core = runs.Runs()
        self.model = model.Runs()

    def draw_node(self, data: st.DataObject, *extra: int) -> int:
        return data.draw(st.sampled_from([*extra, *sorted(self.model.nodes)]))

    @rule(data=st.data(), hashes=RUN)
    def add(self, data: st.DataObject, hashes: list[int]) -> None:
        parent = self.draw_node(data, 0)
        if self.model.find(hashes[0], parent):
            with pytest.raises(ValueError, match="such a child"):
                self.core.add(parent, words(hashes))
        else:
            self.model.add(self.core.add(parent, words(hashes)), parent, hashes)

    @precondition(lambda self: self.model.nodes)
    @rule(data=st.data(), hashes=RUN, length=st.integers(1, 6))
    def resize(self, data: st.DataObject, hashes: list[int], length: int) -> None:
        index = data.draw(st.sampled_from(self.model.childless()))
        self.core.extend(index, words(hashes))
        self.model.extend(index, hashes)
        assert self.core.hashes(index) == self.model.nodes[index][1]
        length = min(length, len(self.model.nodes[index][1]))
        self.core.cut(index, length)
        self.model.cut(index, length)

    @precondition(lambda self: any(len(run) > 1 for _, run in self.model.nodes.values()))
    @rule(data=st.data())
    def split(self, data: st.DataObject) -> None:
        long = sorted(index for index, (_, run) in self.model.nodes.items() if len(run) > 1)
        index = data.draw(st.sampled_from(long))
        at = data.draw(st.integers(1, len(self.model.nodes[index][1]) - 1))
        self.model.split(index, at, self.core.split(index, at))

    @precondition(lambda self: self.model.nodes)
    @rule(data=st.data())
    def drop(self, data: st.DataObject) -> None:
        index = self.draw_node(data)
        if index in self.model.childless():
            self.core.drop(index)
            self.model.drop(index)
            with pytest.raises(KeyError):
                self.core.drop(index)
        else:
            with pytest.raises(ValueError, match="children"):
                self.core.drop(index)

    @rule(data=st.data(), hash=HASHES)
    def find(self, data: st.DataObject, hash: int) -> None:
        parent = self.draw_node(data, 0, 1000)
        assert self.core.find(hash, parent) == self.model.find(hash, parent)

    @invariant()
    def equal(self) -> None:
        assert len(self.core) == len(self.model.nodes)
        for index, (parent, hashes) in self.model.nodes.items():
            assert (self.core.parent(index), self.core.hashes(index)) == (parent, hashes)
            assert self.core.find(hashes[0], parent) == index
        self.core._check()


RunsMachine.TestCase.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)
TestRuns = RunsMachine.TestCase


def test_common_finds_where_two_chains_part() -> None:
    trie = runs.Runs()
    chain = list(range(100, 117))
    for length in range(1, 18):
        index = trie.add(0, words(chain[:length]))
        for asked in range(1, 20):
            for same in range(1, asked + 1):
                query = chain[:same] + list(range(900, 900 + asked - same))  # once different, chains stay different
                assert trie.common(index, words(query)) == min(length, len(chain[:same]))
        trie.drop(index)


def churn() -> None:
    trie = runs.Runs()
    for first in range(40):
        trie.split(trie.add(0, words(list(range(first, 60)))), 3)
    index = trie.add(0, words([99]))
    trie.extend(index, words([1] * 50))
    trie.cut(index, 2)
    trie.drop(index)


def test_refuses_what_does_not_exist() -> None:
    trie = runs.Runs()
    index = trie.add(0, words([5, 6]))
    for call in (lambda: trie.add(9, words([1])), lambda: trie.hashes(0), lambda: trie.parent(2), lambda: trie.drop(9)):
        with pytest.raises(KeyError):
            call()
    for bad in (lambda: trie.cut(index, 0), lambda: trie.cut(index, 3), lambda: trie.split(index, 2)):
        with pytest.raises(ValueError, match="cannot"):
            bad()
    for bad in (lambda: trie.add(0, words([])), lambda: trie.common(index, words([6]))):
        with pytest.raises(ValueError, match=r"no hashes|another hash"):
            bad()


def test_gives_memory_of_a_cut_run_back() -> None:
    trie = runs.Runs()
    index = trie.add(0, words([1]))
    empty = trie.memory_bytes
    trie.extend(index, words(list(range(1000))))
    trie.cut(index, 1)
    assert trie.memory_bytes == empty


def test_leaks_nothing() -> None:
    assert_flat(churn, calls=20)


@debug_build_only
def test_survives_failing_allocations() -> None:
    assert failing_allocations(churn, limit=400) > 40
