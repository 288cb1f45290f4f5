from collections.abc import Iterable
from typing import Any, Final, final

FAILURES: Final[tuple[str, ...]]
"""What `error_code` says on the metrics page, by PK_FAIL_*."""

OTHER: Final = "other"
"""What is shown of what is not shown apart."""

OUTCOMES: Final[tuple[str, ...]]
"""What `outcome` says on the metrics page of how a request left flow control, by PK_LEFT_*."""

@final
class Stats:
    """Stats alone, for tests and benchmarks; the engine holds its own.

    `limit`: model names with a series of their own. OverflowError beyond 2**20.
    """

    def __new__(cls, limit: int = 1000) -> Stats: ...
    def count(
        self, model: bytes, duration_s: float, *, priority: int = 0, flow: bytes = b"", is_served: bool = True
    ) -> None:
        """One request of `model` (a name in UTF-8, surrogates allowed) that took `duration_s` seconds.

        `model` may be two names with a zero byte between: what was asked for, and what it was rewritten to. `flow` is
        printable, of at most 64 bytes: ValueError. Neither model nor flow get a series of their own unless `is_served`.
        """

    def keep(self, model: bytes) -> None:
        """A series for `model` (a name as above) beside the limit, for 4,096 of them."""

    def count_gaps(self, model: bytes, gaps: Iterable[int]) -> None:
        """Times between the tokens of a response of `model`, in ns."""

    def view(self) -> dict[str, Any]:
        """Everything, as plain Python objects: see `Engine.stats`."""

    def _check(self) -> None:
        """Assert the invariants."""
