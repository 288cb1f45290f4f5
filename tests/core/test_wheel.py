import random

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from picker._core.wheel import TICK_NS, Wheel
from tests.model import wheel as model
from tests.support.leaks import assert_flat

KEYS = 9
FAR = 2**63 - 1
HOUR_NS = 3_600_000_000_000
SPANS = (1, 63, 64, 65, 4095, 4096, 4097, 64**3, 64**4 - 1, 64**4, 64**4 + 1, 3 * 64**4)  # ticks: the edges of levels


def test_never_early_and_less_than_a_tick_late() -> None:
    wheel = Wheel(1)
    wheel.set(0, 5 * TICK_NS + 1)
    assert wheel.due(5 * TICK_NS + 1) is None  # its tick begins after it
    assert wheel.due(6 * TICK_NS - 1) is None
    assert wheel.due(6 * TICK_NS) == (0, 5 * TICK_NS + 1)
    assert wheel.due(6 * TICK_NS) == (0, 5 * TICK_NS + 1)
    wheel.drop(0)
    assert (wheel.due(FAR), len(wheel)) == (None, 0)


@pytest.mark.parametrize("start", [0, 1, 62, 63, 64, 4095, 64**4 - 1, 64**4 + 7])
@pytest.mark.parametrize("span", SPANS)
def test_the_edges_of_levels(start: int, span: int) -> None:
    wheel = Wheel(1, start * TICK_NS)
    wheel.set(0, (start + span) * TICK_NS)
    wheel._check()
    assert wheel.due((start + span) * TICK_NS - 1) is None
    wheel._check()
    assert wheel.due((start + span) * TICK_NS) == (0, (start + span) * TICK_NS)


def test_what_is_past_is_due_at_once() -> None:
    wheel = Wheel(3, 100 * TICK_NS)
    wheel.set(0, 7)
    wheel.set(1, -7)
    wheel.set(2, 100 * TICK_NS)
    due = set()
    while (found := wheel.due(0)) is not None:  # a clock that goes back stands still
        due.add(found[0])
        wheel.drop(found[0])
    assert due == {0, 1, 2}


def test_one_that_is_due_can_be_given_more_time() -> None:
    wheel = Wheel(1)
    wheel.set(0, TICK_NS)
    assert wheel.due(TICK_NS) == (0, TICK_NS)
    wheel.set(0, 9 * TICK_NS)
    assert wheel.due(8 * TICK_NS) is None
    assert wheel.due(9 * TICK_NS) == (0, 9 * TICK_NS)


def test_the_clock_may_jump_to_the_end_of_time() -> None:
    wheel = Wheel(5)
    for key, at_ns in enumerate((1, HOUR_NS, 100 * HOUR_NS, 10_000 * HOUR_NS, FAR - TICK_NS)):
        wheel.set(key, at_ns)
    assert wheel.due(0) is None
    due = set()
    while (found := wheel.due(FAR)) is not None:
        due.add(found[0])
        wheel.drop(found[0])
        wheel._check()
    assert due == set(range(5))


def test_keys_and_times_have_a_domain() -> None:
    wheel = Wheel(2)
    for call in (lambda: wheel.set(2, 1), lambda: wheel.drop(2)):
        with pytest.raises(IndexError):
            call()
    with pytest.raises(OverflowError):
        wheel.set(0, 2**63)
    with pytest.raises(MemoryError):
        Wheel(2**62)


@pytest.mark.parametrize("step", [1, 3, 100, 70_000, 64**4])
def test_many_come_in_time(step: int) -> None:
    """However far the clock goes at a time, all come in the first look at or after their tick."""
    rng = random.Random(step)
    wheel, waiting = Wheel(1000), model.Wheel()
    for key in range(1000):
        at_ns = rng.randrange(200 * step * TICK_NS)
        wheel.set(key, at_ns)
        waiting.set(key, at_ns)
    for now in range(0, 201 * step, step):
        due = set(waiting.due(now * TICK_NS))
        while (found := wheel.due(now * TICK_NS)) is not None:
            due.remove(found)
            wheel.drop(found[0])
            waiting.drop(found[0])
        assert not due
    assert len(wheel) == 0


class WheelMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.core = Wheel(KEYS, 5)
        self.model = model.Wheel(5)
        self.now_ns = 5

    @rule(key=st.integers(0, KEYS - 1), ticks=st.sampled_from((-1, 0, *SPANS)), more=st.sampled_from([-1, 0, 1]))
    def set(self, key: int, ticks: int, more: int) -> None:
        at_ns = self.now_ns + ticks * TICK_NS + more
        self.core.set(key, at_ns)
        self.model.set(key, at_ns)

    @rule(key=st.integers(0, KEYS - 1))
    def drop(self, key: int) -> None:
        self.core.drop(key)
        self.model.drop(key)

    @rule(ticks=st.sampled_from((-1, 0, *SPANS)), more=st.sampled_from([-1, 0, 1]))
    def pass_time(self, ticks: int, more: int) -> None:
        self.now_ns += ticks * TICK_NS + more

    @rule()
    def take_due(self) -> None:
        while (found := self.core.due(self.now_ns)) is not None:
            assert found in self.model.due(self.now_ns)
            self.core.drop(found[0])
            self.model.drop(found[0])
        assert not self.model.due(self.now_ns)

    @invariant()
    def equal(self) -> None:
        self.core._check()
        assert len(self.core) == len(self.model)


WheelMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestWheel = WheelMachine.TestCase


def test_leaks_nothing() -> None:
    def churn() -> None:
        wheel = Wheel(50)
        for key in range(50):
            wheel.set(key, key * HOUR_NS)
        wheel.due(20 * HOUR_NS)

    assert_flat(churn, calls=50)
