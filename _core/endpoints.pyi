from collections.abc import Iterable
from typing import Any, final

@final
class Booking:
    """What one request holds of an endpoint; made by `Endpoints.book`."""

    def __new__(cls) -> Booking: ...

@final
class Endpoints:
    """The slot table alone, for tests and benchmarks; the engine holds its own.

    Times in nanoseconds of any one clock; `prior_rate` in prefill tokens per second. ValueError for a breaker that
    could not work.
    """

    def __new__(
        cls,
        limit: int = 1024,
        prior_rate: float = 15000.0,
        *,
        eject_after: int = 3,
        eject_base_ns: int = 1_000_000_000,
        eject_limit_ns: int = 60_000_000_000,
    ) -> Endpoints: ...
    def __len__(self) -> int: ...
    @property
    def fleet_rate(self) -> float:
        """Prefill tokens per second, learned over all endpoints."""

    def add(self, target: bytes, *, token: bytes = b"", labels: int = 0) -> tuple[int, int]:
        """(slot, generation) of a new endpoint. OverflowError at the limit, ValueError when a text is too long."""

    def remove(self, slot: int, generation: int) -> None:
        """KeyError if there is no such endpoint."""

    def scraped(
        self,
        slot: int,
        generation: int,
        *,
        waiting: float = -1.0,
        running: float = -1.0,
        kv_usage: float = -1.0,
        max_lora: float = -1.0,
        running_adapters: Iterable[str] = (),
        waiting_adapters: Iterable[str] = (),
        now_ns: int,
    ) -> None:
        """A scrape replaces what was known of the endpoint's load. KeyError if it has gone."""

    def book(self, slot: int, prefill: int, resident: int, now_ns: int) -> Booking:
        """Book a request's tokens. KeyError if the slot is free, ValueError for absurd numbers of tokens."""

    def first_byte(self, booking: Booking, *, learn: bool, now_ns: int) -> None:
        """Release the prefill part of a booking; with `learn`, take its time as an observation."""

    def release(self, booking: Booking) -> None:
        """Release a booking; a second time does nothing."""

    def succeeded(self, slot: int, generation: int, started_ns: int) -> None:
        """The endpoint answered a request sent at `started_ns`."""

    def failed(self, slot: int, generation: int, started_ns: int, now_ns: int) -> bool:
        """The endpoint failed a request sent at `started_ns`; True when that ejects it."""

    def view(self, slot: int, generation: int, now_ns: int) -> dict[str, Any]:
        """What is known of it. KeyError if it has gone."""

    def _check(self) -> None:
        """Assert the table's invariants."""
