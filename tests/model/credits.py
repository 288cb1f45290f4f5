"""Slow model of `picker._core.credits`: keeps every observation, and works out each figure from all of them anew."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

MOMENT_NS = 2_000_000
STALE_NS = 1_000_000_000
PATIENCE_NS = 500_000_000
HOLD_NS = 5_000_000_000
WANTED_HALF_LIFE_NS = 10e9
LATELY_NS = 10_000_000_000
KEEP = 0.95
OVERHEAD_S = 0.03
KV_SHARE, KV_LEAST, KV_FULL = 0.2, 0.05, 0.85
MARGIN, URGENT, LARGE, SMALL, WARM = 2.0, 4.0, 3.0, 0.5, 2.0


@dataclass(eq=False)
class Booking:
    endpoint: "Endpoint"
    prefill: int
    resident: int
    booked_ns: int
    answered: bool = False
    released: bool = False


@dataclass(frozen=True)
class Scrape:
    at_ns: int
    waiting: float
    running: float
    kv_usage: float


@dataclass(eq=False)
class Endpoint:
    slot: int
    bookings: list[Booking] = field(default_factory=list)
    groups: list[list[float]] = field(default_factory=list)  # [tokens, seconds] of first tokens that came together
    scrape: Scrape | None = None
    since: dict[str, int] = field(default_factory=lambda: dict.fromkeys(("sent", "entered", "gone", "gone_tokens"), 0))
    then: tuple[int, int] = (0, 0)  # requests and resident tokens booked at the last scrape
    told: float = 0.0
    freed_ns: int = 0
    free_ns: int = 0
    sent_ns: int = 0
    fitted: tuple[float, float] | None = None  # overhead, rate
    cache_tokens: int = 0
    kv_tokens: float = 0.0
    limit: float = math.inf
    limited_ns: int = 0

    @property
    def held(self) -> list[Booking]:
        return [booking for booking in self.bookings if not booking.released]

    @property
    def requests(self) -> int:
        return len(self.held)

    @property
    def unanswered(self) -> list[Booking]:
        return [booking for booking in self.held if not booking.answered]

    @property
    def resident(self) -> int:
        return sum(booking.resident for booking in self.held)

    @property
    def pending(self) -> int:
        return sum(booking.prefill for booking in self.unanswered)

    @property
    def overhead(self) -> float:
        return self.fitted[0] if self.fitted else OVERHEAD_S

    def figure(self, name: str) -> float:
        """Of the last scrape; 0 for unknown."""
        return max(getattr(self.scrape, name), 0.0) if self.scrape else 0.0

    def is_fresh(self, now_ns: int) -> bool:
        return self.scrape is not None and self.scrape.at_ns != 0 and now_ns - self.scrape.at_ns <= STALE_NS


class Credits:
    """The endpoints' own rate is taken from outside: `rates(slot, now_ns)`."""

    def __init__(self, detector: Sequence[Any] | None, rates: Any) -> None:
        self.detector = tuple(detector or ("off",))
        self.rates = rates
        self.endpoints: dict[int, Endpoint] = {}
        self.wants: list[tuple[int, int]] = []  # (when, resident tokens) asked for with a share of one
        self.below_ns: int | None = None  # when somebody last asked with less

    def add(self, slot: int) -> None:
        self.endpoints[slot] = Endpoint(slot)

    def remove(self, slot: int) -> None:
        del self.endpoints[slot]

    def is_here(self, booking: Booking) -> bool:
        return self.endpoints.get(booking.endpoint.slot) is booking.endpoint

    def rate(self, one: Endpoint, now_ns: int) -> float:
        return one.fitted[1] if one.fitted else self.rates(one.slot, now_ns)

    # --- what happens ---

    def book(self, slot: int, prefill: int, resident: int, now_ns: int) -> Booking:
        one = self.endpoints[slot]
        booking = Booking(one, prefill, resident, now_ns)
        one.bookings.append(booking)
        seconds = prefill / self.rate(one, now_ns)
        if one.free_ns <= now_ns:
            one.free_ns = now_ns
            seconds += one.overhead
        one.free_ns += int(seconds * 1e9)
        one.since["sent"] += 1
        one.sent_ns = now_ns
        return booking

    def first_byte(self, booking: Booking, learn: bool, now_ns: int) -> None:
        one = booking.endpoint
        if booking.released or booking.answered or not self.is_here(booking):
            return
        one.since["entered"] += 1
        one.told = float(learn) if one.freed_ns == 0 else 0.9 * one.told + 0.1 * learn
        if learn:
            if now_ns - one.freed_ns > MOMENT_NS or not one.groups:
                one.groups.append([0.0, (now_ns - max(one.freed_ns, booking.booked_ns)) * 1e-9])
            one.groups[-1][0] += booking.prefill
            self.fit(one, now_ns)
            one.free_ns = now_ns
            if len(one.unanswered) > 1:
                left = (one.pending - booking.prefill) / self.rate(one, now_ns)
                one.free_ns += int((left + one.overhead) * 1e9)
        one.freed_ns = now_ns
        booking.answered = True

    def fit(self, one: Endpoint, now_ns: int) -> None:
        """A weighted line through all groups but the last, which may still grow."""
        seen = [group for group in one.groups[:-1] if group[1] > 0]
        if not seen:
            return
        weights = [KEEP ** (len(seen) - 1 - index) for index in range(len(seen))]
        count = sum(weights)
        x = sum(w * group[0] for w, group in zip(weights, seen, strict=True))
        y = sum(w * group[1] for w, group in zip(weights, seen, strict=True))
        xx = sum(w * group[0] ** 2 for w, group in zip(weights, seen, strict=True))
        xy = sum(w * group[0] * group[1] for w, group in zip(weights, seen, strict=True))
        usual = 1.0 / self.rates(one.slot, now_ns)
        spread = count * xx - x * x
        slope = usual
        if count >= 12 and spread > 0.01 * x * x:
            slope = min(max((count * xy - x * y) / spread, usual / 8), usual * 8)
        one.fitted = min(max((y - slope * x) / count, 0.001), 2.0), 1 / slope

    def release(self, booking: Booking) -> None:
        if not booking.released and self.is_here(booking) and not booking.answered:
            booking.endpoint.since["gone"] += 1
            booking.endpoint.since["gone_tokens"] += booking.resident
        booking.released = True

    def scraped(self, slot: int, waiting: float, running: float, kv_usage: float, now_ns: int) -> None:
        one = self.endpoints[slot]
        one.scrape = Scrape(now_ns, waiting, running, kv_usage)
        self.learn_kv(one)
        waits = waiting > one.since["sent"] and one.free_ns < now_ns
        waits = waits and not (one.told > 0.5 and len(one.unanswered) > waiting)
        waits = waits and waiting + running <= 1.25 * one.requests + 1
        if (waits and running >= 1 and kv_usage < KV_FULL) or running > one.limit:
            one.limit, one.limited_ns = running, now_ns
        elif now_ns - one.limited_ns >= HOLD_NS and one.requests >= one.limit - 1:
            one.limit, one.limited_ns = one.limit + max(1.0, one.limit / 64), now_ns
        one.then = one.requests, one.resident
        one.since = dict.fromkeys(one.since, 0)

    def learn_kv(self, one: Endpoint) -> None:
        held = float(one.resident)
        if one.scrape is None or one.scrape.kv_usage < KV_LEAST or held <= 0:
            return
        if one.figure("running"):
            held *= one.figure("running") / (one.figure("running") + one.figure("waiting"))
        held /= one.scrape.kv_usage
        one.kv_tokens = held if one.kv_tokens <= 0 else one.kv_tokens + KV_SHARE * (held - one.kv_tokens)

    # --- what is allowed ---

    def in_flight(self, one: Endpoint, now_ns: int) -> float:
        if not one.is_fresh(now_ns):
            return one.requests
        others = max(one.figure("waiting") + one.figure("running") - one.then[0], 0.0)
        return one.requests + others + one.since["gone"]

    def room(self, one: Endpoint, now_ns: int) -> float:
        if not one.is_fresh(now_ns) or one.scrape is None or one.scrape.kv_usage < 0:
            return one.kv_tokens - one.resident if one.kv_tokens > 0 else math.inf
        size = one.cache_tokens or one.kv_tokens
        if size <= 0:
            return math.inf
        since = one.resident + one.since["gone_tokens"] - one.then[1]
        if one.requests:
            since += one.figure("waiting") * one.resident / one.requests
        return (1 - one.scrape.kv_usage) * size - since

    def queue(self, one: Endpoint) -> float:
        return max(one.figure("waiting") - one.since["entered"], 0.0)

    def wanted(self, now_ns: int) -> float:
        """Half of it after each half-life; what is less than what is left of an earlier one changes nothing."""
        top, since = 0.0, now_ns
        for at_ns, resident in self.wants:
            if resident >= top * 2 ** (-(at_ns - since) / WANTED_HALF_LIFE_NS):
                top, since = float(resident), at_ns
        return top * 2 ** (-(now_ns - since) / WANTED_HALF_LIFE_NS)

    def allow(self, slot: int, prefill: int, cached: int, resident: int, share: float, now_ns: int) -> bool:
        one = self.endpoints[slot]
        if self.detector[0] == "off":
            return True
        if self.detector[0] != "adaptive":
            headroom = self.detector[3]
            if self.detector[0] == "concurrency":
                headroom = self.detector[4]
            return self.fullness(slot, now_ns) < share * (1 + headroom)
        if share >= 1:
            self.wants.append((now_ns, resident))
        else:
            self.below_ns = now_ns
        in_flight = self.in_flight(one, now_ns)
        if in_flight <= 0 or (one.requests == 0 and now_ns - one.sent_ns > PATIENCE_NS):
            return True
        limit = one.limit if share >= 1 else min(one.limit * share, one.limit - 1)
        if in_flight + 1 > max(limit, 1.0):
            return False
        return self.has_memory(one, resident, share, now_ns) and self.wants_work(one, prefill, cached, share, now_ns)

    def has_memory(self, one: Endpoint, resident: int, share: float, now_ns: int) -> bool:
        room = self.room(one, now_ns)
        if room == math.inf:
            return not (one.is_fresh(now_ns) and one.figure("kv_usage") > share)
        left = room - resident
        roomiest = max(self.endpoints.values(), key=lambda other: (self.room(other, now_ns), -other.slot))
        if left < 0:
            large = resident * one.requests > LARGE * one.resident
            return share >= 1 and roomiest is one and room > 0 and large
        if share >= 1:
            return roomiest is one or left >= MARGIN * resident
        if roomiest is one and left < self.wanted(now_ns):
            return False
        return left >= (1 - share) * (one.cache_tokens or one.kv_tokens)

    def wants_work(self, one: Endpoint, prefill: int, cached: int, share: float, now_ns: int) -> bool:
        fresh, ahead_s = one.is_fresh(now_ns), (one.free_ns - now_ns) * 1e-9
        if one.told > 0.5 and not one.unanswered:
            return not (fresh and share < 1 and self.queue(one) > 0)
        if ahead_s <= 0 and now_ns - one.sent_ns <= PATIENCE_NS:
            if fresh and self.queue(one) > 0:
                return False
            if one.told > 0.5 and one.unanswered and -PATIENCE_NS * 1e-9 < ahead_s < -one.overhead:
                return False
        rate = self.rate(one, now_ns)
        work_s = one.pending / rate + prefill / rate
        has_below = self.below_ns is not None and now_ns - self.below_ns < LATELY_NS
        if share >= 1 and has_below and ahead_s > self.soonest_s(now_ns) + max(one.overhead, cached / rate):
            return False
        if share >= 1:
            return ahead_s <= max(URGENT * one.overhead, WARM * cached / rate) or work_s <= URGENT * one.overhead
        together = now_ns - one.sent_ns <= MOMENT_NS and work_s <= SMALL * one.overhead
        return ahead_s <= max(0.0, cached / rate - prefill / rate) or together

    def soonest_s(self, now_ns: int) -> float:
        """Until the first endpoint wants prefill work."""
        return min(
            0.0 if one.told > 0.5 and not one.unanswered else max((one.free_ns - now_ns) * 1e-9, 0.0)
            for one in self.endpoints.values()
        )

    # --- how full ---

    def fullness(self, slot: int, now_ns: int) -> float:
        one = self.endpoints[slot]
        match self.detector:
            case ("utilization", queue, kv, _, stale_s):
                if one.scrape is None or one.scrape.at_ns == 0 or now_ns - one.scrape.at_ns > int(stale_s * 1e9):
                    return len(one.unanswered) / queue
                return max((one.figure("waiting") + one.since["sent"]) / queue, one.figure("kv_usage") / kv)
            case ("concurrency", counts, requests, tokens, _):
                fill = {"requests": one.requests / requests, "tokens": one.resident / tokens}
                return fill[counts] if counts in fill else max(fill.values())
            case ("adaptive",):
                return self.seen_fullness(one, now_ns)
        return 0.0

    def seen_fullness(self, one: Endpoint, now_ns: int) -> float:
        fill = self.in_flight(one, now_ns) / max(one.limit, 1.0)
        room = self.room(one, now_ns)
        if room < math.inf:
            fill = max(fill, 1 - room / (one.cache_tokens or one.kv_tokens))
        if one.unanswered or one.told <= 0.5:
            fill = max(fill, (one.free_ns - now_ns) * 1e-9 / (2 * one.overhead))
        return fill

    def saturation(self, now_ns: int) -> float:
        if not self.endpoints:
            return 1.0
        return sum(max(self.fullness(slot, now_ns), 0.0) for slot in self.endpoints) / len(self.endpoints)
