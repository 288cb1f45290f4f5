"""Breaches: of each rate, of times to first token, surely and as the figures stand."""

import pytest

from picker.rollout.figures import Figures
from picker.rollout.judge import Thresholds, breach
from tests.rollout.test_figures import BOUNDS, timed

OLD = Figures(requests=900, errors=1, ttft_bounds_s=BOUNDS, ttft_counts=(0.0, 850.0, 49.0, 0.0, 0.0))
LIMITS = Thresholds()


def like_old(**changes: float) -> Figures:
    counts = {"requests": 300.0, **changes}
    return Figures(**counts, ttft_bounds_s=BOUNDS, ttft_counts=(0.0, 283.0, 17.0, 0.0, 0.0))  # type: ignore[arg-type]


@pytest.mark.parametrize("surely", [False, True])
def test_what_does_as_well_breaches_nothing(surely: bool) -> None:
    assert breach(LIMITS, OLD, like_old(), surely=surely) == ""
    assert breach(LIMITS, OLD, Figures(), surely=surely) == ""


@pytest.mark.parametrize("surely", [False, True])
@pytest.mark.parametrize(
    ("member", "said"), [("errors", "error rate"), ("shed", "shed rate"), ("canceled", "rate of requests canceled")]
)
def test_each_rate_is_judged(member: str, said: str, surely: bool) -> None:
    found = breach(LIMITS, OLD, like_old(**{member: 90}), surely=surely)
    assert found.startswith(f"{said}")
    assert "30.0 % (90 of 300 requests) against 0." in found


def test_what_may_be_chance_is_no_breach_at_once_but_at_the_end() -> None:
    new = Figures(requests=100, errors=2)
    assert breach(LIMITS, OLD, new, surely=True) == ""
    assert "error rate 2.0 % (2 of 100 requests) against 0.1 % (1 of 900 requests)" in breach(
        LIMITS, OLD, new, surely=False
    )


@pytest.mark.parametrize("surely", [False, True])
def test_times_to_first_token_are_judged(surely: bool) -> None:
    found = breach(LIMITS, OLD, timed(*[0.3] * 60), surely=surely)
    assert found.startswith("time to first token p90 0.380 s against 0.195 s")
    assert breach(LIMITS, OLD, timed(*[0.15] * 60), surely=surely) == ""


@pytest.mark.parametrize("surely", [False, True])
def test_times_longer_by_less_than_the_slack_are_never_too_long(surely: bool) -> None:
    limits = Thresholds(ttft_slack_s=0.5)
    assert breach(limits, OLD, timed(*[0.3] * 60), surely=surely) == ""


def test_few_times_say_nothing() -> None:
    assert breach(LIMITS, OLD, timed(*[5.0] * 19), surely=False) == ""
    assert breach(LIMITS, timed(*[0.1] * 19), timed(*[5.0] * 60), surely=False) == ""


def test_without_anything_to_compare_with_only_rates_count() -> None:
    assert breach(LIMITS, Figures(), timed(*[5.0] * 60), surely=False) == ""
    assert "against none (no requests)" in breach(LIMITS, Figures(), Figures(requests=50, errors=5), surely=False)
