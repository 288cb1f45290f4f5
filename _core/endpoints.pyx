"""Slot table of endpoints: who they are, what was scraped, what is booked, what was learned.

Invariants: a slot number with its generation names one endpoint for ever; booked figures are the sums over open
    bookings, so they are never negative and return to zero; figures of a scrape are finite, or negative for unknown.
Cost: O(1) per operation, but O(slots) for `endpoints_add` where a slot is free. Allocates only when it grows.
Memory: the table owns its slots and details; pointers into them are good until the next `endpoints_add`.
Threads: one at a time; the engine holds its lock.

The breaker: `eject_after` failures in a row eject an endpoint; when the interval is over, the next booking is a probe
and starts the interval again, so that a probe which never ends costs one interval and not the endpoint. A success
closes the breaker, a failure ejects for twice as long. Outcomes of requests that were under way when the endpoint was
ejected say nothing new and are ignored: a burst of failures ejects once.
"""
cimport cython
from libc.math cimport fmin, pow
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from picker._core.alloc cimport PK_E_LIMIT, PK_E_MISSING, PK_E_NOMEM, PK_E_RANGE, PK_OK, pk_free, pk_grow
from picker._core.hashing cimport hash_xxh64

# --- C kernel ---

cdef enum:
    LEARN_FROM_TOKENS = 512    # smaller prefills say more about overhead than about the rate

cdef double GREATEST_SHARE = 0.1           # weight of a new observation at most
cdef double GREATEST_MEMORY = 2097152.0    # tokens of work that what was learned counts as, at most
cdef double LEAST_RATE = 50.0              # tokens per second
cdef double GREATEST_RATE = 1e7
cdef double GREATEST_FIGURE = 1e12         # of a scrape: what is beyond is nonsense


cdef inline double _rate(double rate) noexcept nogil:
    # Written so that NaN becomes the least.
    return (rate if rate < GREATEST_RATE else GREATEST_RATE) if rate > LEAST_RATE else LEAST_RATE


cdef void endpoints_init(endpoints_t* table, uint32_t limit, double prior_rate) noexcept nogil:
    """An empty table for at most `limit` endpoints; `prior_rate` in prefill tokens per second."""
    memset(table, 0, sizeof(endpoints_t))
    table.limit = limit
    table.fleet_rate = _rate(prior_rate)
    table.eject_after = 3
    table.eject_base_ns = 1_000_000_000
    table.eject_limit_ns = 60_000_000_000


cdef void endpoints_free(endpoints_t* table) noexcept nogil:
    pk_free(table.slots)
    pk_free(table.details)
    table.slots = NULL
    table.details = NULL
    table.capacity = table.details_capacity = 0
    table.width = table.count = 0


cdef int _reserve(endpoints_t* table, size_t width) noexcept nogil:
    if pk_grow(<void**>&table.slots, &table.capacity, width, sizeof(endpoint_t)) != PK_OK:
        return PK_E_NOMEM
    return pk_grow(<void**>&table.details, &table.details_capacity, width, sizeof(details_t))


cdef void _start(endpoint_t* endpoint, const identity_t* identity, uint32_t generation) noexcept nogil:
    memset(endpoint, 0, sizeof(endpoint_t))
    endpoint.load.waiting = endpoint.load.running = endpoint.load.kv_usage = endpoint.load.max_lora = -1.0
    endpoint.labels = identity.labels
    endpoint.token_hash = identity.token_hash
    endpoint.target_hash = identity.target_hash
    endpoint.address_hash = identity.address_hash
    endpoint.generation = generation
    endpoint.used = True


cdef int64_t endpoints_add(endpoints_t* table, const identity_t* identity) noexcept nogil:
    """Take the lowest free slot for a new endpoint; its load, bookings and breaker start empty.

    Returns the slot, PK_E_LIMIT or PK_E_NOMEM.
    """
    cdef uint32_t slot = 0
    if table.count >= table.limit:
        return PK_E_LIMIT
    if table.count == table.width:
        slot = table.width
    while slot < table.width and table.slots[slot].used:
        slot += 1
    if slot == table.width:
        if _reserve(table, <size_t>table.width + 1) != PK_OK:
            return PK_E_NOMEM
        table.width += 1
    table.generation += 1
    table.count += 1
    _start(&table.slots[slot], identity, table.generation)
    table.details[slot].identity = identity[0]
    table.details[slot].running_adapters.count = table.details[slot].waiting_adapters.count = 0
    return slot


cdef int endpoints_remove(endpoints_t* table, uint32_t slot, uint32_t generation) noexcept nogil:
    """Free the slot; bookings made on it become void. PK_E_MISSING if it belongs to another by now."""
    cdef endpoint_t* endpoint = endpoints_get(table, slot, generation)
    if endpoint == NULL:
        return PK_E_MISSING
    endpoint.used = False
    table.count -= 1
    while table.width and not table.slots[table.width - 1].used:
        table.width -= 1
    return PK_OK


cdef inline double _figure(double value) noexcept nogil:
    # Written so that NaN becomes unknown.
    return value if 0.0 <= value <= GREATEST_FIGURE else -1.0


cdef uint64_t _bits(const adapters_t* adapters) noexcept nogil:
    cdef uint64_t bits = 0
    cdef uint32_t i
    for i in range(adapters.count):
        bits |= <uint64_t>1 << (adapters.hashes[i] & 63)
    return bits


cdef int endpoints_scraped(
    endpoints_t* table, uint32_t slot, uint32_t generation, const load_t* load,
    const adapters_t* running, const adapters_t* waiting, int64_t now_ns
) noexcept nogil:
    """What one scrape said replaces what was known. PK_E_MISSING if the endpoint has gone meanwhile."""
    cdef endpoint_t* endpoint = endpoints_get(table, slot, generation)
    if endpoint == NULL:
        return PK_E_MISSING
    endpoint.load.waiting = _figure(load.waiting)
    endpoint.load.running = _figure(load.running)
    endpoint.load.kv_usage = _figure(load.kv_usage)
    endpoint.load.max_lora = _figure(load.max_lora)
    table.details[slot].running_adapters = running[0]
    table.details[slot].waiting_adapters = waiting[0]
    endpoint.adapter_bits = _bits(running) | _bits(waiting)
    endpoint.adapter_count = running.count + waiting.count
    endpoint.scraped_ns = now_ns
    return PK_OK


cdef bint adapters_hold(const adapters_t* adapters, uint64_t adapter) noexcept nogil:
    cdef uint32_t i
    for i in range(adapters.count):
        if adapters.hashes[i] == adapter:
            return True
    return False


# --- C kernel: the life of a request ---


cdef int64_t _interval_ns(const endpoints_t* table, uint32_t ejections) noexcept nogil:
    """How long the n-th ejection in a row lasts."""
    cdef int64_t wait = table.eject_base_ns
    while ejections > 1 and wait < table.eject_limit_ns:
        wait *= 2
        ejections -= 1
    return wait if wait < table.eject_limit_ns else table.eject_limit_ns


cdef void _probe(const endpoints_t* table, endpoint_t* endpoint, int64_t now_ns) noexcept nogil:
    """A request goes to an ejected endpoint: the next one may follow an interval later, whatever becomes of this."""
    endpoint.ejected_until_ns = now_ns + _interval_ns(table, endpoint.ejections)
    if now_ns < endpoint.ejected_ns:
        endpoint.ejected_ns = now_ns      # the clock went back


cdef int endpoints_book(
    endpoints_t* table, booking_t* booking, uint32_t slot, int64_t prefill, int64_t resident, int64_t now_ns
) noexcept nogil:
    """Book one request with `prefill` uncached prompt tokens and `resident` tokens of KV cache on `slot`.

    PK_E_MISSING if the slot is free, PK_E_RANGE for token counts outside 0..PK_MOST_TOKENS; then nothing is booked.
    """
    cdef endpoint_t* endpoint
    cdef double ahead
    if slot >= table.width or not table.slots[slot].used:
        return PK_E_MISSING
    if not (0 <= prefill <= PK_MOST_TOKENS and 0 <= resident <= PK_MOST_TOKENS):
        return PK_E_RANGE
    endpoint = &table.slots[slot]
    if endpoint.ejections and endpoints_open(endpoint, now_ns):
        _probe(table, endpoint, now_ns)
    ahead = endpoints_ahead(endpoint, endpoints_rate(table, endpoint, now_ns), now_ns)
    if endpoint.unanswered == 0:
        endpoint.progress_ns = now_ns
    endpoint.requests += 1
    endpoint.unanswered += 1
    endpoint.prefill_tokens += prefill
    endpoint.resident_tokens += resident
    endpoint.picks += 1
    booking.slot = slot
    booking.generation = endpoint.generation
    booking.prefill_tokens = prefill
    booking.resident_tokens = resident
    booking.ahead_tokens = <int64_t>ahead + prefill
    booking.booked_ns = now_ns
    booking.is_answered = False
    return PK_OK


cdef void _learn(double* rate, double* memory, double old, double tokens, double seconds) noexcept nogil:
    """The average of logarithms: one absurd observation (a cache hit we did not know of, a stalled engine), however
    absurd, moves the rate by a factor of less than four; of plain figures, it would move it by a hundred.

    Each counts by its tokens, since what a short prefill takes is mostly overhead. It is a long average, as rates that
    differ by chance make endpoints differ that are the same; and a quick one at the start.
    """
    rate[0] = old * pow(_rate(tokens / seconds) / old, fmin(tokens / (tokens + memory[0]), GREATEST_SHARE))
    memory[0] = fmin(memory[0] + tokens, GREATEST_MEMORY)


cdef void endpoints_first_byte(endpoints_t* table, booking_t* booking, bint learn, int64_t now_ns) noexcept nogil:
    """The first response byte is here: prefill is done. With `learn`, what it took teaches the endpoint's rate."""
    cdef endpoint_t* endpoint = endpoints_get(table, booking.slot, booking.generation)
    cdef int64_t took = now_ns - booking.booked_ns
    cdef double tokens = <double>booking.ahead_tokens, seconds = <double>took * 1e-9, old
    if endpoint == NULL or booking.generation == 0:
        return
    if not booking.is_answered:
        endpoint.progress_ns = now_ns
    endpoint.prefill_tokens -= booking.prefill_tokens
    endpoint.unanswered -= not booking.is_answered
    booking.is_answered = True
    if learn and booking.ahead_tokens >= LEARN_FROM_TOKENS and booking.prefill_tokens > 0 and took > 0:
        old = endpoints_rate(table, endpoint, now_ns)
        _learn(&endpoint.prefill_rate, &endpoint.rate_tokens, old, tokens, seconds)
        endpoint.rate_ns = now_ns
        _learn(&table.fleet_rate, &table.fleet_tokens, table.fleet_rate, tokens, seconds)
    booking.prefill_tokens = 0


cdef void endpoints_release(endpoints_t* table, booking_t* booking) noexcept nogil:
    """Give back whatever the booking still holds. Doing it twice is harmless."""
    cdef endpoint_t* endpoint = endpoints_get(table, booking.slot, booking.generation)
    if endpoint != NULL and booking.generation != 0:
        endpoint.requests -= 1
        endpoint.unanswered -= not booking.is_answered
        endpoint.prefill_tokens -= booking.prefill_tokens
        endpoint.resident_tokens -= booking.resident_tokens
    booking.generation = 0
    booking.prefill_tokens = 0
    booking.resident_tokens = 0


cdef inline bint _stale(const endpoint_t* endpoint, int64_t started_ns) noexcept nogil:
    """What was under way when it was ejected says nothing new."""
    return endpoint.ejections != 0 and started_ns < endpoint.ejected_ns


cdef void endpoints_succeeded(
    endpoints_t* table, uint32_t slot, uint32_t generation, int64_t started_ns
) noexcept nogil:
    """The endpoint answered a request that was sent at `started_ns`: its breaker closes."""
    cdef endpoint_t* endpoint = endpoints_get(table, slot, generation)
    if endpoint == NULL or _stale(endpoint, started_ns):
        return
    endpoint.failures = 0
    endpoint.ejections = 0
    endpoint.ejected_ns = 0
    endpoint.ejected_until_ns = 0


cdef bint endpoints_failed(
    endpoints_t* table, uint32_t slot, uint32_t generation, int64_t started_ns, int64_t now_ns
) noexcept nogil:
    """The endpoint answered a request sent at `started_ns` with 5xx or not at all. True when this ejects it."""
    cdef endpoint_t* endpoint = endpoints_get(table, slot, generation)
    if endpoint == NULL or _stale(endpoint, started_ns):
        return False
    endpoint.failures += 1
    if endpoint.ejections == 0 and endpoint.failures < table.eject_after:
        return False
    endpoint.ejections += 1
    endpoint.ejected_ns = now_ns
    endpoint.ejected_until_ns = now_ns + _interval_ns(table, endpoint.ejections)
    return True


# --- Python face ---

cdef int identity_fill(identity_t* identity, bytes target, bytes address, bytes token, uint64_t labels) except -1:
    """Describe an endpoint for `endpoints_add`; ValueError when a text is too long."""
    if not 0 < len(target) <= PK_TARGET_BYTES:
        raise ValueError(f"target {target!r} must have 1 to {PK_TARGET_BYTES} bytes")
    if len(token) > PK_TOKEN_BYTES:
        raise ValueError(f"session token of {len(token)} bytes is longer than {PK_TOKEN_BYTES}")
    memset(identity, 0, sizeof(identity_t))
    identity.target_size = <uint32_t>len(target)
    memcpy(identity.target, <const uint8_t*>target, len(target))
    identity.token_size = <uint32_t>len(token)
    memcpy(identity.token, <const uint8_t*>token, len(token))
    identity.target_hash = hash_xxh64(<const uint8_t*>target, len(target), 0)
    identity.address_hash = hash_xxh64(<const uint8_t*>address, len(address), 0)
    identity.token_hash = hash_xxh64(<const uint8_t*>token, len(token), 0)
    identity.labels = labels
    return 0


cdef int adapters_fill(adapters_t* adapters, object names) except -1:
    """Remember the adapters' hashes; what is beyond PK_ADAPTERS is left out."""
    cdef bytes text
    adapters.count = 0
    for name in names:
        if adapters.count == PK_ADAPTERS:
            break
        text = (<str?>name).encode()
        adapters.hashes[adapters.count] = hash_xxh64(<const uint8_t*>text, len(text), 0)
        adapters.count += 1
    return 0


cdef dict endpoint_view(const endpoints_t* table, uint32_t slot, int64_t now_ns):
    """What is known of one endpoint, for metrics, plugins and people."""
    cdef const endpoint_t* endpoint = &table.slots[slot]
    cdef const identity_t* identity = &table.details[slot].identity
    return {
        "slot": slot,
        "generation": endpoint.generation,
        "target": identity.target[:identity.target_size].decode(),
        "waiting": endpoint.load.waiting,
        "running": endpoint.load.running,
        "kv_usage": endpoint.load.kv_usage,
        "max_lora": endpoint.load.max_lora,
        "scraped_ns": endpoint.scraped_ns,
        "requests": endpoint.requests,
        "unanswered": endpoint.unanswered,
        "prefill_tokens": endpoint.prefill_tokens,
        "resident_tokens": endpoint.resident_tokens,
        "prefill_rate": endpoints_rate(table, endpoint, now_ns),
        "ejected": not endpoints_open(endpoint, now_ns),
        "ejections": endpoint.ejections,
        "ejected_until_ns": endpoint.ejected_until_ns,
        "picks": endpoint.picks,
    }


@cython.final
@cython.auto_pickle(False)
cdef class Booking:
    """What one request holds of an endpoint; made by `Endpoints.book`."""

    def __cinit__(self):
        memset(&self._held, 0, sizeof(booking_t))


@cython.final
@cython.auto_pickle(False)
cdef class Endpoints:
    """The slot table alone, for tests and benchmarks; the engine holds its own.

    Times in nanoseconds of any one clock; `prior_rate` in prefill tokens per second. ValueError for a breaker that
    could not work.
    """

    def __cinit__(self, uint32_t limit=1024, double prior_rate=15000.0, *, int64_t eject_after=3,
                  int64_t eject_base_ns=1_000_000_000, int64_t eject_limit_ns=60_000_000_000):
        if eject_after < 1 or not 0 < eject_base_ns <= eject_limit_ns <= 1 << 61:
            raise ValueError(f"cannot eject after {eject_after} failures for {eject_base_ns} to {eject_limit_ns} ns")
        endpoints_init(&self._table, limit, prior_rate)
        self._table.eject_after = eject_after
        self._table.eject_base_ns = eject_base_ns
        self._table.eject_limit_ns = eject_limit_ns

    def __dealloc__(self):
        endpoints_free(&self._table)

    def __len__(self):
        return self._table.count

    @property
    def fleet_rate(self) -> float:
        """Prefill tokens per second, learned over all endpoints."""
        return self._table.fleet_rate

    def add(self, bytes target not None, *, bytes token not None=b"", uint64_t labels=0) -> tuple:
        """(slot, generation) of a new endpoint. OverflowError at the limit, ValueError when a text is too long."""
        cdef identity_t identity
        identity_fill(&identity, target, target.rpartition(b":")[0], token, labels)
        cdef int64_t slot = endpoints_add(&self._table, &identity)
        if slot == PK_E_LIMIT:
            raise OverflowError(f"at most {self._table.limit} endpoints")
        if slot < 0:
            raise MemoryError("no memory for a further endpoint")
        return slot, self._table.slots[slot].generation

    def remove(self, uint32_t slot, uint32_t generation) -> None:
        """KeyError if there is no such endpoint."""
        if endpoints_remove(&self._table, slot, generation) != PK_OK:
            raise KeyError((slot, generation))

    def scraped(self, uint32_t slot, uint32_t generation, *, double waiting=-1.0, double running=-1.0,
                double kv_usage=-1.0, double max_lora=-1.0, running_adapters=(), waiting_adapters=(),
                int64_t now_ns) -> None:
        """A scrape replaces what was known of the endpoint's load. KeyError if it has gone."""
        cdef load_t load = load_t(waiting, running, kv_usage, max_lora)
        cdef adapters_t active, queued
        adapters_fill(&active, running_adapters)
        adapters_fill(&queued, waiting_adapters)
        if endpoints_scraped(&self._table, slot, generation, &load, &active, &queued, now_ns) != PK_OK:
            raise KeyError((slot, generation))

    def book(self, uint32_t slot, int64_t prefill, int64_t resident, int64_t now_ns) -> Booking:
        """Book a request's tokens. KeyError if the slot is free, ValueError for absurd numbers of tokens."""
        cdef Booking booking = Booking()
        cdef int code = endpoints_book(&self._table, &booking._held, slot, prefill, resident, now_ns)
        if code == PK_E_RANGE:
            raise ValueError(f"cannot book {prefill} and {resident} tokens")
        if code != PK_OK:
            raise KeyError(slot)
        return booking

    def first_byte(self, Booking booking not None, *, bint learn, int64_t now_ns) -> None:
        """Release the prefill part of a booking; with `learn`, take its time as an observation."""
        endpoints_first_byte(&self._table, &booking._held, learn, now_ns)

    def release(self, Booking booking not None) -> None:
        """Release a booking; a second time does nothing."""
        endpoints_release(&self._table, &booking._held)

    def succeeded(self, uint32_t slot, uint32_t generation, int64_t started_ns) -> None:
        """The endpoint answered a request sent at `started_ns`."""
        endpoints_succeeded(&self._table, slot, generation, started_ns)

    def failed(self, uint32_t slot, uint32_t generation, int64_t started_ns, int64_t now_ns) -> bool:
        """The endpoint failed a request sent at `started_ns`; True when that ejects it."""
        return bool(endpoints_failed(&self._table, slot, generation, started_ns, now_ns))

    def view(self, uint32_t slot, uint32_t generation, int64_t now_ns) -> dict:
        """What is known of it. KeyError if it has gone."""
        if endpoints_get(&self._table, slot, generation) == NULL:
            raise KeyError((slot, generation))
        return endpoint_view(&self._table, slot, now_ns)

    def _check(self) -> None:
        """Assert the table's invariants."""
        cdef uint32_t slot, used = 0
        cdef const endpoint_t* endpoint
        for slot in range(self._table.width):
            endpoint = &self._table.slots[slot]
            if endpoint.used:
                used += 1
                assert min(endpoint.requests, endpoint.prefill_tokens, endpoint.resident_tokens) >= 0
                assert 0 <= endpoint.unanswered <= endpoint.requests
                assert endpoint.requests > 0 or endpoint.prefill_tokens == endpoint.resident_tokens == 0
                assert 0 < endpoint.generation <= self._table.generation
                assert endpoint.ejections > 0 or endpoint.ejected_ns == endpoint.ejected_until_ns == 0
                assert endpoint.ejections == 0 or endpoint.ejected_ns < endpoint.ejected_until_ns
                assert endpoint.token_hash == self._table.details[slot].identity.token_hash
        assert used == self._table.count <= self._table.limit
        assert self._table.width <= self._table.capacity and self._table.width <= self._table.details_capacity
        assert self._table.width == 0 or self._table.slots[self._table.width - 1].used
