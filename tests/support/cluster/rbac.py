"""What Roles and ClusterRoles grant, as the authorizer of an API server reads them. No aggregation of ClusterRoles."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any

from tests.support.cluster.store import Store

Json = dict[str, Any]
GROUP = "rbac.authorization.k8s.io"
MASTERS = "system:masters"  # may do everything


@dataclass(frozen=True)
class Asked:
    """Something to do: with a resource (`pods`, `pods/status`), or, if `path` is there, with what is none."""

    verb: str
    resource: str = ""
    group: str = ""
    namespace: str = ""
    name: str = ""
    path: str = ""


class Rbac:
    """Decides by the roles and bindings that are stored now."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def allows(self, names: Collection[str], asked: Asked) -> bool:
        """`names`: the user and the user's groups."""
        return MASTERS in names or any(_grants(rule, asked) for rule in self._rules(names, asked.namespace))

    def _rules(self, names: Collection[str], namespace: str) -> Iterator[Json]:
        bindings = [*self._all("clusterrolebindings"), *(self._all("rolebindings", namespace) if namespace else ())]
        for binding in bindings:
            if any(_subject(each, binding) in names for each in binding.get("subjects") or ()):
                yield from self._role(binding)

    def _role(self, binding: Json) -> list[Json]:
        ref = binding["roleRef"]
        namespace = binding["metadata"]["namespace"] if ref["kind"] == "Role" else ""
        plural = "roles" if ref["kind"] == "Role" else "clusterroles"
        found = self._store.get((GROUP, plural), (namespace, ref["name"]))
        return (found.data.get("rules") or []) if found else []

    def _all(self, plural: str, namespace: str = "") -> list[Json]:
        objects = self._store.at((GROUP, plural), self._store.version)
        return [stored.data for key, stored in objects.items() if key[0] == namespace]


def _subject(subject: Json, binding: Json) -> str:
    if subject["kind"] != "ServiceAccount":
        return str(subject["name"])
    namespace = subject.get("namespace") or binding["metadata"].get("namespace", "")
    return f"system:serviceaccount:{namespace}:{subject['name']}"


def _grants(rule: Json, asked: Asked) -> bool:
    if not {"*", asked.verb} & set(rule["verbs"]):
        return False
    if asked.path:
        return any(_reaches(url, asked.path) for url in rule.get("nonResourceURLs") or ())
    named = rule.get("resourceNames") or [asked.name]
    in_group = {"*", asked.group} & set(rule.get("apiGroups") or ())
    return bool(in_group and {"*", asked.resource} & set(rule.get("resources") or ()) and asked.name in named)


def _reaches(url: str, path: str) -> bool:
    return path.startswith(url[:-1]) if url.endswith("*") else path == url
