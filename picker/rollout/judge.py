"""Whether the new side does worse than the old one by more than is allowed. Pure."""

import math
from collections.abc import Iterator

from msgspec import Struct

from picker.rollout.figures import Figures, exceeds_surely, grew_surely

__all__ = ["Thresholds", "breach"]

FEWEST = 10
"""Requests of the new side before anything is said of it."""
FEWEST_TIMED = 20
"""Requests of either side before anything is said of times to first token."""


class Thresholds(Struct, frozen=True, kw_only=True):
    """How much worse the new side may be. Rates are shares of requests, 0-1; an increase is new less old."""

    max_error_rate_increase: float = 0.01
    max_shed_rate_increase: float = 0.02
    max_cancel_rate_increase: float = 0.1
    max_ttft_ratio: float = 1.5
    ttft_quantile: float = 0.9
    ttft_slack_s: float = 0.05
    """A time to first token longer by no more than this is never too long, whatever the ratio."""
    min_requests: int = 100
    """Of the new side in a step, before the step can end."""


def breach(limits: Thresholds, old: Figures, new: Figures, *, surely: bool) -> str:
    """What the new side breaches, in words; "" if nothing.

    `surely`: only what chance does not explain, so that it can be asked at any time, of few requests. Otherwise the
    figures count as they stand, which is for the end of a step.
    """
    return next(_breaches(limits, old, new, surely=surely), "")


def _breaches(limits: Thresholds, old: Figures, new: Figures, *, surely: bool) -> Iterator[str]:
    for what, allowed, was, now in (
        ("error rate", limits.max_error_rate_increase, old.errors, new.errors),
        ("shed rate", limits.max_shed_rate_increase, old.shed, new.shed),
        ("rate of requests canceled by clients", limits.max_cancel_rate_increase, old.canceled, new.canceled),
    ):
        if _grew((was, old.requests), (now, new.requests), allowed, surely=surely):
            yield (
                f"{what} {_rate(now, new.requests)} against {_rate(was, old.requests)}: "
                f"an increase of more than {100 * allowed:g} percentage points"
            )
    yield from _slow(limits, old, new, surely=surely)


def _grew(old: tuple[float, float], new: tuple[float, float], allowed: float, *, surely: bool) -> bool:
    if new[1] < FEWEST:
        return False
    return grew_surely(old, new, allowed) if surely else _share(*new) - _share(*old) > allowed


def _slow(limits: Thresholds, old: Figures, new: Figures, *, surely: bool) -> Iterator[str]:
    """The quantile of the new is too high if more of its requests than a quantile leaves are above what is allowed."""
    if min(old.timed, new.timed) < FEWEST_TIMED:
        return
    was = old.ttft_quantile_s(limits.ttft_quantile)
    allowed_s = max(was * limits.max_ttft_ratio, was + limits.ttft_slack_s)
    above, left = new.slower_than(allowed_s), 1 - limits.ttft_quantile
    if exceeds_surely(above, new.timed, left) if surely else above > left * new.timed:
        now = new.ttft_quantile_s(limits.ttft_quantile)
        yield (
            f"time to first token p{100 * limits.ttft_quantile:g} {now:.3f} s against {was:.3f} s: "
            f"more than {allowed_s:.3f} s ({limits.max_ttft_ratio:g} times, or {limits.ttft_slack_s:g} s more)"
        )


def _share(part: float, whole: float) -> float:
    return part / whole if whole > 0 else 0.0


def _rate(part: float, whole: float) -> str:
    if math.isclose(whole, 0):
        return "none (no requests)"
    return f"{100 * part / whole:.1f} % ({part:.0f} of {whole:.0f} requests)"
