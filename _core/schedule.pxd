# Whose turn it is: bands, flows, groups, lanes, rounds. Knows nothing of caps, rules that change, or time.
from libc.stddef cimport size_t
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t

from picker._core.codec cimport slice_t
from picker._core.heap cimport heap_t, node_t
from picker._core.records cimport index_t, list_t, record_t, slab_t
from picker._core.wheel cimport timer_t

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

ctypedef struct band_rules_t:
    int order                  # PK_ORDER_
    int fairness               # PK_FAIR_
    uint64_t max_requests      # 0 = no cap
    uint64_t max_bytes         # 0 = no cap
    int64_t ttl_ns             # 0 = none

ctypedef struct lane_t
ctypedef struct flow_t

ctypedef struct queued_t:
    # One waiting request, embedded in its owner; zeroed before first use; must not move while it waits.
    # Private. First these two, in this order: what is due, and what comes first, is a queued_t.
    timer_t timer
    node_t node
    lane_t* lane               # NULL = does not wait
    queued_t* next             # of its lane, in the order they came
    queued_t* previous
    # What whoever pushes says. A request that has left the queue keeps all of it and may be pushed again.
    void* owner
    int32_t priority           # its band: higher goes first
    uint64_t flow              # hash of the fairness id, made with a secret seed
    uint64_t group             # what it may go to, likewise: who may go elsewhere is not held up by it
    uint64_t bytes
    int64_t cost               # tokens; counts as 1 to PK_MOST_COST
    int64_t received_ns
    int64_t slo_ns             # for PK_ORDER_SLO; INT64_MAX = none, which is last
    int64_t expires_ns         # INT64_MAX: queue_push makes it the band's; else its own, INT64_MAX - 1 being never
    # What the queue says
    int64_t enqueued_ns

cdef enum:
    PK_MOST_COST = 1 << 30

ctypedef struct band_t:
    int32_t priority
    bint has_rules             # of its own: it is there even if nobody waits
    uint32_t place             # among the bands
    uint32_t busy              # flows that have somebody waiting
    band_rules_t rules
    uint64_t requests
    uint64_t bytes
    uint64_t clock             # virtual time: where the flow that went last began. 0 when nobody waits
    uint32_t group_count
    heap_t groups              # that somebody can be tried of
    heap_t idle                # flows that nobody waits of, but that are ahead of the clock, by their tag
    list_t flows               # the busy ones
    flow_t* shared             # by those that came when there were too many flows, or NULL

ctypedef struct flow_t:
    record_t record            # of band and id; its node: among the idle; listed among the busy
    uint64_t tag               # virtual time at which it goes next; behind the clock = at once
    uint32_t requests
    bint is_shared
    uint64_t bytes
    lane_t* first              # list of its lanes
    uint32_t name_size
    uint8_t name[PK_QUEUE_NAME_BYTES]

ctypedef struct group_t:
    record_t record            # of band and id; its node: among the groups, ranked as its first lane
    uint32_t count             # lanes, also those that are left out
    heap_t lanes               # that can be tried

ctypedef struct lane_t:
    # The requests of a flow in a group.
    record_t record            # of flow and the group's id; its node: among the group's, ranked as its first request
    group_t* group
    queued_t* oldest           # list of its requests, in the order they came
    queued_t* newest
    lane_t* next               # of its flow
    lane_t* previous
    uint32_t count             # requests
    bint is_ranked             # not PK_ORDER_FCFS; to here two cache lines
    heap_t ranked              # its requests, if it is

ctypedef struct schedule_t:
    band_t** bands             # the highest first
    size_t capacity
    uint32_t count             # bands
    uint32_t most_flows        # beyond, new ones share one in each band
    uint32_t flow_count        # those that share are not counted
    uint32_t at                # bands before it have nobody left to try in this round
    list_t parked_lanes        # left out of this round
    list_t parked_groups
    slab_t band_slab
    slab_t flow_slab
    slab_t group_slab
    slab_t lane_slab
    index_t flows              # by band and id
    index_t groups             # by band and id
    index_t lanes              # by flow and the group's id

cdef void schedule_sort(schedule_t* schedule, band_t* band, const band_rules_t* rules) noexcept nogil

cdef void schedule_add(schedule_t* schedule, band_t* band, queued_t* item, slice_t name) noexcept nogil
cdef void schedule_take(schedule_t* schedule, queued_t* item) noexcept nogil
cdef void schedule_remove(schedule_t* schedule, queued_t* item) noexcept nogil

cdef void schedule_begin(schedule_t* schedule) noexcept nogil
cdef queued_t* schedule_peek(schedule_t* schedule) noexcept nogil
cdef void schedule_skip(schedule_t* schedule, queued_t* item) noexcept nogil
cdef void schedule_block(schedule_t* schedule, queued_t* item) noexcept nogil
cdef object schedule_check(const schedule_t* schedule)


cdef inline queued_t* queued_of(node_t* node) noexcept nogil:
    """The request that is ranked by it: its timer stands before."""
    return <queued_t*>(<char*>node - sizeof(timer_t))


cdef inline band_t* band_of(const group_t* group) noexcept nogil:
    return <band_t*>group.record.parent


cdef inline flow_t* flow_of(const lane_t* lane) noexcept nogil:
    return <flow_t*>lane.record.parent
