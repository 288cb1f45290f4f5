"""Pods, Services and InferencePools as a rollout needs them, and pages of pods by way of the API server."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

from picker.errors import KubernetesError, KubernetesRefusal, UsageError
from picker.kube.client import KubeClient
from picker.rollout.counting import Source
from picker.rollout.store import NOT_FOUND, get
from picker.rollout.weights import Json

__all__ = ["Pod", "PoolObject", "Service", "find_pool", "pods_of", "read_pod", "service_of"]

POOL_VERSIONS = ("inference.networking.k8s.io/v1", "inference.networking.x-k8s.io/v1alpha2")
METRICS_PORTS = ("metrics", "http-metrics")
DEFAULT_METRICS_PORT = 9090


@dataclass(frozen=True)
class PoolObject:
    """An InferencePool: its pods, their ports, and the Service of its endpoint picker."""

    namespace: str
    name: str
    group: str
    labels: dict[str, str]
    port: int
    picker: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


@dataclass(frozen=True)
class Pod:
    """A pod that has not ended."""

    namespace: str
    name: str
    incarnation: str
    is_ready: bool
    address: str
    ports: dict[str, int] = field(default_factory=dict)

    @property
    def host(self) -> str:
        """Its address as it stands in a URL."""
        return f"[{self.address}]" if ":" in self.address else self.address

    @property
    def source(self) -> Source:
        return Source(f"pod {self.namespace}/{self.name}", self.incarnation)


@dataclass(frozen=True)
class Service:
    """The Service of an endpoint picker."""

    namespace: str
    name: str
    labels: dict[str, str]
    metrics_port: str | int | None


async def find_pool(client: KubeClient, pool: str) -> PoolObject:
    """The InferencePool `namespace/name`, of either group. Raises KubernetesError; UsageError if there is none."""
    namespace, _, name = pool.partition("/")
    for version in POOL_VERSIONS:
        path = f"/apis/{version}/namespaces/{quote(namespace, safe='')}/inferencepools/{quote(name, safe='')}"
        try:
            found = await get(client, path)
        except KubernetesRefusal as refusal:
            if refusal.status != NOT_FOUND:
                raise
            continue
        return _pool(found, namespace, name, version.partition("/")[0])
    raise UsageError(f"there is no InferencePool {pool}; create it, or check the name and --namespace")


def _pool(found: Json, namespace: str, name: str, group: str) -> PoolObject:
    spec = found.get("spec") or {}
    selector = spec.get("selector") or {}
    labels = selector.get("matchLabels", selector)
    ports = spec.get("targetPorts") or [{"number": spec.get("targetPortNumber")}]
    reference = spec.get("endpointPickerRef") or spec.get("extensionRef") or {}
    try:
        return PoolObject(
            namespace, name, group, dict(labels), int(ports[0]["number"]), str(reference.get("name") or "")
        )
    except (LookupError, TypeError, ValueError):
        raise KubernetesError(f"InferencePool {namespace}/{name} has no selector or no target port") from None


async def service_of(client: KubeClient, pool: PoolObject) -> Service:
    """The Service of the pool's endpoint picker. Raises KubernetesError, UsageError."""
    if not pool.picker:
        raise UsageError(f"InferencePool {pool} names no endpoint picker; give its metrics page with --metrics")
    path = f"/api/v1/namespaces/{pool.namespace}/services/{quote(pool.picker, safe='')}"
    spec = (await get(client, path)).get("spec") or {}
    ports = {port.get("name"): port.get("targetPort", port.get("port")) for port in spec.get("ports") or []}
    named = next((ports[name] for name in METRICS_PORTS if name in ports), None)
    if not spec.get("selector"):
        raise UsageError(f"Service {pool.namespace}/{pool.picker} selects no pods; give metrics pages with --metrics")
    return Service(pool.namespace, pool.picker, dict(spec["selector"]), named)


async def pods_of(client: KubeClient, namespace: str, labels: dict[str, str]) -> list[Pod]:
    """The pods with these labels that have an address and are not going. Raises KubernetesError."""
    selector = ",".join(f"{key}={value}" for key, value in sorted(labels.items()))
    listed = await get(client, f"/api/v1/namespaces/{quote(namespace, safe='')}/pods", labelSelector=selector)
    return [_pod(each, namespace) for each in listed.get("items") or [] if _is_there(each)]


def _is_there(pod: Json) -> bool:
    status = pod.get("status") or {}
    ended = status.get("phase") in ("Succeeded", "Failed")
    return bool(status.get("podIP")) and not ended and not pod.get("metadata", {}).get("deletionTimestamp")


def _pod(pod: Json, namespace: str) -> Pod:
    metadata, status = pod.get("metadata") or {}, pod.get("status") or {}
    restarts = sum(int(each.get("restartCount") or 0) for each in status.get("containerStatuses") or [])
    conditions = status.get("conditions") or []
    is_ready = any(each.get("type") == "Ready" and each.get("status") == "True" for each in conditions)
    ports = dict(_named_ports(pod.get("spec") or {}))
    incarnation = f"{metadata.get('uid', '')}/{restarts}"
    return Pod(namespace, str(metadata.get("name")), incarnation, is_ready, str(status.get("podIP")), ports)


def _named_ports(spec: Json) -> Iterator[tuple[str, int]]:
    for container in [*(spec.get("containers") or []), *(spec.get("initContainers") or [])]:
        for port in container.get("ports") or []:
            if port.get("name"):
                yield str(port["name"]), int(port.get("containerPort") or 0)


def metrics_port(pod: Pod, service: Service, given: int) -> int:
    """Where the pod shows its metrics: as given, as the Service or the pod names it, or where pickers do."""
    if given:
        return given
    named: Any = service.metrics_port
    if isinstance(named, int):
        return named
    for name in (named, *METRICS_PORTS):
        if name in pod.ports:
            return pod.ports[name]
    return DEFAULT_METRICS_PORT


async def read_pod(
    client: KubeClient, pod: Pod, port: int, path: str, *, scheme: str = "", timeout_s: float = 5.0
) -> bytes:
    """A page of the pod by way of the API server's proxy. Raises KubernetesError."""
    prefix = f"{scheme}:" if scheme else ""
    where = (
        f"/api/v1/namespaces/{quote(pod.namespace, safe='')}/pods/{prefix}{quote(pod.name, safe='')}:{port}/proxy{path}"
    )
    return await client.request("GET", where, timeout_s=timeout_s)
