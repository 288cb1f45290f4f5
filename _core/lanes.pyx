"""Who there is: bands, in them flows and groups, and lanes where they cross. Knows nothing of whose turn it is.

Invariants: bands stand in the order of their priority; a flow, a group, a lane are there as long as somebody waits of
    them, a flow also while it is idle and ahead of its band's clock, for then it matters when it comes back.
Cost: O(1) to find, O(log n) for flows that become idle, O(bands) for a band that comes or goes. Whatever a request may
    need is reserved before it comes, which alone allocates; idle flows are forgotten where others need their place.
Memory: owns all records and their heaps; the requests belong to those who add them.   Threads: one at a time.
"""
from libc.stddef cimport size_t
from libc.stdint cimport int32_t, uint32_t, uint64_t
from libc.string cimport memcpy, memmove, memset

from picker._core.alloc cimport PK_E_NOMEM, PK_OK, pk_free, pk_grow
from picker._core.codec cimport slice_t
from picker._core.heap cimport heap_drop, heap_first, heap_free, heap_push, heap_reserve
from picker._core.records cimport (
    index_add, index_drop, index_find, index_free, index_reserve, list_add, list_drop, slab_free, slab_give, slab_init,
    slab_reserve, slab_take,
)
from picker._core.schedule cimport (
    PK_ORDER_FCFS, PK_QUEUE_NAME_BYTES, band_of, band_rules_t, band_t, flow_of, flow_t, group_t, lane_t, queued_t,
    schedule_t,
)

# --- C kernel ---


cdef void lanes_init(schedule_t* schedule, uint32_t most_flows) noexcept nogil:
    """Nobody waits. Beyond `most_flows`, new flows share one in each band."""
    memset(schedule, 0, sizeof(schedule_t))
    schedule.most_flows = most_flows
    slab_init(&schedule.band_slab, sizeof(band_t))
    slab_init(&schedule.flow_slab, sizeof(flow_t))
    slab_init(&schedule.group_slab, sizeof(group_t))
    slab_init(&schedule.lane_slab, sizeof(lane_t))


cdef void _free_heaps(band_t* band) noexcept nogil:
    cdef flow_t* flow = <flow_t*>band.flows.first
    cdef lane_t* lane
    heap_free(&band.groups)
    heap_free(&band.idle)
    while flow != NULL:
        lane = flow.first
        while lane != NULL:
            heap_free(&lane.ranked)
            heap_free(&lane.group.lanes)
            lane = lane.next
        flow = <flow_t*>flow.record.next


cdef void lanes_free(schedule_t* schedule) noexcept nogil:
    """Those who wait are forgotten, not touched."""
    cdef uint32_t i
    for i in range(schedule.count):
        _free_heaps(schedule.bands[i])
    pk_free(schedule.bands)
    index_free(&schedule.flows)
    index_free(&schedule.groups)
    index_free(&schedule.lanes)
    slab_free(&schedule.band_slab)
    slab_free(&schedule.flow_slab)
    slab_free(&schedule.group_slab)
    slab_free(&schedule.lane_slab)
    lanes_init(schedule, schedule.most_flows)


cdef int lanes_reserve_bands(schedule_t* schedule, uint32_t bands) noexcept nogil:
    """Room for so many more. PK_OK or PK_E_NOMEM."""
    if pk_grow(<void**>&schedule.bands, &schedule.capacity, <size_t>schedule.count + bands, sizeof(band_t*)) != PK_OK:
        return PK_E_NOMEM
    return slab_reserve(&schedule.band_slab, bands)


cdef int _reserve_records(schedule_t* schedule) noexcept nogil:
    if slab_reserve(&schedule.flow_slab, 1) != PK_OK or index_reserve(&schedule.flows) != PK_OK:
        return PK_E_NOMEM
    if slab_reserve(&schedule.group_slab, 1) != PK_OK or index_reserve(&schedule.groups) != PK_OK:
        return PK_E_NOMEM
    if slab_reserve(&schedule.lane_slab, 1) != PK_OK or index_reserve(&schedule.lanes) != PK_OK:
        return PK_E_NOMEM
    return PK_OK


cdef int _reserve_lane(const schedule_t* schedule, const void* flow, uint64_t group) noexcept nogil:
    """A place for one more request in the lane, if there is one."""
    cdef lane_t* lane = <lane_t*>index_find(&schedule.lanes, flow, group)
    return PK_OK if lane == NULL else heap_reserve(&lane.ranked, <size_t>lane.count + 1)


cdef int lanes_reserve(schedule_t* schedule, band_t* band, const queued_t* item) noexcept nogil:
    """Room for a request, whatever it needs that is not there: its band too, where that is NULL. PK_OK or PK_E_NOMEM.

    A heap has a place for all who are, or may come to be, in it; the first has one in any heap.
    """
    cdef group_t* group
    cdef const void* flow
    if _reserve_records(schedule) != PK_OK:
        return PK_E_NOMEM
    if band == NULL:
        return lanes_reserve_bands(schedule, 1)
    group = <group_t*>index_find(&schedule.groups, band, item.group)
    if group == NULL:
        if heap_reserve(&band.groups, <size_t>band.group_count + 1) != PK_OK:
            return PK_E_NOMEM
    elif heap_reserve(&group.lanes, <size_t>group.count + 1) != PK_OK:
        return PK_E_NOMEM
    if heap_reserve(&band.idle, <size_t>band.busy + band.idle.count + 1) != PK_OK:
        return PK_E_NOMEM
    if group == NULL or band.rules.order == PK_ORDER_FCFS:
        return PK_OK
    flow = index_find(&schedule.flows, band, item.flow)
    return _reserve_lane(schedule, band.shared if flow == NULL else flow, item.group)


cdef int lanes_reserve_order(const schedule_t* schedule, const band_t* band, int order) noexcept nogil:
    """Room for another order of those who wait in a band. PK_OK or PK_E_NOMEM."""
    cdef const flow_t* flow = <const flow_t*>band.flows.first
    cdef lane_t* lane
    while order != PK_ORDER_FCFS and flow != NULL:
        lane = flow.first
        while lane != NULL:
            if heap_reserve(&lane.ranked, lane.count) != PK_OK:
                return PK_E_NOMEM
            lane = lane.next
        flow = <const flow_t*>flow.record.next
    return PK_OK


# --- C kernel: bands ---


cdef uint32_t _place(const schedule_t* schedule, int32_t priority) noexcept nogil:
    """Where a band of this priority stands, or would stand."""
    cdef uint32_t low = 0, high = schedule.count, middle
    while low < high:
        middle = (low + high) // 2
        if schedule.bands[middle].priority > priority:
            low = middle + 1
        else:
            high = middle
    return low


cdef band_t* lanes_band(const schedule_t* schedule, int32_t priority) noexcept nogil:
    """The band of this priority, or NULL."""
    cdef uint32_t place = _place(schedule, priority)
    if place == schedule.count or schedule.bands[place].priority != priority:
        return NULL
    return schedule.bands[place]


cdef void _shift(schedule_t* schedule, uint32_t place, uint32_t to, uint32_t count) noexcept nogil:
    """Move so many bands; who they are is looked for from there again."""
    cdef uint32_t i
    memmove(&schedule.bands[to], &schedule.bands[place], count * sizeof(band_t*))
    for i in range(to, to + count):
        schedule.bands[i].place = i
    schedule.at = min(schedule.at, min(place, to))


cdef band_t* lanes_add_band(schedule_t* schedule, int32_t priority, const band_rules_t* rules) noexcept nogil:
    """A band that is not there; its room was reserved."""
    cdef uint32_t place = _place(schedule, priority)
    cdef band_t* band = <band_t*>slab_take(&schedule.band_slab)
    _shift(schedule, place, place + 1, schedule.count - place)
    band.priority = priority
    band.rules = rules[0]
    band.place = place
    schedule.bands[place] = band
    schedule.count += 1
    return band


cdef void lanes_drop_band(schedule_t* schedule, band_t* band) noexcept nogil:
    """A band in which nobody waits."""
    heap_free(&band.groups)
    heap_free(&band.idle)
    schedule.count -= 1
    _shift(schedule, band.place + 1, band.place, schedule.count - band.place)
    slab_give(&schedule.band_slab, band)


# --- C kernel: flows, groups and lanes come and go ---


cdef void _drop_idle(schedule_t* schedule, band_t* band) noexcept nogil:
    """Forget the idle flow that is the least ahead."""
    cdef flow_t* flow = <flow_t*>heap_first(&band.idle)
    heap_drop(&band.idle, &flow.record.node)
    _drop_flow(schedule, band, flow)


cdef void _drop_flow(schedule_t* schedule, band_t* band, flow_t* flow) noexcept nogil:
    if flow.is_shared:
        band.shared = NULL
    else:
        schedule.flow_count -= 1
        index_drop(&schedule.flows, &flow.record)
    slab_give(&schedule.flow_slab, flow)


cdef bint _is_full(schedule_t* schedule, band_t* band) noexcept nogil:
    """No further flow can be told apart, not even when idle ones are forgotten: of this band, then of any."""
    cdef uint32_t i = 0
    while schedule.flow_count >= schedule.most_flows:
        if band.idle.count:
            _drop_idle(schedule, band)
        elif i == schedule.count:
            return True
        else:
            band = schedule.bands[i]
            i += 1
    return False


cdef flow_t* _new_flow(schedule_t* schedule, band_t* band, uint64_t id, slice_t name) noexcept nogil:
    """A flow that is not there, or the one that those share who come too late."""
    cdef bint is_shared = _is_full(schedule, band)
    cdef flow_t* flow
    if is_shared and band.shared != NULL:
        return band.shared
    flow = <flow_t*>slab_take(&schedule.flow_slab)
    flow.is_shared = is_shared
    if is_shared:
        flow.record.parent = band
        band.shared = flow
        return flow
    schedule.flow_count += 1
    flow.name_size = <uint32_t>min(name.size, PK_QUEUE_NAME_BYTES)
    if flow.name_size:
        memcpy(flow.name, name.data, flow.name_size)
    index_add(&schedule.flows, &flow.record, band, id)
    return flow


cdef flow_t* lanes_wake_flow(schedule_t* schedule, band_t* band, uint64_t id, slice_t name) noexcept nogil:
    """The flow, to which somebody comes. One that was idle begins at the clock, or where it was if that is ahead."""
    cdef flow_t* flow = <flow_t*>index_find(&schedule.flows, band, id)
    if flow == NULL:
        flow = _new_flow(schedule, band, id, name)
    if flow.requests:
        return flow
    if flow.record.node.place:
        heap_drop(&band.idle, &flow.record.node)
    if flow.tag < band.clock:
        flow.tag = band.clock
    list_add(&band.flows, &flow.record)
    band.busy += 1
    return flow


cdef group_t* _group(schedule_t* schedule, band_t* band, uint64_t id) noexcept nogil:
    cdef group_t* group = <group_t*>index_find(&schedule.groups, band, id)
    if group == NULL:
        group = <group_t*>slab_take(&schedule.group_slab)
        index_add(&schedule.groups, &group.record, band, id)
        band.group_count += 1
    return group


cdef lane_t* lanes_lane(schedule_t* schedule, band_t* band, flow_t* flow, uint64_t id) noexcept nogil:
    """The lane of a flow in a group, made if need be."""
    cdef lane_t* lane = <lane_t*>index_find(&schedule.lanes, flow, id)
    if lane != NULL:
        return lane
    lane = <lane_t*>slab_take(&schedule.lane_slab)
    index_add(&schedule.lanes, &lane.record, flow, id)
    lane.group = _group(schedule, band, id)
    lane.group.count += 1
    lane.is_ranked = band.rules.order != PK_ORDER_FCFS
    lane.next = flow.first
    if lane.next != NULL:
        lane.next.previous = lane
    flow.first = lane
    return lane


cdef void _drop_group(schedule_t* schedule, group_t* group) noexcept nogil:
    """A group that has no lane any more."""
    if group.record.is_listed:
        list_drop(&schedule.parked_groups, &group.record)
    band_of(group).group_count -= 1
    heap_free(&group.lanes)
    index_drop(&schedule.groups, &group.record)
    slab_give(&schedule.group_slab, group)


cdef void lanes_drop(schedule_t* schedule, lane_t* lane) noexcept nogil:
    """A lane that nobody waits of any more, which is in no heap and no list; and its group with the last one."""
    cdef flow_t* flow = flow_of(lane)
    cdef group_t* group = lane.group
    if lane.next != NULL:
        lane.next.previous = lane.previous
    if lane.previous != NULL:
        lane.previous.next = lane.next
    else:
        flow.first = lane.next
    heap_free(&lane.ranked)
    index_drop(&schedule.lanes, &lane.record)
    slab_give(&schedule.lane_slab, lane)
    group.count -= 1
    if group.count == 0:
        _drop_group(schedule, group)


cdef void lanes_rest_flow(schedule_t* schedule, band_t* band, flow_t* flow, uint64_t turn) noexcept nogil:
    """Nobody waits of it since the request of that turn: it is forgotten, unless it is ahead of the clock."""
    list_drop(&band.flows, &flow.record)
    band.busy -= 1
    if flow.tag <= band.clock:
        _drop_flow(schedule, band, flow)
        return
    flow.record.node.rank.tag = flow.tag
    flow.record.node.rank.turn = turn
    heap_push(&band.idle, &flow.record.node)


cdef void lanes_forget_all_idle(schedule_t* schedule, band_t* band) noexcept nogil:
    while band.idle.count:  # the last first, so that nobody has to move
        band.idle.count -= 1
        _drop_flow(schedule, band, <flow_t*>band.idle.entries[band.idle.count].node)


cdef void lanes_forget_idle(schedule_t* schedule, band_t* band) noexcept nogil:
    """Those that the clock has caught up with; all, and the time, if nobody waits in the band."""
    if band.requests == 0:
        lanes_forget_all_idle(schedule, band)
        band.clock = 0
    while band.idle.count and band.idle.entries[0].rank.tag <= band.clock:
        _drop_idle(schedule, band)
