"""Ports for tests, and where a picker listens that was left to choose its ports: it says so in its log."""

import re
import socket

__all__ = ["EXT_PROC", "HEALTH", "METRICS", "free_port", "ports_in"]

EXT_PROC, HEALTH, METRICS = "ext_proc", "health", "metrics"
_SAID = re.compile(r"\b(ext_proc|health|metrics) on port (\d+)")


def ports_in(log: str) -> dict[str, int]:
    """The ports by what they are for, as far as they are known yet."""
    return {name: int(port) for name, port in _SAID.findall(log)}


def free_port() -> int:
    """One that nobody listens on just now, for what cannot choose for itself."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
