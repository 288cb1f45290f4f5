# Credit: what an endpoint can take now. Reads the slot table of endpoints, never writes it.
from libc.stddef cimport size_t
from libc.stdint cimport int64_t, uint32_t

from picker._core.endpoints cimport booking_t, endpoints_t

# How credit is given
cdef enum:
    PK_CREDIT_OFF = 0          # to everybody, always
    PK_CREDIT_ADAPTIVE = 1     # by what the endpoint is seen to do
    PK_CREDIT_UTILIZATION = 2  # while its scraped queue and KV usage are below thresholds
    PK_CREDIT_CONCURRENCY = 3  # while less than so much is booked on it

# What is counted by PK_CREDIT_CONCURRENCY
cdef enum:
    PK_COUNT_REQUESTS = 0
    PK_COUNT_TOKENS = 1
    PK_COUNT_HYBRID = 2        # whichever is fuller

cdef extern from *:
    """
    #define PK_CREDIT_SHARE_BELOW 0.87           /* of an endpoint, for bands below one that was active of late */
    """
    const double PK_CREDIT_SHARE_BELOW

ctypedef struct credit_rules_t:
    int mode
    double queue               # UTILIZATION: waiting requests at which an endpoint is full ...
    double kv                  # ... and its KV usage, 0-1
    double headroom            # of both modes: an endpoint takes requests up to 1 + headroom
    int64_t stale_ns           # metrics older than this say nothing; what is booked counts then
    int counts                 # CONCURRENCY: PK_COUNT_*
    double requests            # at which an endpoint is full
    double tokens

ctypedef struct credit_t:
    # What is known of one endpoint besides `endpoint_t`.
    uint32_t generation        # whose this is
    # how long its prefills take: overhead + tokens / rate, a weighted least-squares line over first tokens
    double weight              # sums, older observations counting less: of 1, of tokens, of seconds, of products
    double tokens
    double seconds
    double tokens_tokens
    double tokens_seconds
    double group_tokens        # of the first tokens that came at the last moment, not yet in the sums
    double group_seconds
    double overhead            # seconds
    double rate                # tokens per second; 0 = not learned yet
    double told                # share of first bytes that were first tokens, 0-1
    int64_t freed_ns           # when the last first byte came
    int64_t free_ns            # when the prefill work sent to it should be done
    int64_t sent_ns            # when the last request was sent to it
    # how much it holds
    double cache_tokens        # of its KV cache, as it says; 0 = it does not
    double kv_tokens           # learned: booked resident tokens that fill the cache; 0 = not yet
    double limit               # requests in flight at which it lets them wait; INFINITY = not met yet
    int64_t limited_ns         # when that was last changed
    # since its last scrape
    int64_t requests           # booked then
    int64_t resident_tokens    # booked then
    int64_t sent               # requests
    int64_t entered            # requests that had their first byte
    int64_t vanished           # requests that ended before it
    int64_t vanished_tokens    # resident tokens of those

ctypedef struct credits_t:
    credit_rules_t rules
    credit_t* slots
    size_t capacity
    double wanted              # resident tokens: about the largest request of late that no band is above
    int64_t wanted_ns          # as of when
    int64_t below_ns           # when a band that has one above it last asked; 0 = never
    bint is_surveyed           # what follows is of now
    int64_t surveyed_ns
    uint32_t surveyed          # endpoints there were
    uint32_t roomiest          # slot of the endpoint with most room
    double soonest_s           # until the first of them wants prefill work

cdef void credits_init(credits_t* credits) noexcept nogil
cdef void credits_free(credits_t* credits) noexcept nogil
cdef void credits_rule(credits_t* credits, const credit_rules_t* rules) noexcept nogil
cdef int credits_widen(credits_t* credits, uint32_t width) noexcept nogil
cdef void credits_start(credits_t* credits, const endpoints_t* endpoints, uint32_t slot) noexcept nogil
cdef void credits_cache(
    credits_t* credits, const endpoints_t* endpoints, uint32_t slot, int64_t tokens
) noexcept nogil
cdef void credits_ask(credits_t* credits, int64_t resident, double share, int64_t now_ns) noexcept nogil
cdef bint credits_allow(
    credits_t* credits, const endpoints_t* endpoints, uint32_t slot,
    int64_t prefill, int64_t cached, int64_t resident, double share, int64_t now_ns
) noexcept nogil
cdef void credits_booked(
    credits_t* credits, const endpoints_t* endpoints, const booking_t* booking, int64_t now_ns
) noexcept nogil
cdef void credits_first_byte(
    credits_t* credits, const endpoints_t* endpoints, const booking_t* booking, bint learn, int64_t now_ns
) noexcept nogil
cdef void credits_released(
    credits_t* credits, const endpoints_t* endpoints, const booking_t* booking, int64_t now_ns
) noexcept nogil
cdef void credits_scraped(
    credits_t* credits, const endpoints_t* endpoints, uint32_t slot, int64_t now_ns
) noexcept nogil
cdef double credits_fullness(
    const credits_t* credits, const endpoints_t* endpoints, uint32_t slot, int64_t now_ns
) noexcept nogil
cdef double credits_saturation(
    const credits_t* credits, const endpoints_t* endpoints, int64_t now_ns
) noexcept nogil
cdef dict credits_view(const credits_t* credits, const endpoints_t* endpoints, uint32_t slot, int64_t now_ns)
cdef int credit_rules_fill(credit_rules_t* rules, object detector) except -1


cdef class Credits:
    cdef credits_t _credits
    cdef endpoints_t _table

    cdef int _require(self, uint32_t slot) except -1
