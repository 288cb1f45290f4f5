"""The deploy directory's objects: rendered by the real helm and kustomize, and brought to a form that compares."""

import functools
import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from tests.support import customkinds
from tests.support.shared import ROOT

Json = dict[str, Any]
Key = tuple[str, str, str]  # kind, namespace, name

CHART = ROOT / "deploy" / "helm" / "picker"
KUSTOMIZE = ROOT / "deploy" / "kustomize"
NAMESPACE = "inference"
KUBERNETES = "1.37.0"

needs_helm = pytest.mark.skipif(
    shutil.which("helm") is None, reason="there is no helm here: `make test-deploy` builds one where there is Go"
)
needs_kubectl = pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl comes with `make dev`")


class RenderError(Exception):
    """What helm said against the values."""


def render(values: Mapping[str, Any], *, release: str = "picker", chart: Path = CHART) -> list[Json]:
    """The chart's objects with these values. Raises RenderError."""
    return list(_parsed(_template(json.dumps(values), release, chart)))


@functools.cache
def _template(values: str, release: str, chart: Path) -> str:
    command = ["helm", "template", release, str(chart), "--namespace", NAMESPACE, "--kube-version", KUBERNETES]
    ended = subprocess.run(
        [*command, "--values", "-"], input=values, capture_output=True, text=True, timeout=60, check=False
    )
    if ended.returncode:
        raise RenderError(ended.stderr)
    return ended.stdout


def build(directory: Path) -> list[Json]:
    """The objects of a kustomization."""
    return list(_parsed(_kustomized(directory)))


@functools.cache
def _kustomized(directory: Path) -> str:
    command = ["kubectl", "kustomize", str(directory)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def build_with(overlay: str, components: Sequence[str], scratch: Path) -> list[Json]:
    """The objects of an overlay (or the base) with components, as somebody's own kustomization would have them."""

    def path(name: str) -> str:
        return os.path.relpath(KUSTOMIZE / name, scratch.resolve())

    own = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "resources": [path(overlay)],
        "components": [path(f"components/{name}") for name in components],
    }
    (scratch / "kustomization.yaml").write_text(yaml.safe_dump(own))
    return build(scratch)


def _parsed(text: str) -> Iterable[Json]:
    return (each for each in yaml.safe_load_all(text) if each)


def refused(objects: Iterable[Json], version: str) -> dict[Key, str]:
    """What Kubernetes of that version, or the CRDs of a gateway, would say against each; nothing of most."""
    told = {key(each): _refused(json.dumps(each, sort_keys=True), version) for each in objects}
    return {name: problem for name, problem in told.items() if problem}


@functools.cache
def _refused(thing: str, version: str) -> str | None:
    loaded = json.loads(thing)
    if (loaded["apiVersion"], loaded["kind"]) in customkinds.KINDS:
        return customkinds.problem(loaded)
    try:
        kubernetes_validate.validate(loaded, version, strict=True)
    except kubernetes_validate.ValidationError as error:
        return f"{'.'.join(map(str, error.path))}: {error.message}"
    return None


def key(thing: Json) -> Key:
    metadata = thing["metadata"]
    return thing["kind"], metadata.get("namespace", ""), metadata["name"]


def only(objects: Iterable[Json], kind: str) -> Json:
    """The one object of that kind."""
    (found,) = (each for each in objects if each["kind"] == kind)
    return found


def containers(objects: Iterable[Json]) -> list[Json]:
    pod = only(objects, "Deployment")["spec"]["template"]["spec"]
    return [*pod.get("initContainers", []), *pod["containers"]]


def picker_args(objects: Iterable[Json]) -> list[str]:
    (found,) = (each for each in containers(objects) if each["name"] == "picker")
    args: list[str] = found["args"]
    return args


_HELM_ONLY = ("app.kubernetes.io/managed-by", "helm.sh/chart")
_HASH = re.compile(r"(picker-envoy)-[a-z0-9]{10}$")  # kustomize's way to restart pods; the chart's is an annotation


def compared(objects: Iterable[Json]) -> dict[Key, Json]:
    """By key, without what the two tools must do each in its own way."""
    plain = [_plain(each) for each in objects]
    by_key = {key(each): each for each in plain}
    assert len(by_key) == len(plain), "two objects have one name"
    return by_key


def _plain(thing: Any) -> Any:
    if isinstance(thing, dict):
        kept = {name: _plain(value) for name, value in thing.items() if name not in (*_HELM_ONLY, "checksum/envoy")}
        for name in ("args", "rules", "ports", "portLevelSettings", "volumes"):
            if isinstance(kept.get(name), list):
                kept[name] = sorted(kept[name], key=functools.partial(json.dumps, sort_keys=True))
        return kept
    if isinstance(thing, list):
        return [_plain(value) for value in thing]
    return _HASH.sub(r"\1", thing) if isinstance(thing, str) else thing
