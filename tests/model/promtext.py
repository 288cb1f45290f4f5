"""Slow model of `picker._core.promtext`: a regular expression per line."""

import math
import re

from tests.model import floats

Want = tuple[str, dict[str, str], str, tuple[str, ...]]
Found = tuple[float, tuple[bytes | None, ...]]
Labels = list[tuple[bytes, bytes]]

NAME = re.compile(rb"[a-zA-Z_:][a-zA-Z0-9_:]*(?=[ \t{]|$)")
LABEL = re.compile(rb'[ \t]*([a-zA-Z_][a-zA-Z0-9_]*)[ \t]*=[ \t]*"((?:[^"\\]|\\.)*)"[ \t]*', re.DOTALL)
ESCAPES = {b"\\\\": b"\\", b'\\"': b'"', b"\\n": b"\n"}


def unescape(raw: bytes) -> bytes:
    return re.sub(rb"\\.", lambda found: ESCAPES.get(found[0], found[0]), raw, flags=re.DOTALL)


def parse_labels(rest: bytes) -> tuple[Labels, bytes] | None:
    """The labels of `{...}` and what stands behind it."""
    labels: Labels = []
    rest = rest[1:].lstrip(b" \t")
    while not rest.startswith(b"}"):
        found = LABEL.match(rest)
        if found is None:
            return None
        labels.append((found[1], unescape(found[2])))
        rest = rest[found.end() :]
        if rest.startswith(b","):
            rest = rest[1:].lstrip(b" \t")
        elif not rest.startswith(b"}"):
            return None
    return labels, rest[1:]


def parse_sample(rest: bytes) -> tuple[Labels, float] | None:
    """Labels and value of what stands behind a name, or None if it is malformed."""
    parts = ([], rest)
    if rest.lstrip(b" \t").startswith(b"{"):
        parts = parse_labels(rest.lstrip(b" \t"))
    if parts is None:
        return None
    numbers = [floats.parse(token) for token in re.split(rb"[ \t]+", parts[1].strip(b" \t"))]
    if len(numbers) > 2 or None in numbers:
        return None
    return parts[0], numbers[0]


def combine(how: str, series: list[tuple[float, Labels]]) -> tuple[float, Labels]:
    values = [value for value, _ in series]
    if how == "sum":
        total = values[0]
        for value in values[1:]:
            total += value
        return total, series[0][1]
    if how == "newest":
        series = series[::-1]
    return next(one for one in series if one[0] == max(values))


def scan(wants: list[Want], page: bytes) -> tuple[list[Found | None], int]:
    """What each want finds, and how many lines of wanted names are malformed."""
    malformed = 0
    matching: list[list[tuple[float, Labels]]] = [[] for _ in wants]
    for raw in page.split(b"\n"):
        line = raw.lstrip(b" \t")
        if line.startswith(b"#"):
            continue
        line = line.rstrip(b" \t\r")
        name = NAME.match(line)
        if name is None or not any(want[0].encode() == name[0] for want in wants):
            continue
        sample = parse_sample(line[name.end() :])
        if sample is None:
            malformed += 1
            continue
        labels, value = sample
        for (wanted, filters, _, _), found in zip(wants, matching, strict=True):
            matches = all((label.encode(), text.encode()) in labels for label, text in filters.items())
            if wanted.encode() == name[0] and matches and not math.isnan(value):
                found.append((value, labels))
    results: list[Found | None] = []
    for (_, _, how, captured), series in zip(wants, matching, strict=True):
        if not series:
            results.append(None)
            continue
        value, labels = combine(how, series)
        first = dict(reversed(labels))
        results.append((value, tuple(first.get(label.encode()) for label in captured)))
    return results, malformed
