from typing import Any

from picker._core.quotas import Quota
from picker.admin.ratelimits import rate_limit_families


def lines(figures: list[dict[str, Any]]) -> list[str]:
    return [line.strip() for family in rate_limit_families(figures) for row in family.rows() for line in row]


def counted() -> dict[str, Any]:
    quota = Quota(seed=1)
    price = (0, 1, 1, 1)
    quota.set_rules([{"name": "all", "tiers": [[("minute", 10, price)]], "default": 0}])
    for tokens in (4, 9):
        hold = quota.hold()
        assert hold is not None
        if hold.reserve(b"m", tokens, 0, 0) == "ok":
            hold.settle(3, 2, 0, cached=1)
    return {"config": "", "rules": quota.tallies(), **quota.figures, "store": None}


def test_figures_by_rule() -> None:
    assert lines([counted()]) == [
        'picker_rate_limit_requests_total{config="",rule="all"} 1.0',
        'picker_rate_limit_rejected_total{config="",rule="all"} 1.0',
        'picker_rate_limit_unavailable_total{config="",rule="all"} 0.0',
        'picker_rate_limit_tokens_total{config="",rule="all",type="input"} 3.0',
        'picker_rate_limit_tokens_total{config="",rule="all",type="cached"} 1.0',
        'picker_rate_limit_tokens_total{config="",rule="all",type="output"} 2.0',
        'picker_rate_limit_counters{config=""} 1.0',
        'picker_rate_limit_crowded_total{config=""} 0.0',
    ]


def test_figures_of_a_store() -> None:
    store = {"batches": 2, "requests": 5, "errors": 1, "seconds": 0.25, "lost": 3, "is_reachable": False}
    found = lines([{**counted(), "config": "ns/pool", "lost": 4, "store": store}])[-6:]
    assert found == [
        'picker_rate_limit_store_up{config="ns/pool"} 0.0',
        'picker_rate_limit_store_lost_total{config="ns/pool"} 7.0',
        'picker_rate_limit_store_requests_total{config="ns/pool"} 5.0',
        'picker_rate_limit_store_batches_total{config="ns/pool"} 2.0',
        'picker_rate_limit_store_seconds_total{config="ns/pool"} 0.25',
        'picker_rate_limit_store_errors_total{config="ns/pool"} 1.0',
    ]


def test_nothing_is_shown_where_nothing_is_limited() -> None:
    assert lines([{"config": "", "rules": [], **Quota(seed=1).figures, "store": None}]) == []
