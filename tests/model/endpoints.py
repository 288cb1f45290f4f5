"""Slow model of `picker._core.endpoints`: what is booked is summed over the open bookings each time it is asked for."""

from dataclasses import dataclass, field
from typing import Any

MOST_TOKENS = 2**40
GREATEST_FIGURE = 1e12
ADAPTERS = 64


@dataclass
class Load:
    waiting: float = -1.0
    running: float = -1.0
    kv_usage: float = -1.0
    max_lora: float = -1.0

    def known(self) -> "Load":
        """Nonsense and NaN become -1."""
        values = [self.waiting, self.running, self.kv_usage, self.max_lora]
        return Load(*(value if 0 <= value <= GREATEST_FIGURE else -1.0 for value in values))


@dataclass(eq=False)
class Booking:
    endpoint: "Endpoint"
    prefill: int
    resident: int
    ahead: int
    booked_ns: int
    answered: bool = False
    released: bool = False


@dataclass(eq=False)
class Endpoint:
    slot: int
    generation: int
    target: str
    load: Load = field(default_factory=Load)
    scraped_ns: int = 0
    bookings: list[Booking] = field(default_factory=list)
    prefill_rate: float = 0.0
    rate_tokens: float = 0.0
    rate_ns: int = 0
    progress_ns: int = 0
    failures: int = 0
    ejections: int = 0
    ejected_ns: int = 0
    ejected_until_ns: int = 0

    @property
    def requests(self) -> int:
        return sum(not booking.released for booking in self.bookings)

    @property
    def unanswered(self) -> int:
        return sum(not booking.released and not booking.answered for booking in self.bookings)

    @property
    def prefill_tokens(self) -> int:
        return sum(b.prefill for b in self.bookings if not b.released and not b.answered)

    @property
    def resident_tokens(self) -> int:
        return sum(b.resident for b in self.bookings if not b.released)

    def is_open(self, now_ns: int) -> bool:
        return self.ejections == 0 or not self.ejected_ns <= now_ns < self.ejected_until_ns

    def is_stale(self, started_ns: int) -> bool:
        return self.ejections > 0 and started_ns < self.ejected_ns


def freshness(scraped_ns: int, now_ns: int) -> float:
    if scraped_ns == 0:
        return 0.0
    return 2e9 / (2e9 + max(0, now_ns - scraped_ns))


def rate(prefill_rate: float, rate_ns: int, fleet_rate: float, now_ns: int) -> float:
    if rate_ns == 0:
        return fleet_rate
    own = 60e9 / (60e9 + max(0, now_ns - rate_ns))
    return own * prefill_rate + (1.0 - own) * fleet_rate


def bounded_rate(value: float) -> float:
    return min(max(value, 50.0), 1e7)


def learned(old: float, memory: float, tokens: float, seconds: float) -> tuple[float, float]:
    """The new rate, and the work that it counts as."""
    share = min(tokens / (tokens + memory), 0.1)
    return float(old * (bounded_rate(tokens / seconds) / old) ** share), min(memory + tokens, 2.0**21)


def ahead(prefill_tokens: int, progress_ns: int, rate: float, now_ns: int) -> float:
    """Of the booked tokens, those still to be computed; what is overdue is thought to take as long again."""
    done = rate * float(max(0, now_ns - progress_ns)) * 1e-9
    return min(abs(prefill_tokens - done), float(prefill_tokens))


class Table:
    def __init__(self, limit: int, prior_rate: float, eject_after: int, base_ns: int, limit_ns: int) -> None:
        self.limit = limit
        self.fleet_rate = bounded_rate(prior_rate)
        self.fleet_tokens = 0.0
        self.eject_after = eject_after
        self.base_ns = base_ns
        self.limit_ns = limit_ns
        self.generation = 0
        self.endpoints: dict[int, Endpoint] = {}

    def get(self, slot: int, generation: int) -> Endpoint | None:
        endpoint = self.endpoints.get(slot)
        return endpoint if endpoint is not None and endpoint.generation == generation else None

    def add(self, target: str) -> tuple[int, int]:
        if len(self.endpoints) >= self.limit:
            raise OverflowError
        slot = next(slot for slot in range(self.limit) if slot not in self.endpoints)
        self.generation += 1
        self.endpoints[slot] = Endpoint(slot, self.generation, target)
        return slot, self.generation

    def remove(self, slot: int, generation: int) -> None:
        if self.get(slot, generation) is None:
            raise KeyError
        del self.endpoints[slot]

    def scraped(self, slot: int, generation: int, load: Load, now_ns: int) -> None:
        endpoint = self.get(slot, generation)
        if endpoint is None:
            raise KeyError
        endpoint.load = load.known()
        endpoint.scraped_ns = now_ns

    def interval_ns(self, ejections: int) -> int:
        return min(self.base_ns * 2 ** (ejections - 1), self.limit_ns)

    def book(self, slot: int, prefill: int, resident: int, now_ns: int) -> Booking:
        endpoint = self.endpoints.get(slot)
        if endpoint is None:
            raise KeyError
        if not (0 <= prefill <= MOST_TOKENS and 0 <= resident <= MOST_TOKENS):
            raise ValueError
        if endpoint.ejections and endpoint.is_open(now_ns):  # a probe
            endpoint.ejected_ns = min(endpoint.ejected_ns, now_ns)
            endpoint.ejected_until_ns = now_ns + self.interval_ns(endpoint.ejections)
        own_rate = rate(endpoint.prefill_rate, endpoint.rate_ns, self.fleet_rate, now_ns)
        before = ahead(endpoint.prefill_tokens, endpoint.progress_ns, own_rate, now_ns)
        if endpoint.unanswered == 0:
            endpoint.progress_ns = now_ns
        booking = Booking(endpoint, prefill, resident, int(before) + prefill, now_ns)
        endpoint.bookings.append(booking)
        return booking

    def first_byte(self, booking: Booking, learn: bool, now_ns: int) -> None:
        endpoint = booking.endpoint
        if booking.released or self.get(endpoint.slot, endpoint.generation) is None:
            return
        took = now_ns - booking.booked_ns
        if not booking.answered:
            endpoint.progress_ns = now_ns
        if learn and booking.ahead >= 512 and booking.prefill > 0 and not booking.answered and took > 0:
            seen = (float(booking.ahead), took * 1e-9)
            own = rate(endpoint.prefill_rate, endpoint.rate_ns, self.fleet_rate, now_ns)
            endpoint.prefill_rate, endpoint.rate_tokens = learned(own, endpoint.rate_tokens, *seen)
            endpoint.rate_ns = now_ns
            self.fleet_rate, self.fleet_tokens = learned(self.fleet_rate, self.fleet_tokens, *seen)
        booking.answered = True

    def release(self, booking: Booking) -> None:
        booking.released = True

    def succeeded(self, slot: int, generation: int, started_ns: int) -> None:
        endpoint = self.get(slot, generation)
        if endpoint is not None and not endpoint.is_stale(started_ns):
            endpoint.failures = endpoint.ejections = endpoint.ejected_ns = endpoint.ejected_until_ns = 0

    def failed(self, slot: int, generation: int, started_ns: int, now_ns: int) -> bool:
        endpoint = self.get(slot, generation)
        if endpoint is None or endpoint.is_stale(started_ns):
            return False
        endpoint.failures += 1
        if endpoint.ejections == 0 and endpoint.failures < self.eject_after:
            return False
        endpoint.ejections += 1
        endpoint.ejected_ns = now_ns
        endpoint.ejected_until_ns = now_ns + self.interval_ns(endpoint.ejections)
        return True

    def view(self, slot: int, generation: int, now_ns: int) -> dict[str, Any]:
        endpoint = self.get(slot, generation)
        if endpoint is None:
            raise KeyError
        return {
            "slot": slot,
            "generation": generation,
            "target": endpoint.target,
            "waiting": endpoint.load.waiting,
            "running": endpoint.load.running,
            "kv_usage": endpoint.load.kv_usage,
            "max_lora": endpoint.load.max_lora,
            "scraped_ns": endpoint.scraped_ns,
            "requests": endpoint.requests,
            "unanswered": endpoint.unanswered,
            "prefill_tokens": endpoint.prefill_tokens,
            "resident_tokens": endpoint.resident_tokens,
            "prefill_rate": rate(endpoint.prefill_rate, endpoint.rate_ns, self.fleet_rate, now_ns),
            "ejected": not endpoint.is_open(now_ns),
            "ejections": endpoint.ejections,
            "ejected_until_ns": endpoint.ejected_until_ns,
            "picks": len(endpoint.bookings),
        }
