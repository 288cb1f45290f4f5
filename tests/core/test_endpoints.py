import math
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, rule

from picker._core.endpoints import Booking, Endpoints
from tests.model import endpoints as model
from tests.support.builds import debug_build_only
from tests.support.leaks import assert_flat, failing_allocations

SECOND = 1_000_000_000


def one(**knobs: Any) -> tuple[Endpoints, int, int]:
    table = Endpoints(**knobs)
    return table, *table.add(b"10.0.0.1:8000")


def ejected(**knobs: Any) -> tuple[Endpoints, int, int]:
    """An endpoint that failed three requests at second 10; it was sent one of them at second 9."""
    table, slot, generation = one(**knobs)
    for _ in range(3):
        table.failed(slot, generation, 9 * SECOND, 10 * SECOND)
    return table, slot, generation


# --- identity ---


def test_slots_are_reused_lowest_first_with_a_new_generation() -> None:
    table = Endpoints()
    first, second, third = (table.add(b"10.0.0.%d:8000" % i) for i in range(3))
    assert (first[0], second[0], third[0]) == (0, 1, 2)
    table.remove(*second)
    table.remove(*first)
    assert len(table) == 1
    again = table.add(b"10.0.0.0:8000")
    assert again[0] == 0 and again[1] > third[1]
    with pytest.raises(KeyError):
        table.view(*first, 0)
    table._check()


def test_a_new_endpoint_knows_nothing_of_its_predecessor() -> None:
    table, slot, generation = ejected()
    table.scraped(slot, generation, waiting=5, running=5, kv_usage=0.5, max_lora=2, now_ns=1)
    old = table.book(slot, 100, 200, 1)
    table.remove(slot, generation)
    slot, generation = table.add(b"10.0.0.1:8000")
    table.first_byte(old, learn=True, now_ns=SECOND)
    table.release(old)
    view = table.view(slot, generation, 10 * SECOND)
    assert [view[key] for key in ("waiting", "running", "kv_usage", "max_lora")] == [-1.0] * 4
    assert [view[key] for key in ("scraped_ns", "requests", "prefill_tokens", "picks", "ejections")] == [0] * 5
    assert view["ejected"] is False and view["prefill_rate"] == 15000.0
    table._check()


def test_refuses_more_endpoints_than_the_limit() -> None:
    table = Endpoints(1)
    table.add(b"a:1")
    with pytest.raises(OverflowError, match="at most 1"):
        table.add(b"b:1")
    assert len(table) == 1
    with pytest.raises(OverflowError):
        Endpoints(0).add(b"a:1")


def test_refuses_texts_that_do_not_fit() -> None:
    table = Endpoints()
    for target in (b"", b"x" * 57):
        with pytest.raises(ValueError, match="target"):
            table.add(target)
    with pytest.raises(ValueError, match="session token of 433 bytes"):
        table.add(b"a:1", token=b"x" * 433)
    table.add(b"x" * 56, token=b"x" * 432)
    assert len(table) == 1


def test_what_has_gone_is_missing() -> None:
    table, slot, generation = one()
    table.remove(slot, generation)
    for call in (
        lambda: table.remove(slot, generation),
        lambda: table.view(slot, generation, 0),
        lambda: table.scraped(slot, generation, now_ns=0),
        lambda: table.book(slot, 0, 0, 0),
    ):
        with pytest.raises(KeyError):
            call()
    table.succeeded(slot, generation, 0)
    assert table.failed(slot, generation, 0, 1) is False


# --- scraped load ---


@pytest.mark.parametrize("value", [-1.0, -math.inf, math.inf, math.nan, 1e300])
def test_nonsense_in_a_scrape_is_unknown(value: float) -> None:
    table, slot, generation = one()
    table.scraped(slot, generation, waiting=value, running=7, kv_usage=value, max_lora=value, now_ns=5)
    view = table.view(slot, generation, 5)
    assert [view[key] for key in ("waiting", "running", "kv_usage", "max_lora")] == [-1.0, 7.0, -1.0, -1.0]
    assert view["scraped_ns"] == 5


def test_a_scrape_replaces_all_of_the_one_before() -> None:
    table, slot, generation = one()
    table.scraped(slot, generation, waiting=3, running=2, now_ns=5)
    table.scraped(slot, generation, running=4, now_ns=6)
    view = table.view(slot, generation, 6)
    assert (view["waiting"], view["running"], view["scraped_ns"]) == (-1.0, 4.0, 6)


def test_adapters_are_names() -> None:
    table, slot, generation = one()
    table.scraped(slot, generation, running_adapters=[f"a{i}" for i in range(100)], now_ns=5)
    with pytest.raises(TypeError):
        table.scraped(slot, generation, running_adapters=[b"bytes"], now_ns=5)  # type: ignore[list-item]


# --- booked load ---


def test_prefill_is_released_at_the_first_byte_and_the_rest_at_the_end() -> None:
    table, slot, generation = one()
    booking = table.book(slot, 100, 300, 0)
    seen = []
    steps: list[Callable[[], None]] = [
        lambda: None,
        lambda: table.first_byte(booking, learn=False, now_ns=1),
        lambda: table.release(booking),
    ]
    for step in steps:
        step()
        view = table.view(slot, generation, 1)
        seen.append((view["requests"], view["prefill_tokens"], view["resident_tokens"]))
    assert seen == [(1, 100, 300), (1, 0, 300), (0, 0, 0)]


def test_releasing_twice_is_harmless() -> None:
    table, slot, generation = one()
    kept, given_back = table.book(slot, 10, 20, 0), table.book(slot, 100, 200, 0)
    for _ in range(3):
        table.release(given_back)
        table.first_byte(given_back, learn=True, now_ns=SECOND)
    view = table.view(slot, generation, 1)
    assert (view["requests"], view["prefill_tokens"], view["resident_tokens"], view["picks"]) == (1, 10, 20, 2)
    table.release(kept)
    table.release(Booking())
    table._check()


@pytest.mark.parametrize(("prefill", "resident"), [(-1, 0), (0, -1), (2**40 + 1, 0), (0, 2**40 + 1)])
def test_refuses_absurd_numbers_of_tokens(prefill: int, resident: int) -> None:
    table, slot, generation = one()
    with pytest.raises(ValueError, match="cannot book"):
        table.book(slot, prefill, resident, 0)
    assert table.view(slot, generation, 0)["requests"] == 0
    with pytest.raises(OverflowError):
        table.book(slot, 2**63, 0, 0)


# --- learned rate ---


def test_the_rate_is_learned_from_the_time_to_the_first_byte() -> None:
    table, slot, generation = one(prior_rate=1000.0)
    for _ in range(1000):
        table.first_byte(table.book(slot, 4000, 0, 0), learn=True, now_ns=SECOND)
    assert table.view(slot, generation, SECOND)["prefill_rate"] == pytest.approx(4000, rel=0.01)
    assert table.fleet_rate == pytest.approx(4000, rel=0.01)


def test_work_ahead_counts_for_the_rate() -> None:
    table, slot, generation = one(prior_rate=1000.0)
    for _ in range(1000):
        ahead = table.book(slot, 5000, 0, 0)
        table.first_byte(table.book(slot, 100, 0, 0), learn=True, now_ns=SECOND)
        table.release(ahead)
    assert table.view(slot, generation, SECOND)["prefill_rate"] == pytest.approx(5100, rel=0.01)


def test_an_old_rate_drifts_to_the_fleets() -> None:
    table, slot, generation = one(prior_rate=1000.0)
    other, _ = table.add(b"10.0.0.2:8000")
    for _ in range(1000):
        table.first_byte(table.book(slot, 8000, 0, 0), learn=True, now_ns=SECOND)
        table.first_byte(table.book(other, 2000, 0, 0), learn=True, now_ns=SECOND)
    at = [table.view(slot, generation, SECOND * t)["prefill_rate"] for t in (1, 61, 10**6)]
    assert at[0] == pytest.approx(8000, rel=0.01)
    assert at[1] == pytest.approx((at[0] + table.fleet_rate) / 2)
    assert at[2] == pytest.approx(table.fleet_rate, rel=0.01)
    assert table.view(slot, generation, 0)["prefill_rate"] == at[0]  # the clock went back


def test_work_that_is_done_by_now_does_not_count_for_the_rate() -> None:
    table, slot, generation = one(prior_rate=1000.0)
    for _ in range(1000):
        ahead = table.book(slot, 5000, 0, 0)
        table.first_byte(table.book(slot, 1000, 0, 4 * SECOND), learn=True, now_ns=6 * SECOND)
        table.release(ahead)
    assert table.view(slot, generation, SECOND)["prefill_rate"] == pytest.approx(1000, rel=0.01)  # 1000 + 1000 in 2 s


@pytest.mark.parametrize("took", [1, 10**6 * SECOND])
def test_one_absurd_observation_moves_the_rate_by_less_than_four(took: int) -> None:
    table, slot, generation = one()
    table.first_byte(table.book(slot, 100_000, 0, 0), learn=True, now_ns=took)
    rate = table.view(slot, generation, took)["prefill_rate"]
    assert rate != 15000 and 15000 / 4 < rate < 15000 * 4


def test_what_teaches_nothing() -> None:
    table, slot, generation = one()
    for prefill, learn, now_ns in [(511, True, 9), (5000, False, 9), (5000, True, 5), (5000, True, 4)]:
        booking = table.book(slot, prefill, 0, 5)
        table.first_byte(booking, learn=learn, now_ns=now_ns)
        table.first_byte(booking, learn=True, now_ns=99)
        table.release(booking)
    assert table.view(slot, generation, 99)["prefill_rate"] == table.fleet_rate == 15000.0


@pytest.mark.parametrize(("prior", "rate"), [(0.0, 50.0), (-5.0, 50.0), (math.nan, 50.0), (1e9, 1e7)])
def test_a_prior_rate_is_kept_in_bounds(prior: float, rate: float) -> None:
    assert Endpoints(1, prior).fleet_rate == rate


# --- circuit breaker ---


def is_ejected(table: Endpoints, slot: int, generation: int, second: float) -> bool:
    return bool(table.view(slot, generation, int(second * SECOND))["ejected"])


def test_failures_in_a_row_eject() -> None:
    table, slot, generation = one()
    outcomes = [table.failed(slot, generation, t, t) for t in (1, 2)]
    table.succeeded(slot, generation, 2)
    outcomes += [table.failed(slot, generation, t, t) for t in (3, 4, 5)]
    assert outcomes == [False, False, False, False, True]
    assert is_ejected(table, slot, generation, 0.5) and not is_ejected(table, slot, generation, 1.5)


def test_a_burst_of_failures_ejects_once() -> None:
    table, slot, generation = one()
    burst = [table.failed(slot, generation, 9 * SECOND, (10 + i) * SECOND) for i in range(50)]
    assert burst.count(True) == 1
    assert table.view(slot, generation, 0)["ejections"] == 1
    assert [is_ejected(table, slot, generation, t) for t in (12, 12.999, 13, 70)] == [True, True, False, False]


def test_a_straggler_that_succeeds_does_not_close_the_breaker() -> None:
    table, slot, generation = ejected()
    table.succeeded(slot, generation, 9 * SECOND)
    assert is_ejected(table, slot, generation, 10.5)


def test_one_probe_in_each_interval() -> None:
    table, slot, generation = ejected()
    table.book(slot, 0, 0, 11 * SECOND)  # and it never ends
    assert [is_ejected(table, slot, generation, t) for t in (11, 11.999, 12)] == [True, True, False]
    table.book(slot, 0, 0, 12 * SECOND)
    assert is_ejected(table, slot, generation, 12.5)
    table.succeeded(slot, generation, 11 * SECOND)  # the first probe at last
    assert not is_ejected(table, slot, generation, 12.5)


def test_what_was_under_way_does_not_keep_the_probe_from_going_out() -> None:
    table, slot, generation = one()
    table.book(slot, 0, 0, 0)
    for _ in range(3):
        table.failed(slot, generation, 9 * SECOND, 10 * SECOND)
    assert not is_ejected(table, slot, generation, 11)


def test_failing_probes_double_the_interval_up_to_its_limit() -> None:
    table, slot, generation = ejected(eject_limit_ns=5 * SECOND)
    intervals, now = [], 10 * SECOND
    for _ in range(5):
        wait = next(t for t in range(100) if not is_ejected(table, slot, generation, now / SECOND + t))
        intervals.append(wait)
        table.book(slot, 0, 0, now + wait * SECOND)
        now += wait * SECOND + 1
        assert table.failed(slot, generation, now - 1, now)
    assert intervals == [1, 2, 4, 5, 5]


def test_a_successful_probe_forgets_everything() -> None:
    table, slot, generation = ejected()
    table.failed(slot, generation, 11 * SECOND, 12 * SECOND)
    table.succeeded(slot, generation, 14 * SECOND)
    assert table.view(slot, generation, 14 * SECOND)["ejections"] == 0
    assert [table.failed(slot, generation, t, t) for t in range(3)] == [False, False, True]


def test_a_clock_that_goes_back_opens_the_breaker_for_one_probe() -> None:
    table, slot, generation = ejected()
    assert not is_ejected(table, slot, generation, 3)
    table.book(slot, 0, 0, 3 * SECOND)
    assert [is_ejected(table, slot, generation, t) for t in (3, 3.999, 4)] == [True, True, False]
    assert table.failed(slot, generation, 3 * SECOND, 4 * SECOND)
    assert [is_ejected(table, slot, generation, t) for t in (5.999, 6)] == [True, False]
    table._check()


def test_requests_sent_in_spite_of_the_ejection_count() -> None:
    table, slot, generation = ejected()
    table.book(slot, 0, 0, 10 * SECOND + 1)  # all others are ejected too
    assert not is_ejected(table, slot, generation, 11)
    assert table.failed(slot, generation, 10 * SECOND + 1, 10 * SECOND + 2)
    assert not table.failed(slot, generation, 10 * SECOND + 1, 10 * SECOND + 3)
    assert [is_ejected(table, slot, generation, t) for t in (12, 13)] == [True, False]


@pytest.mark.parametrize(
    "knobs",
    [{"eject_after": 0}, {"eject_base_ns": 0}, {"eject_base_ns": 9, "eject_limit_ns": 8}, {"eject_limit_ns": 2**62}],
)
def test_refuses_a_breaker_that_could_not_work(knobs: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="cannot eject"):
        Endpoints(**knobs)


# --- against the model ---

Pair = tuple[Booking, model.Booking]
FIGURES = st.sampled_from([-1.0, 0.0, 0.5, 7.0, 2e12, math.inf, math.nan])
TOKENS = st.sampled_from([0, 1, 511, 512, 5000, 2**40])


class EndpointsMachine(RuleBasedStateMachine):
    """Any order of calls; endpoints and requests that have gone are named, too."""

    names = Bundle("names")
    bookings = Bundle("bookings")

    @initialize(limit=st.integers(0, 2), eject_after=st.integers(1, 2))
    def start(self, limit: int, eject_after: int) -> None:
        self.core = Endpoints(
            limit, 1000.0, eject_after=eject_after, eject_base_ns=3 * SECOND, eject_limit_ns=10 * SECOND
        )
        self.model = model.Table(limit, 1000.0, eject_after, 3 * SECOND, 10 * SECOND)
        self.now = SECOND
        self.added: list[tuple[int, int]] = []

    @rule(seconds=st.sampled_from([1, 2, 3, 5, 20, 60, -4]))
    def wait(self, seconds: int) -> None:
        self.now = max(1, self.now + seconds * SECOND)

    @rule(target=names, text=st.sampled_from(["a:1", "b:1"]))
    def add(self, text: str) -> tuple[int, int]:
        try:
            name = self.model.add(text)
        except OverflowError:
            with pytest.raises(OverflowError):
                self.core.add(text.encode())
            return 0, 0
        assert self.core.add(text.encode()) == name
        self.added.append(name)
        return name

    @rule(name=names)
    def remove(self, name: tuple[int, int]) -> None:
        if self.model.get(*name) is None:
            with pytest.raises(KeyError):
                self.core.remove(*name)
        else:
            self.core.remove(*name)
            self.model.remove(*name)

    @rule(name=names, figures=st.tuples(FIGURES, FIGURES, FIGURES, FIGURES))
    def scraped(self, name: tuple[int, int], figures: tuple[float, float, float, float]) -> None:
        load = model.Load(*figures)
        if self.model.get(*name) is None:
            with pytest.raises(KeyError):
                self.core.scraped(*name, **vars(load), now_ns=self.now)
        else:
            self.core.scraped(*name, **vars(load), now_ns=self.now)
            self.model.scraped(*name, load, self.now)

    @rule(target=bookings, slot=st.integers(0, 2), prefill=TOKENS, resident=TOKENS)
    def book(self, slot: int, prefill: int, resident: int) -> Pair | None:
        if slot not in self.model.endpoints:
            with pytest.raises(KeyError):
                self.core.book(slot, prefill, resident, self.now)
            return None
        pair = self.core.book(slot, prefill, resident, self.now), self.model.book(slot, prefill, resident, self.now)
        return pair

    @rule(pair=bookings, learn=st.booleans())
    def first_byte(self, pair: Pair | None, learn: bool) -> None:
        if pair is not None:
            self.core.first_byte(pair[0], learn=learn, now_ns=self.now)
            self.model.first_byte(pair[1], learn, self.now)

    @rule(pair=bookings)
    def release(self, pair: Pair | None) -> None:
        if pair is not None:
            self.core.release(pair[0])
            self.model.release(pair[1])

    @rule(name=names, ago=st.integers(0, 5))
    def succeeded(self, name: tuple[int, int], ago: int) -> None:
        started = self.now - ago * SECOND
        self.core.succeeded(*name, started)
        self.model.succeeded(*name, started)

    @rule(name=names, ago=st.integers(0, 5))
    def failed(self, name: tuple[int, int], ago: int) -> None:
        started = self.now - ago * SECOND
        assert self.core.failed(*name, started, self.now) == self.model.failed(*name, started, self.now)

    @invariant()
    def equal(self) -> None:
        self.core._check()
        assert len(self.core) == len(self.model.endpoints)
        assert self.core.fleet_rate == self.model.fleet_rate
        for name in self.added:
            if self.model.get(*name) is None:
                with pytest.raises(KeyError):
                    self.core.view(*name, self.now)
            else:
                assert self.core.view(*name, self.now) == self.model.view(*name, self.now)


TestAgainstTheModel = EndpointsMachine.TestCase
TestAgainstTheModel.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


CALLS = st.one_of(
    st.tuples(st.just("wait"), st.sampled_from([1, 2, 3, 60, -4])),
    st.tuples(st.just("book"), st.sampled_from([0, 400, 600, 9000])),
    st.tuples(st.sampled_from(["learn", "first_byte", "release"]), st.integers(0, 3)),
    st.tuples(st.sampled_from(["failed", "failed", "succeeded"]), st.integers(0, 4)),
)


@settings(max_examples=200, deadline=None)
@given(st.lists(CALLS, min_size=10, max_size=30), st.integers(1, 2))
def test_the_requests_of_one_endpoint_equal_the_model(calls: list[tuple[str, int]], eject_after: int) -> None:
    """The same calls as above, packed: breaker and learned rates need several of them in a row on one endpoint."""
    core = Endpoints(1, 1000.0, eject_after=eject_after, eject_base_ns=3 * SECOND, eject_limit_ns=10 * SECOND)
    slow = model.Table(1, 1000.0, eject_after, 3 * SECOND, 10 * SECOND)
    name = core.add(b"a:1")
    assert slow.add("a:1") == name
    now = 100 * SECOND
    bookings: list[Pair] = []
    for call, number in calls:
        last = bookings[-1 - number % len(bookings)] if bookings else None
        started = now - number * SECOND
        if call == "wait":
            now += number * SECOND
        elif call == "book":
            bookings.append((core.book(0, number, 2 * number, now), slow.book(0, number, 2 * number, now)))
        elif call == "failed":
            assert core.failed(*name, started, now) == slow.failed(*name, started, now)
        elif call == "succeeded":
            core.succeeded(*name, started)
            slow.succeeded(*name, started)
        elif last is not None and call == "release":
            core.release(last[0])
            slow.release(last[1])
        elif last is not None:
            core.first_byte(last[0], learn=call == "learn", now_ns=now)
            slow.first_byte(last[1], call == "learn", now)
        core._check()
        assert core.view(*name, now) == slow.view(*name, now)
        assert core.fleet_rate == slow.fleet_rate


# --- memory ---


def busy_life() -> None:
    table = Endpoints(20)
    names = [table.add(b"10.0.0.%d:8000" % i, token=b"x" * 100) for i in range(20)]
    with pytest.raises(OverflowError):
        table.add(b"one too many")
    for slot, generation in names[::2]:
        table.scraped(slot, generation, waiting=1, running_adapters=["a", "b"], now_ns=1)
        booking = table.book(slot, 1000, 2000, 1)
        table.first_byte(booking, learn=True, now_ns=5)
        table.failed(slot, generation, 1, 5)
        table.view(slot, generation, 5)
        table.remove(slot, generation)
        table.release(booking)
        with pytest.raises(KeyError):
            table.remove(slot, generation)


def test_leaks_nothing() -> None:
    assert_flat(busy_life, calls=20)


@debug_build_only
def test_survives_failing_allocations() -> None:
    def fill() -> None:
        table = Endpoints(20)
        for number in range(20):
            try:
                table.add(b"10.0.0.1:8000")
            except MemoryError:
                table._check()
                assert len(table) == number
                assert table.add(b"10.0.0.1:8000")[0] == number  # the next try succeeds
                raise

    assert failing_allocations(fill) == 6  # slots and details, each for 8, 16 and 32 endpoints
