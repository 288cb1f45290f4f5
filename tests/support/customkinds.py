"""What the CRDs of gateways ask of their objects, as far as the deploy directory and the docs use them.

No CRD is shipped with picker, so the rules are written down here. A member that is not named is refused. Sources:
Gateway API v1, Gateway API Inference Extension v1 (with its CEL rules), Istio networking v1, Envoy Gateway and Envoy AI
Gateway v1alpha1, GKE networking v1, the Prometheus operator v1.
"""

import re
from typing import Annotated, Any, Literal, TypeAlias

import msgspec
from msgspec import Meta, Struct

__all__ = ["KINDS", "problem"]

_Port = Annotated[int, Meta(ge=1, le=65535)]
_Name = Annotated[str, Meta(min_length=1, max_length=253, pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$")]
_LabelValue = Annotated[str, Meta(max_length=63, pattern=r"^(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?$")]
_Seconds = Annotated[str, Meta(pattern=r"^([0-9]{1,5}(h|m|s|ms)){1,4}$")]
_Weight = Annotated[int, Meta(ge=0, le=1_000_000)]
_HttpName = Annotated[str, Meta(pattern=r"^[A-Za-z0-9!#$%&'*+\-.^_|~]+$", max_length=256)]


class Strict(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """No member that is not declared."""


# --- Gateway API Inference Extension ---


class PoolSelector(Strict):
    matchLabels: Annotated[dict[str, _LabelValue], Meta(min_length=1, max_length=64)]


class PoolPort(Strict):
    number: _Port


class PickerRef(Strict):
    name: _Name
    group: str = ""
    kind: str = "Service"
    port: PoolPort | None = None
    failureMode: Literal["FailOpen", "FailClose"] = "FailClose"

    def __post_init__(self) -> None:
        if self.kind == "Service" and self.port is None:
            raise ValueError("port is required when kind is Service or unspecified")


class PoolSpec(Strict):
    selector: PoolSelector
    targetPorts: Annotated[list[PoolPort], Meta(min_length=1, max_length=8)]
    endpointPickerRef: PickerRef  # optional from v1.6; what ours are for all the same
    appProtocol: Literal["http", "kubernetes.io/h2c"] = "http"

    def __post_init__(self) -> None:
        if len({port.number for port in self.targetPorts}) < len(self.targetPorts):
            raise ValueError("port number must be unique")


class PoolRef(Strict):
    name: _Name
    group: str = "inference.networking.k8s.io"
    kind: str = "InferencePool"


class ObjectiveSpec(Strict):
    poolRef: PoolRef
    priority: int = 0


class RewriteModel(Strict):
    value: Annotated[str, Meta(min_length=1)]
    type: Literal["Exact"] = "Exact"


class RewriteMatch(Strict):
    model: RewriteModel | None = None


class RewriteTarget(Strict):
    modelRewrite: str
    weight: Annotated[int, Meta(ge=1, le=1_000_000)] | None = None


class RewriteRule(Strict):
    targets: Annotated[list[RewriteTarget], Meta(min_length=1)]
    matches: list[RewriteMatch] = []

    def __post_init__(self) -> None:
        if len({target.weight is None for target in self.targets}) > 1:
            raise ValueError("all targets have a weight, or none")


class RewriteSpec(Strict):
    poolRef: PoolRef
    rules: Annotated[list[RewriteRule], Meta(min_length=1)]


# --- Gateway API ---


class ParentRef(Strict):
    name: _Name
    group: str = "gateway.networking.k8s.io"
    kind: str = "Gateway"
    namespace: str = ""
    sectionName: str = ""


class PathMatch(Strict):
    value: Annotated[str, Meta(pattern=r"^/", max_length=1024)] = "/"
    type: Literal["Exact", "PathPrefix", "RegularExpression"] = "PathPrefix"


class HeaderMatch(Strict):
    name: _HttpName
    value: Annotated[str, Meta(min_length=1, max_length=4096)]
    type: Literal["Exact", "RegularExpression"] = "Exact"


class RouteMatch(Strict):
    path: PathMatch = PathMatch()
    headers: Annotated[list[HeaderMatch], Meta(max_length=16)] = []


class BackendRef(Strict):
    name: _Name
    group: str = ""
    kind: str = "Service"
    namespace: str = ""
    port: _Port | None = None
    weight: _Weight = 1

    def __post_init__(self) -> None:
        if self.kind == "Service" and not self.group and self.port is None:
            raise ValueError("Must have port for Service reference")


class Timeouts(Strict):
    request: _Seconds = "0s"
    backendRequest: _Seconds = "0s"


class RouteRule(Strict):
    matches: Annotated[list[RouteMatch], Meta(max_length=64)] = []
    backendRefs: Annotated[list[BackendRef], Meta(max_length=16)] = []
    timeouts: Timeouts | None = None
    name: str = ""


class RouteSpec(Strict):
    parentRefs: Annotated[list[ParentRef], Meta(min_length=1, max_length=32)]
    rules: Annotated[list[RouteRule], Meta(min_length=1, max_length=16)]
    hostnames: list[str] = []


class Listener(Strict):
    name: _Name
    port: _Port
    protocol: Literal["HTTP", "HTTPS", "TLS", "TCP", "UDP"]
    hostname: str = ""
    allowedRoutes: dict[str, Any] = {}
    tls: dict[str, Any] = {}

    def __post_init__(self) -> None:
        if self.tls and self.protocol in ("HTTP", "TCP", "UDP"):
            raise ValueError("tls must not be specified for protocols ['HTTP', 'TCP', 'UDP']")


class GatewaySpec(Strict):
    gatewayClassName: _Name
    listeners: Annotated[list[Listener], Meta(min_length=1, max_length=64)]
    infrastructure: dict[str, Any] = {}


class GrantFrom(Strict):
    group: str
    kind: str
    namespace: _Name


class GrantTo(Strict):
    group: str
    kind: str
    name: str = ""


class GrantSpec(Strict):
    from_: Annotated[list[GrantFrom], Meta(min_length=1)] = msgspec.field(name="from")
    to: Annotated[list[GrantTo], Meta(min_length=1)]


# --- of one gateway each ---


class IstioPort(Strict):
    number: _Port


class IstioTls(Strict):
    mode: Literal["DISABLE", "SIMPLE", "MUTUAL", "ISTIO_MUTUAL"]
    insecureSkipVerify: bool = False


class IstioPortSettings(Strict):
    port: IstioPort
    tls: IstioTls


class IstioPolicy(Strict):
    tls: IstioTls | None = None
    portLevelSettings: list[IstioPortSettings] = []


class DestinationRuleSpec(Strict):
    host: Annotated[str, Meta(min_length=1)]
    trafficPolicy: IstioPolicy


class EnvoyPatch(Strict):
    applyTo: Literal["HTTP_FILTER", "CLUSTER", "LISTENER"]
    match: dict[str, Any]
    patch: dict[str, Any]


class EnvoyFilterSpec(Strict):
    configPatches: Annotated[list[EnvoyPatch], Meta(min_length=1)]


class LocalRef(Strict):
    group: str
    kind: str
    name: _Name


class Connection(Strict):
    bufferLimit: Annotated[str, Meta(pattern=r"^[1-9]+[0-9]*([KMG]i?)?$")]


class ClientTrafficSpec(Strict):
    targetRefs: Annotated[list[LocalRef], Meta(min_length=1)]
    connection: Connection


class HttpHealth(Strict):
    requestPath: Annotated[str, Meta(pattern=r"^/")]
    port: _Port


class GrpcHealth(Strict):
    portSpecification: Literal["USE_FIXED_PORT", "USE_NAMED_PORT", "USE_SERVING_PORT"]
    port: _Port


class HealthConfig(Strict):
    type: Literal["HTTP", "GRPC"]
    httpHealthCheck: HttpHealth | None = None
    grpcHealthCheck: GrpcHealth | None = None

    def __post_init__(self) -> None:
        if (self.type == "HTTP") != (self.httpHealthCheck is not None):
            raise ValueError("type and what it is configured with differ")


class HealthDefaults(Strict):
    config: HealthConfig
    timeoutSec: Annotated[int, Meta(ge=1, le=300)] = 5
    checkIntervalSec: Annotated[int, Meta(ge=1, le=300)] = 5

    def __post_init__(self) -> None:
        if self.timeoutSec > self.checkIntervalSec:
            raise ValueError("a timeout may not be longer than the interval")


class HealthCheckSpec(Strict):
    targetRef: LocalRef
    default: HealthDefaults


class BackendLogging(Strict):
    enabled: bool


class BackendDefaults(Strict):
    timeoutSec: Annotated[int, Meta(ge=1, le=2_147_483_647)]
    logging: BackendLogging


class BackendPolicySpec(Strict):
    targetRef: LocalRef
    default: BackendDefaults


_Event = Literal[
    "RequestHeaders", "RequestBody", "RequestTrailers", "ResponseHeaders", "ResponseBody", "ResponseTrailers"
]


class Extension(Strict):
    name: Annotated[str, Meta(pattern=r"^[a-z]([-a-z0-9]{0,61}[a-z0-9])?$")]
    authority: str
    timeout: _Seconds
    backendRef: BackendRef
    supportedEvents: list[_Event]
    requestBodySendMode: Literal["Streamed", "FullDuplexStreamed"] = "Streamed"

    def __post_init__(self) -> None:
        if self.requestBodySendMode == "FullDuplexStreamed" and "RequestTrailers" not in self.supportedEvents:
            raise ValueError("full duplex needs the trailers too")


class ExtensionChain(Strict):
    name: Annotated[str, Meta(pattern=r"^[a-z]([-a-z0-9]{0,61}[a-z0-9])?$")]
    extensions: Annotated[list[Extension], Meta(min_length=1)]


class RoutingExtensionSpec(Strict):
    targetRefs: Annotated[list[LocalRef], Meta(min_length=1)]
    extensionChains: Annotated[list[ExtensionChain], Meta(min_length=1, max_length=5)]


# --- Prometheus ---


class MonitorSelector(Strict):
    matchLabels: dict[str, str]


class MonitorEndpoint(Strict):
    port: str
    path: Annotated[str, Meta(pattern=r"^/")]
    interval: Annotated[str, Meta(pattern=r"^(0|(([0-9]+)h)?(([0-9]+)m)?(([0-9]+)s)?(([0-9]+)ms)?)$")]
    bearerTokenFile: str = ""
    scheme: Literal["http", "https"] = "http"
    tlsConfig: dict[str, Any] = {}
    authorization: dict[str, Any] = {}


class MonitorSpec(Strict):
    selector: MonitorSelector
    endpoints: Annotated[list[MonitorEndpoint], Meta(min_length=1)]


_Spec: TypeAlias = type[Strict]
KINDS: dict[tuple[str, str], _Spec] = {
    ("inference.networking.k8s.io/v1", "InferencePool"): PoolSpec,
    ("inference.networking.x-k8s.io/v1alpha2", "InferenceObjective"): ObjectiveSpec,
    ("inference.networking.x-k8s.io/v1alpha2", "InferenceModelRewrite"): RewriteSpec,
    ("llm-d.ai/v1alpha2", "InferenceObjective"): ObjectiveSpec,
    ("llm-d.ai/v1alpha2", "InferenceModelRewrite"): RewriteSpec,
    ("gateway.networking.k8s.io/v1", "Gateway"): GatewaySpec,
    ("gateway.networking.k8s.io/v1", "HTTPRoute"): RouteSpec,
    ("gateway.networking.k8s.io/v1beta1", "ReferenceGrant"): GrantSpec,
    ("networking.istio.io/v1", "DestinationRule"): DestinationRuleSpec,
    ("networking.istio.io/v1alpha3", "EnvoyFilter"): EnvoyFilterSpec,
    ("gateway.envoyproxy.io/v1alpha1", "ClientTrafficPolicy"): ClientTrafficSpec,
    ("networking.gke.io/v1", "HealthCheckPolicy"): HealthCheckSpec,
    ("networking.gke.io/v1", "GCPBackendPolicy"): BackendPolicySpec,
    ("networking.gke.io/v1", "GCPRoutingExtension"): RoutingExtensionSpec,
    ("monitoring.coreos.com/v1", "ServiceMonitor"): MonitorSpec,
}


class Metadata(Strict):
    name: _Name
    namespace: str = ""
    labels: dict[str, _LabelValue] = {}
    annotations: dict[str, str] = {}


_LABEL_KEY = re.compile(r"^([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$")


def problem(thing: dict[str, Any]) -> str | None:
    """What is wrong with an object of a custom kind; None if nothing. Raises KeyError for a kind without rules."""
    spec = KINDS[thing["apiVersion"], thing["kind"]]
    if unknown := set(thing) - {"apiVersion", "kind", "metadata", "spec"}:
        return f"unknown members: {', '.join(sorted(unknown))}"
    try:
        metadata = msgspec.convert(thing["metadata"], Metadata)
        msgspec.convert(thing["spec"], spec)
    except msgspec.ValidationError as error:
        return str(error)
    odd = [name for name in (*metadata.labels, *metadata.annotations) if not _LABEL_KEY.match(name)]
    return f"not the key of a label: {odd}" if odd else None
