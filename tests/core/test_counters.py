import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from picker._core.counters import WINDOWS, Counters
from tests.model import counters as model
from tests.model.counters import LENGTHS_NS, SECOND_NS
from tests.support.builds import debug_build_only
from tests.support.leaks import assert_flat, failing_allocations

SECOND, MINUTE, HOUR, DAY = range(4)


@pytest.mark.parametrize("kind", range(4), ids=WINDOWS)
def test_a_window_begins_with_its_unit_of_time(kind: int) -> None:
    counters, length = Counters(1), LENGTHS_NS[kind]
    start = 20_000 * LENGTHS_NS[DAY] + length
    assert counters.add(7, 3, kind=kind, wall_ns=start) == 3
    assert counters.add(7, 4, kind=kind, wall_ns=start + length - 1) == 7
    assert counters.add(7, 1, kind=kind, wall_ns=start + length) == 1
    assert counters.find(7) == (kind, (start + length) // length, 1)


def test_a_window_that_lasts_is_never_given_up() -> None:
    counters = Counters(2)
    assert counters.add(1, 1, kind=DAY, wall_ns=0) == 1
    assert counters.add(2, 1, kind=MINUTE, wall_ns=0) == 1
    assert counters.add(3, 1, kind=MINUTE, wall_ns=59 * SECOND_NS) is None
    assert counters.add(3, 1, kind=MINUTE, wall_ns=60 * SECOND_NS) == 1
    assert (counters.find(2), counters.find(1)) == (None, (DAY, 0, 1))
    counters._check()


def test_the_one_used_least_lately_makes_room() -> None:
    counters = Counters(3)
    for id in (1, 2, 3, 1):
        counters.add(id, 1, kind=SECOND, wall_ns=0)
    counters.add(4, 1, kind=SECOND, wall_ns=SECOND_NS)
    assert [counters.find(id) is not None for id in (1, 2, 3, 4)] == [True, False, True, True]


def test_a_clock_that_is_set_back() -> None:
    """A little, as clocks are set right: what has begun goes on. Far: everything begins anew."""
    counters = Counters(1)
    counters.add(1, 5, kind=MINUTE, wall_ns=600 * SECOND_NS)
    assert counters.add(1, 2, kind=MINUTE, wall_ns=599 * SECOND_NS) == 7
    assert counters.add(1, 2, kind=MINUTE, wall_ns=601 * SECOND_NS) == 9
    assert counters.add(2, 1, kind=MINUTE, wall_ns=599 * SECOND_NS) is None
    assert counters.add(1, 2, kind=MINUTE, wall_ns=60 * SECOND_NS) == 2


def test_what_cannot_be_is_refused() -> None:
    for room in (0, 2**31 + 1):
        with pytest.raises(ValueError, match="counters"):
            Counters(room)
    counters = Counters(1)
    counters.add(1, 1, kind=SECOND, wall_ns=0)
    for kind, wall_ns in ((4, 0), (SECOND, -1), (MINUTE, 0)):
        with pytest.raises(ValueError):
            counters.add(1, 1, kind=kind, wall_ns=wall_ns)


class CountersMachine(RuleBasedStateMachine):
    ROOM = 4

    def __init__(self) -> None:
        super().__init__()
        self.core = Counters(self.ROOM)
        self.model = model.Counters()
        self.wall_ns = 86_000 * SECOND_NS

    @rule(seconds=st.sampled_from((0, 1, 2, 60, 3600, 90_000, -1)))
    def wait(self, seconds: int) -> None:
        self.wall_ns = max(0, self.wall_ns + seconds * SECOND_NS)

    @rule(id=st.integers(0, 11), amount=st.integers(0, 5))
    def add(self, id: int, amount: int) -> None:
        kind = id % 4
        used = self.core.add(id, amount, kind=kind, wall_ns=self.wall_ns)
        for gone in [other for other in self.model.used if self.core.find(other) is None]:
            its_kind, window, _ = self.model.used.pop(gone)
            assert model.has_passed(its_kind, window, self.wall_ns), "a window that lasts was given up"
        if used is not None:
            assert used == self.model.add(id, amount, kind, self.wall_ns)

    @invariant()
    def equal(self) -> None:
        self.core._check()
        assert len(self.core) == len(self.model.used)
        assert all(self.core.find(id) == found for id, found in self.model.used.items())


CountersMachine.TestCase.settings = settings(max_examples=80, stateful_step_count=40, deadline=None)
TestCounters = CountersMachine.TestCase


def churn() -> None:
    counters = Counters(50)
    for id in range(200):
        counters.add(id, 1, kind=id % 2, wall_ns=id * SECOND_NS)


def test_leaks_nothing() -> None:
    assert_flat(churn, calls=20)


@debug_build_only
def test_survives_failing_allocations() -> None:
    assert failing_allocations(churn) == 2
