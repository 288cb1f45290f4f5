"""Counts and what they say: sums, differences over restarts, quantiles, and what chance does not explain."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from picker.rollout.figures import NOTHING, Figures, exceeds_surely, grew_surely

BOUNDS = (0.1, 0.2, 0.4, 1.0)
counts = st.integers(0, 1000).map(float)


@st.composite
def figures(draw: st.DrawFn) -> Figures:
    bounds = tuple(sorted(draw(st.sets(st.sampled_from(BOUNDS)))))
    times = [draw(counts) for _ in (*bounds, math.inf)] if bounds else []
    return Figures(
        requests=draw(counts),
        errors=draw(counts),
        shed=draw(counts),
        canceled=draw(counts),
        ttft_bounds_s=bounds,
        ttft_counts=tuple(times),
    )


def timed(*each: float) -> Figures:
    """Of these times to first token."""
    rows = [0.0] * (len(BOUNDS) + 1)
    for value in each:
        rows[sum(bound < value for bound in BOUNDS)] += 1
    return Figures(requests=len(each), ttft_bounds_s=BOUNDS, ttft_counts=tuple(rows))


@given(figures(), figures())
@settings(max_examples=200, deadline=None)
def test_a_sum_less_one_part_is_the_other(one: Figures, other: Figures) -> None:
    both = one.plus(other)
    assert both == other.plus(one)
    assert both.timed == one.timed + other.timed
    if one.ttft_bounds_s in ((), both.ttft_bounds_s):
        assert both.since(one).requests == other.requests
        assert both.since(one).timed == other.timed


@given(figures(), st.floats(0, 2))
@settings(max_examples=200, deadline=None)
def test_how_many_are_slower_falls_with_the_limit(one: Figures, limit_s: float) -> None:
    slower = one.slower_than(limit_s)
    assert 0 <= slower <= one.timed + 1e-6
    assert one.slower_than(limit_s + 0.1) <= slower + 1e-6


@given(figures(), st.floats(0.01, 0.99))
@settings(max_examples=200, deadline=None)
def test_a_quantile_leaves_no_more_above_it_than_it_says(one: Figures, quantile: float) -> None:
    value = one.ttft_quantile_s(quantile)
    if not one.timed:
        assert math.isnan(value)
    elif value < one.ttft_bounds_s[-1]:
        assert one.slower_than(value) == pytest.approx((1 - quantile) * one.timed, abs=1e-6 * one.timed)


def test_a_counter_that_began_anew_counts_as_a_whole() -> None:
    before, after = Figures(requests=100, errors=3), Figures(requests=7, errors=1)
    assert after.since(before) == after
    assert Figures(requests=107, errors=4).since(before) == Figures(requests=7, errors=1)


def test_times_that_begin_later_are_all_new() -> None:
    assert timed(0.15, 0.3).since(Figures(requests=1)).timed == 2


def test_quantiles_are_spread_within_a_bucket() -> None:
    assert timed(*[0.15] * 10).ttft_quantile_s(0.5) == pytest.approx(0.15)
    assert timed(*[0.15] * 5, *[5.0] * 5).ttft_quantile_s(0.9) == 1.0  # above all bounds: the highest


@pytest.mark.parametrize(
    "members",
    [
        {"requests": -1},
        {"requests": math.nan},
        {"errors": math.inf},
        {"ttft_bounds_s": (1.0,)},
        {"ttft_counts": (1.0,)},
        {"ttft_bounds_s": (2.0, 1.0), "ttft_counts": (0.0, 0.0, 0.0)},
        {"ttft_bounds_s": (math.inf,), "ttft_counts": (0.0, 0.0)},
    ],
)
def test_what_no_counter_says_is_refused(members: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"count|bounds"):
        Figures(**members)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("old", "new", "is_sure"),
    [
        ((0, 1000), (1, 10), False),  # one in ten: chance
        ((0, 1000), (5, 10), True),
        ((0, 1000), (5, 100), False),  # may be
        ((0, 1000), (10, 200), True),
        ((0, 1000), (1, 100), False),
        ((50, 1000), (5, 100), False),  # as the old one
        ((0, 0), (0, 0), False),
        ((0, 0), (10, 10), False),  # the old one may be as bad, for all we know
    ],
)
def test_a_rate_grew_only_if_chance_does_not_explain_it(
    old: tuple[float, float], new: tuple[float, float], is_sure: bool
) -> None:
    assert grew_surely(old, new, 0.01) is is_sure


def test_a_share_is_above_a_limit_only_if_chance_does_not_explain_it() -> None:
    assert not exceeds_surely(3, 20, 0.1)
    assert exceeds_surely(12, 20, 0.1)
    assert not exceeds_surely(0, 0, 0.1)


def test_nothing_is_neutral() -> None:
    assert NOTHING.plus(timed(0.3)) == timed(0.3)
    assert NOTHING.slower_than(1) == 0
