"""Objects to what they come to: rewrite rules in order of precedence, and the priorities of objectives. Pure."""

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from typing import TypeAlias

from picker.resources.objects import InferenceModel, InferenceModelRewrite, InferenceObjective, Resource

__all__ = ["CRITICALITY", "RewriteRules", "objectives", "of_pool", "rewrite_rules"]

Rule: TypeAlias = tuple[str, str | None, tuple[tuple[str, int | None], ...]]
RewriteRules: TypeAlias = tuple[Rule, ...]
"""(name of the object, model or None for any, ((target, weight or None), ...)), as `Engine.set_rewrites` takes them."""

CRITICALITY = {"Critical": 1, "Standard": 0, "Sheddable": -1}
"""The priority that a criticality of the retired kind comes to: above the default, the default, first to be shed."""

_NOT_YET = datetime.max.replace(tzinfo=UTC)  # no API server has seen it: as if it came last


def of_pool(
    objects: Iterable[Resource], *, pool: str = "", namespace: str = "", group: str = ""
) -> tuple[Resource, ...]:
    """The objects for a pool: those that name it, in its namespace, of its API group. What is empty does not count;
    nor does the namespace of an object that has none, as in a file."""
    return tuple(each for each in objects if _is_for(each, pool, namespace, group))


def _is_for(each: Resource, pool: str, namespace: str, group: str) -> bool:
    ref = each.spec.poolRef
    if pool and (ref.name != pool or ref.kind != "InferencePool"):
        return False
    return each.metadata.namespace in ("", namespace or each.metadata.namespace) and ref.group == (group or ref.group)


def rewrite_rules(objects: Iterable[Resource], *, pool: str = "", namespace: str = "", group: str = "") -> RewriteRules:
    """The rules in force, the first for a model being the only one, and the one for any model last.

    A rule for a model goes before one for any; then the oldest object counts, then the first by name, then the first
    rule in the object. With `pool`, `namespace`, `group` the objects of other pools count for nothing: see `of_pool`.
    """
    found: dict[str | None, Rule] = {}
    for each in sorted(of_pool(objects, pool=pool, namespace=namespace, group=group), key=_age):
        for rule in _rules(each):
            found.setdefault(rule[1], rule)
    generic = found.pop(None, None)
    return (*found.values(), *([generic] if generic else []))


def objectives(objects: Iterable[Resource], *, pool: str = "", namespace: str = "", group: str = "") -> dict[str, int]:
    """The priority of each objective that requests can name, by its name, for the objects of a pool as above.

    An `InferenceModel` is one too, by `CRITICALITY`; without a criticality it is Standard. An `InferenceObjective` of
    its name goes before it; of several of one name and kind the oldest counts.
    """
    found: dict[str, int] = {}
    ours = sorted(of_pool(objects, pool=pool, namespace=namespace, group=group), key=_age)
    for each in ours:
        if isinstance(each, InferenceObjective):
            found.setdefault(each.metadata.name, each.spec.priority)
    for each in ours:
        if isinstance(each, InferenceModel):
            found.setdefault(each.metadata.name, CRITICALITY[each.spec.criticality or "Standard"])
    return found


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
