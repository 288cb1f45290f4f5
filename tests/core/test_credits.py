import math
import random
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule

from picker._core.credits import Credits
from picker._core.endpoints import Booking, Endpoints
from tests.model import credits as model
from tests.support.builds import debug_build_only
from tests.support.leaks import assert_flat, failing_allocations

MS = 1_000_000
SECOND = 1000 * MS
BELOW = 0.95  # picker's own share is smaller; round figures are easier to check
UTILIZATION = ("utilization", 5, 0.8, 0.0, 5.0)


def pool(count: int = 1, detector: Any = ("adaptive",)) -> Credits:
    credits = Credits(detector)
    for number in range(count):
        credits.add(b"10.0.0.%d:8000" % number)
    return credits


def serve(credits: Credits, slot: int, now_ns: int, *, prefill: int = 1000, took_s: float = 0.1) -> int:
    """One request from booking to its end; when its first token came."""
    booking = credits.book(slot, prefill, prefill + 100, now_ns)
    first_ns = now_ns + int(took_s * SECOND)
    credits.first_byte(booking, learn=True, now_ns=first_ns)
    credits.release(booking, first_ns)
    return first_ns


def taught(rate: float = 10_000.0, overhead_s: float = 0.05) -> tuple[Credits, int]:
    """An endpoint whose prefills take what they say, and the time by which that is known."""
    credits, now_ns = pool(), SECOND
    for prefill in (500, 2000, 800, 3000, 1200, 600) * 4:
        now_ns = serve(credits, 0, now_ns, prefill=prefill, took_s=overhead_s + prefill / rate) + SECOND
    return credits, now_ns


# --- what is learned ---


def test_first_tokens_teach_how_long_prefills_take() -> None:
    credits, now_ns = taught(10_000.0, 0.05)
    view = credits.view(0, now_ns)
    assert view["overhead_s"] == pytest.approx(0.05, rel=0.01)
    assert view["prefill_rate"] == pytest.approx(10_000.0, rel=0.01)
    credits.book(0, 2000, 2100, now_ns)
    assert credits.view(0, now_ns)["ahead_s"] == pytest.approx(0.25, rel=0.01)


def test_what_came_together_is_one_observation() -> None:
    credits, now_ns = taught()
    both = [credits.book(0, 1000, 1100, now_ns) for _ in range(2)]
    for booking in both:
        credits.first_byte(booking, learn=True, now_ns=now_ns + 250 * MS)
    serve(credits, 0, now_ns + SECOND, took_s=0.15)
    view = credits.view(0, now_ns + 2 * SECOND)
    assert view["prefill_rate"] == pytest.approx(10_000.0, rel=0.02)
    assert view["overhead_s"] == pytest.approx(0.05, rel=0.02)


def test_scrapes_teach_what_fills_the_cache() -> None:
    credits = pool()
    for _ in range(4):
        credits.book(0, 0, 1000, SECOND)
    credits.scraped(0, waiting=0, running=4, kv_usage=0.4, now_ns=2 * SECOND)
    assert credits.view(0, 2 * SECOND)["kv_tokens"] == pytest.approx(10_000)


def test_a_limit_is_met_when_nothing_else_explains_who_waits() -> None:
    credits = pool()
    for _ in range(10):
        credits.book(0, 0, 100, SECOND)
    credits.scraped(0, waiting=0, running=4, kv_usage=0.1, now_ns=2 * SECOND)
    credits.scraped(0, waiting=6, running=4, kv_usage=0.95, now_ns=3 * SECOND)
    assert credits.view(0, 3 * SECOND)["limit"] is None  # memory explains it
    credits.scraped(0, waiting=6, running=4, kv_usage=0.2, now_ns=4 * SECOND)
    assert credits.view(0, 4 * SECOND)["limit"] == 4
    credits.scraped(0, waiting=0, running=4, kv_usage=0.2, now_ns=9 * SECOND)
    assert credits.view(0, 9 * SECOND)["limit"] == 5  # tried again
    credits.scraped(0, waiting=2, running=8, kv_usage=0.2, now_ns=10 * SECOND)
    assert credits.view(0, 10 * SECOND)["limit"] == 8  # it runs more: that is no limit


def test_who_waits_behind_the_requests_of_others_meets_no_limit() -> None:
    credits = pool()
    for _ in range(10):
        credits.book(0, 0, 100, SECOND)
    credits.scraped(0, waiting=20, running=4, kv_usage=0.1, now_ns=2 * SECOND)
    assert credits.view(0, 2 * SECOND)["limit"] is None
    credits.scraped(0, waiting=9, running=4, kv_usage=0.1, now_ns=3 * SECOND)
    assert credits.view(0, 3 * SECOND)["limit"] == 4  # all but a few are ours


def test_who_waits_for_a_prefill_meets_no_limit() -> None:
    credits, now_ns = taught(10_000.0, 0.05)
    for _ in range(3):
        credits.book(0, 100, 200, now_ns)
    for _ in range(5):
        credits.first_byte(credits.book(0, 0, 200, now_ns), learn=False, now_ns=now_ns)
    overdue_ns = now_ns + SECOND
    credits.scraped(0, waiting=0, running=1, kv_usage=0.1, now_ns=overdue_ns)
    credits.scraped(0, waiting=2, running=5, kv_usage=0.1, now_ns=overdue_ns + 1)
    assert credits.view(0, overdue_ns)["limit"] is None  # one of the three that have no first token runs
    credits.scraped(0, waiting=3, running=5, kv_usage=0.1, now_ns=overdue_ns + 2)
    assert credits.view(0, overdue_ns)["limit"] == 5


def test_a_new_endpoint_in_a_slot_knows_nothing_of_the_old_one() -> None:
    credits, now_ns = taught()
    booking = credits.book(0, 1000, 1100, now_ns)
    credits.remove(0, 1)
    slot, _ = credits.add(b"10.0.0.9:8000")
    credits.first_byte(booking, learn=True, now_ns=now_ns + SECOND)
    credits.release(booking, now_ns + SECOND)
    assert slot == 0
    assert credits.view(0, now_ns)["overhead_s"] == 0.03 and credits.view(0, now_ns)["told"] == 0
    assert credits.allow(0, 10**6, 10**6, share=BELOW, now_ns=now_ns)
    credits._check()


# --- who may go ---


def test_nobody_waits_at_a_cold_start() -> None:
    credits = pool(8)
    for slot in range(8):
        assert credits.allow(slot, 100_000, 120_000, share=BELOW, now_ns=SECOND)
        credits.book(slot, 100_000, 120_000, SECOND)


def test_how_much_of_its_memory_is_in_use() -> None:
    credits = pool(1)
    assert credits.view(0, SECOND)["kv_used"] is None
    credits.scraped(0, waiting=0, running=1, kv_usage=0.75, cache_tokens=1000, now_ns=SECOND)
    assert credits.view(0, SECOND)["kv_used"] == pytest.approx(0.75)


def test_a_warm_endpoint_is_waited_for_twice_as_long_as_its_cache_saves() -> None:
    credits, now_ns = taught(10_000.0, 0.05)
    credits.book(0, 7000, 7100, now_ns)  # 0.75 s of work
    # 0.3 s are saved. A band below another waits once as long, less the 0.1 s that the rest of its prompt takes.
    for share, from_ms in ((1.0, 150), (BELOW, 550)):
        assert not credits.allow(0, 1000, 4100, cached=3000, share=share, now_ns=now_ns + (from_ms - 10) * MS)
        assert credits.allow(0, 1000, 4100, cached=3000, share=share, now_ns=now_ns + (from_ms + 10) * MS)


def test_work_is_sent_when_that_before_should_be_done() -> None:
    credits, now_ns = taught(10_000.0, 0.05)
    credits.book(0, 2000, 2100, now_ns)
    assert not credits.allow(0, 1000, 1100, share=BELOW, now_ns=now_ns + 249 * MS)
    assert credits.allow(0, 1000, 1100, share=BELOW, now_ns=now_ns + 251 * MS)
    # Nobody is above a share of one: a little work may be ahead of it.
    assert not credits.allow(0, 3000, 3100, now_ns=now_ns + 10 * MS)
    assert credits.allow(0, 3000, 3100, now_ns=now_ns + 60 * MS)


def test_small_requests_go_together() -> None:
    credits, now_ns = taught(10_000.0, 0.05)
    for _ in range(4):  # as much work as half the overhead: 250 tokens
        assert credits.allow(0, 50, 200, share=BELOW, now_ns=now_ns)
        credits.book(0, 50, 200, now_ns)
    assert not credits.allow(0, 60, 200, share=BELOW, now_ns=now_ns)
    assert credits.allow(0, 40, 200, share=BELOW, now_ns=now_ns + 2 * MS)
    assert not credits.allow(0, 40, 200, share=BELOW, now_ns=now_ns + 3 * MS)  # another step of the engine by now


def test_the_highest_band_goes_where_it_is_begun_soonest_while_there_are_others() -> None:
    credits, now_ns = taught(10_000.0, 0.05)
    credits.add(b"10.0.0.1:8000")
    credits.book(1, 100, 200, now_ns)
    credits.book(0, 1300, 1400, now_ns)  # 0.18 s of work; the other one has 0.03 s by the usual rate
    assert credits.allow(0, 1000, 1100, now_ns=now_ns)
    credits.allow(1, 1000, 1100, share=BELOW, now_ns=now_ns)
    assert not credits.allow(0, 1000, 1100, now_ns=now_ns)
    assert credits.allow(1, 1000, 1100, now_ns=now_ns)
    assert credits.allow(0, 1000, 3100, cached=2000, now_ns=now_ns)  # what it saves is worth the wait
    assert credits.allow(0, 1000, 1100, now_ns=now_ns + 10 * SECOND)  # nobody has asked for long


def test_an_endpoint_that_does_not_get_on_gets_no_more_for_a_while() -> None:
    credits, now_ns = taught(10_000.0, 0.05)
    credits.book(0, 1000, 1100, now_ns)  # should be done after 150 ms
    assert credits.allow(0, 1000, 1100, now_ns=now_ns + 190 * MS)
    assert not credits.allow(0, 1000, 1100, now_ns=now_ns + 250 * MS)
    assert credits.allow(0, 1000, 1100, now_ns=now_ns + 501 * MS)


def test_answers_that_are_not_streamed_do_not_look_stuck() -> None:
    credits = pool()
    for second in range(5):
        booking = credits.book(0, 1000, 1100, second * SECOND)
        credits.first_byte(booking, learn=False, now_ns=second * SECOND + 900 * MS)
        credits.release(booking, second * SECOND + 900 * MS)
    credits.book(0, 1000, 1100, 10 * SECOND)
    assert credits.allow(0, 1000, 1100, share=BELOW, now_ns=10 * SECOND + 300 * MS)


def test_a_request_must_fit_into_the_cache() -> None:
    credits = pool(2)
    booked = [credits.book(slot, 0, 1000, SECOND) for slot in (0, 1)]
    for slot, booking in enumerate(booked):
        credits.first_byte(booking, learn=True, now_ns=SECOND + 50 * MS)
        credits.scraped(
            slot, waiting=0, running=9, kv_usage=(0.5, 0.9)[slot], cache_tokens=10_000, now_ns=SECOND + 100 * MS
        )
    now_ns = SECOND + 110 * MS
    assert credits.allow(0, 10, 4000, now_ns=now_ns)
    assert not credits.allow(1, 10, 5001, now_ns=now_ns)
    assert credits.allow(0, 10, 5001, now_ns=now_ns)  # too large for any: it waits where most room is
    assert credits.allow(1, 10, 333, now_ns=now_ns)  # where the other has more room: three times what it asks for
    assert not credits.allow(1, 10, 334, now_ns=now_ns)
    # Below, 5 % stay free, and at the roomiest as much as the greatest request above asked for.
    assert credits.allow(1, 10, 499, share=BELOW, now_ns=now_ns)
    assert not credits.allow(1, 10, 501, share=BELOW, now_ns=now_ns)
    assert not credits.allow(0, 10, 100, share=BELOW, now_ns=now_ns)
    later_ns = now_ns + 20 * SECOND  # by then three quarters of it are forgotten
    credits.scraped(0, waiting=0, running=9, kv_usage=0.5, now_ns=later_ns)
    assert credits.allow(0, 10, 1000, share=BELOW, now_ns=later_ns)


def test_a_request_that_fits_soon_waits_in_picker() -> None:
    """Too little room for what is no larger than what others hold: the next who ends makes it."""
    credits = pool()
    for _ in range(4):
        credits.first_byte(credits.book(0, 10, 2000, SECOND), learn=True, now_ns=SECOND + 50 * MS)
    credits.scraped(0, waiting=0, running=4, kv_usage=0.8, cache_tokens=10_000, now_ns=SECOND + 100 * MS)
    assert not credits.allow(0, 10, 2001, now_ns=SECOND + 110 * MS)
    assert credits.allow(0, 10, 6001, now_ns=SECOND + 110 * MS)  # three times that: the room of several
    assert not credits.allow(0, 10, 6001, share=BELOW, now_ns=SECOND + 110 * MS)


def test_what_waits_in_the_engine_has_no_memory_yet() -> None:
    credits = pool()
    running, waiting = (credits.book(0, 10, 1000, SECOND) for _ in range(2))
    credits.first_byte(running, learn=True, now_ns=SECOND + 50 * MS)
    credits.scraped(0, waiting=1, running=1, kv_usage=0.1, cache_tokens=10_000, now_ns=SECOND + 100 * MS)
    credits.first_byte(waiting, learn=True, now_ns=SECOND + 150 * MS)
    assert credits.view(0, SECOND + 150 * MS)["room_tokens"] == pytest.approx(8000)


def test_places_leave_one_for_a_band_above() -> None:
    credits = pool()
    bookings = [credits.book(0, 0, 100, SECOND) for _ in range(10)]
    for second in (2, 3):  # those sent since the last scrape may just be on their way
        credits.scraped(0, waiting=6, running=4, kv_usage=0.02, now_ns=second * SECOND)
    for booking in bookings[:7]:
        credits.first_byte(booking, learn=True, now_ns=3 * SECOND)
        credits.release(booking, 3 * SECOND)
    now_ns = 5 * SECOND  # the scrape is old: three are booked, and four is the limit
    for booking in bookings[7:]:
        credits.first_byte(booking, learn=True, now_ns=now_ns)
    assert credits.allow(0, 1, 1, now_ns=now_ns)
    assert not credits.allow(0, 1, 1, share=BELOW, now_ns=now_ns)


def test_old_metrics_stop_nobody() -> None:
    credits, now_ns = taught()
    credits.first_byte(credits.book(0, 10, 1000, now_ns), learn=True, now_ns=now_ns + 50 * MS)
    credits.scraped(0, waiting=50, running=50, now_ns=now_ns + 100 * MS)
    assert not credits.allow(0, 1000, 1100, share=BELOW, now_ns=now_ns + 1100 * MS)
    assert credits.allow(0, 1000, 1100, share=BELOW, now_ns=now_ns + 1101 * MS)


def test_the_load_of_others_stops_nobody_for_long() -> None:
    credits, now_ns = taught()
    for _ in range(20):
        now_ns += 200 * MS
        credits.scraped(0, waiting=50, running=50, kv_usage=1.0, now_ns=now_ns)
    assert credits.allow(0, 1000, 1100, now_ns=now_ns)


# --- by thresholds ---


def test_queue_and_memory_by_thresholds() -> None:
    credits = pool(1, UTILIZATION)
    credits.scraped(0, waiting=3, running=50, kv_usage=0.1, now_ns=SECOND)
    assert credits.fullness(0, SECOND) == pytest.approx(0.6)
    for _ in range(2):  # no overshoot between scrapes: what is sent counts
        assert credits.allow(0, 1, 1, now_ns=SECOND)
        credits.book(0, 1, 1, SECOND)
    assert not credits.allow(0, 1, 1, now_ns=SECOND)
    credits.scraped(0, waiting=0, running=50, kv_usage=0.8, now_ns=2 * SECOND)
    assert not credits.allow(0, 1, 1, now_ns=2 * SECOND)
    assert credits.allow(0, 1, 1, now_ns=8 * SECOND)  # too old to say anything


def test_thresholds_of_what_is_booked() -> None:
    for counts, full in (("requests", 2), ("tokens", 4), ("hybrid", 2)):
        credits = pool(1, ("concurrency", counts, 2, 400, 0.0))
        for _ in range(full):
            assert credits.allow(0, 100, 100, now_ns=SECOND)
            credits.book(0, 100, 100, SECOND)
        assert not credits.allow(0, 100, 100, now_ns=SECOND)


def test_shares_and_headroom() -> None:
    credits = pool(1, ("concurrency", "requests", 10, 1000, 0.5))
    for _ in range(7):
        credits.book(0, 0, 0, SECOND)
    assert not credits.allow(0, 0, 0, share=0.4, now_ns=SECOND)
    assert credits.allow(0, 0, 0, share=0.5, now_ns=SECOND)


def test_without_a_detector_everybody_may_go() -> None:
    credits = pool(1, None)
    for _ in range(1000):
        credits.book(0, 10**6, 10**6, SECOND)
    assert credits.allow(0, 10**6, 10**6, share=0.0, now_ns=SECOND)
    assert credits.saturation(SECOND) == 0


def test_saturation_is_the_mean() -> None:
    assert Credits().saturation(SECOND) == 1.0
    credits = pool(4, UTILIZATION)
    credits.scraped(1, waiting=10, running=1, kv_usage=0.1, now_ns=SECOND)
    assert credits.saturation(SECOND) == pytest.approx(0.5)


# --- errors ---


@pytest.mark.parametrize(
    "detector",
    [("adaptive", 1), ("magic",), ("utilization", 5, 0.8, 0.0), ("utilization", 0, 0.8, 0.0, 5.0),
     ("utilization", 5, math.nan, 0.0, 5.0), ("utilization", 5, 0.8, -1.0, 5.0), ("concurrency", "turns", 1, 1, 0),
     ("concurrency", "tokens", 1, 0, 0), ("concurrency", "tokens", math.inf, 1, 0)],
)  # fmt: skip
def test_what_no_detector_can_be(detector: Any) -> None:
    credits = pool()
    with pytest.raises(ValueError):
        credits.set_detector(detector)
    with pytest.raises(ValueError):
        Credits(detector)
    assert credits.allow(0, 1, 1, now_ns=SECOND)


def test_slots_that_are_free() -> None:
    credits = Credits(limit=1)
    credits.add(b"10.0.0.1:8000")
    with pytest.raises(OverflowError):
        credits.add(b"10.0.0.2:8000")
    for call in (
        lambda: credits.allow(1, 1, 1, now_ns=1),
        lambda: credits.book(1, 1, 1, 1),
        lambda: credits.scraped(1, now_ns=1),
        lambda: credits.fullness(1, 1),
        lambda: credits.view(1, 1),
        lambda: credits.remove(1, 1),
    ):
        with pytest.raises(KeyError):
            call()
    with pytest.raises(ValueError):
        credits.book(0, -1, 1, 1)


# --- against the model ---

DETECTORS = [("adaptive",), UTILIZATION, ("concurrency", "hybrid", 3, 4000, 0.5), None]
TOKENS = st.sampled_from([0, 1, 300, 700, 2000, 9000])


class CreditsMachine(RuleBasedStateMachine):
    """Few endpoints, few figures. The rate that endpoints know themselves is taken from a real table beside it."""

    bookings = Bundle("bookings")

    def __init__(self) -> None:
        super().__init__()
        self.now_ns = 10 * SECOND
        self.core = Credits(limit=3)
        self.table = Endpoints(3)
        self.generations: dict[int, int] = {}
        self.model = model.Credits(("adaptive",), self.rate)

    def rate(self, slot: int, now_ns: int) -> float:
        return float(self.table.view(slot, self.generations[slot], now_ns)["prefill_rate"])

    @rule(detector=st.sampled_from(DETECTORS))
    def set_detector(self, detector: Any) -> None:
        self.core.set_detector(detector)
        self.model.detector = tuple(detector or ("off",))

    @rule()
    def add(self) -> None:
        if len(self.generations) < 3:
            slot, generation = self.core.add(b"10.0.0.1:8000")
            assert self.table.add(b"10.0.0.1:8000") == (slot, generation)
            self.generations[slot] = generation
            self.model.add(slot)

    @rule(slot=st.integers(0, 2))
    def remove(self, slot: int) -> None:
        generation = self.generations.pop(slot, None)
        if generation is not None:
            self.core.remove(slot, generation)
            self.table.remove(slot, generation)
            self.model.remove(slot)

    @rule(step_ms=st.sampled_from([1, 3, 20, 60, 150, 400, 1200, 6000]))
    def wait(self, step_ms: int) -> None:
        self.now_ns += step_ms * MS + 7

    @rule(target=bookings, slot=st.integers(0, 2), prefill=TOKENS, output=TOKENS)
    def book(self, slot: int, prefill: int, output: int) -> tuple[Booking, Booking, model.Booking] | None:
        if slot not in self.generations:
            return None
        core = self.core.book(slot, prefill, prefill + output, self.now_ns)
        beside = self.table.book(slot, prefill, prefill + output, self.now_ns)
        return core, beside, self.model.book(slot, prefill, prefill + output, self.now_ns)

    @rule(booking=bookings, learn=st.booleans())
    def first_byte(self, booking: Any, learn: bool) -> None:
        if booking is not None:
            self.core.first_byte(booking[0], learn=learn, now_ns=self.now_ns)
            self.model.first_byte(booking[2], learn, self.now_ns)
            self.table.first_byte(booking[1], learn=learn, now_ns=self.now_ns)

    @rule(booking=bookings)
    def release(self, booking: Any) -> None:
        if booking is not None:
            self.core.release(booking[0], self.now_ns)
            self.table.release(booking[1])
            self.model.release(booking[2])

    @rule(
        slot=st.integers(0, 2), waiting=st.sampled_from([-1, 0, 1, 4]), running=st.sampled_from([-1, 0, 1, 3]),
        kv_usage=st.sampled_from([-1, 0, 0.3, 0.8, 0.99]), cache_tokens=st.sampled_from([-1, 20_000]),
    )  # fmt: skip
    def scrape(self, slot: int, waiting: float, running: float, kv_usage: float, cache_tokens: int) -> None:
        if slot in self.generations:
            self.core.scraped(
                slot, waiting=waiting, running=running, kv_usage=kv_usage, cache_tokens=cache_tokens, now_ns=self.now_ns
            )
            self.model.scraped(slot, waiting, running, kv_usage, self.now_ns)
            if cache_tokens >= 0:
                self.model.endpoints[slot].cache_tokens = cache_tokens

    @rule(prefill=TOKENS, cached=TOKENS, output=TOKENS, share=st.sampled_from([0.5, BELOW, 1.0, 1.5]))
    def ask(self, prefill: int, cached: int, output: int, share: float) -> None:
        resident = prefill + cached + output
        for slot in self.generations:
            allowed = self.core.allow(slot, prefill, resident, cached=cached, share=share, now_ns=self.now_ns)
            assert allowed == self.model.allow(slot, prefill, cached, resident, share, self.now_ns)

    @invariant()
    def equal(self) -> None:
        self.core._check()
        for slot in self.generations:
            view, one = self.core.view(slot, self.now_ns), self.model.endpoints[slot]
            assert view["overhead_s"] == pytest.approx(one.overhead, rel=1e-6)
            assert view["prefill_rate"] == pytest.approx(self.model.rate(one, self.now_ns), rel=1e-6)
            if one.fitted:
                one.fitted = view["overhead_s"], view["prefill_rate"]  # sums in another order differ in the last digits
            assert view["ahead_s"] == pytest.approx(max((one.free_ns - self.now_ns) * 1e-9, 0.0), abs=1e-6)
            assert (view["limit"] or math.inf) == one.limit and view["told"] == pytest.approx(one.told)
            assert view["fullness"] == pytest.approx(self.model.fullness(slot, self.now_ns), rel=1e-6, abs=1e-6)
        assert self.core.saturation(self.now_ns) == pytest.approx(self.model.saturation(self.now_ns), rel=1e-6)


CreditsMachine.TestCase.settings = settings(max_examples=120, stateful_step_count=50, deadline=None)
TestCredits = CreditsMachine.TestCase


@pytest.mark.parametrize("seed", range(3))
def test_an_empty_endpoint_always_takes_a_request(seed: int) -> None:
    """Whatever it has seen: when it holds nothing and is not scraped, it has credit half a second later."""
    dice = random.Random(seed)
    credits, now_ns = pool(2), SECOND
    for _ in range(300):
        now_ns += dice.randrange(300 * MS)
        slot = dice.randrange(2)
        booking = credits.book(slot, dice.randrange(5000), dice.randrange(9000), now_ns)
        if dice.random() < 0.7:
            credits.first_byte(booking, learn=dice.random() < 0.8, now_ns=now_ns + dice.randrange(SECOND))
        credits.scraped(
            slot, waiting=dice.randrange(9), running=dice.randrange(9), kv_usage=dice.random(), now_ns=now_ns
        )
        credits.release(booking, now_ns)
        later = now_ns + SECOND + 501 * MS
        assert credits.allow(slot, 10**6, 10**6, share=0.5, now_ns=later)


def churn() -> None:
    credits = Credits(limit=40)
    names = [credits.add(b"10.0.0.%d:8000" % number) for number in range(40)]
    for slot, generation in names:
        serve(credits, slot, SECOND)
        credits.allow(slot, 1, 1, share=BELOW, now_ns=SECOND)
        credits.remove(slot, generation)


def test_leaks_nothing() -> None:
    assert_flat(churn, calls=20)


@debug_build_only
def test_survives_failing_allocations() -> None:
    assert failing_allocations(churn) > 4
