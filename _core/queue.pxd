# Flow control's queue: who waits, whose turn it is, who has waited too long. Knows nothing of endpoints.
from libc.stddef cimport size_t
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t

from picker._core.codec cimport slice_t
from picker._core.schedule cimport PK_QUEUE_NAME_BYTES, band_rules_t, queued_t, schedule_t
from picker._core.wheel cimport wheel_t

# What waits, orders and fairness: schedule.pxd (queued_t, band_rules_t, PK_ORDER_*, PK_FAIR_*).

# Which cap it was that a push reached
cdef enum:
    PK_CAP_NONE = 0
    PK_CAP_BAND_REQUESTS = 1
    PK_CAP_BAND_BYTES = 2
    PK_CAP_REQUESTS = 3
    PK_CAP_BYTES = 4
    PK_CAP_BANDS = 5           # a priority nobody has rules for, and too many such bands have somebody waiting

ctypedef struct queue_limits_t:
    uint64_t max_requests      # in all; 0 = no cap
    uint64_t max_bytes         # in all; 0 = no cap
    uint32_t bands             # most without rules of their own, which are there only while somebody waits
    uint32_t flows             # most that are told apart; beyond, new ones share one flow in each band

ctypedef struct queue_rules_t:
    # Borrowed for the call. Rules of the bands `priorities`, of others at or above 0, and of others below 0.
    const int32_t* priorities
    const band_rules_t* rules
    uint32_t count
    band_rules_t default
    band_rules_t negative

ctypedef struct band_count_t:
    int32_t priority
    bint has_rules             # of its own: it is there even if nobody waits
    band_rules_t rules
    uint64_t requests
    uint64_t bytes
    uint32_t flows             # that have somebody waiting
    int64_t oldest_ns          # the least enqueued_ns; INT64_MAX = nobody waits

ctypedef struct flow_count_t:
    int32_t priority
    bint is_shared             # by all that came when there were too many flows: it has no id and no name
    uint64_t flow
    uint32_t name_size
    uint8_t name[PK_QUEUE_NAME_BYTES]
    uint64_t requests
    uint64_t bytes
    int64_t oldest_ns

ctypedef struct queue_t:
    queue_limits_t limits
    uint64_t requests          # waiting; read these two as you like
    uint64_t bytes
    int cap                    # PK_CAP_: the one that the last push which said PK_E_LIMIT reached
    # Private
    int64_t now_ns             # the latest that was told
    uint64_t turn              # of the last request that came
    uint32_t made              # bands without rules of their own
    band_rules_t default
    band_rules_t negative
    schedule_t schedule
    wheel_t wheel

# An empty queue; allocates nothing. Until queue_set_rules every band is FCFS and PK_FAIR_TOKENS, without caps or TTL.
# `now_ns` is about when it begins. A clock that goes back stands still here.
cdef void queue_init(queue_t* queue, const queue_limits_t* limits, int64_t now_ns) noexcept nogil
# Those who wait are forgotten, not touched: take them out first.
cdef void queue_free(queue_t* queue) noexcept nogil
# New rules and limits, also while requests wait: they keep their expires_ns and are sorted anew; caps hold for those
# who come later. PK_OK; PK_E_RANGE: an unknown order or fairness, a negative ttl, a priority twice; PK_E_NOMEM; then
# nothing has changed. O(bands^2 + n log n).
cdef int queue_set_rules(queue_t* queue, const queue_limits_t* limits, const queue_rules_t* rules) noexcept nogil

# Let it wait. PK_OK; PK_E_LIMIT: a cap is reached, queue.cap says which; PK_E_NOMEM; then nothing has changed. It must
# not wait already. `name` is the fairness id, its first PK_QUEUE_NAME_BYTES kept while its flow is there. O(log n).
cdef int queue_push(queue_t* queue, queued_t* item, slice_t name, int64_t now_ns) noexcept nogil
# Does anybody of this band or a higher one wait for this group? At once if nobody waits at all, else O(bands).
cdef bint queue_holds_before(const queue_t* queue, int32_t priority, uint64_t group) noexcept nogil

# A round: begin; while peek tells one: take it, or skip or block it. There is one round at a time, and nothing to end
# it with. Everything else may happen within a round: peek tells who is next by what is there then.
# O(log n) for each that was left out of the last one.
cdef void queue_begin(queue_t* queue) noexcept nogil
# Who is next: of the highest band that has somebody left to try, of the flow that has had least, the first in the
# band's order; or NULL. O(1), but for O(bands) in a whole round.
cdef queued_t* queue_peek(queue_t* queue) noexcept nogil
# It goes: its flow is charged, it is out of the queue. O(log n), for each group that somebody of its flow waits for.
cdef void queue_take(queue_t* queue, queued_t* item) noexcept nogil
# It cannot go now: leave its flow's requests of its group out of the rest of the round. O(log n).
cdef void queue_skip(queue_t* queue, queued_t* item) noexcept nogil
# It cannot go, so nobody behind it that wants the same should: leave its group out of the rest of the round, in its
# band and in all below. This is what to do where credit is short: then a round is over after one look at each group,
# however many flows wait; and small ones cannot, again and again, slip into the room that a large one waits for.
# O(bands + log n).
cdef void queue_block(queue_t* queue, queued_t* item) noexcept nogil

# It goes away without having gone: nothing is charged. Harmless if it does not wait. O(log n).
cdef void queue_remove(queue_t* queue, queued_t* item) noexcept nogil
# Takes out and returns one whose expires_ns has come, or NULL. Never early, less than PK_WHEEL_TICK_NS (10 ms) late.
# O(log n).
cdef queued_t* queue_expired(queue_t* queue, int64_t now_ns) noexcept nogil
# Any that waits, of the highest band, or NULL: to empty the queue.
cdef queued_t* queue_any(queue_t* queue) noexcept nogil

# For metrics: fill at most `room` rows; how many there are. Flows are those that have somebody waiting.
# O(flows + lanes).
cdef size_t queue_bands(const queue_t* queue, band_count_t* rows, size_t room) noexcept nogil
cdef size_t queue_flows(const queue_t* queue, flow_count_t* rows, size_t room) noexcept nogil


cdef class Queue:
    cdef queue_t _queue
    cdef queued_t* _table
    cdef size_t _size

    cdef queued_t* _at(self, size_t key) except NULL
    cdef queued_t* _waiting(self, size_t key) except NULL
