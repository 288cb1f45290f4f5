"""The object that a rollout moves, in an API server: read and written by whoever saw it last."""

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

import msgspec

from picker.errors import KubernetesError, KubernetesRefusal, UsageError, printable
from picker.kube.client import MERGE_PATCH, KubeClient
from picker.rollout.machine import ObjectKind
from picker.rollout.weights import Json

__all__ = ["FIELD_MANAGER", "Store", "decoded", "get", "last_writer"]

FIELD_MANAGER = "picker-rollout"
CONFLICT, NOT_FOUND = 409, 404

_PLACES: Mapping[ObjectKind, tuple[str, ...]] = {
    "HTTPRoute": ("gateway.networking.k8s.io/v1", "gateway.networking.k8s.io/v1beta1"),
    "InferenceModelRewrite": ("llm-d.ai/v1alpha2", "inference.networking.x-k8s.io/v1alpha2"),
}
"""API versions an object may be found under, the one that picker obeys first where there are both."""
_PLURALS: Mapping[str, str] = {"HTTPRoute": "httproutes", "InferenceModelRewrite": "inferencemodelrewrites"}


def decoded(body: bytes, what: str) -> Json:
    """The JSON object in an answer. Raises KubernetesError."""
    try:
        return msgspec.json.decode(body, type=dict[str, Any])
    except (msgspec.MsgspecError, RecursionError) as problem:
        raise KubernetesError(f"{what}: the answer is no JSON object: {printable(str(problem))[:200]}") from None


async def get(client: KubeClient, path: str, **query: str) -> Json:
    """The object or list at `path`. Raises KubernetesError."""
    return decoded(await client.request("GET", path, query=query), f"GET {path}")


class Store:
    """One HTTPRoute or InferenceModelRewrite. Raises KubernetesError where the API server does not do as asked."""

    def __init__(self, client: KubeClient, kind: ObjectKind, namespace: str, name: str) -> None:
        self._client, self.kind, self.namespace, self.name = client, kind, namespace, name
        self._path = ""

    def __str__(self) -> str:
        return f"{self.kind} {self.namespace}/{self.name}"

    async def read(self) -> Json:
        """The object now. Raises UsageError if there is none."""
        for path in [self._path] if self._path else self._paths():
            try:
                found = await get(self._client, path)
            except KubernetesRefusal as refusal:
                if refusal.status != NOT_FOUND:
                    raise
                continue
            self._path = path
            return found
        raise UsageError(f"there is no {self}; check its name, --namespace, and which cluster you talk to")

    async def write(self, seen: Json, annotations: Mapping[str, str | None], rules: list[Json] | None) -> Json | None:
        """Sets annotations, and rules if there are any, at once; returns the object then.

        None if it is not as `seen` any more: whoever writes reads again and decides anew.
        """
        version = seen["metadata"]["resourceVersion"]
        patch: Json = {"metadata": {"resourceVersion": version, "annotations": dict(annotations)}}
        if rules is not None:
            patch["spec"] = {"rules": rules}
        try:
            answer = await self._client.request(
                "PATCH", self._path, query={"fieldManager": FIELD_MANAGER}, body=patch, content_type=MERGE_PATCH
            )
        except KubernetesRefusal as refusal:
            if refusal.status == CONFLICT:
                return None
            raise
        return decoded(answer, f"PATCH {self._path}")

    def _paths(self) -> list[str]:
        place = f"namespaces/{quote(self.namespace, safe='')}/{_PLURALS[self.kind]}/{quote(self.name, safe='')}"
        return [f"/apis/{version}/{place}" for version in _PLACES[self.kind]]


def last_writer(found: Json) -> str:
    """Who changed the object last but this command, and when, as far as the API server says; "" if it does not."""
    fields = found.get("metadata", {}).get("managedFields") or []
    others = [each for each in fields if isinstance(each, dict) and each.get("manager") != FIELD_MANAGER]
    spec = [each for each in others if "f:spec" in (each.get("fieldsV1") or {})] or others
    if not spec:
        return ""
    last = max(spec, key=lambda each: str(each.get("time", "")))
    return printable(f"{last.get('manager', 'somebody')} at {last.get('time', 'an unknown time')}")
