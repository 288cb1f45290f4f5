# Slot table of endpoints: identity, scraped load, booked load, learned rate, circuit breaker.
from libc.stddef cimport size_t
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

cdef enum:
    PK_TARGET_BYTES = 56       # "[39 characters of IPv6]:65535" and some room
    PK_TOKEN_BYTES = 432       # base64 of "namespace/name": 63 + 1 + 253 characters
    PK_ADAPTERS = 64           # LoRA adapters remembered per endpoint and list

ctypedef struct adapters_t:
    uint32_t count
    uint64_t hashes[PK_ADAPTERS]

ctypedef struct load_t:
    # One scrape of an endpoint's metrics. Negative: the page did not say.
    double waiting             # requests
    double running             # requests
    double kv_usage            # 0-1
    double max_lora            # adapters
    adapters_t running_adapters
    adapters_t waiting_adapters

ctypedef struct endpoint_t:
    bint used
    uint32_t generation        # 1, 2, ...: a reused slot or address is another endpoint
    uint32_t target_size
    uint8_t target[PK_TARGET_BYTES]     # "ip:port"
    uint32_t token_size
    uint8_t token[PK_TOKEN_BYTES]       # session token handed to clients
    uint64_t target_hash       # of "ip:port"
    uint64_t address_hash      # of "ip"
    uint64_t token_hash        # of the session token
    uint64_t labels            # bit k: label selector k of the pipeline matches
    load_t load
    int64_t scraped_ns         # when `load` was read; 0 = never
    int64_t requests           # booked: picked and not yet ended
    int64_t prefill_tokens     # booked: uncached prompt tokens not yet answered by a first byte
    int64_t resident_tokens    # booked: prompt and expected output of running requests
    double prefill_rate        # learned: tokens per second
    int64_t rate_ns            # when it was last learned; 0 = never
    uint32_t failures          # in a row
    uint32_t ejections         # in a row
    int64_t ejected_until_ns   # 0 = never ejected
    uint64_t picks

ctypedef struct booking_t:
    # What one request holds of an endpoint until it is released.
    uint32_t slot
    uint32_t generation        # 0 = holds nothing
    int64_t prefill_tokens     # still booked
    int64_t resident_tokens    # still booked
    int64_t ahead_tokens       # prefill tokens that were booked before this request, and its own
    int64_t booked_ns

ctypedef struct endpoints_t:
    endpoint_t* slots
    size_t capacity
    uint32_t width             # slots ever used: 0..width-1
    uint32_t count             # slots in use
    uint32_t limit
    uint32_t generation        # last one given out
    double fleet_rate          # tokens per second: prior, then learned over all endpoints
    int64_t eject_after        # failures in a row
    int64_t eject_base_ns
    int64_t eject_limit_ns

cdef void endpoints_init(endpoints_t* table, uint32_t limit, double prior_rate) noexcept nogil
cdef void endpoints_free(endpoints_t* table) noexcept nogil
cdef int64_t endpoints_add(endpoints_t* table, const endpoint_t* identity) noexcept nogil
cdef endpoint_t* endpoints_get(const endpoints_t* table, uint32_t slot, uint32_t generation) noexcept nogil
cdef int endpoints_remove(endpoints_t* table, uint32_t slot, uint32_t generation) noexcept nogil
cdef int endpoints_book(
    endpoints_t* table, booking_t* booking, uint32_t slot, int64_t prefill, int64_t resident, int64_t now_ns
) noexcept nogil
cdef void endpoints_first_byte(endpoints_t* table, booking_t* booking, bint learn, int64_t now_ns) noexcept nogil
cdef void endpoints_release(endpoints_t* table, booking_t* booking) noexcept nogil
cdef void endpoints_succeeded(endpoints_t* table, uint32_t slot, uint32_t generation) noexcept nogil
cdef bint endpoints_failed(endpoints_t* table, uint32_t slot, uint32_t generation, int64_t now_ns) noexcept nogil
cdef bint endpoints_open(const endpoint_t* endpoint, int64_t now_ns) noexcept nogil
cdef double endpoints_rate(const endpoints_t* table, const endpoint_t* endpoint, int64_t now_ns) noexcept nogil
cdef double endpoints_freshness(const endpoint_t* endpoint, int64_t now_ns) noexcept nogil


cdef class Endpoints:
    cdef endpoints_t _table
    cdef dict _bookings
    cdef int64_t _next_booking


cdef int identity_fill(endpoint_t* identity, bytes target, bytes address, bytes token, uint64_t labels) except -1
cdef int adapters_fill(adapters_t* adapters, object names) except -1
cdef dict endpoint_view(const endpoints_t* table, uint32_t slot, int64_t now_ns)
