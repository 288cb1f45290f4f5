"""Label and field selectors, as queries spell them."""

import re
from collections.abc import Callable, Mapping
from typing import Any

from tests.support.cluster.refusals import Refusal

Json = dict[str, Any]
Predicate = Callable[[Mapping[str, str]], bool]

_REQUIREMENT = re.compile(
    r"""\s*(?:
      !\s*(?P<absent>[\w./-]+)
    | (?P<key>[\w./-]+)\s*(?:
        (?P<sign>==|!=|=|>|<)\s*(?P<value>[\w.-]*)
      | \s(?P<set>in|notin)\s*\((?P<values>[^()]*)\)
      )?
    )\s*(?:,|$)""",
    re.VERBOSE,
)


def label_selector(text: str) -> Predicate:
    """Whether labels satisfy it. Raises Refusal 400."""
    wanted: list[Predicate] = []
    at = 0
    while at < len(text):
        found = _REQUIREMENT.match(text, at)
        if found is None:
            raise Refusal(400, f'unable to parse requirement: found {text[at:]!r} in "{text}"')
        wanted.append(_requirement(found))
        at = found.end()
    return lambda labels: all(each(labels) for each in wanted)


def _requirement(found: re.Match[str]) -> Predicate:
    absent, key, sign, value = found["absent"], found["key"], found["sign"], found["value"]
    if absent:
        return lambda labels: absent not in labels
    if found["set"]:
        values = {each.strip() for each in found["values"].split(",")}
        if found["set"] == "in":
            return lambda labels: key in labels and labels[key] in values
        return lambda labels: key not in labels or labels[key] not in values
    if sign is None:
        return lambda labels: key in labels
    if sign in "<>":
        return lambda labels: _compares(labels.get(key, ""), sign, int(value))
    if sign == "!=":
        return lambda labels: labels.get(key) != value
    return lambda labels: labels.get(key) == value


def _compares(label: str, sign: str, bound: int) -> bool:
    return label.isdigit() and (int(label) > bound if sign == ">" else int(label) < bound)


COMMON_FIELDS = ("metadata.name", "metadata.namespace")


def field_selector(text: str, supported: tuple[str, ...]) -> Callable[[Json], bool]:
    """Whether an object satisfies it. Raises Refusal 400 for a field that is not among the common and `supported`."""
    wanted: list[tuple[list[str], str, bool]] = []
    for term in filter(None, text.split(",")):
        found = re.fullmatch(r"([\w.]+)(==|!=|=)(.*)", term.strip())
        if found is None:
            raise Refusal(400, f"invalid selector: {term!r}; can't understand it")
        field, sign, value = found.groups()
        if field not in (*COMMON_FIELDS, *supported):
            raise Refusal(400, f"field label not supported: {field}")
        wanted.append((field.split("."), value, sign != "!="))
    return lambda each: all((_member(each, path) == value) is equal for path, value, equal in wanted)


def _member(each: Any, path: list[str]) -> str:
    for name in path:
        each = each.get(name) if isinstance(each, dict) else None
    return "" if each is None else str(each)
