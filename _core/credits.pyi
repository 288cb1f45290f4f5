from collections.abc import Sequence
from typing import Any, final

from picker._core.endpoints import Booking

@final
class Credits:
    """Credits over endpoints of their own, for tests and benchmarks; the engine runs the same kernel.

    `detector`: None, ("adaptive",), ("utilization", queue, kv, headroom, staleness in s) or ("concurrency",
    "requests" | "tokens" | "hybrid", requests, tokens, headroom). Times in nanoseconds. ValueError for what no
    detector can be, KeyError wherever an endpoint has gone.
    """

    def __new__(
        cls, detector: Sequence[Any] | None = ("adaptive",), *, limit: int = 1024, prior_rate: float = 15000.0
    ) -> Credits: ...
    def set_detector(self, detector: Sequence[Any] | None) -> None:
        """Other rules from now on."""

    def add(self, target: bytes) -> tuple[int, int]:
        """(slot, generation) of a new endpoint. OverflowError at the limit, MemoryError."""

    def remove(self, slot: int, generation: int) -> None:
        """Its bookings become void."""

    def scraped(
        self,
        slot: int,
        *,
        waiting: float = -1.0,
        running: float = -1.0,
        kv_usage: float = -1.0,
        cache_tokens: int = -1,
        now_ns: int,
    ) -> None:
        """A scrape replaces what was known of the load. `cache_tokens`: size of the KV cache, if the page says so."""

    def book(self, slot: int, prefill: int, resident: int, now_ns: int) -> Booking:
        """Book a request's tokens, whether or not there is credit. ValueError for absurd numbers of tokens."""

    def first_byte(self, booking: Booking, *, learn: bool, now_ns: int) -> None:
        """The first byte of its answer; with `learn` it is a first token."""

    def release(self, booking: Booking, now_ns: int) -> None:
        """Release a booking; a second time does nothing."""

    def allow(
        self, slot: int, prefill: int, resident: int, *, cached: int = 0, share: float = 1.0, now_ns: int
    ) -> bool:
        """May such a request go there now? `cached`: tokens of its prompt that need not be computed there."""

    def fullness(self, slot: int, now_ns: int) -> float:
        """0 is empty, about 1 full."""

    def saturation(self, now_ns: int) -> float:
        """How full the pool is; 1 if it is empty."""

    def view(self, slot: int, now_ns: int) -> dict[str, Any]:
        """What is known of its credit, for metrics and people.

        `limit` (requests), `kv_tokens` and `kv_used` (the share of them in use) are None while they are not known;
        times in seconds, rates in tokens/s.
        """

    def _check(self) -> None: ...
