"""Slow model of `picker._core.engine`: the models of its parts, and what each event of a request's life does to them.

Which candidate is picked is the pipeline's business: the model is told, and says whether it could be.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from tests.model import endpoints, radix, subset

BLOCK_TOKENS = 64
SOON_NS, LATE_NS, ALIVE_NS = 250_000_000, 10_000_000_000, 500_000_000
MOST_TOKENS = 2**30


@dataclass(eq=False)
class Request:
    """One picked request."""

    booking: endpoints.Booking | None
    series: str
    cached: int


class Engine:
    def __init__(self, *, prior_rate: float, endpoint_blocks: int, index_blocks: int) -> None:
        self.table = endpoints.Table(4096, prior_rate, 3, 1_000_000_000, 60_000_000_000)
        self.radix = radix.Radix(64, capacity=endpoint_blocks, max_blocks=index_blocks)
        self.endpoint_blocks = endpoint_blocks
        self.addresses: dict[str, str] = {}  # by target
        self.output_tokens = 256.0
        self.shows_responses = False
        self.counts: Counter[str] = Counter()
        self.series: set[str] = set()  # models that have one of their own
        self.requests: Counter[str] = Counter()  # ended, by series
        self.running: Counter[str] = Counter()
        self.failures: Counter[tuple[str, str]] = Counter()

    # --- the pool ---

    def add(self, target: str, address: str) -> tuple[int, int]:
        slot, generation = self.table.add(target)
        self.addresses[target] = address
        self.radix.set_capacity(slot, self.endpoint_blocks)
        return slot, generation

    def remove(self, slot: int, generation: int) -> None:
        self.table.remove(slot, generation)
        self.radix.forget(slot)

    def find(self, target: str) -> endpoints.Endpoint | None:
        return next((found for _, found in sorted(self.table.endpoints.items()) if found.target == target), None)

    def candidates(self, hint: list[str] | None, now_ns: int) -> set[str]:
        """Targets; if all that the hint allows are ejected, those."""
        pool = self.table.endpoints.values()
        allowed = [one for one in pool if subset.allows(hint, one.target, self.addresses[one.target])]
        return {one.target for one in allowed if one.is_open(now_ns)} or {one.target for one in allowed}

    # --- a request ---

    def pick(
        self, target: str, model: str, hashes: Sequence[int], tokens: int, max_tokens: int, now_ns: int
    ) -> Request:
        endpoint = self.find(target)
        assert endpoint
        cached = min(self.radix.leading(hashes, endpoint.slot) * BLOCK_TOKENS, tokens)
        output = int(self.output_tokens) if max_tokens < 0 else min(max_tokens, int(self.output_tokens))
        booking = self.table.book(endpoint.slot, tokens - cached, tokens + output, now_ns)
        if hashes:
            self.radix.insert(hashes, endpoint.slot)
        self.counts["picked"] += 1
        series = model if model in self.series else "other" if model else ""
        self.running[series] += 1
        return Request(booking, series, cached)

    def fail(self, booking: endpoints.Booking, now_ns: int) -> None:
        endpoint = booking.endpoint
        self.counts["ejected"] += self.table.failed(endpoint.slot, endpoint.generation, booking.booked_ns, now_ns)

    def is_there(self, endpoint: endpoints.Endpoint) -> bool:
        return self.table.get(endpoint.slot, endpoint.generation) is not None

    def served(self, request: Request, target: str, now_ns: int) -> None:
        old, endpoint = request.booking, self.find(target)
        if old is None or (old.endpoint.target == target and self.is_there(old.endpoint)):
            return
        self.table.release(old)
        request.booking = None
        if endpoint is not None:
            self.fail(old, now_ns)
            prefill = 0 if old.answered else old.prefill
            request.booking = self.table.book(endpoint.slot, prefill, old.resident, now_ns)
            request.booking.ahead = 0

    def answered(self, request: Request, status: int, now_ns: int) -> None:
        self.shows_responses = True
        booking = request.booking
        if booking is not None and status < 500:
            self.table.succeeded(booking.endpoint.slot, booking.endpoint.generation, booking.booked_ns)
        elif booking is not None:
            self.fail(booking, now_ns)

    def first_byte(self, request: Request, learn: bool, now_ns: int) -> None:
        if request.booking is not None:
            self.table.first_byte(request.booking, learn, now_ns)

    def unanswered(self, request: Request, now_ns: int) -> bool:
        booking = request.booking
        assert booking
        scraped_ns = booking.endpoint.scraped_ns
        alive = scraped_ns > booking.booked_ns or (scraped_ns != 0 and now_ns - scraped_ns < ALIVE_NS)
        waited = now_ns - booking.booked_ns
        if self.shows_responses and (waited <= SOON_NS or waited >= LATE_NS) and not alive:
            self.fail(booking, now_ns)
        return self.shows_responses

    def settle(self, request: Request, model: str, failure: str, output_tokens: int) -> None:
        if request.booking is not None:
            self.table.release(request.booking)
        self.running[request.series] -= 1
        series = request.series
        if not failure and model:
            self.series.add(model)
            series = model
        self.requests[series] += 1
        if failure:
            self.failures[series, failure] += 1
        if 0 <= output_tokens <= MOST_TOKENS:
            self.output_tokens += 0.02 * (output_tokens - self.output_tokens)
