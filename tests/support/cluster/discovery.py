"""What a client learns of the kinds there are: enough for kubectl and the `kubernetes` client's dynamic one."""

from typing import Any

from tests.support.cluster.kinds import Kind, Kinds
from tests.support.cluster.refusals import NoSuchPath

Json = dict[str, Any]
VERSION = {"major": "1", "minor": "37", "gitVersion": "v1.37.0", "platform": "linux/amd64"}
_VERBS = ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"]


def document(kinds: Kinds, path: str) -> Json | None:
    """What is at the path; None if it is none of these."""
    words = path.strip("/").split("/")
    if path == "/version":
        return VERSION
    if words == ["api"]:
        return {"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": []}
    if words == ["apis"]:
        return {"kind": "APIGroupList", "apiVersion": "v1", "groups": list(map(_group, _groups(kinds)))}
    if words[:2] == ["openapi", "v3"]:
        return _openapi(kinds, "/".join(words[2:]))
    if words[0] == "apis" and len(words) == 2:
        found = next((each for each in _groups(kinds) if each[0].group == words[1]), None)
        if found is None:
            raise NoSuchPath
        return {"kind": "APIGroup", "apiVersion": "v1", **_group(found)}
    if words == ["api", "v1"]:
        return _resources(kinds, "", "v1")
    if words[0] == "apis" and len(words) == 3:
        return _resources(kinds, words[1], words[2])
    return None


def _groups(kinds: Kinds) -> list[list[Kind]]:
    found: dict[str, list[Kind]] = {}
    for kind in kinds:
        if kind.group:
            found.setdefault(kind.group, []).append(kind)
    return list(found.values())


def _group(kinds: list[Kind]) -> Json:
    group = kinds[0].group
    names = dict.fromkeys(version for kind in kinds for version in kind.versions)
    versions = [{"groupVersion": f"{group}/{version}", "version": version} for version in names]
    return {"name": group, "versions": versions, "preferredVersion": versions[0]}


def _resources(kinds: Kinds, group: str, version: str) -> Json:
    found = [kind for kind in kinds if kind.group == group and version in kind.versions]
    if not found:
        raise NoSuchPath
    listed = [entry for kind in found for entry in _entries(kind)]
    where = f"{group}/{version}" if group else version
    return {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": where, "resources": listed}


def _entries(kind: Kind) -> list[Json]:
    common = {"singularName": kind.kind.lower(), "namespaced": kind.namespaced, "kind": kind.kind}
    if kind.virtual:
        return [{**common, "name": kind.plural, "verbs": ["create"]}]
    whole: Json = {**common, "name": kind.plural, "verbs": _VERBS}
    if kind.short:
        whole["shortNames"] = list(kind.short)
    part = {**common, "singularName": "", "name": f"{kind.plural}/status", "verbs": ["get", "patch", "update"]}
    return [whole, part] if kind.status else [whole]


def _openapi(kinds: Kinds, where: str) -> Json:
    """Without schemas. It says that the server checks fields itself, so that kubectl does not."""
    versions = {kind.api_version(version): None for kind in kinds for version in kind.versions}
    paths = {f"apis/{each}" if "/" in each else f"api/{each}": each for each in versions}
    if not where:
        return {"paths": {path: {"serverRelativeURL": f"/openapi/v3/{path}?hash=1"} for path in paths}}
    if where not in paths:
        raise NoSuchPath
    found = [(kind, v) for kind in kinds for v in kind.versions if kind.api_version(v) == paths[where]]
    return {
        "openapi": "3.0.0",
        "info": {"title": "Kubernetes", "version": "v1.37.0"},
        "paths": {_path(kind, where): _operations(kind, version) for kind, version in found},
        "components": {"schemas": {}},
    }


def _path(kind: Kind, where: str) -> str:
    inside = "namespaces/{namespace}/" if kind.namespaced else ""
    return f"/{where}/{inside}{kind.plural}/{{name}}"


def _operations(kind: Kind, version: str) -> Json:
    parameters = [
        {"name": name, "in": "query", "schema": {"type": "string"}}
        for name in ("dryRun", "fieldValidation", "fieldManager")
    ]
    operation: Json = {"parameters": parameters, "responses": {"200": {"description": "OK"}}}
    operation["x-kubernetes-group-version-kind"] = {"group": kind.group, "version": version, "kind": kind.kind}
    return {"patch": operation, "put": operation}
