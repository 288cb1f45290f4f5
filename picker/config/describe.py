"""An effective configuration told in words, for `picker config check` and the log at the start."""

import math
from collections.abc import Iterable, Iterator
from typing import Any

import msgspec

from picker.config.catalogue import SCHEDULING, SUPPORTED, Role
from picker.config.flow import BandPlan, FlowPlan
from picker.config.model import PickerConfig, PluginSpec, WeightedPlugin
from picker.config.ratelimits import told
from picker.config.units import Seconds, format_bytes, format_duration
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
    yield from _flow_control(config.flow_control)
    yield from told(config.rate_limits)
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
    return f"{name}  {_parameters(spec.parameters)}".rstrip()


def _parameters(parameters: msgspec.Struct | dict[str, Any]) -> str:
    return " ".join(f"{key}={_value(value)}" for key, value in _items(parameters) if value not in (None, "", ()))


def _flow_control(plan: FlowPlan) -> Iterator[str]:
    yield "flow control"
    yield f"  room for requests by {_typed(plan.detector)}"
    if plan.queues:
        yield from _waiting(plan)
    yield "  priorities below 0: 429 where there is no room"
    if not plan.queues:
        yield "  all others go on: nothing waits (feature gate flowControl is off)"
    yield from (f"  turned away before by {_typed(admitter)}" for admitter in plan.admitters)


def _waiting(plan: FlowPlan) -> Iterator[str]:
    for priority, band in sorted(plan.bands, reverse=True):
        wait = "waits" if priority >= 0 else "waits, for an endpoint to come,"
        yield f"  priority {priority} {wait} {_band(band)}"
    yield f"  {'other' if plan.bands else 'all'} priorities from 0 wait {_band(plan.default_band)}"
    if plan.default_negative_band != plan.default_band:
        yield f"  other priorities below 0 wait, for an endpoint to come, {_band(plan.default_negative_band)}"
    caps = [f"{plan.max_requests} requests"] if plan.max_requests else []
    caps += [format_bytes(plan.max_bytes)] if plan.max_bytes else []
    if caps:
        yield f"  at most {', '.join(caps)} in all"
    yield f"  no endpoints: {_for_endpoints(plan.no_endpoint_ttl_s)}"
    yield f"  flows by {', '.join(plan.fairness_headers)}"
    if plan.usage_limit is not None:
        yield f"  shares of the pool by {_typed(plan.usage_limit)}"
    if plan.evicts:
        yield "  requests of priorities below 0 that were sent are taken back for higher ones, until they are answered"


def _band(band: BandPlan) -> str:
    most = f"at most {band.max_requests} requests, {format_bytes(band.max_bytes)}"
    turns = {"tokens": "flows by tokens", "round-robin": "flows in turn", "strict": "one flow"}[band.fairness]
    return f"{_time(band.ttl_s)}, {most}; {turns}, {band.ordering}"


def _time(seconds: float) -> str:
    return f"at most {format_duration(seconds)}" if seconds else "for as long as the client does"


def _for_endpoints(seconds: float) -> str:
    if not seconds:
        return "503 at once"
    return f"wait {_time(0 if math.isinf(seconds) else seconds)}, then 503"


def _typed(parameters: msgspec.Struct) -> str:
    name = next(name for name, kind in SUPPORTED.items() if kind.parameters is type(parameters))
    return f"{name}  {_parameters(parameters)}".rstrip()


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
