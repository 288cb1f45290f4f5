"""Text to the objects in it that picker obeys. Anything else in it is an error, but for what others read there."""

from collections.abc import Generator
from typing import Any

from picker.config.suggest import one_of, quoted
from picker.errors import ResourcesError
from picker.resources.documents import Manifest, read_manifests
from picker.resources.objects import InferenceModel, InferenceModelRewrite, InferenceObjective, Resource

__all__ = ["KINDS", "parse_resources"]

_GATEWAY_API, _LLM_D = "inference.networking.x-k8s.io/v1alpha2", "llm-d.ai/v1alpha2"
_CURRENT = (_LLM_D, _GATEWAY_API)

KINDS: dict[str, tuple[type[Any], tuple[str, ...]]] = {
    "InferenceModelRewrite": (InferenceModelRewrite, _CURRENT),
    "InferenceObjective": (InferenceObjective, _CURRENT),
    "InferenceModel": (InferenceModel, (_GATEWAY_API,)),
}
"""The kinds there are, each with the versions it comes in."""

_OTHERS = ("ConfigMap",)
"""What the body-based router reads in the same syntax; passed over here."""


def parse_resources(data: bytes, *, source: str) -> Generator[None, None, tuple[Resource, ...]]:
    """The objects in `data`, in slices: yields now and then, returns them all. Raises `ResourcesError`."""
    manifests = yield from read_manifests(data, source=source, error=ResourcesError)
    found: list[Resource] = []
    used: dict[tuple[str, str, str, str], Manifest] = {}
    for manifest in manifests:
        if manifest.kind not in _OTHERS:
            each: Resource = manifest.decode(_type_of(manifest))
            _claim(used, manifest, each)
            found.append(each)
            yield
    return tuple(found)


def _type_of(manifest: Manifest) -> type[Any]:
    known = KINDS.get(manifest.kind)
    if known is None:
        what = f"{quoted(manifest.kind)} is no kind that picker obeys"
        raise manifest.failure(what, ("kind",), hint=f"there are {', '.join(sorted(KINDS))}")
    wanted, versions = known
    if manifest.api_version not in versions:
        what = f"version {quoted(manifest.api_version)} of {manifest.kind} is not supported"
        raise manifest.failure(what, ("apiVersion",), hint=one_of(manifest.api_version, list(versions)))
    return wanted


def _claim(used: dict[tuple[str, str, str, str], Manifest], manifest: Manifest, each: Resource) -> None:
    """One name, one object: applying both, the second would silently replace the first."""
    name, group = each.metadata.name, manifest.api_version.partition("/")[0]
    first = used.setdefault((group, manifest.kind, each.metadata.namespace, name), manifest)
    if first is not manifest:
        what = f"{manifest.kind} {quoted(name)} is given twice"
        raise manifest.failure(what, ("metadata", "name"), hint=f"the first is on line {first.line()}")
