# Flow control of one pool: its rules, how much of the pool a priority may fill, how fast requests get their turn, and
# who has just got it.
from libc.stddef cimport size_t
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t

from picker._core.codec cimport slice_t
from picker._core.credits cimport credit_rules_t, credits_t
from picker._core.endpoints cimport endpoints_t
from picker._core.queue cimport queue_limits_t, queue_t
from picker._core.schedule cimport band_rules_t, queued_t

# What becomes of a request that asks for its turn, besides PK_OK, PK_NEED_PLUGIN and PK_E_*
cdef enum:
    PK_QUEUED = 2              # it waits
    PK_QUOTA_ANSWERED = 4      # the store has said something: ask its rate limits again
    PK_REFUSED = 3             # `turn.failure` says why

# Where a turn stands
cdef enum:
    PK_TURN_ASKED = -1         # a store is asked about its rate limits
    PK_TURN_NONE = 0
    PK_TURN_QUEUED = 1
    PK_TURN_WOKEN = 2          # it has come, or has been lost: in the list of those to be told
    PK_TURN_CALLED = 3         # whoever serves the session knows

# How much of the pool requests of a priority may fill
cdef enum:
    PK_CEILING_RESERVE = 0     # all of it, but for a little that is kept for higher ones that have come lately
    PK_CEILING_STATIC = 1      # the same share for all
    PK_CEILING_HOLDBACK = 2    # from `least` for the lowest to `most` for the highest
    PK_CEILING_REFLECTIVE = 3  # the less the fuller it is

cdef enum:
    PK_FLOW_HEADERS = 16       # that may hold a fairness id
    PK_FLOW_HEADER_BYTES = 64
    PK_ACTIVE_BANDS = 32       # priorities that are known to have come lately
    PK_RULED_BANDS = 256       # with rules of their own
    PK_WOKEN_AT_ONCE = 256     # turns given before the loop gets its own

ctypedef struct flow_header_t:
    uint32_t size
    uint8_t name[PK_FLOW_HEADER_BYTES]

ctypedef struct flow_rules_t:
    bint is_on
    bint queues                # False: nobody waits; under saturation negative priorities are turned away
    bint evicts
    int64_t no_endpoint_ttl_ns     # 0: a request does not wait for an endpoint to exist
    int ceiling                # PK_CEILING_*
    bint by_value              # HOLDBACK: in proportion to priorities, not to their ranks
    double least
    double most
    bint has_probability       # requests of negative priority are turned away at random
    double queue
    double kv
    double power
    double k
    bint has_slo               # ... and where nobody can answer as soon as they wish
    uint32_t header_count
    uint64_t header_sizes      # bit n: one of them has n bytes
    flow_header_t headers[PK_FLOW_HEADERS]

ctypedef struct flow_bands_t:
    # What the queue is told.
    queue_limits_t limits
    band_rules_t default_rules
    band_rules_t negative_rules
    uint32_t count
    int32_t priorities[PK_RULED_BANDS]
    band_rules_t rules[PK_RULED_BANDS]

ctypedef struct turn_t:
    # One request's wait; part of its session, which must not move meanwhile.
    queued_t queued            # first: a queued_t is its turn
    int state                  # PK_TURN_*
    int code                   # from PK_TURN_WOKEN on: PK_OK, PK_NEED_PLUGIN, PK_E_NOMEM, PK_REFUSED
    int failure                # PK_FAIL_*, with PK_REFUSED
    uint32_t retry_after_s
    bint is_granted            # its plugin is to be asked, and nobody else gets a turn before
    bint is_evictable          # it runs, and is in the list of those that may make room
    bint is_evicted            # it has to, and has not been told
    uint64_t changes           # of the flow, when it was looked at last
    turn_t* before             # in the one list or the other
    turn_t* after
    void* call                 # of whoever serves the session: one of the two is set
    void* python

ctypedef struct turns_t:
    turn_t* first
    turn_t* last
    uint32_t count

ctypedef struct active_t:
    int32_t priority
    int64_t seen_ns

ctypedef struct flow_t:
    flow_rules_t rules
    credits_t credits
    queue_t queue
    bint is_due                # something has changed that those who wait, wait for
    uint64_t changes
    turns_t woken              # to be told
    turns_t evictable          # requests of negative priority that run and have no answer yet
    uint32_t evicted           # that are to be told to make room
    int64_t evicted_ns         # when the last was
    uint32_t granted
    uint32_t active_count
    active_t active[PK_ACTIVE_BANDS]   # the highest first
    double drain_per_s         # turns given, as far as known
    int64_t drain_ns           # counted since
    uint32_t drained
    bint was_short             # somebody had to wait, or was turned away, since then

cdef void flow_init(flow_t* flow) noexcept nogil
cdef void flow_free(flow_t* flow) noexcept nogil
cdef int flow_rule(
    flow_t* flow, const flow_rules_t* rules, const flow_bands_t* bands, const credit_rules_t* credits
) noexcept nogil
cdef void flow_seen(flow_t* flow, int32_t priority, int64_t now_ns) noexcept nogil
cdef double flow_share(
    const flow_t* flow, const endpoints_t* endpoints, int32_t priority, int64_t now_ns
) noexcept nogil
cdef void flow_drained(flow_t* flow, int64_t now_ns) noexcept nogil
cdef uint32_t flow_retry_after(const flow_t* flow) noexcept nogil
cdef bint flow_is_first(flow_t* flow, int32_t priority) noexcept nogil
cdef void flow_wake(flow_t* flow, turn_t* turn, int code, int failure) noexcept nogil
cdef turn_t* flow_call(flow_t* flow, bint is_python) noexcept nogil
cdef void flow_run(flow_t* flow, turn_t* turn) noexcept nogil
cdef void flow_evict(flow_t* flow, turn_t* turn, int failure, int64_t now_ns) noexcept nogil
cdef void flow_forget(flow_t* flow, turn_t* turn) noexcept nogil
cdef int flow_header(const flow_t* flow, slice_t name) noexcept nogil


cdef inline void flow_stir(flow_t* flow) noexcept nogil:
    """What those who wait, wait for may be there."""
    flow.is_due = True
    flow.changes += 1


cdef int flow_fill(flow_rules_t* rules, flow_bands_t* bands, credit_rules_t* credits, object given) except -1
cdef dict flow_view(const flow_t* flow)
