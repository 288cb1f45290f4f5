# Who waits, and whose turn it is: bands of priority, in them flows, in them an order. Knows nothing of endpoints.
from libc.stddef cimport size_t
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t

from picker._core.codec cimport slice_t
from picker._core.heap cimport node_t
from picker._core.wheel cimport timer_t, wheel_t

cdef enum:
    PK_ORDER_FCFS = 0          # as they came into the queue
    PK_ORDER_EDF = 1           # the nearest expires_ns first
    PK_ORDER_SLO = 2           # the nearest slo_ns first

cdef enum:
    PK_FAIR_STRICT = 0         # flows count for nothing: one virtual queue, by the band's order
    PK_FAIR_ROUND_ROBIN = 1    # one request of each flow in turn
    PK_FAIR_TOKENS = 2         # equal tokens for each flow

cdef enum:
    PK_QUEUE_NAME_BYTES = 64   # of a fairness id kept for metrics

# Which cap it was that a push reached
cdef enum:
    PK_CAP_NONE = 0
    PK_CAP_BAND_REQUESTS = 1
    PK_CAP_BAND_BYTES = 2
    PK_CAP_REQUESTS = 3
    PK_CAP_BYTES = 4
    PK_CAP_BANDS = 5           # a priority nobody has rules for, and too many such bands have somebody waiting

ctypedef struct band_rules_t:
    int order                  # PK_ORDER_
    int fairness               # PK_FAIR_
    uint64_t max_requests      # 0 = no cap
    uint64_t max_bytes         # 0 = no cap
    int64_t ttl_ns             # 0 = none

ctypedef struct queue_limits_t:
    uint64_t max_requests      # in all; 0 = no cap
    uint64_t max_bytes         # in all; 0 = no cap
    uint32_t bands             # most that have no rules of their own and are there only because somebody waits
    uint32_t flows             # most; beyond, new ones share the overflow flow of their band

ctypedef struct lane_t         # the requests of one flow in one group
ctypedef struct band_t
ctypedef struct slab_t:
    # Records of one size, never moved, given back to the allocator only with the queue.
    void* spare                # list of free records
    void* chunks
    size_t size
    size_t count               # records in use

ctypedef struct index_t:
    # A hash table of records by (parent, id), chained through the records.
    void** buckets
    size_t places              # a power of two, or 0
    size_t count

ctypedef struct queued_t:
    # One waiting request, embedded in its owner; zeroed before first use; must not move while it waits.
    # First these two, in this order: what is due, and what comes first, is a queued_t.
    timer_t timer
    node_t node
    # What whoever pushes says. A request that has left the queue keeps all of it and may be pushed again.
    void* owner
    int32_t priority           # its band: higher goes first
    uint64_t flow              # hash of the fairness id
    uint64_t group             # what it may go to: those of a flow that may go elsewhere are not held up by it
    uint64_t bytes
    int64_t cost               # tokens; counts as 1 to 2**30
    int64_t received_ns
    int64_t slo_ns             # for PK_ORDER_SLO; INT64_MAX = none, which is last
    int64_t expires_ns         # its own; INT64_MAX = never. queue_push makes it the band's where that is nearer
    # What the queue says
    int64_t enqueued_ns
    # Private
    queued_t* next             # of its lane, in the order they came
    queued_t* previous
    lane_t* lane               # NULL = does not wait

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
    uint64_t flow              # 0 for an overflow flow
    bint is_overflow           # shared by all that came when there were too many flows
    uint8_t name[PK_QUEUE_NAME_BYTES]
    uint32_t name_size
    uint64_t requests
    uint64_t bytes
    int64_t oldest_ns

ctypedef struct queue_t:
    queue_limits_t limits
    uint64_t requests          # waiting; read these as you like
    uint64_t bytes
    int cap                    # PK_CAP_: the one that the last push which said PK_E_LIMIT reached
    # Private
    int64_t now_ns             # the latest that was told: a clock that goes back stands still here
    uint64_t turn              # of the last request that came
    wheel_t wheel
    band_t** bands             # the highest first
    size_t bands_capacity
    uint32_t band_count
    uint32_t made              # of them, without rules of their own
    uint32_t flow_count        # without overflow flows
    uint32_t at                # of this round: bands before it have nobody left to try
    bint has_parked            # some lane or group is left out of this round
    band_rules_t default_rules
    band_rules_t negative_rules
    slab_t band_slab
    slab_t flow_slab
    slab_t group_slab
    slab_t lane_slab
    index_t flows              # by band and id
    index_t groups             # by band and id
    index_t lanes              # by flow and group's id

# An empty queue; allocates nothing. Without rules every band is FCFS, PK_FAIR_TOKENS, without cap or TTL.
# `now_ns`: about when it begins; a clock far ahead of it is fine, one behind it stands still
cdef void queue_init(queue_t* queue, const queue_limits_t* limits, int64_t now_ns) noexcept nogil
# Those who wait are forgotten, not touched: take them out first
cdef void queue_free(queue_t* queue) noexcept nogil
# New rules, also while requests wait: they keep their expires_ns and are sorted anew; caps, also `limits`, hold for those
# who come later. PK_OK; PK_E_RANGE: an unknown order or fairness, a negative ttl, a priority twice; PK_E_NOMEM.
# Then nothing has changed. `limits` may be NULL: as they were.
cdef int queue_rules(
    queue_t* queue, const queue_limits_t* limits, const int32_t* priorities, const band_rules_t* rules, uint32_t count,
    const band_rules_t* default_rules, const band_rules_t* negative_rules
) noexcept nogil

# Let it wait. PK_OK; PK_E_LIMIT: a cap is reached, queue.cap says which; PK_E_NOMEM. Then nothing has changed but enqueued_ns
# and expires_ns. `name`: the fairness id, its first PK_QUEUE_NAME_BYTES kept as the flow's name while the flow is there.
# It must not wait already. O(log n).
cdef int queue_push(queue_t* queue, queued_t* item, slice_t name, int64_t now_ns) noexcept nogil
# Does anybody of this band or a higher one wait for this group? O(bands); at once if nobody waits at all.
cdef bint queue_holds_before(const queue_t* queue, int32_t priority, uint64_t group) noexcept nogil

# A round: begin; while there is a head: take it, or skip or block it. One round at a time; nothing of it need be ended.
# Everything else may happen within a round: peek tells the next by what is there then.
cdef void queue_begin(queue_t* queue) noexcept nogil
# Who is next: of the highest band, the flow that has had least, the first by the band's order; NULL: nobody is left to
# try in this round. O(1) amortised; changes nothing that is seen.
cdef queued_t* queue_peek(queue_t* queue) noexcept nogil
# It goes: its flow is charged, it is out of the queue. O(log n) for each group that its flow has somebody waiting for.
cdef void queue_take(queue_t* queue, queued_t* item) noexcept nogil
# It cannot go now: leave its flow's requests of its group out of the rest of the round. O(log n).
cdef void queue_skip(queue_t* queue, queued_t* item) noexcept nogil
# It cannot go, so nobody of its group should who is not before it: leave the group out of the rest of the round, in its band
# and in all below. This is what to do where credit is short: the round is over after one look at each group, however many
# flows wait; and nobody small slips past somebody large, again and again, into the room that the large one waits for.
# O(bands + log n).
cdef void queue_block(queue_t* queue, queued_t* item) noexcept nogil

# It goes away without having gone: nothing is charged. Harmless if it does not wait. O(log n).
cdef void queue_remove(queue_t* queue, queued_t* item) noexcept nogil
# Takes out and returns one whose expires_ns has come, or NULL. Never early, less than 20 ms late. O(log n) amortised.
cdef queued_t* queue_expired(queue_t* queue, int64_t now_ns) noexcept nogil
# Any that waits, or NULL: to empty the queue, highest band first
cdef queued_t* queue_any(queue_t* queue) noexcept nogil

# For metrics: fills at most `room` rows, returns how many there are in all. O(flows).
cdef size_t queue_bands(const queue_t* queue, band_count_t* rows, size_t room) noexcept nogil
cdef size_t queue_flows(const queue_t* queue, flow_count_t* rows, size_t room) noexcept nogil
# For tests: asserts all invariants
cdef object queue_check(const queue_t* queue)


cdef class Queue:
    cdef queue_t _queue
    cdef queued_t* _table
    cdef size_t _size

    cdef queued_t* _at(self, size_t key) except NULL
    cdef queued_t* _waiting(self, size_t key) except NULL
