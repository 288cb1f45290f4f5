"""Loads by format. Each is `FORMATS[name](path, seed)`; `path` is None for what is generated with its defaults.

Raises `TraceError` naming file and line for what cannot be read.
"""

from collections.abc import Callable
from pathlib import Path

from picker.sim.asked import Load
from picker.sim.traces import mooncake
from picker.sim.traces.errors import TraceError

__all__ = ["FORMATS", "TraceError"]

FORMATS: dict[str, Callable[[Path | None, int], Load]] = {
    "mooncake": mooncake.read,
}
