import random

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from picker._core.deadlines import Deadlines
from tests.model import deadlines as model
from tests.support.builds import debug_build_only
from tests.support.leaks import assert_flat, failing_allocations

KEYS = 9
FAR = 2**63 - 1


def test_the_first_is_told_when_it_is_due() -> None:
    deadlines = Deadlines(3)
    assert deadlines.due(FAR) is None
    deadlines.set(0, 30)
    deadlines.set(1, 10)
    deadlines.set(2, 20)
    assert [deadlines.due(now) for now in (9, 10, FAR)] == [None, (1, 10), (1, 10)]
    deadlines.drop(1)
    assert deadlines.due(25) == (2, 20)
    deadlines.set(2, 40)
    assert deadlines.due(FAR) == (0, 30)
    deadlines.set(2, -5)
    assert deadlines.due(0) == (2, -5)
    assert len(deadlines) == 2


def test_dropping_what_does_not_wait_is_harmless() -> None:
    deadlines = Deadlines(2)
    deadlines.drop(0)
    deadlines.set(1, 1)
    for _ in range(2):
        deadlines.drop(1)
    assert (len(deadlines), deadlines.due(FAR)) == (0, None)
    deadlines._check()


def test_keys_and_times_have_a_domain() -> None:
    deadlines = Deadlines(2)
    for call in (lambda: deadlines.set(2, 1), lambda: deadlines.drop(2)):
        with pytest.raises(IndexError):
            call()
    with pytest.raises(OverflowError):
        deadlines.set(0, 2**63)
    with pytest.raises(MemoryError):
        Deadlines(2**62)


@pytest.mark.parametrize("seed", range(3))
def test_many_come_in_order(seed: int) -> None:
    rng = random.Random(seed)
    times = [rng.randrange(500) for _ in range(1000)]
    deadlines = Deadlines(len(times))
    for key, at_ns in enumerate(times):
        deadlines.set(key, at_ns)
    for key in rng.sample(range(1000), 300):  # holes anywhere, filled from elsewhere
        deadlines.drop(key)
        times[key] = -1
    deadlines._check()
    told = []
    while (first := deadlines.due(FAR)) is not None:
        told.append(first[1])
        deadlines.drop(first[0])
        deadlines._check()
    assert told == sorted(at_ns for at_ns in times if at_ns >= 0)


class DeadlinesMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.core = Deadlines(KEYS)
        self.model = model.Deadlines()

    @rule(key=st.integers(0, KEYS - 1), at_ns=st.integers(-3, 12))
    def set(self, key: int, at_ns: int) -> None:
        self.core.set(key, at_ns)
        self.model.set(key, at_ns)

    @rule(key=st.integers(0, KEYS - 1))
    def drop(self, key: int) -> None:
        self.core.drop(key)
        self.model.drop(key)

    @rule(now_ns=st.integers(-4, 13))
    def take_due(self, now_ns: int) -> None:
        while (first := self.core.due(now_ns)) is not None:
            assert first in self.model.due(now_ns)
            self.core.drop(first[0])
            self.model.drop(first[0])
        assert not self.model.due(now_ns)

    @invariant()
    def equal(self) -> None:
        self.core._check()
        assert len(self.core) == len(self.model)
        for now_ns in (-2, 0, 3, 12):
            first = self.core.due(now_ns)
            assert first in self.model.due(now_ns) if first else not self.model.due(now_ns)


DeadlinesMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestDeadlines = DeadlinesMachine.TestCase


def churn() -> None:
    deadlines = Deadlines(100)
    for key in range(100):
        deadlines.set(key, -key)
    for key in range(0, 100, 3):
        deadlines.drop(key)


def test_leaks_nothing() -> None:
    assert_flat(churn, calls=20)


@debug_build_only
def test_survives_failing_allocations() -> None:
    assert failing_allocations(churn) > 4
