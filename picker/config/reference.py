"""Settings and plugin types as people read them: help texts and tables of the docs, drawn from what declares them."""

import ast
import dataclasses
import inspect
import itertools
from collections.abc import Iterator
from typing import Any

from picker.config import settings
from picker.config.catalogue import ALIASES, DEPRECATED, SCHEDULING, SUPPORTED, PluginType
from picker.config.parameters import NoParameters, Parameters
from picker.config.refused import KNOWN_UNSUPPORTED
from picker.config.units import format_duration

__all__ = ["GROUPS", "field_docs", "options", "plugins_table", "settings_table", "shown_default"]

GROUPS: dict[str, type[Any]] = {
    "listen": settings.ListenSettings,
    "admin": settings.AdminSettings,
    "limits": settings.LimitSettings,
    "scrape": settings.ScrapeSettings,
    "routing": settings.RoutingSettings,
    "discovery": settings.DiscoverySettings,
    "kubernetes": settings.KubernetesSettings,
    "election": settings.ElectionSettings,
    "body_routing": settings.BodyRoutingSettings,
    "log": settings.LogSettings,
}
"""The groups of `ServeSettings` that hold options, by field name."""

_UNITS = {
    "duration": "duration",
    "bytes": "bytes",
    "port": "port",
    "count": "number",
    "boolean": "true, false",
    "ports": "ports",
}
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
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)


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


def plugins_table() -> str:
    """Every plugin type a configuration may name as a Markdown table: type, answer, what it does or what to use."""
    rows = ["| type | | what it does here, or what to use instead |", "| --- | --- | --- |"]
    rows += [f"| `{name}` | runs | {_meaning(name, kind)} |" for name, kind in SUPPORTED.items()]
    rows += [f"| `{name}` | refused | {instead} |" for name, instead in KNOWN_UNSUPPORTED.items()]
    return "\n".join(rows) + "\n"


def _meaning(name: str, kind: PluginType) -> str:
    """The type's own words, and the parameters of it that change nothing."""
    if name in ALIASES and name not in DEPRECATED:
        return f"another name of `{ALIASES[name]}`"
    role = kind.role.value if kind.role not in SCHEDULING else f"**{kind.role.value}**"
    said = " ".join((kind.parameters.__doc__ or "").split("\n\n")[0].split()) if kind.parameters else ""
    idle = sorted(kind.parameters.no_effect) if kind.parameters and issubclass(kind.parameters, Parameters) else []
    parts = [f"{role}: {said}" if said and kind.parameters is not NoParameters else role]
    parts += [f"Deprecated: use {DEPRECATED[name]}."] if name in DEPRECATED else []
    parts += [f"Without effect: {', '.join(f'`{member}`' for member in idle)}."] if idle else []
    return " ".join(parts).replace("|", "\\|")
