"""Where a picker listens that was left to choose its ports: it says so in its log."""

import re

__all__ = ["EXT_PROC", "HEALTH", "METRICS", "ports_in"]

EXT_PROC, HEALTH, METRICS = "ext_proc", "health", "metrics"
_SAID = re.compile(r"\b(ext_proc|health|metrics) on port (\d+)")


def ports_in(log: str) -> dict[str, int]:
    """The ports by what they are for, as far as they are known yet."""
    return {name: int(port) for name, port in _SAID.findall(log)}
