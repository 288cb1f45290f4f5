"""What picker reads of Kubernetes objects: JSON to small values, leniently, for a newer server may say more.

Each `read_*` takes the JSON of one object and raises ValueError, for people to read, if the object cannot be used.
Sources: core/v1 Pod and ConfigMap; `InferencePool` v1 (`inference.networking.k8s.io`) and its retired v1alpha2
(`inference.networking.x-k8s.io`).
"""

from collections.abc import Iterable, Sequence

import msgspec

from picker.resources.basemodels import Claim, ConfigMap, claim_of
from picker.resources.objects import InferenceModel, InferenceModelRewrite, InferenceObjective

__all__ = [
    "MOST_PORTS",
    "Pod",
    "PoolSpec",
    "checked_ports",
    "read_claim",
    "read_model",
    "read_objective",
    "read_old_pool",
    "read_pod",
    "read_pool",
    "read_rewrite",
]

MOST_PORTS = 8
"""Of one pool."""

_NEW_PORTS, _OLD_PORTS = "llm-d.ai/active-ports", "inference.networking.k8s.io/active-ports"


class Pod(msgspec.Struct, frozen=True, kw_only=True):
    """A pod, as far as it matters whether and where it serves."""

    namespace: str
    name: str
    uid: str
    address: str
    """The primary one. Empty: none yet."""
    is_ready: bool
    """It runs, is ready and stays."""
    restarts: int = 0
    """Of all its containers."""
    created: str = ""
    """RFC 3339, UTC; later is greater."""
    labels: dict[str, str] = {}
    active_ports: str | None = None
    """What its annotation says, as it stands there. None: there is none."""


class PoolSpec(msgspec.Struct, frozen=True, kw_only=True):
    """What a pool is made of. `labels`: those its pods have, all of them."""

    namespace: str
    name: str
    ports: tuple[int, ...]
    labels: dict[str, str] = {}
    authorities: tuple[str, ...] = ()
    """How gateways call its endpoint picker, `<service>.<namespace>`."""

    @property
    def id(self) -> str:
        """What the pool is called inside picker."""
        return f"{self.namespace}/{self.name}"

    @property
    def selector(self) -> str:
        """The labels as a query wants them."""
        return ",".join(f"{key}={value}" for key, value in sorted(self.labels.items()))


# --- as they stand in JSON ---


class _Annotations(msgspec.Struct, rename={"new": _NEW_PORTS, "old": _OLD_PORTS}):
    new: str | None = None
    old: str | None = None


class _PodMetadata(msgspec.Struct):
    name: str
    uid: str
    namespace: str = ""
    creationTimestamp: str | None = None
    deletionTimestamp: str | None = None
    labels: dict[str, str] | None = None
    annotations: _Annotations | None = None


class _Condition(msgspec.Struct):
    type: str = ""
    status: str = ""


class _Container(msgspec.Struct):
    restartCount: int = 0


class _PodStatus(msgspec.Struct):
    phase: str | None = None
    podIP: str | None = None
    conditions: list[_Condition] | None = None
    containerStatuses: list[_Container] | None = None


class _Pod(msgspec.Struct):
    metadata: _PodMetadata
    status: _PodStatus | None = None


class _PoolMetadata(msgspec.Struct):
    name: str
    namespace: str = ""


class _Selector(msgspec.Struct):
    matchLabels: dict[str, str] = {}


class _Port(msgspec.Struct):
    number: int


class _PickerRef(msgspec.Struct):
    name: str = ""
    kind: str | None = None
    group: str | None = None


class _PoolMembers(msgspec.Struct):
    selector: _Selector
    targetPorts: list[_Port]
    endpointPickerRef: _PickerRef | None = None


class _Pool(msgspec.Struct):
    metadata: _PoolMetadata
    spec: _PoolMembers


class _OldPoolMembers(msgspec.Struct):
    selector: dict[str, str]
    targetPortNumber: int
    extensionRef: _PickerRef | None = None


class _OldPool(msgspec.Struct):
    metadata: _PoolMetadata
    spec: _OldPoolMembers


_pod = msgspec.json.Decoder(_Pod).decode
_pool = msgspec.json.Decoder(_Pool).decode
_old_pool = msgspec.json.Decoder(_OldPool).decode
_config_map = msgspec.json.Decoder(ConfigMap).decode

read_objective = msgspec.json.Decoder(InferenceObjective).decode
read_rewrite = msgspec.json.Decoder(InferenceModelRewrite).decode
read_model = msgspec.json.Decoder(InferenceModel).decode


def read_pod(raw: bytes) -> Pod:
    """A Pod."""
    found = _pod(raw)
    metadata, status = found.metadata, found.status or _PodStatus()
    annotations = metadata.annotations or _Annotations()
    return Pod(
        namespace=metadata.namespace,
        name=metadata.name,
        uid=metadata.uid,
        address=status.podIP or "",
        is_ready=metadata.deletionTimestamp is None and _is_ready(status),
        restarts=sum(container.restartCount for container in status.containerStatuses or ()),
        created=metadata.creationTimestamp or "",
        labels=metadata.labels or {},
        active_ports=annotations.old if annotations.new is None else annotations.new,
    )


def _is_ready(status: _PodStatus) -> bool:
    if status.phase in ("Succeeded", "Failed"):
        return False
    return any(each.type == "Ready" and each.status == "True" for each in status.conditions or ())


def read_pool(raw: bytes) -> PoolSpec:
    """An InferencePool v1."""
    found = _pool(raw)
    ports = [port.number for port in found.spec.targetPorts]
    return _made(found.metadata, found.spec.selector.matchLabels, ports, found.spec.endpointPickerRef)


def read_old_pool(raw: bytes) -> PoolSpec:
    """An InferencePool v1alpha2, of the retired group: one port, and a selector that is the labels themselves."""
    found = _old_pool(raw)
    return _made(found.metadata, found.spec.selector, [found.spec.targetPortNumber], found.spec.extensionRef)


def _made(metadata: _PoolMetadata, labels: dict[str, str], ports: Sequence[int], ref: _PickerRef | None) -> PoolSpec:
    if not labels:
        raise ValueError("its selector is empty; name the labels of its pods")
    namespace = metadata.namespace or "default"
    is_service = ref is not None and ref.name and (ref.kind or "Service") == "Service" and not ref.group
    return PoolSpec(
        namespace=namespace,
        name=metadata.name,
        ports=checked_ports(ports),
        labels=labels,
        authorities=(f"{ref.name}.{namespace}",) if is_service and ref else (),
    )


def checked_ports(ports: Iterable[int]) -> tuple[int, ...]:
    """The ports, each once, in their order. Raises ValueError for one that is none, or if they are not 1 to 8."""
    found = tuple(dict.fromkeys(ports))
    wrong = next((port for port in found if not 1 <= port <= 65535), None)
    if wrong is not None:
        raise ValueError(f"target port {wrong} is not between 1 and 65535")
    if not 1 <= len(found) <= MOST_PORTS:
        raise ValueError(f"{len(found)} target ports are given; there are 1 to {MOST_PORTS}")
    return found


def read_claim(raw: bytes) -> Claim:
    """A ConfigMap of the body-based router."""
    claim = claim_of(_config_map(raw))
    if claim is None:
        raise ValueError("it is not for the body-based router")
    return claim
