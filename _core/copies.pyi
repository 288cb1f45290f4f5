from typing import Any

from picker._core.engine import Engine

def copy_series(engine: Engine, first: int, most: int) -> bytes | None:
    """Models `first` to `first + most - 1` as far as they have something to show; None behind the last."""

def copy_totals(engine: Engine) -> bytes:
    """What is not counted by model."""

def copy_endpoints(engine: Engine, first: int, most: int) -> bytes | None:
    """The endpoints in slots `first` to `first + most - 1`; None behind the last."""

def busy_targets(engine: Engine) -> bytes:
    """The targets of endpoints with requests of ours under way, a line each."""

def read_series(copies: bytes) -> list[dict[str, Any]]:
    """What `copy_series` copied, as `Engine.stats` shows it. ValueError for anything else, as far as that shows."""

def read_totals(copies: bytes) -> dict[str, Any]:
    """What `copy_totals` copied, as `Engine.stats` shows it. ValueError for anything else, as far as that shows."""

def read_endpoints(copies: bytes, now_ns: int) -> list[dict[str, Any]]:
    """What `copy_endpoints` copied, as `Engine.endpoints` shows it at `now_ns`, with its credit. ValueError as above.

    `credit` is empty where flow control knows nothing of the endpoint.
    """
