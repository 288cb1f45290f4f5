"""Rate limits: what a request pays for them, and that neither keys nor rules make it much more."""

from collections.abc import Callable

import pytest

from picker._core.quotas import Quota

Seconds = Callable[[Callable[[], object]], float]
REQUESTS, TOTAL = (1, 0, 0, 0), (0, 1, 1, 1)
KEYS = 10_000


def quota_of(rules: int) -> Quota:
    quota = Quota(seed=1, counters=1 << 18)
    limits = [("minute", 1 << 40, REQUESTS), ("day", 1 << 40, TOTAL)]
    quota.set_rules(
        {"name": str(number), "source": ("header", "x-api-key"), "tiers": [limits], "default": 0, "per_model": True}
        for number in range(rules)
    )
    return quota


@pytest.mark.parametrize("rules", [1, 8])
def test_reserving_and_settling(rules: int, seconds: Seconds, target: Callable[..., None]) -> None:
    """By way of Python, which is half of it: three calls."""
    quota = quota_of(rules)
    headers = [[(b"x-api-key", b"key %d" % number)] for number in range(KEYS)]
    turn = iter(range(1 << 62))

    def request() -> None:
        number = next(turn)
        hold = quota.hold(headers[number % KEYS])
        assert hold is not None
        hold.reserve(b"model", 100, 200, number)
        hold.settle(100, 150, number)

    for _ in range(KEYS):
        request()
    took_s = seconds(request)
    target(f"quotas: reserve and settle, {2 * rules} limits, {KEYS} keys", took_s * 1e6, 1.5 + 0.3 * rules, "us")
