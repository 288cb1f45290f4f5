"""The kinds a cluster knows: built in, as a real one with the CRDs of the gateways has them, or made by a CRD."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from tests.support.cluster.refusals import NoSuchPath, not_found
from tests.support.cluster.schemas import BUILT_IN

Json = dict[str, Any]
GATEWAY, INFERENCE = "gateway.networking.k8s.io", "inference.networking.k8s.io"
INFERENCE_X, LLM_D = "inference.networking.x-k8s.io", "llm-d.ai"


@dataclass(frozen=True, kw_only=True, eq=False)
class Kind:
    """One resource. `versions`: those it is served in, that of storage first."""

    kind: str
    plural: str
    group: str = ""
    versions: tuple[str, ...] = ("v1",)
    namespaced: bool = True
    status: bool = False  # has a status subresource
    generation: bool = False  # counts changes of what is neither metadata nor status
    custom: bool = False  # made by a CRD
    short: tuple[str, ...] = ()
    fields: tuple[str, ...] = ()  # selectable, beside name and namespace
    schema: Json | None = None
    virtual: bool = False  # answered, never stored

    @property
    def resource(self) -> tuple[str, str]:
        """What it is stored under."""
        return self.group, self.plural

    def api_version(self, version: str = "") -> str:
        version = version or self.versions[0]
        return f"{self.group}/{version}" if self.group else version


def _core(kind: str, plural: str, **more: Any) -> Kind:
    return Kind(kind=kind, plural=plural, **more)


def _custom(group: str, version: str, kind: str, short: str = "", *, plural: str = "") -> Kind:
    return Kind(
        group=group,
        versions=(version,),
        kind=kind,
        plural=plural or f"{kind.lower()}s",
        status=True,
        generation=True,
        custom=True,
        short=(short,) if short else (),
        schema=BUILT_IN.get((group, kind)),
    )


_RBAC, _REVIEWS = "rbac.authorization.k8s.io", "authorization.k8s.io"
_POD_FIELDS = ("spec.nodeName", "status.phase", "status.podIP", "spec.serviceAccountName")

CORE = (
    _core("Namespace", "namespaces", namespaced=False, status=True, short=("ns",), fields=("status.phase",)),
    _core("Node", "nodes", namespaced=False, status=True, short=("no",), fields=("spec.unschedulable",)),
    _core("Pod", "pods", status=True, generation=True, short=("po",), fields=_POD_FIELDS),
    _core("Service", "services", status=True, short=("svc",), fields=("spec.type", "spec.clusterIP")),
    _core("ConfigMap", "configmaps", short=("cm",)),
    _core("Secret", "secrets", fields=("type",)),
    _core("ServiceAccount", "serviceaccounts", short=("sa",)),
    _core("Event", "events", short=("ev",), fields=("involvedObject.name", "involvedObject.kind", "reason")),
    _core("Endpoints", "endpoints", short=("ep",)),
    _core("PersistentVolumeClaim", "persistentvolumeclaims", status=True, short=("pvc",)),
    Kind(group="discovery.k8s.io", kind="EndpointSlice", plural="endpointslices"),
    Kind(group="apps", kind="Deployment", plural="deployments", status=True, generation=True, short=("deploy",)),
    Kind(group="apps", kind="ReplicaSet", plural="replicasets", status=True, generation=True, short=("rs",)),
    Kind(group="apps", kind="StatefulSet", plural="statefulsets", status=True, generation=True, short=("sts",)),
    Kind(group="apps", kind="DaemonSet", plural="daemonsets", status=True, generation=True, short=("ds",)),
    Kind(group="batch", kind="Job", plural="jobs", status=True, generation=True),
    Kind(group="coordination.k8s.io", kind="Lease", plural="leases"),
    Kind(group="events.k8s.io", kind="Event", plural="events"),
    Kind(group="policy", kind="PodDisruptionBudget", plural="poddisruptionbudgets", status=True, generation=True),
    Kind(group="networking.k8s.io", kind="NetworkPolicy", plural="networkpolicies", generation=True),
    Kind(group="autoscaling", versions=("v2",), kind="HorizontalPodAutoscaler", plural="horizontalpodautoscalers"),
    Kind(group=_RBAC, kind="Role", plural="roles"),
    Kind(group=_RBAC, kind="RoleBinding", plural="rolebindings"),
    Kind(group=_RBAC, kind="ClusterRole", plural="clusterroles", namespaced=False),
    Kind(group=_RBAC, kind="ClusterRoleBinding", plural="clusterrolebindings", namespaced=False),
    Kind(
        group="apiextensions.k8s.io",
        kind="CustomResourceDefinition",
        plural="customresourcedefinitions",
        namespaced=False,
        status=True,
        generation=True,
        short=("crd",),
    ),
    Kind(group="authentication.k8s.io", kind="TokenReview", plural="tokenreviews", namespaced=False, virtual=True),
    Kind(group=_REVIEWS, kind="SubjectAccessReview", plural="subjectaccessreviews", namespaced=False, virtual=True),
    Kind(
        group=_REVIEWS,
        kind="SelfSubjectAccessReview",
        plural="selfsubjectaccessreviews",
        namespaced=False,
        virtual=True,
    ),
)

EXTENSIONS = (
    _custom(GATEWAY, "v1", "Gateway", "gtw"),
    _custom(GATEWAY, "v1", "HTTPRoute"),
    _custom(INFERENCE, "v1", "InferencePool", "infpool"),
    _custom(INFERENCE_X, "v1alpha2", "InferencePool", "xinfpool"),
    _custom(INFERENCE_X, "v1alpha2", "InferenceObjective", "infobj"),
    _custom(INFERENCE_X, "v1alpha2", "InferenceModelRewrite", "infmodelrewrite"),
    _custom(INFERENCE_X, "v1alpha2", "InferenceModel", "infmodel"),
    _custom(LLM_D, "v1alpha2", "InferenceObjective"),
    _custom(LLM_D, "v1alpha2", "InferenceModelRewrite"),
)


class Kinds:
    """Those one cluster has now."""

    def __init__(self, kinds: Iterable[Kind]) -> None:
        self._kinds = {kind.resource: kind for kind in kinds}

    def __iter__(self) -> Iterator[Kind]:
        return iter(list(self._kinds.values()))

    def add(self, kind: Kind) -> None:
        self._kinds[kind.resource] = kind

    def remove(self, resource: tuple[str, str]) -> None:
        self._kinds.pop(resource, None)

    def of_path(self, group: str, version: str, plural: str) -> Kind:
        """Raises NoSuchPath."""
        kind = self._kinds.get((group, plural))
        if kind is None or version not in kind.versions:
            raise NoSuchPath
        return kind

    def of_manifest(self, manifest: Mapping[str, Any]) -> Kind:
        """Raises Refusal 404 for what no CRD has made."""
        group, _, version = str(manifest["apiVersion"]).rpartition("/")
        for kind in self:
            if kind.kind == manifest["kind"] and kind.group == group and version in kind.versions:
                return kind
        raise not_found(group, str(manifest["kind"]), version)

    def named(self, name: str) -> Kind:
        """By `Kind`, `plural`, `Kind.group` or `plural.group`; of several the first. Raises KeyError."""
        for kind in self:
            for plain in (kind.kind, kind.plural):
                if name in (plain, f"{plain}.{kind.group}"):
                    return kind
        raise KeyError(f"this cluster has no kind {name!r}")


def kind_of_crd(crd: Mapping[str, Any]) -> Kind:
    """The kind that a CustomResourceDefinition makes."""
    spec = crd["spec"]
    versions = sorted((each for each in spec["versions"] if each.get("served", True)), key=_storage_first)
    newest = versions[0]
    status = "status" in (newest.get("subresources") or {})
    return Kind(
        group=spec["group"],
        versions=tuple(each["name"] for each in versions),
        kind=spec["names"]["kind"],
        plural=spec["names"]["plural"],
        namespaced=spec.get("scope", "Namespaced") == "Namespaced",
        status=status,
        generation=True,
        custom=True,
        short=tuple(spec["names"].get("shortNames") or ()),
        schema=(newest.get("schema") or {}).get("openAPIV3Schema"),
    )


def _storage_first(version: Mapping[str, Any]) -> bool:
    return not version.get("storage", False)
