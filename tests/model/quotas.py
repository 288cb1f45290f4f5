"""Slow model of `picker._core.quotas`: a dict of what was used, by limit, key, model and window; room for all of them.

Only what a process alone does: what a store says is the store's matter.
"""

from dataclasses import dataclass, field
from typing import Any

from tests.model.counters import LENGTHS_NS

UNIT = 1000
KINDS = ("second", "minute", "hour", "day")

Limit = tuple[str, int, tuple[float, float, float, float]]
Counter = tuple[str, Limit, bytes, bytes]


@dataclass
class Hold:
    rules: list[dict[str, Any]]
    keys: dict[bytes, bytes]
    charges: list[tuple[Counter, int, int]] = field(default_factory=list)  # counter, window, cost


def tier_of(rule: dict[str, Any], keys: dict[bytes, bytes], model: bytes) -> tuple[int | None, bytes]:
    """The tier that counts, if any, and the key it counts for."""
    key = keys.get(rule["source"][1].encode(), b"") if rule.get("source") else b""
    if rule.get("models") is not None and model.decode() not in rule["models"]:
        return None, key
    if rule.get("source") and not key:
        return rule.get("absent"), key
    return rule.get("keys", {}).get(key.decode(), rule.get("default")), key


def price(limit: Limit, input: int, cached: int, output: int) -> int:
    request, of_input, of_cached, of_output = (round(one * UNIT) for one in limit[2])
    return request + (input - cached) * of_input + cached * of_cached + output * of_output


class Quota:
    def __init__(self) -> None:
        self.rules: list[dict[str, Any]] = []
        self.used: dict[tuple[Counter, int], int] = {}

    def hold(self, keys: dict[bytes, bytes]) -> Hold:
        return Hold(self.rules, keys)

    def _counters(self, hold: Hold, model: bytes) -> list[Counter]:
        found = []
        for rule in hold.rules:
            tier, key = tier_of(rule, hold.keys, model)
            if tier is not None:
                named = model if rule.get("per_model") else b""
                found += [(rule["name"], limit, key, named) for limit in rule["tiers"][tier]]
        return found

    def reserve(self, hold: Hold, model: bytes, input: int, output: int, wall_ns: int) -> str:
        charges = []
        for counter in self._counters(hold, model):
            window, cost = window_of(counter, wall_ns), price(counter[1], input, 0, output)
            if self.used.get((identity(counter), window), 0) + max(cost, 1) > counter[1][1] * UNIT:
                return "limit"
            charges.append((counter, window, cost))
        hold.charges = charges
        for counter, window, cost in charges:
            self._use(counter, window, cost)
        return "ok"

    def settle(self, hold: Hold, input: int, output: int, cached: int, wall_ns: int) -> None:
        for counter, window, cost in hold.charges:
            rest = price(counter[1], input, min(cached, input), output) - cost
            lasts = window == window_of(counter, wall_ns)
            if lasts or rest > 0:
                self._use(counter, window_of(counter, wall_ns), rest)

    def give_back(self, hold: Hold, wall_ns: int) -> None:
        for counter, window, cost in hold.charges:
            if window == window_of(counter, wall_ns):
                self._use(counter, window, -cost)

    def _use(self, counter: Counter, window: int, amount: int) -> None:
        place = identity(counter), window
        self.used[place] = self.used.get(place, 0) + amount


def window_of(counter: Counter, wall_ns: int) -> int:
    return wall_ns // LENGTHS_NS[KINDS.index(counter[1][0])]


def identity(counter: Counter) -> Any:
    """The amount is no part of it."""
    rule, (window, _, prices), key, model = counter
    return rule, window, prices, key, model
