"""HTTPRoutes as virtual hosts of Envoy: matches by precedence, weighted backends, header changes.

Source: Gateway API v1, HTTPRoute; Envoy v3 route configuration. Used by tests/support/inference_gateway.py.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Json = dict[str, Any]


@dataclass(frozen=True)
class Backend:
    """A cluster of Envoy, and what filters are to do for requests that go there."""

    cluster: str
    filters: Json


class Unresolved(Exception):
    """A backendRef leads nowhere: its share of requests is answered 500."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


Resolve = Callable[[Json, str], Backend]


def route_table(routes: list[Json], resolve: Resolve) -> tuple[list[Json], dict[str, list[Unresolved]]]:
    """Virtual hosts, and what was wrong with each route, by `namespace/name`. `resolve(backendRef, namespace)`."""
    by_host: dict[str, list[tuple[Any, Json]]] = {}
    problems: dict[str, list[Unresolved]] = {}
    for route in routes:
        metadata = route["metadata"]
        found = problems.setdefault(f"{metadata['namespace']}/{metadata['name']}", [])
        age = (metadata["creationTimestamp"], metadata["namespace"], metadata["name"])
        for number, rule in enumerate(route["spec"].get("rules") or ()):
            action = _action(rule, metadata["namespace"], resolve, found)
            for match in rule.get("matches") or [{}]:
                entry = {"match": _match(match), **action, **_header_changes(rule.get("filters") or [])}
                for host in route["spec"].get("hostnames") or ["*"]:
                    by_host.setdefault(host, []).append(((_precedence(match), age, number), entry))
    return [_virtual_host(host, found) for host, found in sorted(by_host.items())], problems


def _virtual_host(host: str, found: list[tuple[Any, Json]]) -> Json:
    domains = [host] if host == "*" else [host, f"{host}:*"]
    entries = sorted(found, key=lambda each: each[0])
    return {"name": host, "domains": domains, "routes": [entry for _, entry in entries]}


def _precedence(match: Json) -> tuple[Any, ...]:
    """Exact path, longest path, method, most headers, most query parameters: what comes first is tried first."""
    path = match.get("path") or {"type": "PathPrefix", "value": "/"}
    counts = (-len(match.get("headers") or ()), -len(match.get("queryParams") or ()))
    return path["type"] != "Exact", -len(path["value"]), "method" not in match, *counts


def _match(match: Json) -> Json:
    path = match.get("path") or {"type": "PathPrefix", "value": "/"}
    value = path["value"]
    made: Json = {}
    if path["type"] == "Exact":
        made["path"] = value
    elif path["type"] == "RegularExpression":
        made["safe_regex"] = {"regex": value}
    elif value == "/":
        made["prefix"] = "/"
    else:
        made["path_separated_prefix"] = value.rstrip("/")
    headers = [{"name": each["name"].lower(), "string_match": _text(each)} for each in match.get("headers") or ()]
    if "method" in match:
        headers.append({"name": ":method", "string_match": {"exact": match["method"]}})
    queries = [{"name": each["name"], "string_match": _text(each)} for each in match.get("queryParams") or ()]
    return made | ({"headers": headers} if headers else {}) | ({"query_parameters": queries} if queries else {})


def _text(match: Json) -> Json:
    if match.get("type") == "RegularExpression":
        return {"safe_regex": {"regex": match["value"]}}
    return {"exact": match["value"]}


def _action(rule: Json, namespace: str, resolve: Resolve, problems: list[Unresolved]) -> Json:
    """The split; shares that lead nowhere go to a cluster that is not there, and so does all if nothing weighs."""
    weighted = []
    for ref in rule.get("backendRefs") or ():
        try:
            backend = resolve(ref, namespace)
        except Unresolved as problem:
            problems.append(problem)
            backend = Backend("nowhere", {})
        if ref.get("weight", 1):
            entry: Json = {"name": backend.cluster, "weight": ref.get("weight", 1)}
            weighted.append(entry | ({"typed_per_filter_config": backend.filters} if backend.filters else {}))
    if not weighted:
        return {"direct_response": {"status": 500, "body": {"inline_string": "no backend"}}}
    route: Json = {"weighted_clusters": {"clusters": weighted}, "idle_timeout": "300s"}
    route["timeout"] = _seconds((rule.get("timeouts") or {}).get("request", "0s"))
    return {"route": route}


def _seconds(duration: str) -> str:
    """Of a Gateway API duration, `1m30s`."""
    units = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}
    parts = re.findall(r"(\d+)(ms|h|m|s)", duration)
    return f"{sum(int(number) * units[unit] for number, unit in parts):.3f}s"


def _header_changes(filters: list[Json]) -> Json:
    made: Json = {}
    for each in filters:
        if each["type"] != "RequestHeaderModifier":
            continue
        change = each["requestHeaderModifier"]
        for verb, action in (("set", "OVERWRITE_IF_EXISTS_OR_ADD"), ("add", "APPEND_IF_EXISTS_OR_ADD")):
            made.setdefault("request_headers_to_add", []).extend(
                {"header": {"key": header["name"], "value": header["value"]}, "append_action": action}
                for header in change.get(verb) or ()
            )
        made.setdefault("request_headers_to_remove", []).extend(change.get("remove") or ())
    return made
