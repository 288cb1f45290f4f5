"""The notation for one wanted series: `name` or `name{label=value,...}`, as `core-metrics-extractor` takes it."""

import re
from typing import NamedTuple

__all__ = ["MetricSpec", "parse_spec"]

_SPEC = re.compile(r"\s*([a-zA-Z_:][a-zA-Z0-9_:]*)\s*(?:\{(.*)\}\s*)?")
_LABEL = re.compile(r'\s*([a-zA-Z_][a-zA-Z0-9_]*)\s*=\s*("[^"]*"|[^",\s]+)\s*')


class MetricSpec(NamedTuple):
    """A metric name, and the values its labels must have."""

    name: str
    filters: dict[str, str]


def parse_spec(text: str) -> MetricSpec:
    """The series `text` means; label values may stand in double quotes. Raises ValueError naming what is wrong."""
    found = _SPEC.fullmatch(text)
    if found is None:
        raise ValueError(f"metric spec {text!r} is neither name nor name{{label=value,...}}")
    name, inside = found.groups()
    filters: dict[str, str] = {}
    for part in inside.split(",") if inside and inside.strip() else ():
        label = _LABEL.fullmatch(part)
        if label is None:
            raise ValueError(f"metric spec {text!r}: {part.strip()!r} is not label=value")
        filters[label[1]] = label[2].strip('"')
    return MetricSpec(name, filters)
