"""What a store of counters is, for whoever asks one."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

__all__ = ["Answer", "Asked", "Settled", "Store", "StoreError"]

Asked: TypeAlias = tuple[int, tuple[tuple[int, int, int, int], ...]]
"""Ticket, and of each limit: counter, length of its window in ms, cost, amount. As `Quota.asked` has it."""
Settled: TypeAlias = tuple[int, int, int, int]
"""Counter, length of its window, end of the one that was reserved in, change. As `Quota.settled` has it."""


class StoreError(Exception):
    """The store did not do what it was asked; what became of it is not known."""


@dataclass(frozen=True, slots=True)
class Answer:
    """To one request: as `Quota.answer` takes it."""

    refused: int
    used: Sequence[int]
    ends_ms: Sequence[int]
    store_ms: int


class Store(Protocol):
    """Where replicas count together. Whoever waits sets the limit of time."""

    async def reserve(self, batch: Sequence[Asked]) -> list[Answer]:
        """The answers, in order. Raises StoreError."""

    async def settle(self, rows: Sequence[Settled]) -> None:
        """Raises StoreError."""

    async def probe(self) -> None:
        """Can it be reached, and does it do what is needed? Raises StoreError."""

    async def close(self) -> None:
        """Let go of its connections."""
