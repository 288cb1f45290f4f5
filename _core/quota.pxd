# Rate limits: what a request may cost is reserved before it goes, and settled when it has ended.
from libc.stddef cimport size_t
from libc.stdint cimport int64_t, uint32_t, uint64_t

from picker._core.codec cimport header_t, slice_t
from picker._core.counters cimport counters_t
from picker._core.quotarules cimport (
    PK_QUOTA_CHARGES,
    PK_QUOTA_RULES,
    PK_QUOTA_SOURCES,
    rules_t,
)

cdef extern from "pthread.h" nogil:
    ctypedef struct quota_lock_t "pthread_mutex_t":
        pass
    int quota_lock_init "pthread_mutex_init"(quota_lock_t*, void*) noexcept
    int quota_lock "pthread_mutex_lock"(quota_lock_t*) noexcept
    int quota_unlock "pthread_mutex_unlock"(quota_lock_t*) noexcept
    int quota_lock_destroy "pthread_mutex_destroy"(quota_lock_t*) noexcept

cdef enum:
    PK_QUOTA_WAITS = 1         # a store is asked: not an error

# What is done with a request that limits count for
cdef enum:
    PK_QUOTA_MEMORY = 0        # this process counts
    PK_QUOTA_STORE = 1         # a store is asked
    PK_QUOTA_FREE = 2          # the store cannot be reached: all may go,
    PK_QUOTA_SHUT = 3          # or none

# Where a hold stands
cdef enum:
    PK_HOLD_OPEN = 0           # nothing is reserved yet
    PK_HOLD_FREE = 1           # nothing counts for it
    PK_HOLD_MEMORY = 2         # reserved here
    PK_HOLD_ASKED = 3          # the store is to be asked
    PK_HOLD_SENT = 4           # it is being asked
    PK_HOLD_STORED = 5         # reserved there
    PK_HOLD_REFUSED = 6
    PK_HOLD_FAILED = 7         # the store did not answer
    PK_HOLD_SETTLING = 8       # the store is to be told

ctypedef struct charge_t:
    uint64_t id                # of the counter
    uint32_t limit
    bint is_shared             # there was no room for a counter of its own
    int64_t window             # number of the window; of a store, when it ends by the store's clock, in ms
    int64_t cost               # thousandths

ctypedef struct shown_t:
    # What a client is told of its limits.
    int64_t amount             # thousandths; -1: there is none
    int64_t remaining
    int64_t reset_ns           # when the window ends, by the clock of sessions

ctypedef struct hold_t

ctypedef struct list_t:
    hold_t* first
    hold_t* last
    size_t count

ctypedef struct hold_t:
    # What is reserved for one request.
    rules_t* rules             # by which it was made
    list_t* within
    hold_t* before
    hold_t* after              # also of those that are free
    void* owner                # the session, while it waits for an answer
    uint32_t slot
    uint32_t number            # of its use, so that a late answer is known for one
    int state                  # PK_HOLD_*
    bint is_abandoned          # its session is gone, the answer is not
    uint64_t keys[PK_QUOTA_SOURCES]
    uint64_t model
    int64_t input              # estimated
    int64_t output
    uint32_t count
    charge_t charges[PK_QUOTA_CHARGES]
    uint32_t refused           # the charge that was one too many
    int64_t used               # of its limit by then
    int64_t reset_ns           # when that is over
    shown_t requests
    shown_t tokens

ctypedef struct rule_tally_t:
    # What became of requests by one rule.
    uint64_t requests          # let go
    uint64_t rejected
    uint64_t unavailable       # the store could not be asked
    uint64_t input
    uint64_t cached
    uint64_t output

ctypedef struct quota_t:
    quota_lock_t lock
    rules_t* rules             # NULL: there are none
    counters_t counters
    counters_t shared          # by limit, for keys that find no room
    int64_t wall_ns            # what to add to the clock of sessions
    int mode                   # PK_QUOTA_*
    int fallback               # what FAILED holds get: PK_QUOTA_MEMORY, FREE or SHUT
    bint bounds_output         # what a client says an answer is at most, is reserved for it
    bint mirrors               # what the store says is kept here, too
    hold_t** holds             # all there are, by slot
    size_t capacity
    uint32_t count
    hold_t* free
    list_t asked
    list_t settling
    list_t woken
    uint32_t most_settling
    uint64_t lost              # settlements given up
    uint64_t crowded           # charges that found no room for a counter
    rule_tally_t tallies[PK_QUOTA_RULES]

ctypedef struct used_t:
    # What a request came to.
    bint has_gone              # to a model server; else all of it is given back
    int64_t input
    int64_t cached             # of it
    int64_t output

cdef int quota_open(quota_t* quota, hold_t** hold) noexcept nogil
cdef void quota_header(hold_t* hold, const header_t* header) noexcept nogil
cdef void quota_metadata(hold_t* hold, slice_t metadata) noexcept nogil
cdef int quota_reserve(
    quota_t* quota, hold_t* hold, slice_t model, int64_t input, int64_t output, void* owner, int64_t now_ns
) noexcept nogil
cdef int quota_verdict(quota_t* quota, hold_t* hold, int64_t now_ns) noexcept nogil
cdef void quota_settle(quota_t* quota, hold_t* hold, const used_t* used, int64_t now_ns) noexcept nogil
cdef void* quota_woken(quota_t* quota) noexcept nogil

# For the store's side
cdef hold_t* quota_take(quota_t* quota, list_t* of) noexcept nogil
cdef void quota_done(quota_t* quota, hold_t* hold) noexcept nogil
cdef hold_t* quota_sent(quota_t* quota, uint64_t ticket) noexcept nogil
cdef bint quota_answer(
    quota_t* quota, uint64_t ticket, int64_t refused, const int64_t* used, const int64_t* ends_ms, int64_t store_ms,
    int64_t now_ns
) noexcept nogil
cdef void quota_fail(quota_t* quota, uint64_t ticket) noexcept nogil
cdef void quota_replace(quota_t* quota, rules_t* rules) noexcept nogil


cdef inline bint quota_is_due(const quota_t* quota) noexcept nogil:
    """Has the store something to be asked or told? Read without the lock: a hint."""
    return quota.asked.count > 0 or quota.settling.count > 0
