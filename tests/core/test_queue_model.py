"""The queue beside its model, step by step, with few bands, flows, groups, costs and times so that they meet."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from picker._core import alloc
from picker._core.queue import EDF, FCFS, ROUND_ROBIN, SLO, STRICT, TOKENS, Queue
from tests.model import queue as model
from tests.support.builds import debug_build_only
from tests.support.leaks import assert_flat, failing_allocations

KEYS = 12
NEVER = model.NEVER
TICK = 10_000_000
PLAIN = model.PLAIN
priorities = st.sampled_from([0, 1, 0, -1, 2**31 - 1, -(2**31)])
times = st.sampled_from([NEVER, NEVER, 3 * TICK, 5 * TICK - 1, 5 * TICK + 1, 100 * TICK, 0, NEVER - 1])
costs = st.sampled_from([1, 2, 3, 10, 10**6, 2**62, -5])
some_rules = st.tuples(
    st.sampled_from([FCFS, EDF, SLO]),
    st.sampled_from([STRICT, ROUND_ROBIN, TOKENS]),
    st.sampled_from([0, 0, 1, 4]),
    st.sampled_from([0, 0, 50]),
    st.sampled_from([0, 2 * TICK, NEVER]),
)


class QueueMachine(RuleBasedStateMachine):
    @initialize(
        requests=st.sampled_from([0, 0, 3]),
        size=st.sampled_from([0, 0, 60]),
        bands=st.sampled_from([0, 1, 9]),
        flows=st.sampled_from([0, 1, 2, 9]),
        now_ns=st.sampled_from([0, TICK + 1]),
    )
    def start(self, requests: int, size: int, bands: int, flows: int, now_ns: int) -> None:
        self.core = Queue(KEYS, requests, size, bands, flows, now_ns)
        self.model = model.Queue(requests, size, bands, flows, now_ns)
        self.now_ns = now_ns

    def waiting(self, data: st.DataObject) -> int:
        return data.draw(st.sampled_from(sorted(self.model.items)))

    @rule(
        key=st.integers(0, KEYS - 1),
        priority=priorities,
        flow=st.integers(0, 3),
        group=st.sampled_from([0, 0, 7]),
        size=st.sampled_from([0, 10, 30]),
        cost=costs,
        slo_ns=st.sampled_from([NEVER, 5, 9]),
        expires_ns=times,
    )
    def push(
        self, key: int, priority: int, flow: int, group: int, size: int, cost: int, slo_ns: int, expires_ns: int
    ) -> None:
        said = key, priority, flow, group, size, cost, slo_ns, expires_ns, self.now_ns
        if key in self.model.items:
            with pytest.raises(ValueError, match=f"{key} waits already"):
                self.core.push(*said)
        elif (cap := self.model.push(*said)) is not None:
            with pytest.raises(OverflowError, match=f"^{cap}$"):
                self.core.push(*said)
        else:
            self.core.push(*said, b"flow")
            assert self.core.expires_ns(key) == self.model.items[key].expires_ns

    @rule(step=st.sampled_from([0, 1, TICK, TICK // 2, 64 * TICK, 5000 * TICK, -7 * TICK]))
    def pass_time(self, step: int) -> None:
        self.now_ns += step

    @rule()
    def expire(self) -> None:
        while due := self.model.due(self.now_ns):
            key = self.core.expired(self.now_ns)
            assert key in due
            self.model.remove(key)
            self.core._check()
        assert self.core.expired(self.now_ns) is None

    @rule()
    def begin(self) -> None:
        self.core.begin()
        self.model.begin()

    @rule(plan=st.lists(st.sampled_from(["take", "take", "skip", "block"]), max_size=KEYS))
    def go_on(self, plan: list[str]) -> None:
        """Within a round, as the engine does; the round may have begun before other things happened."""
        for verb in plan:
            key = self.core.peek()
            assert key == self.model.peek()
            if key is None:
                break
            for both in (self.core, self.model):
                getattr(both, verb)(key)
            self.core._check()

    @precondition(lambda self: self.model.items)
    @rule(data=st.data(), verb=st.sampled_from(["take", "skip", "block", "remove"]))
    def pick_out(self, data: st.DataObject, verb: str) -> None:
        """One that need not be next."""
        key = self.waiting(data)
        for both in (self.core, self.model):
            getattr(both, verb)(key)

    @rule(key=st.integers(0, KEYS - 1))
    def remove(self, key: int) -> None:
        self.core.remove(key)
        self.model.remove(key)

    @rule(own=st.dictionaries(priorities, some_rules, max_size=3), default=some_rules, negative=some_rules)
    def set_rules(self, own: dict[int, model.Rules], default: model.Rules, negative: model.Rules) -> None:
        self.core.set_rules(list(own.items()), default, negative)
        self.model.set_rules(own, default, negative)

    @invariant()
    def equal(self) -> None:
        self.core._check()
        assert len(self.core) == len(self.model.items)
        assert self.core.bytes == sum(item.size for item in self.model.items.values())
        assert self.core.peek() == self.model.peek()
        assert self.core.bands() == self.model.bands()
        rows = [(priority, flow, *counts) for priority, flow, _, *counts in self.core.flows()]
        assert len(rows) == len(set(rows))
        assert set(rows) == self.model.flows()
        for priority in (-1, 0, 1):
            assert self.core.holds_before(priority, 7) == self.model.holds_before(priority, 7)
        first = self.core.any()
        assert first in self.model.items if self.model.items else first is None


QueueMachine.TestCase.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
TestQueue = QueueMachine.TestCase


def churn() -> None:
    queue = Queue(300)
    queue.set_rules([(1, (EDF, TOKENS, 0, 0, TICK)), (2, (FCFS, STRICT, 0, 0, 0))], PLAIN, PLAIN)
    for key in range(300):
        queue.push(key, key % 5, key % 70, key % 3, 10, key, NEVER, NEVER, 0, b"name")
    queue.set_rules([], PLAIN, (SLO, ROUND_ROBIN, 0, 0, 0))
    queue.dispatch(100)
    while queue.expired(100 * TICK) is not None:
        pass
    while (key := queue.any()) is not None:
        queue.remove(key)


def test_leaks_nothing() -> None:
    assert_flat(churn, calls=10)


def test_leaks_nothing_when_somebody_still_waits() -> None:
    def leave() -> None:
        queue = Queue(3, 2)
        queue.push(0, 0, 0, 0, 1, 1, NEVER, NEVER, 0)
        queue.push(1, 5, 0, 0, 1, 1, NEVER, TICK, 0)
        with pytest.raises(OverflowError):
            queue.push(2, 5, 0, 0, 1, 1, NEVER, TICK, 0)
        with pytest.raises(ValueError, match="not rules"):
            queue.set_rules([(0, (9, 0, 0, 0, 0))], PLAIN, PLAIN)

    assert_flat(leave)


@debug_build_only
def test_survives_failing_allocations() -> None:
    assert failing_allocations(churn) > 15


@debug_build_only
@pytest.mark.parametrize("after", range(8))
def test_a_push_that_fails_changes_nothing(after: int) -> None:
    """A first push takes memory eight times: for bands, flows, groups, lanes, and to find them."""
    queue = Queue(10)
    alloc.fail_allocation(after)
    with pytest.raises(MemoryError):
        queue.push(0, 3, 1, 1, 1, 1, NEVER, TICK, 5)
    queue._check()
    assert (len(queue), queue.bytes, queue.bands(), queue.peek(), queue.expired(NEVER)) == (0, 0, [], None, None)
    queue.push(0, 3, 1, 1, 1, 1, NEVER, TICK, 5)
    assert queue.dispatch(2) == [0]


@debug_build_only
def test_any_growth_that_fails_changes_nothing() -> None:
    """Of heaps, tables and records: the first allocation of each push fails; the push after it succeeds."""
    queue = Queue(300)
    queue.set_rules([], (EDF, TOKENS, 0, 0, 0), PLAIN)
    failed = 0
    for key in range(300):
        said = key, key % 3, key * key % 90, key % 7 % 5, 1, 1 + key, NEVER, 500 - key, 5
        before = queue.bands(), queue.flows(), queue.peek()
        alloc.fail_allocation(0)
        try:
            queue.push(*said)
        except MemoryError:
            failed += 1
            queue._check()
            assert (queue.bands(), queue.flows(), queue.peek()) == before
            queue.push(*said)
        alloc.fail_allocation(-1)
    queue._check()
    assert failed > 30
    assert len(queue.dispatch(500)) == 300


@debug_build_only
def test_rules_that_find_no_memory_leave_the_old() -> None:
    """Heaps for another order are needed by each lane in which more than one waits."""
    order = (SLO, STRICT, 0, 0, 0)
    for after in range(8):  # two arrays of the face, then a heap for each of six lanes
        queue = Queue(20)
        for key in range(20):
            queue.push(key, key % 2, key % 3, 0, 1, 1, 50 - key, NEVER, 0)
        before = queue.bands()
        alloc.fail_allocation(after)
        with pytest.raises(MemoryError):
            queue.set_rules([], order, order)
        queue._check()
        assert queue.bands() == before
    queue.set_rules([], order, order)
    assert queue.dispatch(20) == [*range(19, 0, -2), *range(18, -1, -2)]
