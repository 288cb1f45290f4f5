"""Plain kustomize comes to what the chart comes to."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support import customkinds
from tests.support.manifests import (
    KUSTOMIZE,
    Json,
    build,
    build_with,
    compared,
    needs_helm,
    needs_kubectl,
    refused,
    render,
)

pytestmark = needs_kubectl
POOL: Json = {"pools": ["chat"]}
MADE: Json = {"inferencePool": {"create": True, "name": "chat", "matchLabels": {"app": "chat"}}}
CONFIG: Json = {"config": yaml.safe_load((KUSTOMIZE / "components" / "config" / "config.yaml").read_text())}
BBR: Json = {"bodyBasedRouter": {"enabled": True}}

ALONE: dict[str, Json] = {
    "base": POOL,
    "overlays/istio": {**POOL, "gateway": "istio"},
    "overlays/envoy-gateway": {**MADE, "gateway": "envoy-gateway"},
    "overlays/gke": {**POOL, "gateway": "gke"},
    "overlays/kgateway": {**POOL, "gateway": "kgateway"},
    "overlays/agentgateway": {**POOL, "gateway": "agentgateway"},
    "overlays/standalone": {"endpointSelector": "app=chat", "gateway": "standalone"},
}
WITH: dict[tuple[str, ...], Json] = {
    ("base", "high-availability"): {**POOL, "replicas": 2},
    ("base", "monitoring"): {**POOL, "metrics": {"serviceMonitor": {"enabled": True}}},
    ("base", "inference-pool"): MADE,
    ("base", "config"): {**POOL, **CONFIG},
    ("base", "body-based-router"): {**POOL, **BBR},
    ("overlays/istio", "body-based-router-istio"): {**POOL, **BBR, "gateway": "istio"},
    ("overlays/gke", "body-based-router-gke"): {
        **POOL,
        **BBR,
        "gateway": "gke",
        "gke": {"gatewayName": "inference-gateway"},
    },
    ("overlays/standalone", "config", "high-availability"): {
        **CONFIG,
        "endpointSelector": "app=chat",
        "gateway": "standalone",
        "replicas": 2,
    },
    ("overlays/istio", "high-availability", "monitoring", "config", "body-based-router-istio"): {
        **POOL,
        **BBR,
        **CONFIG,
        "gateway": "istio",
        "replicas": 2,
        "metrics": {"serviceMonitor": {"enabled": True}},
    },
}


@needs_helm
@pytest.mark.parametrize("directory", ALONE)
def test_it_comes_to_what_the_chart_comes_to(directory: str) -> None:
    equal(build(KUSTOMIZE / directory), ALONE[directory])


@needs_helm
@pytest.mark.parametrize("parts", WITH, ids="+".join)
def test_components_do_what_values_do(parts: tuple[str, ...], tmp_path: Path) -> None:
    overlay, *components = parts
    equal(build_with(overlay, components, tmp_path), WITH[parts])


def equal(ours: list[Json], values: dict[str, Any]) -> None:
    left, right = without_pool_ports(compared(ours)), without_pool_ports(compared(render(values)))
    assert set(left) == set(right)
    for key in right:
        assert left[key] == right[key], key


def without_pool_ports(objects: dict[Any, Json]) -> dict[Any, Json]:
    """A component cannot know what the chart does: the ports of a pool that is made beside it."""
    for (kind, _, _), thing in objects.items():
        if kind == "NetworkPolicy" and ("InferencePool", "inference", "chat") in objects:
            thing["spec"]["egress"][2].pop("ports", None)
        if kind == "ConfigMap" and "config.yaml" in thing["data"]:
            thing["data"]["config.yaml"] = yaml.safe_load(thing["data"]["config.yaml"])
        if kind == "ConfigMap" and "envoy.yaml" in thing["data"]:
            thing["data"]["envoy.yaml"] = yaml.safe_load(thing["data"]["envoy.yaml"])
    return objects


def test_every_overlay_and_component_is_compared() -> None:
    overlays = {f"overlays/{path.name}" for path in (KUSTOMIZE / "overlays").iterdir()}
    assert overlays == set(ALONE) - {"base"}
    components = {path.name for path in (KUSTOMIZE / "components").iterdir()}
    assert components == {name for _, *names in WITH for name in names}


@pytest.mark.parametrize("version", ["1.30", "1.37"])
@pytest.mark.parametrize("directory", ALONE)
def test_without_helm_too_it_is_what_kubernetes_takes(directory: str, version: str) -> None:
    assert refused(build(KUSTOMIZE / directory), version) == {}


def test_files_that_are_left_out_are_right_too() -> None:
    file = KUSTOMIZE / "overlays" / "envoy-gateway" / "clienttrafficpolicy.yaml"
    assert customkinds.problem(yaml.safe_load(file.read_text())) is None
