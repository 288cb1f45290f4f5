"""Objects as API servers hold them."""

from typing import Any

from picker.rollout.judge import Thresholds
from picker.rollout.machine import Plan

PLAN = Plan(
    kind="HTTPRoute",
    old="default/old",
    new="default/new",
    new_group="inference.networking.k8s.io",
    steps=(10, 50, 100),
    every_s=60.0,
    thresholds=Thresholds(min_requests=50),
)
ADAPTERS = Plan(
    kind="InferenceModelRewrite",
    old="review-v1",
    new="review-v2",
    model="review",
    steps=(10, 50, 100),
    every_s=60.0,
    thresholds=Thresholds(min_requests=50),
)


def pool_ref(name: str, **more: Any) -> dict[str, Any]:
    return {"group": "inference.networking.k8s.io", "kind": "InferencePool", "name": name, **more}


def route(*rules: list[dict[str, Any]]) -> dict[str, Any]:
    """With the backends of each rule."""
    return {
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "HTTPRoute",
        "metadata": {"name": "llm", "namespace": "default"},
        "spec": {
            "parentRefs": [{"name": "gateway"}],
            "rules": [
                {"matches": [{"path": {"type": "PathPrefix", "value": f"/{number}"}}], "backendRefs": refs}
                for number, refs in enumerate(rules)
            ],
        },
    }


def rewrite(*targets: dict[str, Any], model: str = "review") -> dict[str, Any]:
    """Of one rule."""
    return {
        "apiVersion": "inference.networking.x-k8s.io/v1alpha2",
        "kind": "InferenceModelRewrite",
        "metadata": {"name": "review", "namespace": "default"},
        "spec": {
            "poolRef": {"name": "old"},
            "rules": [{"matches": [{"model": {"type": "Exact", "value": model}}], "targets": list(targets)}],
        },
    }


def target(name: str, **more: Any) -> dict[str, Any]:
    return {"modelRewrite": name, **more}
