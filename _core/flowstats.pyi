from typing import Any, final

@final
class FlowStats:
    """The counters alone, with one series, for tests; the engine holds its own."""

    def __new__(cls) -> FlowStats: ...
    def passed(self, priority: int) -> None:
        """A request had its turn at once."""

    def queued(self, priority: int, nbytes: int) -> None:
        """A request of so many bytes waits."""

    def refused(self, priority: int, failure: str) -> None:
        """A request is not let wait, for a cause of `stats.FAILURES` (ValueError)."""

    def left(self, priority: int, nbytes: int, failure: str, waited_ns: int) -> None:
        """One that waited has its turn ("None"), or lost it, for a cause of `stats.FAILURES` (ValueError)."""

    def evicted(self, priority: int) -> None:
        """One that ran was ended."""

    def view(self) -> dict[str, Any]:
        """`bands` as `Engine.flow_stats` shows them, the highest first; `series` as `Engine.stats` shows its own."""

    def _check(self) -> None:
        """Assert the invariants."""
