"""The state machine in virtual time: examples of each way it can go, and properties of all of them."""

from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from msgspec.structs import replace

from picker.rollout.figures import Figures
from picker.rollout.judge import Thresholds
from picker.rollout.machine import Phase, Plan, Sight, State, advance, begin, compared, resume

PLAN = Plan(
    kind="HTTPRoute",
    old="default/old",
    new="default/new",
    steps=(10, 50, 100),
    every_s=60.0,
    hold_limit_s=120.0,
    blind_limit_s=30.0,
    thresholds=Thresholds(min_requests=50),
)
GOOD_OLD, GOOD_NEW = Figures(requests=90), Figures(requests=10)


def look(old: Figures | None = GOOD_OLD, new: Figures | None = GOOD_NEW, elapsed_s: float = 5.0) -> Sight:
    return Sight(elapsed_s=elapsed_s, old=old, new=new, problem="" if old and new else "connection refused")


def looks(state: State, sight: Sight, times: int, plan: Plan = PLAN) -> Iterator[State]:
    for _ in range(times):
        state = advance(plan, state, sight)
        yield state


def last(state: State, sight: Sight, times: int, plan: Plan = PLAN) -> State:
    *_, final = looks(state, sight, times, plan)
    return final


def test_a_good_rollout_takes_every_step_in_its_time() -> None:
    shares = [state.share for state in looks(begin(PLAN), look(), 36)]
    assert shares == [10] * 11 + [50] * 12 + [100] * 13
    final = last(begin(PLAN), look(), 36)
    assert (final.phase, final.reason) == (Phase.COMPLETED, "every step was passed")


def test_errors_roll_back_at_once() -> None:
    state = advance(PLAN, begin(PLAN), look(new=Figures(requests=20, errors=10)))
    assert (state.phase, state.share) == (Phase.ROLLED_BACK, 0)
    assert state.reason.startswith("at 10 %: error rate 50.0 % (10 of 20 requests) against 0.0 %")


def test_errors_that_may_be_chance_roll_back_at_the_end_of_the_step() -> None:
    state = advance(PLAN, begin(PLAN), look(new=Figures(requests=40, errors=1)))
    assert state.phase is Phase.PROGRESSING
    state = last(state, look(new=Figures(requests=5)), 10)
    assert state.phase is Phase.PROGRESSING
    state = advance(PLAN, state, look(new=Figures(requests=5)))
    assert state.phase is Phase.ROLLED_BACK
    assert state.reason.startswith("at 10 %, at the end of the step: error rate 1.1 % (1 of 95 requests)")


def test_too_few_requests_hold_the_step_and_then_the_rollout() -> None:
    few = look(new=Figures(requests=1))
    state = last(begin(PLAN), few, 12)
    assert (state.phase, state.share) == (Phase.PROGRESSING, 10)
    assert state.note == "too few requests of the new side: 12, at least 50 wanted"
    state = last(state, few, 24)
    assert (state.phase, state.share) == (Phase.HELD, 10)
    assert "too few requests" in state.reason


def test_it_goes_on_as_soon_as_there_are_enough() -> None:
    state = last(begin(PLAN), look(new=Figures(requests=1)), 12)
    assert advance(PLAN, state, look(new=Figures(requests=60))).share == 50


def test_blindness_neither_ends_a_step_nor_lasts() -> None:
    state = last(begin(PLAN), look(), 6)
    blind = advance(PLAN, state, look(None, None))
    assert (blind.watched_s, blind.note) == (30.0, "waits for metrics, for 5 s now: connection refused")
    assert advance(PLAN, blind, look()).blind_s == 0
    held = last(state, look(None, None), 6)
    assert (held.phase, held.share) == (Phase.HELD, 10)
    assert held.reason == "at 10 %: metrics could not be read for 30s: connection refused"


def test_a_new_side_that_alone_is_silent_is_rolled_back() -> None:
    state = last(begin(PLAN), look(GOOD_OLD, None), 6)
    assert state.phase is Phase.ROLLED_BACK
    assert state.reason.startswith("at 10 %: metrics of the new side alone could not be read for 30s")


def test_an_old_side_that_alone_is_silent_moves_nothing() -> None:
    assert last(begin(PLAN), look(None, GOOD_NEW), 6).phase is Phase.HELD


def test_a_new_side_that_fails_is_rolled_back_although_the_old_is_silent() -> None:
    state = last(begin(PLAN), look(), 3)
    assert advance(PLAN, state, look(None, Figures(requests=50, errors=40))).phase is Phase.ROLLED_BACK


def test_the_last_step_is_compared_with_what_the_old_side_did_before() -> None:
    state = last(begin(PLAN), look(), 24)
    assert (state.share, state.baseline.requests) == (100, 90 * 12)
    nothing_left = look(Figures(), Figures(requests=100, errors=30))
    assert compared(PLAN, state) == state.baseline
    assert advance(PLAN, state, nothing_left).phase is Phase.ROLLED_BACK


def test_times_of_the_warm_up_do_not_count() -> None:
    plan = replace(PLAN, warm_up_s=10.0)
    slow = Figures(requests=20, ttft_bounds_s=(1.0,), ttft_counts=(0.0, 20.0))
    fast = Figures(requests=90, ttft_bounds_s=(1.0,), ttft_counts=(90.0, 0.0))
    state = last(begin(plan), look(fast, slow), 2, plan)
    assert (state.new.timed, state.new.requests) == (0, 40)
    assert last(state, look(fast, slow), 2, plan).phase is Phase.ROLLED_BACK


def test_what_is_over_stays_over() -> None:
    state = advance(PLAN, begin(PLAN), look(new=Figures(requests=20, errors=20)))
    assert last(state, look(), 50) == state


def test_after_a_hold_the_step_is_watched_anew() -> None:
    held = last(begin(PLAN), look(new=Figures(requests=1)), 36)
    state = resume(held)
    assert (state.phase, state.watched_s, state.share) == (Phase.PROGRESSING, 0.0, 10)
    assert last(state, look(), 12).share == 50


@given(st.lists(st.tuples(st.floats(0, 100), st.floats(0, 100)), min_size=1, max_size=20))
@settings(max_examples=50, deadline=None)
def test_looks_put_together_are_worth_as_much(pairs: list[tuple[float, float]]) -> None:
    sights = [look(Figures(requests=old), Figures(requests=new)) for old, new in pairs]
    together = sights[0]
    for sight in sights[1:]:
        together = together.then(sight)
    assert together.elapsed_s == 5.0 * len(pairs)
    assert together.old is not None
    assert together.old.requests == pytest.approx(sum(old for old, _ in pairs))


class Rollout(RuleBasedStateMachine):
    """Whatever is seen: shares only rise, one step at a time, or fall to 0 for good; and never without reason."""

    def __init__(self) -> None:
        super().__init__()
        self.state = begin(PLAN)
        self.before = self.state

    @rule(
        old=st.none() | st.integers(0, 200),
        new=st.none() | st.integers(0, 60),
        bad=st.sampled_from([0.0, 0.0, 0.0, 0.01, 0.3, 1.0]),
        elapsed_s=st.floats(0, 40),
    )
    def look(self, old: int | None, new: int | None, bad: float, elapsed_s: float) -> None:
        sight = Sight(
            elapsed_s=elapsed_s,
            old=None if old is None else Figures(requests=old),
            new=None if new is None else Figures(requests=new, errors=new * bad),
        )
        self.before, self.state = self.state, advance(PLAN, self.state, sight)

    @rule()
    def start_again_after_a_crash(self) -> None:
        if self.state.phase is Phase.PROGRESSING:
            self.before, self.state = self.state, resume(self.state)
            assert (self.state.step, self.state.new) == (self.before.step, self.before.new)

    @invariant()
    def it_goes_one_way(self) -> None:
        before, now = self.before, self.state
        if before.phase is not Phase.PROGRESSING:
            assert now == before
        assert now.step - before.step in (0, 1)
        if now.step > before.step:
            assert before.watched_s + 40 >= PLAN.every_s
        if now.phase is Phase.PROGRESSING:
            assert now.share == PLAN.steps[now.step]
            assert now.watched_s < PLAN.every_s + PLAN.hold_limit_s
            assert now.blind_s < PLAN.blind_limit_s
        if now.phase is Phase.COMPLETED:
            assert (now.share, now.step) == (100, len(PLAN.steps) - 1)
            assert now.new.requests >= PLAN.thresholds.min_requests
            assert now.watched_s >= PLAN.every_s
        if now.phase is Phase.ROLLED_BACK:
            assert now.share == 0
        assert now.phase is Phase.PROGRESSING or now.reason


TestRollout = Rollout.TestCase
TestRollout.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
