"""What an API server does with an object that is written: names, identity, generations, conflicts, schemas."""

import copy
import random
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from tests.support.cluster import refusals
from tests.support.cluster.kinds import Kind, Kinds, kind_of_crd
from tests.support.cluster.patches import leaves, merge, without
from tests.support.cluster.refusals import Refusal
from tests.support.cluster.schemas import fill, problems, prune
from tests.support.cluster.store import Key, Store, Stored

Json = dict[str, Any]
_KEPT = ("uid", "creationTimestamp", "generation", "deletionTimestamp", "deletionGracePeriodSeconds")
_LETTERS = "bcdfghjklmnpqrstvwxz2456789"


def now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


class Objects:
    """Every verb that writes. May be called from any thread."""

    def __init__(self, kinds: Kinds, store: Store) -> None:
        self.kinds = kinds
        self.store = store
        self._applied: dict[tuple[tuple[str, str], Key], dict[str, Json]] = {}  # by field manager
        self._random = random.Random(1)

    def read(self, kind: Kind, namespace: str, name: str) -> Stored:
        """Raises Refusal 404."""
        found = self.store.get(kind.resource, (namespace, name))
        if found is None:
            raise refusals.not_found(kind.group, kind.plural, name)
        return found

    def create(
        self, kind: Kind, namespace: str, body: Json, *, part: str = "", strict: bool = False, dry: bool = False
    ) -> Stored:
        """`part` is `*` for all of it, status included. Raises Refusal 404 for a missing namespace, 409, 422."""
        data = copy.deepcopy(body)
        metadata = self._own_metadata(kind, namespace, data)
        if not metadata.get("name") and metadata.get("generateName"):
            metadata["name"] = metadata["generateName"] + "".join(self._random.choices(_LETTERS, k=5))
        for name in ("deletionTimestamp", "deletionGracePeriodSeconds", "managedFields", "resourceVersion", "selfLink"):
            metadata.pop(name, None)
        metadata |= {"uid": str(uuid.uuid4()), "creationTimestamp": now()}
        if kind.generation:
            metadata["generation"] = 1
        if kind.status and part != "*":
            data.pop("status", None)
        _default(kind, data)
        self._check(kind, data, strict)
        key = (namespace, str(metadata["name"]))
        with self.store.lock:
            self._check_namespace(kind, namespace)
            if self.store.get(kind.resource, key):
                raise refusals.already_exists(kind.group, kind.plural, key[1])
            return self._put(kind, key, data, dry)

    def replace(
        self,
        kind: Kind,
        namespace: str,
        name: str,
        body: Json,
        *,
        part: str = "",
        strict: bool = False,
        dry: bool = False,
        checked: bool = True,
    ) -> Stored:
        """The object without its status, or `part`: only its status, or `*`, both.

        `checked`: the kinds of CRDs must name the version they replace.
        """
        with self.store.lock:
            before = self.read(kind, namespace, name)
            data = copy.deepcopy(body)
            metadata = self._own_metadata(kind, namespace, data)
            self._compare(kind, before, metadata, kind.custom and checked)
            old = before.copy()
            if part == "status":
                data = {**old, "status": data.get("status", {}), "metadata": {**old["metadata"], **_labels(metadata)}}
            elif kind.status and (part != "*" or "status" not in data):
                data.pop("status", None)
                data |= {"status": old["status"]} if "status" in old else {}
            for each in ("managedFields", "selfLink", *_KEPT):
                data["metadata"].pop(each, None)
            data["metadata"] |= {each: old["metadata"][each] for each in _KEPT if each in old["metadata"]}
            self._check(kind, data, strict)
            return self._update(kind, (namespace, name), before, data, dry)

    def _update(self, kind: Kind, key: Key, before: Stored, data: Json, dry: bool) -> Stored:
        metadata, old = data["metadata"], before.copy()
        metadata["resourceVersion"] = str(before.version)
        if data == old:
            return before  # nothing changed: no new version, and no event
        if kind.generation and _described(data) != _described(old):
            metadata["generation"] = old["metadata"].get("generation", 0) + 1
        if metadata.get("deletionTimestamp") and not metadata.get("finalizers") and not dry:
            self.store.put(kind.resource, key, data)
            return self._remove(kind, key)
        return self._put(kind, key, data, dry)

    def change(
        self,
        kind: Kind,
        namespace: str,
        name: str,
        how: Callable[[Json], Json],
        *,
        part: str = "",
        strict: bool = False,
        dry: bool = False,
    ) -> Stored:
        """A patch: what `how` makes of it, tested against the version only if the patch names one."""
        with self.store.lock:
            before = self.read(kind, namespace, name)
            old = before.copy()
            data = how(before.copy())
            if data.get("metadata", {}).get("name") != name:
                message = "the name of the object does not match the name on the URL"
                raise Refusal(400, message)
            if old["metadata"]["resourceVersion"] != data["metadata"].get("resourceVersion"):
                raise refusals.conflict(kind.group, kind.plural, name)
            return self.replace(kind, namespace, name, data, part=part, strict=strict, dry=dry)

    def apply(
        self,
        kind: Kind,
        namespace: str,
        name: str,
        wanted: Json,
        *,
        manager: str,
        force: bool,
        part: str = "",
        strict: bool = False,
        dry: bool = False,
    ) -> Stored:
        """Server-side apply: fields are owned by whoever applied them; who else changes them must force it."""
        with self.store.lock:
            key = (namespace, name)
            owners = self._applied.setdefault((kind.resource, key), {})
            config = {each: value for each, value in wanted.items() if each not in ("apiVersion", "kind")}
            if self.store.get(kind.resource, key) is None:
                owners.clear()
                made = self.create(kind, namespace, _named(wanted, name), strict=strict, dry=dry)
            else:
                _check_owners(owners, manager, config, force)
                dropped = leaves(owners.get(manager, {})).keys() - leaves(config).keys()
                kept = {path for other, said in owners.items() if other != manager for path in leaves(said)}
                made = self.change(
                    kind,
                    namespace,
                    name,
                    lambda old: _applied(old, config, dropped - kept),
                    part=part,
                    strict=strict,
                    dry=dry,
                )
            if not dry:
                owners[manager] = config
            return made

    def delete(self, kind: Kind, namespace: str, name: str, options: Json, *, dry: bool = False) -> tuple[Stored, bool]:
        """Its last state, and whether it is gone: what has finalizers is only marked. Raises Refusal 404, 409."""
        with self.store.lock:
            before = self.read(kind, namespace, name)
            wanted = options.get("preconditions") or {}
            for field in ("uid", "resourceVersion"):
                if wanted.get(field, before.data["metadata"][field]) != before.data["metadata"][field]:
                    raise refusals.conflict(kind.group, kind.plural, name, f"Precondition failed: {field}")
            if dry:
                return before, True
            bound = kind.kind == "Pod" and (before.data.get("spec") or {}).get("nodeName")
            graceful = bound and options.get("gracePeriodSeconds") != 0
            if before.data["metadata"].get("finalizers") or graceful:
                before = self.mark_deleted(kind, namespace, name)
            if before.data["metadata"].get("finalizers"):
                return before, False
            return self._remove(kind, (namespace, name)), True

    def mark_deleted(self, kind: Kind, namespace: str, name: str) -> Stored:
        """It is being deleted, and still there."""
        with self.store.lock:
            data = self.read(kind, namespace, name).copy()
            if "deletionTimestamp" not in data["metadata"]:
                data["metadata"] |= {"deletionTimestamp": now(), "deletionGracePeriodSeconds": 0}
                self.store.put(kind.resource, (namespace, name), data)
            return self.read(kind, namespace, name)

    def write(self, kind: Kind, namespace: str, body: Json) -> Stored:
        """As an administrator with every right: create or replace, status included, no version asked for."""
        with self.store.lock:
            self.ensure_namespace(kind, namespace)
            name = str(body["metadata"]["name"])
            if self.store.get(kind.resource, (namespace, name)) is None:
                return self.create(kind, namespace, body, part="*", strict=True)
            metadata = {key: value for key, value in body["metadata"].items() if key not in ("resourceVersion", "uid")}
            whole = {**body, "metadata": metadata}
            return self.replace(kind, namespace, name, whole, part="*", strict=True, checked=False)

    def ensure_namespace(self, kind: Kind, namespace: str) -> None:
        of = self.kinds.named("Namespace")
        if kind.namespaced and self.store.get(of.resource, ("", namespace)) is None:
            body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}}
            self.create(of, "", body)

    def _own_metadata(self, kind: Kind, namespace: str, data: Json) -> Json:
        metadata: Json = data.setdefault("metadata", {})
        data.setdefault("kind", kind.kind)
        data["apiVersion"] = kind.api_version()  # every version is stored as the first
        if kind.namespaced and metadata.setdefault("namespace", namespace) != namespace:
            raise Refusal(400, "the namespace of the provided object does not match the namespace sent on the request")
        return metadata

    def _check(self, kind: Kind, data: Json, strict: bool) -> None:
        wrong = []
        if not data["metadata"].get("name"):
            wrong.append(("metadata.name", "Required value: name or generateName is required"))
        if kind.schema is not None:
            plain = {each: value for each, value in data.items() if each not in ("metadata", "apiVersion", "kind")}
            rest = {each: value for each, value in data.items() if each not in plain}
            schema = {**kind.schema, "properties": {**kind.schema.get("properties", {})}}
            gone = prune(schema, plain)
            if gone and strict:
                said = ", ".join(f'unknown field "{path}"' for path in gone)
                raise Refusal(400, f"{kind.kind} in version {kind.versions[0]!r} cannot be handled: {said}")
            fill(schema, plain)
            wrong += problems(schema, plain)
            data.clear()
            data |= rest | plain
        if wrong:
            raise refusals.invalid(kind.group, kind.kind, str(data["metadata"].get("name", "")), wrong)

    def _check_namespace(self, kind: Kind, namespace: str) -> None:
        if not kind.namespaced:
            return
        found = self.store.get(("", "namespaces"), ("", namespace))
        if found is None:
            raise refusals.not_found("", "namespaces", namespace)

    def _compare(self, kind: Kind, before: Stored, metadata: Json, required: bool) -> None:
        version = metadata.get("resourceVersion")
        if not version and required:
            why = [("metadata.resourceVersion", "Invalid value: 0x0: must be specified for an update")]
            raise refusals.invalid(kind.group, kind.plural, str(metadata.get("name")), why)
        uid = metadata.get("uid") or before.data["metadata"]["uid"]
        if (version and version != str(before.version)) or uid != before.data["metadata"]["uid"]:
            raise refusals.conflict(kind.group, kind.plural, str(before.data["metadata"]["name"]))

    def _put(self, kind: Kind, key: Key, data: Json, dry: bool) -> Stored:
        if dry:
            return Stored(data, self.store.version)
        if kind.kind == "CustomResourceDefinition":
            self._define(data)
        return self.store.put(kind.resource, key, data)

    def _define(self, crd: Json) -> None:
        self.kinds.add(kind_of_crd(crd))
        conditions = [{"type": each, "status": "True", "reason": "Fine"} for each in ("NamesAccepted", "Established")]
        crd["status"] = {"conditions": conditions, "acceptedNames": crd["spec"]["names"]}

    def _remove(self, kind: Kind, key: Key) -> Stored:
        self._applied.pop((kind.resource, key), None)
        last = self.store.remove(kind.resource, key)
        if kind.kind == "Namespace":
            self._empty(lambda each, at: each.namespaced and at[0] == key[1])
        if kind.kind == "CustomResourceDefinition":
            gone = kind_of_crd(last.data)
            self._empty(lambda each, at: each.resource == gone.resource)
            self.kinds.remove(gone.resource)
        return last

    def _empty(self, doomed: Callable[[Kind, Key], bool]) -> None:
        for kind in self.kinds:
            for key in self.store.at(kind.resource, self.store.version):
                if doomed(kind, key):
                    self._remove(kind, key)


def _default(kind: Kind, data: Json) -> None:
    """Of what Kubernetes itself fills in, as much as somebody reads."""
    if kind.kind == "Pod":
        data.setdefault("status", {"phase": "Pending"})
    if kind.kind == "Namespace":
        data.setdefault("status", {"phase": "Active"})
        data["metadata"].setdefault("labels", {})["kubernetes.io/metadata.name"] = data["metadata"].get("name", "")
    if kind.kind == "Secret":
        data.setdefault("type", "Opaque")


def _named(body: Json, name: str) -> Json:
    return {**body, "metadata": {**body.get("metadata", {}), "name": name}}


def _labels(metadata: Json) -> Json:
    return {each: metadata[each] for each in ("labels", "annotations") if each in metadata}


def _described(data: Json) -> Json:
    return {each: value for each, value in data.items() if each not in ("metadata", "status", "apiVersion", "kind")}


def _check_owners(owners: dict[str, Json], manager: str, config: Json, force: bool) -> None:
    """Raises Refusal 409 for what another manager says otherwise; with force it is theirs no more."""
    mine = leaves(config)
    for other, said in owners.items():
        theirs = leaves(said) if other != manager else {}
        taken = [path for path, value in theirs.items() if path in mine and mine[path] != value]
        if taken and not force:
            paths = ", ".join("." + ".".join(path) for path in taken)
            message = f'Apply failed with {len(taken)} conflict: conflict with "{other}": {paths}'
            causes = [{"reason": "FieldManagerConflict", "message": f'conflict with "{other}"', "field": paths}]
            raise Refusal(409, message, details={"causes": causes})
        for path in taken:
            without(said, path)


def _applied(old: Json, config: Json, dropped: set[tuple[str, ...]]) -> Json:
    for path in dropped:
        if path[:2] not in (("metadata", "name"), ("metadata", "namespace")):
            without(old, path)
    return dict(merge(old, config))
