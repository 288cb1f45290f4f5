"""From `--plugin <type>:<name>[:<json>]` to the steps of a router: what types there are, and what they take."""

import importlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from typing import Any, TypeAlias

import msgspec

from picker._core.bbr import MOST_HEADERS, MOST_STEPS, STEP_BASE, STEP_FIELD, STEP_PYTHON
from picker.bbr.host import BUDGET_S, PluginHost, Record
from picker.bbr.plugins import RequestPlugin, ResponsePlugin, error_body
from picker.config.suggest import one_of
from picker.config.units import dec_hook, duration_s
from picker.errors import UsageError, printable

__all__ = ["BUILT_IN", "DEFAULT_PLUGINS", "GROUP", "MODEL_HEADER", "Plan", "compile_plugins"]

GROUP = "picker.bbr_plugins"
MODEL_HEADER = "X-Gateway-Model-Name"
BASE_HEADER = "X-Gateway-Base-Model-Name"
DEFAULT_PLUGINS = ("body-field-to-header:model-to-header", "base-model-to-header:base-model-to-header")

_SPEC = re.compile(r"(?P<type>[^:{}\s]+):(?P<name>[^:{}\s]+)(?::(?P<json>.*))?\Z", re.DOTALL)
_HEADER = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+\Z")

Step: TypeAlias = tuple[int, bytes, bytes, bytes] | tuple[int, bool, bool]


class BodyFieldToHeader(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`body-field-to-header`: a top-level field of the body, as text, to a header."""

    fieldName: str = "model"
    headerName: str = MODEL_HEADER


class BaseModelToHeader(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`base-model-to-header`: the base model of the model that a field names; empty if there is none."""

    fieldName: str = "model"
    headerName: str = BASE_HEADER


BUILT_IN: dict[str, tuple[int, type[BodyFieldToHeader] | type[BaseModelToHeader]]] = {
    "body-field-to-header": (STEP_FIELD, BodyFieldToHeader),
    "base-model-to-header": (STEP_BASE, BaseModelToHeader),
}


class _Common(msgspec.Struct, frozen=True):
    """What the JSON of every plugin in Python may say beside its own parameters."""

    failureMode: str = "open"
    budget: str = ""


@dataclass(slots=True)
class Plan:
    """The steps of both directions with their records, by number; `headers` of plugins in Python, lower-case.

    `fields` are those that the built-in steps read, by number of the request's step.
    """

    request: list[Step] = field(default_factory=list)
    response: list[Step] = field(default_factory=list)
    request_records: list[Record] = field(default_factory=list)
    response_records: list[Record] = field(default_factory=list)
    headers: list[bytes] = field(default_factory=list)
    fields: dict[int, str] = field(default_factory=dict)

    def host(self) -> PluginHost:
        """What asks the plugins of this plan."""
        return PluginHost(self.request_records, self.response_records)


def compile_plugins(specs: Sequence[str] = ()) -> Plan:
    """The plan that these plugins come to, in their order; without any, DEFAULT_PLUGINS. Raises UsageError."""
    plan = Plan()
    names: set[str] = set()
    for spec in specs or DEFAULT_PLUGINS:
        found = _SPEC.match(spec)
        if not found:
            raise _wrong(spec, "expected <type>:<name> or <type>:<name>:<json>")
        if found["name"] in names:
            raise _wrong(spec, f"there is a plugin {found['name']!r} already")
        names.add(found["name"])
        _add(plan, found["type"], found["name"], _mapping(spec, found["json"]), spec)
    if max(len(plan.request), len(plan.response)) > MOST_STEPS or len(plan.headers) + len(plan.fields) > MOST_HEADERS:
        raise UsageError(f"at most {MOST_STEPS} plugins and {MOST_HEADERS} headers of theirs can be used")
    return plan


def _wrong(spec: str, what: str) -> UsageError:
    return UsageError(printable(f"--plugin {spec}: {what}"))


def _mapping(spec: str, text: str | None) -> dict[str, Any]:
    try:
        value = msgspec.json.decode(text) if text else {}
    except msgspec.DecodeError as problem:
        raise _wrong(spec, f"the parameters are not JSON: {problem}") from None
    if not isinstance(value, dict):
        raise _wrong(spec, "the parameters are a JSON object")
    return value


def _add(plan: Plan, kind: str, name: str, given: dict[str, Any], spec: str) -> None:
    if kind in BUILT_IN:
        step, wanted = BUILT_IN[kind]
        parameters = _converted(spec, given, wanted)
        _check_header(spec, parameters.headerName)
        plan.fields[len(plan.request)] = parameters.fieldName
        plan.request.append(_field_step(step, parameters))
        plan.request_records.append(Record(None, kind, name))
    else:
        _add_python(plan, kind, name, given, spec)


def _field_step(kind: int, parameters: BodyFieldToHeader | BaseModelToHeader) -> Step:
    named = parameters.fieldName
    text = f"{named!r} holds what no header can: control characters, or more than 4096 bytes"
    refusal = error_body(400, text, code="invalid_body", param=named)
    return kind, named.encode(), parameters.headerName.lower().encode(), refusal


def _add_python(plan: Plan, kind: str, name: str, given: dict[str, Any], spec: str) -> None:
    own = _Common.__struct_fields__
    common = _converted(spec, {key: value for key, value in given.items() if key in own}, _Common)
    if common.failureMode not in ("open", "closed"):
        raise _wrong(spec, f'failureMode is "open" or "closed", not {common.failureMode!r}')
    is_closed = common.failureMode == "closed"
    made = _made(spec, _find(spec, kind), {key: value for key, value in given.items() if key not in own})
    if not isinstance(made, RequestPlugin | ResponsePlugin):
        raise _wrong(spec, f"{kind} has neither on_request nor on_response")
    for header in getattr(made, "headers", ()):
        _check_header(spec, header)
        plan.headers.append(header.lower().encode())
    budget_s = _budget_s(spec, common.budget)
    sees_bodies = bool(getattr(made, "sees_bodies", False))
    if isinstance(made, RequestPlugin):
        plan.request.append((STEP_PYTHON, sees_bodies, is_closed))
        plan.request_records.append(Record(made, kind, name, is_closed, budget_s))
    if isinstance(made, ResponsePlugin):
        plan.response.append((STEP_PYTHON, sees_bodies, is_closed))
        plan.response_records.append(Record(made, kind, name, is_closed, budget_s))


def _find(spec: str, kind: str) -> Any:
    """The class: that of an installed package, or what stands at a dotted path."""
    installed = {entry.name: entry for entry in entry_points(group=GROUP)}
    try:
        if kind in installed:
            return installed[kind].load()
        module, dot, attribute = kind.rpartition(".")
        if dot:
            return getattr(importlib.import_module(module), attribute)
    except Exception as problem:  # whatever a foreign module raises while it is imported
        raise _wrong(spec, f"{kind} cannot be used: {type(problem).__name__}: {problem}") from problem
    raise _wrong(spec, f"there is no plugin type {kind!r}; {one_of(kind, [*BUILT_IN, *installed])}")


def _made(spec: str, plugin: Any, given: Mapping[str, Any]) -> object:
    wanted = getattr(plugin, "parameters", None)
    parameters = dict(given) if wanted is None else _converted(spec, given, wanted)
    try:
        return plugin(parameters)
    except Exception as problem:
        raise _wrong(spec, f"it cannot be made: {type(problem).__name__}: {problem}") from problem


def _converted(spec: str, given: Mapping[str, Any], wanted: Any) -> Any:
    if isinstance(wanted, type) and issubclass(wanted, msgspec.Struct):
        for key in given:
            if key not in wanted.__struct_encode_fields__:
                raise UsageError(
                    f"--plugin {spec}: unknown field {key!r}; {one_of(key, wanted.__struct_encode_fields__)}"
                )
    try:
        return msgspec.convert(dict(given), wanted, dec_hook=dec_hook)
    except msgspec.ValidationError as problem:
        raise _wrong(spec, f"{problem}") from None


def _budget_s(spec: str, text: str) -> float:
    try:
        return duration_s(text) if text else BUDGET_S
    except ValueError as problem:
        raise _wrong(spec, f"budget: {problem}") from None


def _check_header(spec: str, name: str) -> None:
    if not _HEADER.match(name):
        raise _wrong(spec, f"{name!r} is not the name of a header")
