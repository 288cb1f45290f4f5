"""An effective configuration told in words, for `picker config check` and the log at the start."""

from collections.abc import Iterable, Iterator
from typing import Any

import msgspec

from picker.config.catalogue import SCHEDULING, Role
from picker.config.model import PickerConfig, PluginSpec, WeightedPlugin
from picker.config.units import Seconds, format_duration
from picker.errors import printable

__all__ = ["describe"]

_SECTIONS = (
    ("filters", Role.FILTER, Role.DETECTOR),
    ("scorers", Role.SCORER),
    ("plugins", Role.SCHEDULING),
    ("picker", Role.PICKER),
)


def describe(config: PickerConfig) -> str:
    """The plan a configuration comes to, as lines of text; ends with a newline."""
    return "\n".join(map(printable, _lines(config))) + "\n"


def _lines(config: PickerConfig) -> Iterator[str]:
    for profile in config.profiles:
        yield f"profile {profile.name}"
        for title, *roles in _SECTIONS:
            yield from _section(title, profile.of(*roles), weights=title in ("scorers", "plugins"))
    used = {plugin.spec.name for plugin in config.profile.plugins}
    others = [spec for spec in config.plugins if spec.role not in SCHEDULING and spec.name not in used]
    if others:
        yield "beside it"
        yield from (f"  {_plugin(spec)}" for spec in others)
    if config.response_tracking == "off":
        yield "responses are not looked at: load is what metrics say"
    if config.response_tracking == "headers":
        yield "responses are looked at as far as their headers: no usage, no token times"
    if not config.scraping:
        yield "metrics are not scraped"
    if config.warnings:
        yield f"warnings ({len(config.warnings)})"
        yield from (f"  {warning}" for warning in config.warnings)


def _section(title: str, plugins: Iterable[WeightedPlugin], *, weights: bool) -> Iterator[str]:
    for index, plugin in enumerate(plugins):
        if index == 0:
            yield f"  {title}"
        weight = f"{plugin.weight:g} × " if weights else ""
        yield f"    {weight}{_plugin(plugin.spec)}"


def _plugin(spec: PluginSpec) -> str:
    name = spec.type if spec.name == spec.type else f"{spec.type} (named {spec.name})"
    parameters = " ".join(
        f"{key}={_value(value)}" for key, value in _items(spec.parameters) if value not in (None, "", ())
    )
    return f"{name}  {parameters}".rstrip()


def _items(parameters: msgspec.Struct | dict[str, Any]) -> Iterable[tuple[str, Any]]:
    if isinstance(parameters, dict):
        return parameters.items()
    return ((name, getattr(parameters, name)) for name in parameters.__struct_fields__)


def _value(value: Any) -> str:
    if isinstance(value, Seconds):
        return format_duration(value)
    if isinstance(value, float):
        return f"{value:g}"
    return msgspec.json.encode(value).decode()
