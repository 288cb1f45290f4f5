"""Rate limits: what a request pays for them, and that neither keys nor rules make it much more."""

from benchmarks.cases.case import Action, Case, Growth
from picker._core.quotas import Quota

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


def reserving(rules: int, keys: int = KEYS) -> Action:
    """By way of Python, which is half of it: three calls. Each key has come before."""
    quota = quota_of(rules)
    headers = [[(b"x-api-key", b"key %d" % number)] for number in range(keys)]
    turn = iter(range(1 << 62))

    def request() -> None:
        number = next(turn)
        hold = quota.hold(headers[number % keys])
        assert hold is not None
        hold.reserve(b"model", 100, 200, number)
        hold.settle(100, 150, number)

    for _ in range(keys):
        request()
    return request


def each_key(keys: int) -> Action:
    request = reserving(1, keys)
    return lambda: [request() for _ in range(1000)]


CASES = [
    Case(f"quotas: reserve and settle, {2 * rules} limits, {KEYS} keys", lambda n=rules: reserving(n), limit=limit)
    for rules, limit in ((1, 1.8), (8, 3.9))
]
GROWTHS = [
    Growth("quotas: 1,000 requests of n keys", each_key, 1000, "1"),
    Growth("quotas: reserve and settle under n rules", lambda n: reserving(n, 100), 1, "n"),
]
