"""Which pools are served, and where an API server has what they are made of."""

from typing import Any

import pytest

from picker.config.settings import KubernetesSettings
from picker.kube.objects import read_old_pool, read_pool
from picker.kube.pools import (
    base_models_source,
    named_pools,
    object_sources,
    one_pool_source,
    pod_source,
    pool_reader,
    pools_source,
    standalone_pool,
)
from picker.kube.reflector import Source

V1, OLD = "inference.networking.k8s.io", "inference.networking.x-k8s.io"


def given(**settings: Any) -> KubernetesSettings:
    return KubernetesSettings(pool_namespace="models", **settings)


def test_pools_are_named_with_or_without_a_namespace() -> None:
    assert named_pools(given(pools=("a", "other/b,a", " c ,"))) == (("models", "a"), ("other", "b"), ("models", "c"))
    assert named_pools(given()) == ()


@pytest.mark.parametrize("name", ["/a", "a/", "a/b/c", "/"])
def test_what_is_no_name_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="neither a name nor namespace/name"):
        named_pools(given(pools=(name,)))


def test_without_a_pool_the_deployment_gives_the_name() -> None:
    ports = given(target_ports=(8000, 8001, 8000))
    assert (standalone_pool(ports).id, standalone_pool(ports).ports) == ("models/picker", (8000, 8001))
    assert standalone_pool(given(target_ports=(1,), deployment="qwen")).id == "models/qwen"
    with pytest.raises(ValueError, match="0 target ports"):
        standalone_pool(given())


def test_where_pools_are() -> None:
    assert one_pool_source(V1, "models", "a") == Source(
        "inferencepools", f"/apis/{V1}/v1/namespaces/models/inferencepools", {"fieldSelector": "metadata.name=a"}
    )
    assert one_pool_source(OLD, "n", "a").path == f"/apis/{OLD}/v1alpha2/namespaces/n/inferencepools"
    chosen = pools_source(given(pool_selector="team in (a, b)"))
    assert (chosen.path, chosen.selectors) == (
        f"/apis/{V1}/v1/namespaces/models/inferencepools",
        {"labelSelector": "team in (a, b)"},
    )
    assert (pool_reader(V1), pool_reader(OLD)) == (read_pool, read_old_pool)


def test_where_pods_are() -> None:
    source = pod_source(standalone_pool(given(target_ports=(1,))), "app=a")
    assert source == Source("pods", "/api/v1/namespaces/models/pods", {"labelSelector": "app=a"})


def test_where_the_others_are() -> None:
    found = object_sources("n")
    assert {kind: [source.kind for source in sources] for kind, sources in found.items()} == {
        "InferenceObjective": ["inferenceobjectives.llm-d.ai", f"inferenceobjectives.{OLD}"],
        "InferenceModelRewrite": ["inferencemodelrewrites.llm-d.ai", f"inferencemodelrewrites.{OLD}"],
        "InferenceModel": [f"inferencemodels.{OLD}"],
    }
    assert found["InferenceObjective"][0].path == "/apis/llm-d.ai/v1alpha2/namespaces/n/inferenceobjectives"
    assert all(source.optional for sources in found.values() for source in sources)
    assert base_models_source("n").selectors == {"labelSelector": "inference.networking.k8s.io/bbr-managed=true"}
