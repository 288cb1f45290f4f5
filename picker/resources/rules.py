"""Objects to the rewrite rules they come to, in order of precedence. A pure function of its arguments."""

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from typing import TypeAlias

from picker.resources.objects import InferenceModel, InferenceModelRewrite, Resource

__all__ = ["RewriteRules", "objects_of", "rewrite_rules"]

Rule: TypeAlias = tuple[str, str | None, tuple[tuple[str, int | None], ...]]
RewriteRules: TypeAlias = tuple[Rule, ...]
"""(name of the object, model or None for any, ((target, weight or None), ...)), as `Engine.set_rewrites` takes them."""

_NOT_YET = datetime.max.replace(tzinfo=UTC)  # no API server has seen it: as if it came last


def rewrite_rules(objects: Iterable[Resource], *, pool: str = "") -> RewriteRules:
    """The rules in force, the first for a model being the only one, and the one for any model last.

    A rule for a model goes before one for any; then the oldest object counts, then the first by name, then the first
    rule in the object. With `pool` the objects of other pools count for nothing.
    """
    ours = [each for each in objects if not pool or each.spec.poolRef.name == pool]
    found: dict[str | None, Rule] = {}
    for each in sorted(ours, key=_age):
        for rule in _rules(each):
            found.setdefault(rule[1], rule)
    generic = found.pop(None, None)
    return (*found.values(), *([generic] if generic else []))


def _age(each: Resource) -> tuple[datetime, str, str]:
    return each.metadata.creationTimestamp or _NOT_YET, each.metadata.name, each.metadata.namespace


def _rules(each: Resource) -> Iterator[Rule]:
    name = each.metadata.name
    if isinstance(each, InferenceModelRewrite):
        for rule in each.spec.rules:
            targets = tuple((target.modelRewrite, target.weight) for target in rule.targets)
            for model in [match.model for match in rule.matches] or [None]:
                yield name, model.value if model else None, targets
    elif isinstance(each, InferenceModel) and each.spec.targetModels:
        yield name, each.spec.modelName, tuple((target.name, target.weight) for target in each.spec.targetModels)


def objects_of(pool: str, objects: Iterable[Resource]) -> tuple[Resource, ...]:
    """Those for the pool of that name; all if it has none ("")."""
    return tuple(each for each in objects if not pool or each.spec.poolRef.name == pool)
