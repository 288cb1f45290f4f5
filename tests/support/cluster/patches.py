"""The ways of changing an object by a patch. All return a new object and leave their arguments as they are."""

import copy
from typing import Any

from tests.support.cluster.refusals import Refusal

Json = dict[str, Any]
MERGE, JSON_PATCH = "application/merge-patch+json", "application/json-patch+json"
STRATEGIC, APPLY = "application/strategic-merge-patch+json", "application/apply-patch+yaml"

_MERGE_KEYS = {
    "containers": "name",
    "initContainers": "name",
    "volumes": "name",
    "env": "name",
    "volumeMounts": "mountPath",
    "conditions": "type",
    "imagePullSecrets": "name",
    "hostAliases": "ip",
    "ownerReferences": "uid",
    "tolerations": "key",
    "topologySpreadConstraints": "topologyKey",
}
"""Of the lists that a strategic merge patch merges by key. `ports` see below; any other list is replaced."""


def merge(into: Any, patch: Any) -> Any:
    """RFC 7386."""
    if not isinstance(patch, dict):
        return copy.deepcopy(patch)
    found = dict(into) if isinstance(into, dict) else {}
    for name, value in patch.items():
        if value is None:
            found.pop(name, None)
        else:
            found[name] = merge(found.get(name), value)
    return found


def strategic(into: Any, patch: Any, name: str = "") -> Any:
    """As `kubectl apply` computes it for the kinds of Kubernetes itself."""
    if isinstance(patch, list):
        return _strategic_list(into if isinstance(into, list) else [], patch, name)
    if not isinstance(patch, dict):
        return copy.deepcopy(patch)
    if patch.get("$patch") == "replace":
        return {key: value for key, value in patch.items() if key != "$patch"}
    found = dict(into) if isinstance(into, dict) else {}
    retained = patch.get("$retainKeys")
    if retained is not None:
        found = {key: value for key, value in found.items() if key in retained}
    for key, value in patch.items():
        if key.startswith("$deleteFromPrimitiveList/"):
            plain = key.partition("/")[2]
            found[plain] = [each for each in found.get(plain, []) if each not in value]
        elif value is None:
            found.pop(key, None)
        elif not key.startswith("$"):
            found[key] = strategic(found.get(key), value, key)
    return found


def _strategic_list(into: list[Any], patch: list[Any], name: str) -> list[Any]:
    key = _MERGE_KEYS.get(name) or _port_key(name, [*into, *patch])
    if name == "finalizers":
        return [*into, *(each for each in patch if each not in into)]
    if not key or {"$patch": "replace"} in patch:
        return [each for each in patch if each != {"$patch": "replace"}]
    found = {each[key]: each for each in into}
    for each in patch:
        if each.get("$patch") == "delete":
            found.pop(each[key], None)
        else:
            found[each[key]] = strategic(found.get(each[key]), each)
    return list(found.values())


def _port_key(name: str, ports: list[Any]) -> str:
    if name != "ports" or not ports:
        return ""
    keys = ("containerPort", "port")
    return next((key for key in keys if all(isinstance(each, dict) and key in each for each in ports)), "")


def json_patch(into: Json, patch: Any) -> Json:
    """RFC 6902. Raises Refusal 422 where it does not apply."""
    document: Any = copy.deepcopy(into)
    for step in patch:
        try:
            document = _step(document, step)
        except (KeyError, IndexError, ValueError, TypeError) as problem:
            message = f"the server rejected our request due to an error in our request: {step}: {problem}"
            raise Refusal(422, message, reason="Invalid") from problem
    return dict(document)


def _step(document: Any, step: Json) -> Any:
    verb, path = step["op"], step["path"]
    if verb == "test":
        if _read(document, path) != step["value"]:
            raise ValueError("test failed")
        return document
    if verb in ("move", "copy"):
        value = copy.deepcopy(_read(document, step["from"]))
        document = _remove(document, step["from"]) if verb == "move" else document
        return _add(document, path, value)
    if verb == "remove":
        return _remove(document, path)
    if verb == "replace":
        _read(document, path)
        return _add(_remove(document, path), path, step["value"]) if path else step["value"]
    if verb == "add":
        return _add(document, path, step["value"])
    raise ValueError(f"unknown operation {verb}")


def _words(path: str) -> list[str]:
    if path and not path.startswith("/"):
        raise ValueError(f"{path!r} is no JSON pointer")
    return [word.replace("~1", "/").replace("~0", "~") for word in path.split("/")[1:]]


def _read(document: Any, path: str) -> Any:
    for word in _words(path):
        document = document[int(word)] if isinstance(document, list) else document[word]
    return document


def _remove(document: Any, path: str) -> Any:
    parent, word = _read(document, path.rpartition("/")[0]), _words(path)[-1]
    del parent[int(word) if isinstance(parent, list) else word]
    return document


def _add(document: Any, path: str, value: Any) -> Any:
    if not path:
        return value
    parent, word = _read(document, path.rpartition("/")[0]), _words(path)[-1]
    if isinstance(parent, list):
        parent.insert(len(parent) if word == "-" else int(word), value)
    else:
        parent[word] = value
    return document


def leaves(value: Any, path: tuple[str, ...] = ()) -> dict[tuple[str, ...], Any]:
    """What an applied configuration sets; lists count as one."""
    if not isinstance(value, dict) or not value:
        return {path: value} if path else {}
    found: dict[tuple[str, ...], Any] = {}
    for name, member in value.items():
        found |= leaves(member, (*path, name))
    return found


def without(value: Json, path: tuple[str, ...]) -> None:
    """Take a leaf away, and what is empty without it, in place."""
    name, *rest = path
    if not rest or not isinstance(value.get(name), dict):
        value.pop(name, None)
        return
    without(value[name], tuple(rest))
    if not value[name]:
        del value[name]
