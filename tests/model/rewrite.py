"""Slow model of `picker._core.rewrite`: rules in a list, searched from the top; decisions in a Counter."""

from collections import Counter
from collections.abc import Sequence

Rule = tuple[str, str | None, Sequence[tuple[str, int | None]]]

LONGEST = 256


class Rewrites:
    def __init__(self, rules: Sequence[Rule], limit: int) -> None:
        self.limit = limit
        self.rules = list(rules)
        self.seen: list[str] = []
        self.counts: Counter[tuple[str, str, str]] = Counter()  # by the models' own rules
        self.tallies: Counter[tuple[str, str, str]] = Counter()  # by the generic one

    def rule(self, model: str | None) -> Rule | None:
        return next((rule for rule in self.rules if rule[1] == model), None)

    def choose(self, model: bytes, random: int) -> bytes | None:
        name = model.decode("utf-8", "surrogatepass")
        own = self.rule(name) if name else None
        rule = own or self.rule(None)
        if rule is None:
            return None
        target = drawn(rule, random)
        if own:
            self.counts[rule[0], name, target] += 1
        else:
            self.tallies[rule[0], self.label(model), target] += 1
        return target.encode()

    def label(self, model: bytes) -> str:
        """What the generic rule counts a model as."""
        try:
            name = model.decode()
        except UnicodeDecodeError:  # surrogates
            return "other"
        if name in self.seen or name == "other":
            return name
        if len(model) > LONGEST or len(self.seen) >= self.limit:
            return "other"
        self.seen.append(name)
        return name

    def replace(self, rules: Sequence[Rule]) -> None:
        before, after = self.rule(None), next((rule for rule in rules if rule[1] is None), None)
        if not before or not after or before[0] != after[0]:
            self.seen = []
        self.rules = list(rules)
        stay = {(rule[0], rule[1], target) for rule in self.in_force() for target, _ in rule[2]}
        self.counts = Counter({key: count for key, count in self.counts.items() if key in stay})
        anyone = {(name, target) for name, model, target in stay if model is None}
        self.tallies = Counter({key: count for key, count in self.tallies.items() if (key[0], key[2]) in anyone})

    def in_force(self) -> list[Rule]:
        return [rule for rule in self.rules if self.rule(rule[1]) is rule]


def drawn(rule: Rule, random: int) -> str:
    """Each target stands in a row as often as its weight says; twins stand together."""
    weights = [weight or 0 for _, weight in rule[2]]
    if not any(weights):
        weights = [1] * len(weights)
    shares: dict[str, int] = {}
    for (target, _), weight in zip(rule[2], weights, strict=True):
        shares[target] = shares.get(target, 0) + weight
    row = [target for target, share in shares.items() for _ in range(share)]
    return row[random % len(row)]
