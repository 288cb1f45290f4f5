"""The settings of `picker serve`: parsed once, frozen, passed down. Units stand in the names.

Each field that has a flag says so; its docstring is the flag's help and its row in the table of docs/configuration.md
(`picker.config.reference`). The first sentence of a docstring must therefore stand alone.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from picker.config.model import DEFAULT_CONFIG, PickerConfig

__all__ = [
    "AdminSettings",
    "BodyRoutingSettings",
    "DiscoverySettings",
    "ElectionSettings",
    "KubernetesSettings",
    "LimitSettings",
    "ListenSettings",
    "LogSettings",
    "RoutingSettings",
    "ScrapeSettings",
    "ServeSettings",
]

KIB = 1 << 10
MIB = 1 << 20


def option(default: Any, flag: str, kind: str, *choices: str) -> Any:
    """A field set by `--flag`; `kind` says how its text is read and which unit the table shows."""
    return field(default=default, metadata={"flag": flag, "kind": kind, "choices": choices})


@dataclass(frozen=True, slots=True, kw_only=True)
class ListenSettings:
    """Where picker listens, and how."""

    bind_address: str = option("", "bind-address", "text")
    """Address all three servers listen on. Empty: every interface, IPv4 and IPv6."""

    grpc_port: int = option(9002, "grpc-port", "port")
    """Port of the ext_proc server that the gateway calls."""

    grpc_health_port: int = option(9003, "grpc-health-port", "port")
    """Port of the gRPC health server (plaintext)."""

    metrics_port: int = option(9090, "metrics-port", "port")
    """Port of the HTTP server for `/metrics`."""

    secure_serving: bool = option(True, "secure-serving", "boolean")
    """Whether the ext_proc port speaks TLS."""

    cert_path: str = option("", "cert-path", "text")
    """Directory that holds `tls.crt` and `tls.key`. Empty: a certificate made at the start, signed by itself."""

    enable_cert_reload: bool = option(False, "enable-cert-reload", "boolean")
    """Whether certificates that change on disk are taken for new connections, those of the metrics port too."""

    client_ca_file: str = option("", "client-ca-file", "text")
    """PEM file of authorities. A client must show a certificate of one of them. Empty: any client is served."""

    tls_min_version: str = option("", "tls-min-version", "text")
    """Lowest TLS version: VersionTLS12 (the default) or, by the wire shell, VersionTLS13."""

    tls_cipher_suites: str = option("", "tls-cipher-suites", "text")
    """Suites of TLS 1.2, by their IANA names, comma-separated; by the wire shell. Empty: OpenSSL's choice."""

    health_checking: bool = option(False, "health-checking", "boolean")
    """Whether the ext_proc port answers health checks too."""

    shell: str = option("auto", "shell", "choice", "wire", "grpcio", "auto")
    """Which server moves the bytes: `wire`, or `grpcio`, the slower reference. `auto` is `wire`."""

    grpc_max_recv_msg_bytes: int = option(0, "grpc-max-recv-msg-size", "bytes")
    """Largest gRPC message taken. 0: twice the body cap, at least 16 MiB."""

    grpc_max_send_msg_bytes: int = option(0, "grpc-max-send-msg-size", "bytes")
    """Largest gRPC message sent, by the grpcio shell. 0: twice the body cap, at least 16 MiB."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AdminSettings:
    """Who may read the metrics port, and how."""

    endpoint_auth: bool = option(True, "metrics-endpoint-auth", "boolean")
    """Whether `/metrics` and `/debug/*` want a bearer token that the API server knows and grants them to.

    Where pools come from a cluster; with an endpoints file there is nobody to ask. Probes are open."""

    cert_dir: str = option("", "metrics-cert-dir", "text")
    """Directory that holds `tls.crt` and `tls.key` of the metrics port. Empty: it speaks plain HTTP."""

    client_ca_file: str = option("", "metrics-client-ca-file", "text")
    """PEM file of authorities. A client of the metrics port, a probe too, must show a certificate of one of them."""

    cert_reload: bool = False
    """Whether these files are followed; as those of the ext_proc port."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitSettings:
    """What a request may cost; a limit reached is an answer, never growth."""

    body_cap_bytes: int = option(64 * MIB, "body-cap", "bytes")
    """Largest request body; a larger one is answered 413."""

    request_timeout_s: float = option(300.0, "request-timeout", "duration")
    """How long a request body may take to arrive; then the client is answered 408."""

    drain_timeout_s: float = option(30.0, "drain-timeout", "duration")
    """How long requests in flight may take after SIGTERM. Readiness goes first; then streams are cut."""

    max_streams: int = option(20_000, "max-streams", "count")
    """Most requests in flight at once, of each pool; more are answered 429. Twice as many streams are all it takes."""

    header_cap_bytes: int = option(256 * KIB, "header-cap", "bytes")
    """Most bytes of request headers; a request with more, or with over 1,000 headers, is answered 431."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScrapeSettings:
    """How the endpoints' metrics are read. A `metrics-data-source` in the configuration wins over these flags."""

    enabled: bool = True
    """Whether metrics are scraped at all; a configuration can switch it off (`dataLayer.injectDefaults: false`)."""

    busy_interval_s: float = option(0.2, "refresh-metrics-interval", "duration")
    """Time between two scrapes of an endpoint that has work. At least 50 ms."""

    idle_interval_s: float = option(2.0, "refresh-metrics-idle-interval", "duration")
    """Time between two scrapes of an idle endpoint."""

    timeout_s: float = option(1.0, "refresh-metrics-timeout", "duration")
    """Longest time one scrape may take."""

    backoff_max_s: float = 10.0
    """Longest pause after failures; it starts at the busy interval and doubles."""

    page_bytes_max: int = 4 * MIB
    """Largest metrics page; a larger one is a failure."""

    concurrency: int = 16
    """Most scrapes at once, over all endpoints."""

    staleness_threshold_s: float = option(5.0, "metrics-staleness-threshold", "duration")
    """Age at which an endpoint's metrics count as stale. They stop no traffic."""

    scheme: str = option("http", "model-server-metrics-scheme", "choice", "http", "https")
    """Scheme of the metrics URL."""

    path: str = option("/metrics", "model-server-metrics-path", "text")
    """Path of the metrics URL."""

    port: int = option(0, "model-server-metrics-port", "port")
    """Port of the metrics URL. 0: the endpoint's own."""

    insecure_skip_verify: bool = option(True, "model-server-metrics-https-insecure-skip-verify", "boolean")
    """Whether a metrics server's certificate goes unchecked."""

    ca_cert_path: str = ""
    """CA bundle that metrics servers are checked against, from the configuration."""

    client_cert_path: str = ""
    """Client certificate shown to metrics servers, from the configuration."""

    client_key_path: str = ""
    """Key of that certificate."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RoutingSettings:
    """What a pick looks at and says."""

    disable_endpoint_subset_filter: bool = option(False, "disable-endpoint-subset-filter", "boolean")
    """Whether the gateway's subset hint is ignored."""

    response_model: str = option("client", "response-model", "choice", "client", "served")
    """What responses to rewritten requests call the model: as the client did, or as the one that served."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DiscoverySettings:
    """Where the endpoints come from, and the objects beside them."""

    endpoints_file: str = option("", "endpoints-file", "text")
    """YAML file of the endpoints. It is followed while picker runs."""

    resources_file: str = option("", "resources-file", "text")
    """YAML file of Kubernetes objects, `InferenceModelRewrite` and its like. It is followed too."""

    endpoints_interval_s: float = option(0.5, "endpoints-interval", "duration")
    """Time between two looks at these files; a change counts once two looks agree."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KubernetesSettings:
    """What is served of a Kubernetes cluster: pools by name or by labels, or pods by labels where there are no pools.

    One of `pools`, `pool_selector` and `endpoint_selector` at most; none: nothing is asked of an API server.
    """

    pools: tuple[str, ...] = option((), "pool-name", "names")
    """Name of the InferencePool to serve, or `namespace/name`; comma-separated or repeated for several.

    With an endpoints file: the name that metrics show; objects for other pools count for nothing."""

    pool_namespace: str = option("", "pool-namespace", "text")
    """Namespace of the pools. Empty: that of the environment variable NAMESPACE, else `default`."""

    pool_group: str = option(
        "inference.networking.k8s.io",
        "pool-group",
        "choice",
        "inference.networking.k8s.io",
        "inference.networking.x-k8s.io",
    )
    """API group of the InferencePools; the second is the retired one."""

    pool_selector: str = option("", "pool-selector", "text")
    """Label selector: every InferencePool in the namespace that matches is served, as they come and go."""

    pool_config_files: tuple[str, ...] = option((), "pool-config-file", "texts")
    """Configuration of one pool, `NAME=FILE`, repeatable. Pools without one have that of `--config-file`."""

    endpoint_selector: str = option("", "endpoint-selector", "text")
    """Label selector of the pods to serve without an InferencePool; needs `--endpoint-target-ports`."""

    target_ports: tuple[int, ...] = option((), "endpoint-target-ports", "ports")
    """Ports of those pods, 1 to 8, comma-separated or repeated."""

    kubeconfig: str = option("", "kubeconfig", "text")
    """Credentials file. Empty: those of the pod, else of the environment variable KUBECONFIG, else `~/.kube/config`."""

    deployment: str = "picker"
    """Name of picker's own Deployment, if the environment variable POD_NAME tells it."""

    base_models: bool = False
    """Whether the body-based router's ConfigMaps are followed; so they are where it runs without a file of them."""

    @property
    def serves_several(self) -> bool:
        """Whether there may be more pools than one."""
        return bool(len(self.pools) > 1 or self.pool_selector)

    @property
    def in_use(self) -> bool:
        """Whether pools or pods of a cluster are asked for."""
        return bool(self.pools or self.pool_selector or self.endpoint_selector)


@dataclass(frozen=True, slots=True, kw_only=True)
class ElectionSettings:
    """Which of several replicas serves. The defaults are client-go's."""

    enabled: bool = option(False, "ha-enable-leader-election", "boolean")
    """Whether of several replicas only one serves, elected by a Lease, while the others stand by."""

    lease_s: float = option(15.0, "leader-election-lease-duration", "duration")
    """How long the Lease of a leader that died goes on, in whole seconds; then another takes over."""

    renew_deadline_s: float = option(10.0, "leader-election-renew-deadline", "duration")
    """How long a leader that cannot renew its Lease goes on leading. Shorter than the Lease, or two might lead."""

    retry_s: float = option(2.0, "leader-election-retry-period", "duration")
    """Time between two renewals, and between two tries where something fails."""

    lease_name: str = option("", "leader-election-lease-name", "text")
    """Name of the Lease. Empty: the reference picker's, `epp-<namespace>-<pool>.gateway-api-inference-extension.\
sigs.k8s.io`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BodyRoutingSettings:
    """The body-based router. `picker bbr` has these flags without the `bbr-` in front."""

    port: int = option(0, "bbr-port", "port")
    """Port of the body-based router, an ext_proc server of its own. 0: there is none."""

    plugins: tuple[str, ...] = option((), "bbr-plugin", "texts")
    """Plugin of the body-based router, `<type>:<name>[:<json>]`, repeatable. None: the two that set model headers."""

    base_models_file: str = option("", "base-models-file", "text")
    """YAML file of ConfigMaps that say which adapters belong to which base model. It is followed while picker runs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LogSettings:
    """What is logged, and how."""

    verbosity: int = option(2, "v", "count")
    """Verbosity: 2 default, 3 verbose, 4 debug, 5 trace."""

    encoder: str = option("auto", "zap-encoder", "choice", "auto", "json", "console")
    """Form of a log line. `auto`: `console` on a terminal, else `json`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeSettings:
    """Everything `picker.app.serve` needs."""

    config: PickerConfig = DEFAULT_CONFIG
    """The routing configuration (`--config-file` or `--config-text`)."""

    config_file: str = ""
    """The file it came from, to be followed while picker runs; empty if it came from none."""

    pool_configs: Mapping[str, PickerConfig] = field(default_factory=dict)
    """Configurations of pools that have their own, each from the file that is its `source`, by `namespace/name`."""

    listen: ListenSettings = field(default_factory=ListenSettings)
    admin: AdminSettings = field(default_factory=AdminSettings)
    limits: LimitSettings = field(default_factory=LimitSettings)
    scrape: ScrapeSettings = field(default_factory=ScrapeSettings)
    routing: RoutingSettings = field(default_factory=RoutingSettings)
    discovery: DiscoverySettings = field(default_factory=DiscoverySettings)
    kubernetes: KubernetesSettings = field(default_factory=KubernetesSettings)
    election: ElectionSettings = field(default_factory=ElectionSettings)
    body_routing: BodyRoutingSettings = field(default_factory=BodyRoutingSettings)
    log: LogSettings = field(default_factory=LogSettings)

    warnings: tuple[str, ...] = ()
    """What was accepted on the command line without effect, to be logged at the start."""
