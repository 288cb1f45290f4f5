"""Structural schemas: defaults, pruning and the checks that CRDs ask for; and those of the kinds that are built in.

CEL is not evaluated. What the built-in kinds say in CEL is a function under `x-rules`.
"""

import copy
import re
from collections.abc import Callable
from typing import Any

Json = dict[str, Any]
Problem = tuple[str, str]
Rule = Callable[[Any], list[str]]
_TYPES: dict[str, type | tuple[type, ...]] = {
    "object": dict,
    "array": list,
    "string": str,
    "boolean": bool,
    "integer": int,
    "number": (int, float),
}


def fill(schema: Json, value: Any) -> None:
    """Put defaults where nothing is, in place."""
    if isinstance(value, dict):
        for name, member in schema.get("properties", {}).items():
            if name not in value and "default" in member:
                value[name] = copy.deepcopy(member["default"])
            if name in value:
                fill(member, value[name])
        for name in value.keys() - schema.get("properties", {}).keys():
            fill(_additional(schema), value[name])
    elif isinstance(value, list):
        for item in value:
            fill(schema.get("items", {}), item)


def prune(schema: Json, value: Any, path: str = "") -> list[str]:
    """Drop what the schema does not know, in place; where that was."""
    if isinstance(value, list):
        return [gone for n, item in enumerate(value) for gone in prune(schema.get("items", {}), item, f"{path}[{n}]")]
    if not isinstance(value, dict) or schema.get("x-kubernetes-preserve-unknown-fields"):
        return []
    known, additional, gone = schema.get("properties", {}), _additional(schema), []
    for name in list(value):
        where = f"{path}.{name}" if path else name
        if name in known or additional:
            gone += prune(known.get(name, additional), value[name], where)
        elif known or schema.get("type") == "object":
            del value[name]
            gone.append(where)
    return gone


def _additional(schema: Json) -> Json:
    found = schema.get("additionalProperties")
    return found if isinstance(found, dict) else ({"x-kubernetes-preserve-unknown-fields": True} if found else {})


def problems(schema: Json, value: Any, path: str = "") -> list[Problem]:
    """What is wrong with it: where, and what."""
    if value is None and schema.get("nullable"):
        return []
    wanted = schema.get("type")
    if schema.get("x-kubernetes-int-or-string"):
        wanted = "string" if isinstance(value, str) else "integer"
    if wanted and (not isinstance(value, _TYPES[wanted]) or (isinstance(value, bool) and wanted != "boolean")):
        return [(path, f'Invalid value: "{_name(value)}": {path} in body must be of type {wanted}: "{_name(value)}"')]
    found = [(path, f"Invalid value: {value!r}: {why}") for why in _bounds(schema, value)]
    found += _members(schema, value, path)
    for rule in schema.get("x-rules", ()) if not found else ():
        found += [(path, f"Invalid value: {why}") for why in rule(value)]
    return found


def _name(value: Any) -> str:
    return "null" if value is None else next(name for name, kind in _TYPES.items() if isinstance(value, kind))


def _bounds(schema: Json, value: Any) -> list[str]:
    said = []
    if "enum" in schema and value not in schema["enum"]:
        said.append(f"supported values: {', '.join(map(repr, schema['enum']))}")
    if isinstance(value, str) and not re.search(schema.get("pattern", ""), value):
        said.append(f"should match '{schema['pattern']}'")
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        said += _between(value, schema, "minimum", "maximum")
    if isinstance(value, str):
        said += _between(len(value), schema, "minLength", "maxLength")
    if isinstance(value, list):
        said += _between(len(value), schema, "minItems", "maxItems")
    if isinstance(value, dict):
        said += _between(len(value), schema, "minProperties", "maxProperties")
    return said


def _between(size: float, schema: Json, least: str, most: str) -> list[str]:
    said = [f"should be at least {schema[least]}"] if size < schema.get(least, size) else []
    return said + ([f"should be at most {schema[most]}"] if size > schema.get(most, size) else [])


def _members(schema: Json, value: Any, path: str) -> list[Problem]:
    if isinstance(value, list):
        items = schema.get("items", {})
        return [found for n, item in enumerate(value) for found in problems(items, item, f"{path}[{n}]")]
    if not isinstance(value, dict):
        return []
    inside = f"{path}." if path else ""
    found = [(f"{inside}{name}", "Required value") for name in schema.get("required", ()) if name not in value]
    known, additional = schema.get("properties", {}), _additional(schema)
    for name, member in value.items():
        found += problems(known.get(name, additional), member, f"{inside}{name}")
    return found


# --- the kinds that are built in; sources: Gateway API v1, Gateway API Inference Extension v1.5, llm-d router ---

_FREE: Json = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}


def _text(least: int = 0, most: int = 253, **more: Any) -> Json:
    return {"type": "string", "minLength": least, "maxLength": most, **more}


def _number(least: int, most: int, **more: Any) -> Json:
    return {"type": "integer", "minimum": least, "maximum": most, **more}


def _list(items: Json, least: int = 0, most: int = 1000) -> Json:
    return {"type": "array", "items": items, "minItems": least, "maxItems": most}


def _object(required: tuple[str, ...] = (), /, *checks: Rule, **properties: Json) -> Json:
    return {"type": "object", "required": list(required), "properties": properties, "x-rules": checks}


def _kind(spec: Json, *, required: bool = True) -> Json:
    return _object(("spec",) if required else (), spec=spec, status=_FREE)


def _ports_differ(ports: list[Json]) -> list[str]:
    numbers = [port["number"] for port in ports]
    return ["port number must be unique"] if len(set(numbers)) < len(numbers) else []


def _service_has_port(ref: Json) -> list[str]:
    needs = ref.get("kind", "Service") == "Service" and "port" not in ref
    return ["port is required when kind is 'Service' or unspecified (defaults to 'Service')"] if needs else []


def _all_or_no_weights(targets: list[Json]) -> list[str]:
    given = sum("weight" in target for target in targets)
    return ["All or none of the target must have weights"] if 0 < given < len(targets) else []


_PORT = _object(("number",), number=_number(1, 65535))
_KEYS: Json = {"type": "object", "additionalProperties": _text(0, 63), "minProperties": 1, "maxProperties": 64}
_PICKER = _object(
    ("name",),
    _service_has_port,
    group=_text(default=""),
    kind=_text(1, 63, default="Service"),
    name=_text(1),
    port=_PORT,
    failureMode=_text(enum=["FailOpen", "FailClose"], default="FailClose"),
)
_POOL = _object(
    ("selector", "targetPorts"),
    selector=_object(("matchLabels",), matchLabels=_KEYS),
    targetPorts={**_list(_PORT, 1, 8), "x-rules": (_ports_differ,)},
    appProtocol=_text(enum=["http", "kubernetes.io/h2c"]),
    endpointPickerRef=_PICKER,
)
_OLD_PICKER = _object(
    ("name",),
    group=_text(default=""),
    kind=_text(1, 63, default="Service"),
    name=_text(1),
    portNumber=_number(1, 65535),
    failureMode=_text(enum=["FailOpen", "FailClose"], default="FailClose"),
)
_OLD_POOL = _object(
    ("selector", "targetPortNumber", "extensionRef"),
    selector={**_KEYS},
    targetPortNumber=_number(1, 65535),
    extensionRef=_OLD_PICKER,
)
_POOL_REF = _object(
    ("name",),
    group=_text(default="inference.networking.k8s.io"),
    kind=_text(1, 63, default="InferencePool"),
    name=_text(1),
)
_OLD_REF = {
    **_POOL_REF,
    "properties": {**_POOL_REF["properties"], "group": _text(default="inference.networking.x-k8s.io")},
}
_OBJECTIVE = _object(("poolRef",), priority=_number(-(2**31), 2**31 - 1), poolRef=_POOL_REF)
_MATCH = _object(model=_object(("value",), type=_text(enum=["Exact"], default="Exact"), value=_text(1)))
_TARGET = _object(("modelRewrite",), modelRewrite=_text(1), weight=_number(1, 1_000_000))
_REWRITE = _object(
    ("poolRef", "rules"),
    poolRef=_POOL_REF,
    rules=_list(
        _object(("targets",), matches=_list(_MATCH), targets={**_list(_TARGET, 1), "x-rules": (_all_or_no_weights,)})
    ),
)
_OLD_MODEL = _object(
    ("modelName", "poolRef"),
    modelName=_text(1, 256),
    criticality=_text(enum=["Critical", "Standard", "Sheddable"]),
    poolRef=_OLD_REF,
    targetModels={
        **_list(_object(("name",), name=_text(1), weight=_number(1, 1_000_000)), 0, 10),
        "x-rules": (_all_or_no_weights,),
    },
)
_BACKEND = _object(
    ("name",),
    group=_text(default=""),
    kind=_text(1, 63, default="Service"),
    name=_text(1),
    namespace=_text(1, 63),
    port=_number(1, 65535),
    weight=_number(0, 1_000_000, default=1),
    filters=_list(_FREE, 0, 16),
)
_NAMED = _object(
    ("name", "value"),
    type=_text(enum=["Exact", "RegularExpression"], default="Exact"),
    name=_text(1),
    value=_text(1, 4096),
)
_PATHS = ["Exact", "PathPrefix", "RegularExpression"]
_PATH = _object(type=_text(enum=_PATHS, default="PathPrefix"), value=_text(0, 1024, default="/"))
_ROUTE_MATCH = _object(
    path={**_PATH, "default": {"type": "PathPrefix", "value": "/"}},
    headers=_list(_NAMED, 0, 16),
    queryParams=_list(_NAMED, 0, 16),
    method=_text(),
)
_RULE = _object(
    name=_text(1),
    matches={**_list(_ROUTE_MATCH, 0, 64), "default": [{"path": {"type": "PathPrefix", "value": "/"}}]},
    filters=_list(_FREE, 0, 16),
    backendRefs=_list(_BACKEND, 0, 16),
    timeouts=_FREE,
    retry=_FREE,
    sessionPersistence=_FREE,
)
_PARENT = _object(
    ("name",),
    group=_text(default="gateway.networking.k8s.io"),
    kind=_text(1, 63, default="Gateway"),
    name=_text(1),
    namespace=_text(1, 63),
    sectionName=_text(1),
    port=_number(1, 65535),
)
_ROUTE = _object(parentRefs=_list(_PARENT, 0, 32), hostnames=_list(_text(1), 0, 16), rules=_list(_RULE, 0, 16))
_LISTENER: Json = {
    **_object(("name", "port", "protocol"), name=_text(1), port=_number(1, 65535), protocol=_text(1, 255)),
    "x-kubernetes-preserve-unknown-fields": True,
}
_GATEWAY_SPEC: Json = {
    **_object(("gatewayClassName", "listeners"), gatewayClassName=_text(1), listeners=_list(_LISTENER, 1, 64)),
    "x-kubernetes-preserve-unknown-fields": True,
}

BUILT_IN: dict[tuple[str, str], Json] = {
    ("inference.networking.k8s.io", "InferencePool"): _kind(_POOL),
    ("inference.networking.x-k8s.io", "InferencePool"): _kind(_OLD_POOL, required=False),
    ("inference.networking.x-k8s.io", "InferenceObjective"): _kind(_OBJECTIVE, required=False),
    ("inference.networking.x-k8s.io", "InferenceModelRewrite"): _kind(_REWRITE, required=False),
    ("inference.networking.x-k8s.io", "InferenceModel"): _kind(_OLD_MODEL, required=False),
    ("llm-d.ai", "InferenceObjective"): _kind(_OBJECTIVE, required=False),
    ("llm-d.ai", "InferenceModelRewrite"): _kind(_REWRITE, required=False),
    ("gateway.networking.k8s.io", "HTTPRoute"): _kind(_ROUTE),
    ("gateway.networking.k8s.io", "Gateway"): _kind(_GATEWAY_SPEC),
}
