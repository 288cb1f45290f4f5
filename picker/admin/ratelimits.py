"""What rate limits count, as metrics: by rule, never by key."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from picker.admin.exposition import AnyFamily, Counters, Gauges

__all__ = ["rate_limit_families"]

_RULE = ("config", "rule")
_CONFIG = ("config",)
_BY_RULE = (
    ("picker_rate_limit_requests", "Requests let go by the rule.", "requests"),
    ("picker_rate_limit_rejected", "Requests refused by the rule.", "rejected"),
    ("picker_rate_limit_unavailable", "Requests decided without the store, which could not be reached.", "unavailable"),
)
_TOKENS = ("input", "cached", "output")
_BY_STORE = (
    ("picker_rate_limit_store_requests", "Requests that the store was asked about.", "requests"),
    ("picker_rate_limit_store_batches", "Batches of them.", "batches"),
    ("picker_rate_limit_store_seconds", "Time that batches took, together.", "seconds"),
    ("picker_rate_limit_store_errors", "Batches and settlements that failed, or took too long.", "errors"),
)


def rate_limit_families(figures: Sequence[Mapping[str, Any]]) -> Iterator[AnyFamily]:
    """The families of `RateLimiting.figures()`; configurations without rules show nothing."""
    used = [one for one in figures if one["rules"] or one["store"] is not None]
    if not used:
        return
    for name, about, key in _BY_RULE:
        family = Counters(name, about, _RULE)
        for one in used:
            for rule in one["rules"]:
                family.add((one["config"], rule["rule"]), rule[key])
        yield family
    tokens = Counters(
        "picker_rate_limit_tokens", "Tokens of requests that the rule let go; cached ones are input, too.",
        (*_RULE, "type"),
    )  # fmt: skip
    for one in used:
        for rule in one["rules"]:
            for kind in _TOKENS:
                tokens.add((one["config"], rule["rule"], kind), rule[kind])
    yield tokens
    yield from _of_counters(used)
    yield from _of_stores([one for one in used if one["store"] is not None])


def _of_counters(used: Sequence[Mapping[str, Any]]) -> Iterator[AnyFamily]:
    counters = Gauges("picker_rate_limit_counters", "Counters in memory.", _CONFIG)
    crowded = Counters(
        "picker_rate_limit_crowded", "Charges to a counter that keys share, as there was no room for more.", _CONFIG
    )
    for one in used:
        counters.add((one["config"],), one["counters"])
        crowded.add((one["config"],), one["crowded"])
    yield from (counters, crowded)


def _of_stores(used: Sequence[Mapping[str, Any]]) -> Iterator[AnyFamily]:
    up = Gauges("picker_rate_limit_store_up", "1 while the store can be reached.", _CONFIG)
    lost = Counters("picker_rate_limit_store_lost", "Settlements that the store was never told.", _CONFIG)
    for one in used:
        up.add((one["config"],), float(one["store"]["is_reachable"]))
        lost.add((one["config"],), one["lost"] + one["store"]["lost"])
    yield from (up, lost)
    for name, about, key in _BY_STORE:
        family = Counters(name, about, _CONFIG)
        for one in used:
            family.add((one["config"],), one["store"][key])
        yield family
