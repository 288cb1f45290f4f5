"""Which pools are served, and where an API server has what they are made of. Pure."""

from collections.abc import Callable

from picker.config.settings import KubernetesSettings
from picker.kube.objects import PoolSpec, checked_ports, read_old_pool, read_pool
from picker.kube.reflector import Source
from picker.resources.basemodels import LABEL

__all__ = [
    "base_models_source",
    "named_pools",
    "object_sources",
    "one_pool_source",
    "pod_source",
    "pool_reader",
    "pools_source",
    "standalone_pool",
]

OLD_GROUP = "inference.networking.x-k8s.io"
LLM_D = "llm-d.ai"
_VERSIONS = {"inference.networking.k8s.io": "v1", OLD_GROUP: "v1alpha2"}


def named_pools(settings: KubernetesSettings) -> tuple[tuple[str, str], ...]:
    """Namespace and name of each pool that the settings name, each once. Raises ValueError for what is no name."""
    words = [word.strip() for entry in settings.pools for word in entry.split(",")]
    found = []
    for word in filter(None, words):
        namespace, slash, name = word.rpartition("/")
        if (slash and not namespace) or not name or "/" in namespace:
            raise ValueError(f"{word[:60]!r} is neither a name nor namespace/name")
        found.append((namespace or settings.pool_namespace, name))
    return tuple(dict.fromkeys(found))


def standalone_pool(settings: KubernetesSettings) -> PoolSpec:
    """The pool that pods are where there is no InferencePool: called as the Deployment picker runs in, or `picker`.

    Raises ValueError for ports that are none.
    """
    ports = checked_ports(settings.target_ports)
    return PoolSpec(namespace=settings.pool_namespace, name=settings.deployment, ports=ports)


def pools_source(settings: KubernetesSettings) -> Source:
    """All pools that the selector of the settings takes."""
    path = _pools_path(settings.pool_group, settings.pool_namespace)
    return Source("inferencepools", path, {"labelSelector": settings.pool_selector})


def one_pool_source(group: str, namespace: str, name: str) -> Source:
    """One pool, by name."""
    return Source("inferencepools", _pools_path(group, namespace), {"fieldSelector": f"metadata.name={name}"})


def pool_reader(group: str) -> Callable[[bytes], PoolSpec]:
    """What reads the pools of this API group."""
    return read_old_pool if group == OLD_GROUP else read_pool


def _pools_path(group: str, namespace: str) -> str:
    return f"/apis/{group}/{_VERSIONS[group]}/namespaces/{namespace}/inferencepools"


def pod_source(spec: PoolSpec, selector: str) -> Source:
    """The pods of a pool."""
    return Source("pods", f"/api/v1/namespaces/{spec.namespace}/pods", {"labelSelector": selector})


def object_sources(namespace: str) -> dict[str, tuple[Source, ...]]:
    """The kinds beside the pools: for each the collections that may hold it. Only the first that is there counts."""

    def source(plural: str, group: str) -> Source:
        path = f"/apis/{group}/v1alpha2/namespaces/{namespace}/{plural}"
        return Source(f"{plural}.{group}", path, optional=True)

    return {
        "InferenceObjective": tuple(source("inferenceobjectives", group) for group in (LLM_D, OLD_GROUP)),
        "InferenceModelRewrite": tuple(source("inferencemodelrewrites", group) for group in (LLM_D, OLD_GROUP)),
        "InferenceModel": (source("inferencemodels", OLD_GROUP),),
    }


def base_models_source(namespace: str) -> Source:
    """The ConfigMaps of the body-based router."""
    path = f"/api/v1/namespaces/{namespace}/configmaps"
    return Source("configmaps", path, {"labelSelector": f"{LABEL}=true"}, optional=True)
