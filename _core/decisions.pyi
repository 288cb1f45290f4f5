from typing import Any, Final, final

KEPT: Final[int]
"""How many decisions can still be had."""

@final
class Decisions:
    """The ring alone, for tests; the engine holds its own."""

    def __new__(cls) -> Decisions: ...
    def add(self, target: bytes, now_ns: int) -> int:
        """The number of a new decision for `target`. ValueError for a target of more than 56 bytes."""

    def get(self, number: int) -> dict[str, Any] | None:
        """The decision of that number as a dict, or None."""

    def clear(self) -> None:
        """Forget all."""

    def _check(self) -> None:
        """Assert the invariants."""
