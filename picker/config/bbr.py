"""The settings of `picker bbr`, as `picker.config.settings` has those of `picker serve`."""

from dataclasses import dataclass, field

from picker.config.settings import BodyRoutingSettings, LimitSettings, LogSettings, option

__all__ = ["BbrListenSettings", "BbrSettings"]


@dataclass(frozen=True, slots=True, kw_only=True)
class BbrListenSettings:
    """Where the body-based router listens, and how."""

    bind_address: str = option("", "bind-address", "text")
    """Address all three servers listen on. Empty: every interface, IPv4 and IPv6."""

    grpc_port: int = option(9004, "grpc-port", "port")
    """Port of the ext_proc server that the gateway calls."""

    grpc_health_port: int = option(9005, "grpc-health-port", "port")
    """Port of the gRPC health server (plaintext)."""

    metrics_port: int = option(9090, "metrics-port", "port")
    """Port of the HTTP server for `/metrics`."""

    secure_serving: bool = option(True, "secure-serving", "boolean")
    """Whether the ext_proc port speaks TLS."""

    cert_path: str = option("", "cert-path", "text")
    """Directory that holds `tls.crt` and `tls.key`. Empty: a certificate made at the start, signed by itself."""

    enable_cert_reload: bool = option(False, "enable-cert-reload", "boolean")
    """Whether a certificate that changes on disk is taken for new connections."""

    streaming: bool = option(False, "streaming", "boolean")
    """Accepted without effect. How bodies are sent, the gateway says on each stream."""

    grpc_max_recv_msg_bytes: int = option(0, "grpc-max-recv-msg-size", "bytes")
    """Largest gRPC message taken. 0: twice the body cap, at least 16 MiB."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BbrSettings:
    """Everything `picker.bbr.app.serve` needs."""

    listen: BbrListenSettings = field(default_factory=BbrListenSettings)
    limits: LimitSettings = field(default_factory=LimitSettings)
    routing: BodyRoutingSettings = field(default_factory=BodyRoutingSettings)
    log: LogSettings = field(default_factory=LogSettings)

    warnings: tuple[str, ...] = ()
    """What was accepted on the command line without effect, to be logged at the start."""
