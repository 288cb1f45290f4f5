"""What a shell chooses from when a stream opens."""

from collections.abc import Sequence
from typing import TypeAlias

from picker._core.engine import Engine

__all__ = ["Route"]

Route: TypeAlias = tuple[Engine, Sequence[str], str]
"""An engine, the authorities that gateways call its pool's endpoint picker by, and the pool's name."""
