"""The block pool against the invariants of its docstring."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, rule

from picker.sim.blocks import BlockPool

Held = tuple[list[str], int]


def chain(name: str) -> list[str]:
    """Chained keys: each names the whole prefix up to itself."""
    return [name[: depth + 1] for depth in range(len(name))]


def test_a_released_prefix_is_found_again() -> None:
    pool = BlockPool(4)
    assert pool.reserve([], 3)
    assert [pool.publish(key) for key in chain("abc")] == [True] * 3
    pool.release(chain("abc"), 0)
    assert pool.used == 0
    assert pool.match(chain("abx"), 3) == 2
    assert pool.match(chain("abc"), 1) == 1


def test_the_least_recently_used_block_goes_first_and_tails_before_heads() -> None:
    pool = BlockPool(4)
    for name in ("ab", "xy"):
        pool.reserve([], 2)
        for key in chain(name):
            pool.publish(key)
        pool.release(chain(name), 0)
    assert pool.reserve([], 1)
    assert pool.match(chain("ab"), 2) == 1, "the tail of the older prefix was evicted"
    assert pool.match(chain("xy"), 2) == 2
    assert pool.evictions == 1


def test_referenced_blocks_are_never_evicted() -> None:
    pool = BlockPool(2)
    pool.reserve([], 2)
    pool.publish("a")
    assert not pool.reserve([], 1)
    assert not pool.reserve(["a"], 1)
    assert pool.reserve(["a"], 0)
    assert pool.used == 2


def test_a_second_block_of_one_key_stays_private() -> None:
    pool = BlockPool(2)
    pool.reserve([], 2)
    assert pool.publish("a")
    assert not pool.publish("a")
    pool.release(["a"], 1)
    assert (pool.used, pool.published) == (0, 1)


def test_forgets_only_when_nothing_is_in_use() -> None:
    pool = BlockPool(2)
    pool.reserve([], 1)
    pool.publish("a")
    assert not pool.forget()
    pool.release(["a"], 0)
    assert pool.forget()
    assert pool.match(["a"], 1) == 0


class PoolMachine(RuleBasedStateMachine):
    """Random requests over a tiny pool; what they hold is added up outside the pool."""

    held = Bundle("held")

    @initialize(capacity=st.integers(1, 6))
    def start(self, capacity: int) -> None:
        self.pool = BlockPool(capacity)
        self.live: list[Held] = []

    @rule(target=held, name=st.text("ab", max_size=4), private=st.integers(0, 4))
    def reserve(self, name: str, private: int) -> Held:
        shared = chain(name)[: self.pool.match(chain(name), 4)]
        used = self.pool.used
        request: Held = (shared, private)
        if self.pool.reserve(shared, private):
            self.live.append(request)
            return request
        assert used + len(shared) + private > self.pool.capacity
        assert self.pool.used == used
        return ([], 0)

    @rule(target=held, request=consumes(held), name=st.text("ab", min_size=1, max_size=4))
    def publish(self, request: Held, name: str) -> Held:
        shared, private = request
        if private == 0:
            return request
        known = self.pool.match([name], 1) == 1
        assert self.pool.publish(name) is not known
        after: Held = request if known else ([*shared, name], private - 1)
        self.live[self.live.index(request)] = after
        return after

    @rule(request=consumes(held))
    def release(self, request: Held) -> None:
        self.pool.release(*request)
        if request in self.live:
            self.live.remove(request)

    @rule()
    def forget(self) -> None:
        assert self.pool.forget() is (self.pool.used == 0)

    @invariant()
    def adds_up(self) -> None:
        self.pool._check()
        shared = {key for keys, _ in self.live for key in keys}
        assert self.pool.used == len(shared) + sum(private for _, private in self.live)


PoolMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestPoolMachine = PoolMachine.TestCase
