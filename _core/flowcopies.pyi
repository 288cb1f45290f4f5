from typing import Any

from picker._core.engine import Engine

def copy_flow(engine: Engine, now_ns: int) -> bytes:
    """What flow control of the engine has counted, and who waits; by priority, but not by flow."""

def read_flow(copies: bytes, now_ns: int) -> dict[str, Any]:
    """What `copy_flow` copied, as it is shown at `now_ns`. ValueError for anything else, as far as that shows.

    Histograms are as `Engine.stats` has them; times in seconds. A cap of 0 is none.
    """
