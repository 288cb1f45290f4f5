"""Loads by format. Each is `FORMATS[name](path, seed)`; `path` is None for what is generated with its defaults.

Raises `TraceError` naming file and line for what cannot be read.
"""

from collections.abc import Callable
from pathlib import Path

from picker.sim.asked import Load
from picker.sim.traces import agentic, azure, mooncake, shared_prefix, zero_reuse
from picker.sim.traces.errors import TraceError

__all__ = ["FORMATS", "GENERATED", "TraceError"]

FORMATS: dict[str, Callable[[Path | None, int], Load]] = {
    "mooncake": mooncake.read,
    "mooncake-delta": mooncake.read_deltas,
    "azure": azure.read,
    "shared-prefix": shared_prefix.read,
    "agentic": agentic.read,
    "zero-reuse": zero_reuse.read,
}
GENERATED = ("shared-prefix", "agentic", "zero-reuse")
"""Those that need no file."""
