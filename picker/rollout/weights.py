"""The weights of an HTTPRoute or an InferenceModelRewrite: which entries a rollout moves, and to what. Pure.

Objects are what JSON says, so that members nobody here knows stay. A *row* is one list of weighted entries: the
`backendRefs` of a rule of a route, or the `targets` of a rule of a rewrite.
"""

import copy
import math
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, TypeAlias

from picker.errors import UsageError
from picker.rollout.machine import Plan

__all__ = [
    "Json",
    "Row",
    "Weights",
    "are_same",
    "current",
    "expected",
    "in_words",
    "original_of",
    "rows_of",
    "with_weights",
]

Json: TypeAlias = dict[str, Any]
Weights: TypeAlias = dict[str, int]
"""Of the entries of a row, by name."""

MOST_WEIGHT = 1_000_000
_MEMBERS = {"HTTPRoute": "backendRefs", "InferenceModelRewrite": "targets"}
_POOL_GROUPS = ("inference.networking.k8s.io", "inference.networking.x-k8s.io")


class Row(NamedTuple):
    """One list of entries, in the rule of that number."""

    rule: int
    entries: list[Json]


def rows_of(found: Json, plan: Plan) -> list[Row]:
    """The rows in which the old side has traffic. Raises UsageError where that is not clear."""
    rows = [row for row in _rows(found, plan) if _weights(row, found, plan).get(plan.old, 0) > 0]
    for row in rows:
        names = [_name(entry, found, plan) for entry in row.entries]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise UsageError(f"rule {row.rule} of the {plan.kind} names {twice[0]} twice; leave one entry of it")
    return rows


def original_of(found: Json, plan: Plan) -> dict[int, list[Json]]:
    """What the rows were before, by rule, for a rollback."""
    return {row.rule: copy.deepcopy(row.entries) for row in rows_of(found, plan)}


def current(found: Json, plan: Plan, original: Mapping[int, list[Json]]) -> dict[int, Weights]:
    """The weights now of the rows that a rollout moves; a row that is gone has none."""
    there = {row.rule: _weights(row, found, plan) for row in _rows(found, plan)}
    return {rule: there.get(rule, {}) for rule in original}


def expected(found: Json, plan: Plan, original: Mapping[int, list[Json]], share: int) -> dict[int, Weights]:
    """What they are to be when the new side has `share` per cent; 0 is as it was.

    But for a backend that was added: it stays, with a weight of 0. A gateway that is told to forget it would cut off
    the requests that it still answers.
    """
    rows = {rule: _weights(Row(rule, entries), found, plan) for rule, entries in original.items()}
    if share:
        return {rule: _shared(weights, plan, share) for rule, weights in rows.items()}
    stays = [plan.new] if plan.kind == "HTTPRoute" else []
    return {rule: weights | {name: 0 for name in stays if name not in weights} for rule, weights in rows.items()}


def _shared(weights: Weights, plan: Plan, share: int) -> Weights:
    """The traffic of both sides parted anew; what others have stays their part of all."""
    both = weights.get(plan.old, 0) + weights.get(plan.new, 0)
    others = {name: weight for name, weight in weights.items() if name not in (plan.old, plan.new)}
    scale = 100 if any(others.values()) else 1
    part = both if any(others.values()) else 1
    wanted = {name: weight * scale for name, weight in weights.items()}
    wanted[plan.old], wanted[plan.new] = part * (100 - share), part * share
    wanted = _reduced(wanted)
    if plan.kind == "InferenceModelRewrite":  # knows no weight of 0: what has none is not listed
        return {name: weight for name, weight in wanted.items() if weight}
    return wanted


def _reduced(weights: Weights) -> Weights:
    """The same proportions in numbers an API server takes."""
    if sum(weights.values()) != 100:
        divisor = math.gcd(*weights.values()) or 1
        weights = {name: weight // divisor for name, weight in weights.items()}
    highest = max(weights.values())
    if highest <= MOST_WEIGHT:
        return weights
    return {name: max(1, weight * MOST_WEIGHT // highest) if weight else 0 for name, weight in weights.items()}


def with_weights(found: Json, plan: Plan, original: Mapping[int, list[Json]], share: int) -> list[Json]:
    """The rules of the object with those weights; what else is in the entries stays as it is."""
    rules = copy.deepcopy(_rules(found))
    member = _MEMBERS[plan.kind]
    wanted = expected(found, plan, original, share)
    for rule, weights in wanted.items():
        if rule < len(rules):
            entries = list(_entries(rules[rule], member))
            rules[rule][member] = list(_weighted(entries, original[rule], weights, found, plan, share))
    return rules


def _weighted(
    entries: list[Json], original: list[Json], weights: Weights, found: Json, plan: Plan, share: int
) -> Iterator[Json]:
    now = {_name(entry, found, plan): entry for entry in entries}
    before = {_name(entry, found, plan): entry for entry in original}
    for name, weight in weights.items():
        entry = dict(now.get(name) or before.get(name) or _like(before[plan.old], plan))
        if share or name not in before or "weight" in before[name]:
            entry["weight"] = weight
        else:
            entry.pop("weight", None)
        yield entry


def _like(old: Json, plan: Plan) -> Json:
    """An entry for the new side, where there is none."""
    if plan.kind == "InferenceModelRewrite":
        return {**old, "modelRewrite": plan.new}
    namespace, _, name = plan.new.partition("/")
    entry = {**old, "name": name, "group": plan.new_group or old.get("group")}
    if namespace != plan.old.partition("/")[0]:
        entry["namespace"] = namespace
    return entry


def are_same(one: Mapping[int, Weights], other: Mapping[int, Weights]) -> bool:
    """Whether they part the traffic alike; an entry with a weight of 0 is as good as none."""
    return _positive(one) == _positive(other)


def _positive(rows: Mapping[int, Weights]) -> dict[int, Weights]:
    return {rule: {name: weight for name, weight in weights.items() if weight} for rule, weights in rows.items()}


def in_words(rows: Mapping[int, Weights]) -> str:
    """`rule 0: old 90, new 10`."""
    return "; ".join(
        f"rule {rule}: " + (", ".join(f"{name} {weight}" for name, weight in weights.items()) or "gone")
        for rule, weights in rows.items()
    )


def _rules(found: Json) -> list[Json]:
    spec = found.get("spec")
    rules = spec.get("rules") if isinstance(spec, dict) else None
    return [rule if isinstance(rule, dict) else {} for rule in rules] if isinstance(rules, list) else []


def _entries(rule: Json, member: str) -> Iterator[Json]:
    entries = rule.get(member)
    yield from (entry for entry in entries if isinstance(entry, dict)) if isinstance(entries, list) else ()


def _rows(found: Json, plan: Plan) -> Iterator[Row]:
    for number, rule in enumerate(_rules(found)):
        if plan.kind == "HTTPRoute" or _is_for(rule, plan.model):
            yield Row(number, list(_entries(rule, _MEMBERS[plan.kind])))


def _is_for(rule: Json, model: str) -> bool:
    matches = rule.get("matches")
    models = [match.get("model") for match in matches if isinstance(match, dict)] if isinstance(matches, list) else []
    return any(isinstance(each, dict) and each.get("value") == model for each in models)


def _name(entry: Json, found: Json, plan: Plan) -> str:
    """How the sides are named: a target model, or a pool as `namespace/name`. Others never look like either."""
    if plan.kind == "InferenceModelRewrite":
        return str(entry.get("modelRewrite", ""))
    namespace = entry.get("namespace") or found.get("metadata", {}).get("namespace") or "default"
    name = f"{namespace}/{entry.get('name', '')}"
    if entry.get("kind") == "InferencePool" and entry.get("group") in _POOL_GROUPS:
        return name
    return f"{entry.get('kind') or 'Service'} {name}:{entry.get('port', '')}"


def _weights(row: Row, found: Json, plan: Plan) -> Weights:
    return {_name(entry, found, plan): _weight(entry) for entry in row.entries}


def _weight(entry: Json) -> int:
    """One that is left out is 1, in both kinds."""
    weight = entry.get("weight")
    return weight if isinstance(weight, int) and not isinstance(weight, bool) else 1
