"""The settings as people read them: help texts and the README's table, drawn from `settings.py` itself."""

import ast
import dataclasses
import inspect
import itertools
from collections.abc import Iterator
from typing import Any

from picker.config import settings
from picker.config.units import format_duration

__all__ = ["GROUPS", "field_docs", "options", "settings_table", "shown_default"]

GROUPS: dict[str, type[Any]] = {
    "listen": settings.ListenSettings,
    "limits": settings.LimitSettings,
    "scrape": settings.ScrapeSettings,
    "routing": settings.RoutingSettings,
    "discovery": settings.DiscoverySettings,
    "log": settings.LogSettings,
}
"""The groups of `ServeSettings` that hold options, by field name."""

_UNITS = {"duration": "duration", "bytes": "bytes", "port": "port", "count": "number", "boolean": "true, false"}
_BINARY = ((1 << 30, "Gi"), (1 << 20, "Mi"), (1 << 10, "Ki"))


def field_docs(group: type[Any]) -> dict[str, str]:
    """The docstring under each field of a settings class; empty if its source is not at hand."""
    try:
        tree = ast.parse(inspect.getsource(group))
    except (OSError, TypeError):
        return {}
    body = tree.body[0].body if isinstance(tree.body[0], ast.ClassDef) else []
    docs = {}
    for statement, after in itertools.pairwise(body):
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
                docs[statement.target.id] = inspect.cleandoc(str(after.value.value))
    return docs


def options(group: type[Any]) -> Iterator[dataclasses.Field[Any]]:
    """The fields of a settings class that have a flag."""
    return (field for field in dataclasses.fields(group) if "flag" in field.metadata)


def shown_default(field: dataclasses.Field[Any]) -> str:
    """The default as one would write it after the flag."""
    kind: str = field.metadata["kind"]
    value: Any = field.default
    if kind == "boolean":
        return str(value).lower()
    if kind == "duration":
        return format_duration(float(value))
    if kind == "bytes":
        scale, suffix = next(((s, name) for s, name in _BINARY if value and value % s == 0), (1, ""))
        return f"{value // scale}{suffix}"
    return str(value)


def settings_table() -> str:
    """The flags of `picker serve` as a Markdown table: name, default, unit, meaning."""
    rows = ["| flag | default | unit | meaning |", "| --- | --- | --- | --- |"]
    for group in GROUPS.values():
        docs = field_docs(group)
        for field in options(group):
            choices = ", ".join(field.metadata["choices"])
            unit = choices or _UNITS.get(field.metadata["kind"], "text")
            meaning = " ".join(docs[field.name].split())
            default = shown_default(field)
            rows.append(f"| `--{field.metadata['flag']}` | {f'`{default}`' if default else ''} | {unit} | {meaning} |")
    return "\n".join(rows) + "\n"
