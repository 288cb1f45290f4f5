"""Slot table of endpoints: who they are, what was scraped, what is booked, what was learned.

Invariants: a slot number with its generation names one endpoint for ever; booked figures are the sums over open
    bookings, so they are never negative and return to zero.
Cost: O(1) per operation but `endpoints_add`, which looks for the lowest free slot. Allocates only when it grows.
Memory: the table owns its slots; pointers into it are good until the next `endpoints_add`.
Threads: one at a time; the engine holds its lock.
"""
cimport cython
from libc.stdint cimport INT64_MAX, UINT32_MAX, int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from picker._core.alloc cimport PK_E_LIMIT, PK_E_MISSING, PK_E_NOMEM, PK_OK, pk_free, pk_grow
from picker._core.hashing cimport hash_xxh64

# --- C kernel ---

cdef enum:
    LEARN_FROM_TOKENS = 512    # smaller prefills say more about overhead than about the rate

cdef double LEARN_SHARE = 0.1              # weight of a new observation
cdef double RATE_HALF_LIFE_NS = 60e9       # an old rate counts half, the fleet's the other half
cdef double LOAD_HALF_LIFE_NS = 2e9        # a scrape this old counts half
cdef double LEAST_RATE = 50.0              # tokens per second
cdef double GREATEST_RATE = 1e7


cdef void endpoints_init(endpoints_t* table, uint32_t limit, double prior_rate) noexcept nogil:
    """An empty table for at most `limit` endpoints; `prior_rate` in prefill tokens per second."""
    memset(table, 0, sizeof(endpoints_t))
    table.limit = limit
    table.fleet_rate = prior_rate
    table.eject_after = 3
    table.eject_base_ns = 1_000_000_000
    table.eject_limit_ns = 60_000_000_000


cdef void endpoints_free(endpoints_t* table) noexcept nogil:
    pk_free(table.slots)
    table.slots = NULL
    table.width = 0
    table.count = 0


cdef endpoint_t* endpoints_get(const endpoints_t* table, uint32_t slot, uint32_t generation) noexcept nogil:
    """The endpoint, or NULL if it has gone (or its slot belongs to another by now)."""
    if slot >= table.width or not table.slots[slot].used or table.slots[slot].generation != generation:
        return NULL
    return &table.slots[slot]


cdef int64_t endpoints_add(endpoints_t* table, const endpoint_t* identity) noexcept nogil:
    """Take the lowest free slot for the endpoint described by `identity` (target, hashes, token, labels).

    Returns the slot, PK_E_LIMIT or PK_E_NOMEM. Load, bookings and breaker start empty.
    """
    cdef uint32_t slot = 0
    cdef endpoint_t* endpoint
    if table.count >= table.limit:
        return PK_E_LIMIT
    while slot < table.width and table.slots[slot].used:
        slot += 1
    if slot == table.width:
        if pk_grow(<void**>&table.slots, &table.capacity, table.width + 1, sizeof(endpoint_t)) != PK_OK:
            return PK_E_NOMEM
        table.width += 1
    endpoint = &table.slots[slot]
    endpoint[0] = identity[0]
    table.generation += 1
    table.count += 1
    endpoint.used = True
    endpoint.generation = table.generation
    return slot


cdef int endpoints_remove(endpoints_t* table, uint32_t slot, uint32_t generation) noexcept nogil:
    """Free the slot. Bookings made on it become void by their generation."""
    cdef endpoint_t* endpoint = endpoints_get(table, slot, generation)
    if endpoint == NULL:
        return PK_E_MISSING
    endpoint.used = False
    table.count -= 1
    while table.width and not table.slots[table.width - 1].used:
        table.width -= 1
    return PK_OK


cdef int endpoints_book(
    endpoints_t* table, booking_t* booking, uint32_t slot, int64_t prefill, int64_t resident, int64_t now_ns
) noexcept nogil:
    """Book one request with `prefill` uncached prompt tokens and `resident` tokens of KV cache on `slot`."""
    cdef endpoint_t* endpoint
    if slot >= table.width or not table.slots[slot].used:
        return PK_E_MISSING
    endpoint = &table.slots[slot]
    endpoint.requests += 1
    endpoint.prefill_tokens += prefill
    endpoint.resident_tokens += resident
    endpoint.picks += 1
    booking.slot = slot
    booking.generation = endpoint.generation
    booking.prefill_tokens = prefill
    booking.resident_tokens = resident
    booking.ahead_tokens = endpoint.prefill_tokens
    booking.booked_ns = now_ns
    return PK_OK


cdef inline double _learned(double old, double seen) noexcept nogil:
    seen = LEAST_RATE if seen < LEAST_RATE else (GREATEST_RATE if seen > GREATEST_RATE else seen)
    return old + LEARN_SHARE * (seen - old)


cdef void endpoints_first_byte(endpoints_t* table, booking_t* booking, bint learn, int64_t now_ns) noexcept nogil:
    """The first response byte is here: prefill is done. With `learn`, what it took teaches the endpoint's rate."""
    cdef endpoint_t* endpoint = endpoints_get(table, booking.slot, booking.generation)
    cdef int64_t took = now_ns - booking.booked_ns
    cdef double rate
    if endpoint == NULL or booking.generation == 0:
        return
    endpoint.prefill_tokens -= booking.prefill_tokens
    if learn and booking.ahead_tokens >= LEARN_FROM_TOKENS and booking.prefill_tokens > 0 and took > 0:
        rate = booking.ahead_tokens * 1e9 / took
        endpoint.prefill_rate = _learned(endpoints_rate(table, endpoint, now_ns), rate)
        endpoint.rate_ns = now_ns
        table.fleet_rate = _learned(table.fleet_rate, rate)
    booking.prefill_tokens = 0


cdef void endpoints_release(endpoints_t* table, booking_t* booking) noexcept nogil:
    """Give back whatever the booking still holds. Doing it twice is harmless."""
    cdef endpoint_t* endpoint = endpoints_get(table, booking.slot, booking.generation)
    if endpoint != NULL and booking.generation != 0:
        endpoint.requests -= 1
        endpoint.prefill_tokens -= booking.prefill_tokens
        endpoint.resident_tokens -= booking.resident_tokens
    booking.generation = 0
    booking.prefill_tokens = 0
    booking.resident_tokens = 0


cdef void endpoints_succeeded(endpoints_t* table, uint32_t slot, uint32_t generation) noexcept nogil:
    """The endpoint answered: its breaker closes."""
    cdef endpoint_t* endpoint = endpoints_get(table, slot, generation)
    if endpoint != NULL:
        endpoint.failures = 0
        endpoint.ejections = 0
        endpoint.ejected_until_ns = 0


cdef bint endpoints_failed(endpoints_t* table, uint32_t slot, uint32_t generation, int64_t now_ns) noexcept nogil:
    """The endpoint answered 5xx or not at all. True when this ejects it, each time for twice as long."""
    cdef endpoint_t* endpoint = endpoints_get(table, slot, generation)
    cdef int64_t wait = table.eject_base_ns
    cdef uint32_t i
    if endpoint == NULL or now_ns < endpoint.ejected_until_ns:
        return False          # what was under way when it was ejected says nothing new
    endpoint.failures += 1
    if endpoint.failures < table.eject_after and endpoint.ejections == 0:
        return False
    for i in range(endpoint.ejections):
        wait = wait * 2 if wait < table.eject_limit_ns else wait
    endpoint.ejections += 1
    endpoint.ejected_until_ns = now_ns + (wait if wait < table.eject_limit_ns else table.eject_limit_ns)
    return True


cdef bint endpoints_open(const endpoint_t* endpoint, int64_t now_ns) noexcept nogil:
    """May it be picked? An endpoint whose ejection is over gets one request at a time until one succeeds."""
    if endpoint.ejected_until_ns == 0:
        return True
    return now_ns >= endpoint.ejected_until_ns and endpoint.requests == 0


cdef double endpoints_rate(const endpoints_t* table, const endpoint_t* endpoint, int64_t now_ns) noexcept nogil:
    """Prefill tokens per second: the endpoint's own, drifting to the fleet's as it ages."""
    cdef double own
    if endpoint.rate_ns == 0:
        return table.fleet_rate
    own = RATE_HALF_LIFE_NS / (RATE_HALF_LIFE_NS + (now_ns - endpoint.rate_ns if now_ns > endpoint.rate_ns else 0))
    return own * endpoint.prefill_rate + (1.0 - own) * table.fleet_rate


cdef double endpoints_freshness(const endpoint_t* endpoint, int64_t now_ns) noexcept nogil:
    """Weight of the scraped load: 1 when just read, 1/2 after two seconds, 0 if it never was."""
    if endpoint.scraped_ns == 0:
        return 0.0
    return LOAD_HALF_LIFE_NS / (LOAD_HALF_LIFE_NS + (now_ns - endpoint.scraped_ns if now_ns > endpoint.scraped_ns else 0))


# --- Python face ---

cdef int identity_fill(endpoint_t* identity, bytes target, bytes address, bytes token, uint64_t labels) except -1:
    """Describe an endpoint for `endpoints_add`; ValueError when a text is too long."""
    if not 0 < len(target) <= PK_TARGET_BYTES:
        raise ValueError(f"target {target!r} must have 1 to {PK_TARGET_BYTES} bytes")
    if len(token) > PK_TOKEN_BYTES:
        raise ValueError(f"session token of {len(token)} bytes is longer than {PK_TOKEN_BYTES}")
    memset(identity, 0, sizeof(endpoint_t))
    identity.target_size = <uint32_t>len(target)
    memcpy(identity.target, <const uint8_t*>target, len(target))
    identity.token_size = <uint32_t>len(token)
    memcpy(identity.token, <const uint8_t*>token, len(token))
    identity.target_hash = hash_xxh64(<const uint8_t*>target, len(target), 0)
    identity.address_hash = hash_xxh64(<const uint8_t*>address, len(address), 0)
    identity.token_hash = hash_xxh64(<const uint8_t*>token, len(token), 0)
    identity.labels = labels
    identity.load.waiting = identity.load.running = identity.load.kv_usage = identity.load.max_lora = -1.0
    return 0


cdef int adapters_fill(adapters_t* adapters, object names) except -1:
    """Remember the adapters' hashes; what is beyond PK_ADAPTERS is left out."""
    adapters.count = 0
    for name in names:
        if adapters.count == PK_ADAPTERS:
            break
        text = (<str?>name).encode()
        adapters.hashes[adapters.count] = hash_xxh64(<const uint8_t*><bytes>text, len(text), 0)
        adapters.count += 1
    return 0


cdef dict endpoint_view(const endpoints_t* table, uint32_t slot, int64_t now_ns):
    """What is known of one endpoint, for metrics, plugins and people."""
    cdef endpoint_t* endpoint = &table.slots[slot]
    return {
        "slot": slot,
        "generation": endpoint.generation,
        "target": endpoint.target[:endpoint.target_size].decode(),
        "waiting": endpoint.load.waiting,
        "running": endpoint.load.running,
        "kv_usage": endpoint.load.kv_usage,
        "scraped_ns": endpoint.scraped_ns,
        "requests": endpoint.requests,
        "prefill_tokens": endpoint.prefill_tokens,
        "resident_tokens": endpoint.resident_tokens,
        "prefill_rate": endpoints_rate(table, endpoint, now_ns),
        "ejected": not endpoints_open(endpoint, now_ns),
        "picks": endpoint.picks,
    }


@cython.final
@cython.auto_pickle(False)
cdef class Endpoints:
    """The slot table alone, for tests and benchmarks; the engine holds its own."""

    def __cinit__(self, uint32_t limit=1024, double prior_rate=15000.0):
        endpoints_init(&self._table, limit, prior_rate)
        self._bookings = {}

    def __dealloc__(self):
        endpoints_free(&self._table)

    def __len__(self):
        return self._table.count

    @property
    def fleet_rate(self) -> float:
        return self._table.fleet_rate

    def add(self, bytes target not None, uint64_t labels=0) -> tuple:
        """(slot, generation) of a new endpoint. OverflowError at the limit."""
        cdef endpoint_t identity
        identity_fill(&identity, target, target.rpartition(b":")[0], b"", labels)
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

    def book(self, uint32_t slot, int64_t prefill, int64_t resident, int64_t now_ns) -> int:
        """A booking's number. KeyError if the slot is free."""
        cdef booking_t booking
        if endpoints_book(&self._table, &booking, slot, prefill, resident, now_ns) != PK_OK:
            raise KeyError(slot)
        self._next_booking += 1
        self._bookings[self._next_booking] = (<bytes>(<char*>&booking)[:sizeof(booking_t)])
        return self._next_booking

    def first_byte(self, int64_t number, bint learn, int64_t now_ns) -> None:
        """Release the prefill part of a booking."""
        cdef booking_t booking
        memcpy(&booking, <const char*>(<bytes>self._bookings[number]), sizeof(booking_t))
        endpoints_first_byte(&self._table, &booking, learn, now_ns)
        self._bookings[number] = (<bytes>(<char*>&booking)[:sizeof(booking_t)])

    def release(self, int64_t number) -> None:
        """Release a booking; a second time does nothing."""
        cdef booking_t booking
        memcpy(&booking, <const char*>(<bytes>self._bookings[number]), sizeof(booking_t))
        endpoints_release(&self._table, &booking)
        self._bookings[number] = (<bytes>(<char*>&booking)[:sizeof(booking_t)])

    def succeeded(self, uint32_t slot, uint32_t generation) -> None:
        """The endpoint answered."""
        endpoints_succeeded(&self._table, slot, generation)

    def failed(self, uint32_t slot, uint32_t generation, int64_t now_ns) -> bool:
        """The endpoint failed; True when that ejects it."""
        return bool(endpoints_failed(&self._table, slot, generation, now_ns))

    def view(self, uint32_t slot, uint32_t generation, int64_t now_ns) -> dict:
        """What is known of it. KeyError if it has gone."""
        if endpoints_get(&self._table, slot, generation) == NULL:
            raise KeyError((slot, generation))
        return endpoint_view(&self._table, slot, now_ns)

    def _check(self) -> None:
        """Assert the table's invariants."""
        cdef uint32_t slot, used = 0
        for slot in range(self._table.width):
            if self._table.slots[slot].used:
                used += 1
                assert self._table.slots[slot].requests >= 0
                assert self._table.slots[slot].prefill_tokens >= 0
                assert self._table.slots[slot].resident_tokens >= 0
                assert 0 < self._table.slots[slot].generation <= self._table.generation
        assert used == self._table.count <= self._table.limit
        assert self._table.width <= self._table.capacity
        assert self._table.width == 0 or self._table.slots[self._table.width - 1].used
