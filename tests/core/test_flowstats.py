import math

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from picker._core.flowstats import FlowStats
from picker._core.stats import FAILURES, OUTCOMES
from tests.model import flowstats as model
from tests.model.stats import buckets
from tests.support.leaks import assert_flat

PRIORITIES = st.sampled_from([0, 10, -1, 2**31 - 1, -(2**31)])
CAUSES = st.sampled_from(FAILURES[1:])


class Counted(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.core, self.slow = FlowStats(), model.FlowStats()
        self.waiting: list[tuple[int, int]] = []

    @rule(priority=PRIORITIES)
    def passed(self, priority: int) -> None:
        self.core.passed(priority)
        self.slow.passed(priority)

    @rule(priority=PRIORITIES, nbytes=st.integers(0, 3))
    def queued(self, priority: int, nbytes: int) -> None:
        self.core.queued(priority, nbytes)
        self.slow.queued(priority, nbytes)
        self.waiting.append((priority, nbytes))

    @rule(priority=PRIORITIES, failure=CAUSES)
    def refused(self, priority: int, failure: str) -> None:
        self.core.refused(priority, failure)
        self.slow.refused(priority, failure)

    @precondition(lambda self: self.waiting)
    @rule(failure=CAUSES | st.just("None"), waited_ns=st.sampled_from([0, 100_000, 100_001, 10**9, 10**12]))
    def left(self, failure: str, waited_ns: int) -> None:
        priority, nbytes = self.waiting.pop()
        self.core.left(priority, nbytes, failure, waited_ns)
        self.slow.left(priority, nbytes, failure, waited_ns)

    @rule()
    def evicted(self) -> None:
        self.core.passed(0)
        self.core.evicted(0)
        self.slow.passed(0)
        self.slow.evicted(0)

    @invariant()
    def is_as_the_model_has_it(self) -> None:
        self.core._check()
        view = self.core.view()
        assert view["series"]["waiting"] == len(self.slow.waiting)
        assert view["series"]["waiting_bytes"] == sum(self.slow.waiting)
        bands = {band["priority"]: band for band in view["bands"]}
        assert bands.keys() == self.slow.outcomes.keys()
        for name, band in bands.items():
            assert band["outcomes"] == model.plain(self.slow.outcomes[name].items())
            assert band["drops"] == model.plain(self.slow.drops[name].items())
            rows, total = band["waited_s"]
            assert [count for _, count in rows] == buckets(self.slow.waits[name], [bound for bound, _ in rows])
            assert total == pytest.approx(sum(self.slow.waits[name]))


TestCounted = Counted.TestCase


def test_priorities_are_shown_from_the_highest_down() -> None:
    core = FlowStats()
    for priority in (0, 10, -5):
        core.passed(priority)
    assert [band["priority"] for band in core.view()["bands"]] == ["10", "0", "-5"]


def test_priorities_beyond_the_most_count_together() -> None:
    core = FlowStats()
    for priority in range(70):
        core.passed(priority)
        core.passed(priority)
    core._check()
    bands = core.view()["bands"]
    assert [band["priority"] for band in bands] == [*map(str, range(62, -1, -1)), "other"]
    assert [band["passed"] for band in bands] == [*[2] * 63, 14]


def test_waits_are_kept_by_outcome() -> None:
    core = FlowStats()
    for failure in ("None", "QueueTimeout", "ShuttingDown"):
        core.queued(0, 1)
        core.left(0, 1, failure, 300_000_000)
    core.refused(0, "QueueFull")
    waits = core.view()["series"]["waits"]
    assert waits.keys() == {"Dispatched", "EvictedTTL", "EvictedOther", "RejectedCapacity"} < set(OUTCOMES)
    rows, total = waits["EvictedTTL"]
    assert (0.25, 0) in rows and (0.5, 1) in rows and rows[-1] == (math.inf, 1)
    assert total == pytest.approx(0.3)


def test_causes_are_those_there_are() -> None:
    with pytest.raises(ValueError, match="not in"):
        FlowStats().refused(0, "Whim")


def test_leaks_nothing() -> None:
    def each() -> None:
        core = FlowStats()
        core.queued(1, 1)
        core.left(1, 1, "None", 5)
        core.view()

    assert_flat(each, calls=50)
