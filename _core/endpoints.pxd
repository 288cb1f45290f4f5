# Slot table of endpoints: identity, scraped load, booked load, learned rate, circuit breaker.
from libc.math cimport fabs
from libc.stddef cimport size_t
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

cdef enum:
    PK_TARGET_BYTES = 56       # "[39 characters of IPv6]:65535" and some room
    PK_TOKEN_BYTES = 432       # base64 of "namespace/name": 63 + 1 + 253 characters
    PK_ADAPTERS = 64           # LoRA adapters remembered per endpoint and list

cdef extern from *:
    """
    #define PK_MOST_TOKENS ((int64_t)1 << 40)    /* of one booking: sums of millions of them do not overflow */
    #define PK_RATE_HALF_LIFE_NS 60e9            /* an old rate counts half, the fleet's the other half */
    #define PK_LOAD_HALF_LIFE_NS 2e9             /* a scrape this old counts half */
    """
    const int64_t PK_MOST_TOKENS
    const double PK_RATE_HALF_LIFE_NS, PK_LOAD_HALF_LIFE_NS

ctypedef struct adapters_t:
    uint32_t count
    uint64_t hashes[PK_ADAPTERS]

ctypedef struct load_t:
    # The figures of one scrape. Negative: the page did not say, or nonsense.
    double waiting             # requests
    double running             # requests
    double kv_usage            # 0-1
    double max_lora            # adapters

ctypedef struct identity_t:
    # What `endpoints_add` needs to know.
    uint32_t target_size
    uint32_t token_size
    uint8_t target[PK_TARGET_BYTES]     # "ip:port"
    uint8_t token[PK_TOKEN_BYTES]       # session token handed to clients
    uint64_t target_hash       # of "ip:port"
    uint64_t address_hash      # of "ip"
    uint64_t token_hash        # of the session token
    uint64_t labels            # as endpoint_t.labels

ctypedef struct details_t:
    # What a pick looks at for one endpoint only, kept apart so that scoring walks dense memory.
    identity_t identity
    adapters_t running_adapters
    adapters_t waiting_adapters

ctypedef struct endpoint_t:
    # What scorers read comes first.
    load_t load
    int64_t scraped_ns         # when `load` was read; 0 = never
    int64_t requests           # booked: picked and not yet ended
    int64_t unanswered         # of them: no first byte yet
    int64_t prefill_tokens     # booked: uncached prompt tokens not yet answered by a first byte
    int64_t resident_tokens    # booked: prompt and expected output of running requests
    double prefill_rate        # learned: tokens per second
    int64_t rate_ns            # when it was last learned; 0 = never
    double rate_tokens         # work that taught it, as much as counts
    int64_t progress_ns        # when its prefill work was last known to get on: it began, or a first byte came
    uint64_t labels            # bit k: label selector k of the pipeline matches
    uint64_t token_hash
    uint64_t adapter_bits      # bit (hash & 63) of each running or waiting adapter: most look-ups end here
    uint32_t adapter_count     # running and waiting
    bint used
    uint32_t generation        # 1, 2, ...: a reused slot or address is another endpoint
    uint32_t ejections         # in a row; 0 = the breaker is closed, traffic flows
    int64_t ejected_ns         # when it was last ejected
    int64_t ejected_until_ns   # when the next probe may go out
    uint32_t failures          # in a row
    uint64_t target_hash
    uint64_t address_hash
    uint64_t picks

ctypedef struct booking_t:
    # What one request holds of an endpoint until it is released.
    uint32_t slot
    uint32_t generation        # 0 = holds nothing
    int64_t prefill_tokens     # still booked
    int64_t resident_tokens    # still booked
    int64_t ahead_tokens       # prefill tokens that were booked before this request, and its own
    int64_t booked_ns
    bint is_answered           # its first byte has come

ctypedef struct endpoints_t:
    endpoint_t* slots
    size_t capacity
    details_t* details         # by slot
    size_t details_capacity
    uint32_t width             # slots 0..width-1 may be in use
    uint32_t count             # slots in use
    uint32_t limit
    uint32_t generation        # last one given out
    double fleet_rate          # tokens per second: prior, then learned over all endpoints
    double fleet_tokens        # work that taught it, as much as counts
    int64_t eject_after        # failures in a row
    int64_t eject_base_ns      # first ejection; each further one in a row lasts twice as long ...
    int64_t eject_limit_ns     # ... up to this

cdef void endpoints_init(endpoints_t* table, uint32_t limit, double prior_rate) noexcept nogil
cdef void endpoints_free(endpoints_t* table) noexcept nogil
cdef int64_t endpoints_add(endpoints_t* table, const identity_t* identity) noexcept nogil
cdef int endpoints_remove(endpoints_t* table, uint32_t slot, uint32_t generation) noexcept nogil
cdef int endpoints_scraped(
    endpoints_t* table, uint32_t slot, uint32_t generation, const load_t* load,
    const adapters_t* running, const adapters_t* waiting, int64_t now_ns
) noexcept nogil
cdef int endpoints_book(
    endpoints_t* table, booking_t* booking, uint32_t slot, int64_t prefill, int64_t resident, int64_t now_ns
) noexcept nogil
cdef void endpoints_first_byte(endpoints_t* table, booking_t* booking, bint learn, int64_t now_ns) noexcept nogil
cdef void endpoints_release(endpoints_t* table, booking_t* booking) noexcept nogil
cdef void endpoints_succeeded(
    endpoints_t* table, uint32_t slot, uint32_t generation, int64_t started_ns
) noexcept nogil
cdef bint endpoints_failed(
    endpoints_t* table, uint32_t slot, uint32_t generation, int64_t started_ns, int64_t now_ns
) noexcept nogil
cdef bint adapters_hold(const adapters_t* adapters, uint64_t adapter) noexcept nogil


cdef inline endpoint_t* endpoints_get(const endpoints_t* table, uint32_t slot, uint32_t generation) noexcept nogil:
    """The endpoint, or NULL if it has gone (or its slot belongs to another by now)."""
    if slot >= table.width or not table.slots[slot].used or table.slots[slot].generation != generation:
        return NULL
    return &table.slots[slot]


cdef inline bint endpoints_open(const endpoint_t* endpoint, int64_t now_ns) noexcept nogil:
    """May it be picked? Not from its ejection (or its last probe) until the interval is over.

    A clock that has gone back behind the ejection opens it: better a probe too early than one that never comes.
    """
    return endpoint.ejections == 0 or now_ns >= endpoint.ejected_until_ns or now_ns < endpoint.ejected_ns


cdef inline double endpoints_rate(const endpoints_t* table, const endpoint_t* endpoint, int64_t now_ns) noexcept nogil:
    """Prefill tokens per second: the endpoint's own, drifting to the fleet's as it ages."""
    cdef double age, own
    if endpoint.rate_ns == 0:
        return table.fleet_rate
    age = <double>(now_ns - endpoint.rate_ns if now_ns > endpoint.rate_ns else 0)
    own = PK_RATE_HALF_LIFE_NS / (PK_RATE_HALF_LIFE_NS + age)
    return own * endpoint.prefill_rate + (1.0 - own) * table.fleet_rate


cdef inline double endpoints_ahead(const endpoint_t* endpoint, double rate, int64_t now_ns) noexcept nogil:
    """Booked prefill tokens still to be computed at `rate` tokens per second: what is overdue takes as long again."""
    cdef double booked = <double>endpoint.prefill_tokens
    cdef double since = <double>(now_ns - endpoint.progress_ns if now_ns > endpoint.progress_ns else 0)
    cdef double left = fabs(booked - rate * since * 1e-9)
    return left if left < booked else booked


cdef inline double endpoints_freshness(const endpoint_t* endpoint, int64_t now_ns) noexcept nogil:
    """Weight of the scraped load: 1 when just read, 1/2 after two seconds, 0 if it never was."""
    cdef double age
    if endpoint.scraped_ns == 0:
        return 0.0
    age = <double>(now_ns - endpoint.scraped_ns if now_ns > endpoint.scraped_ns else 0)
    return PK_LOAD_HALF_LIFE_NS / (PK_LOAD_HALF_LIFE_NS + age)


cdef class Booking:
    cdef booking_t _held


cdef class Endpoints:
    cdef endpoints_t _table


cdef int identity_fill(identity_t* identity, bytes target, bytes address, bytes token, uint64_t labels) except -1
cdef int adapters_fill(adapters_t* adapters, object names) except -1
cdef dict endpoint_view(const endpoints_t* table, uint32_t slot, int64_t now_ns)
