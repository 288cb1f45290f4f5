"""Whose turn it is: strict priority between bands, fair queueing between the flows of a band, an order in a flow.

A flow's tag is the virtual time at which its next request begins. The least goes next; that moves the band's clock to
its tag, and its tag on by what the request costs. Whoever comes, or comes back, begins at the clock, or at the old tag
where that is still ahead: being idle saves nothing up and lets no debt go. So of any two flows that wait all the while,
neither gets more than the other by more than the greatest cost of each, however uneven the costs; there are no rounds
to spin through. What a flow could not take when its turn came (it was left out of a round) is not saved up either.
With PK_FAIR_ROUND_ROBIN every request costs 1, with PK_FAIR_STRICT nothing, so that only the order counts.

Invariants: bands stand in the order of their priority; a flow, a group, a lane are there as long as somebody waits of
    them, a flow also while it is idle and ahead of the clock; a lane is ranked by its flow's tag and its first request,
    a group by its first lane; what is left out of a round is in a list instead of its heap.
Cost: O(log n) to add, remove, skip; to charge, that for each lane of the flow; to block, O(bands) more. What is ever in
    need of memory is reserved first.
Memory: owns its records; the requests belong to those who add them.   Threads: one at a time.
Source: P. Goyal, H. Vin, H. Cheng, Start-time Fair Queueing, SIGCOMM 1996.
"""
from libc.stddef cimport size_t
from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t
from libc.string cimport memcpy, memmove, memset

from picker._core.alloc cimport PK_E_NOMEM, PK_OK, pk_free, pk_grow
from picker._core.codec cimport slice_t
from picker._core.heap cimport (
    heap_check, heap_drop, heap_first, heap_free, heap_move, heap_push, heap_reserve, heap_t, node_t, rank_t,
)
from picker._core.records cimport (
    index_add, index_drop, index_find, index_free, index_reserve, list_add, list_drop, list_t, record_t, slab_free,
    slab_give, slab_init, slab_reserve, slab_take,
)

# --- C kernel ---


cdef void schedule_init(schedule_t* schedule, uint32_t most_flows) noexcept nogil:
    """Nobody waits. Beyond `most_flows`, new flows share one in each band."""
    memset(schedule, 0, sizeof(schedule_t))
    schedule.most_flows = most_flows
    slab_init(&schedule.band_slab, sizeof(band_t))
    slab_init(&schedule.flow_slab, sizeof(flow_t))
    slab_init(&schedule.group_slab, sizeof(group_t))
    slab_init(&schedule.lane_slab, sizeof(lane_t))


cdef void _free_heaps(const schedule_t* schedule, band_t* band) noexcept nogil:
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


cdef void schedule_free(schedule_t* schedule) noexcept nogil:
    """Those who wait are forgotten, not touched."""
    cdef uint32_t i
    for i in range(schedule.count):
        _free_heaps(schedule, schedule.bands[i])
    pk_free(schedule.bands)
    index_free(&schedule.flows)
    index_free(&schedule.groups)
    index_free(&schedule.lanes)
    slab_free(&schedule.band_slab)
    slab_free(&schedule.flow_slab)
    slab_free(&schedule.group_slab)
    slab_free(&schedule.lane_slab)
    schedule_init(schedule, schedule.most_flows)


cdef int schedule_reserve_bands(schedule_t* schedule, uint32_t bands) noexcept nogil:
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


cdef int schedule_reserve(schedule_t* schedule, band_t* band, const queued_t* item) noexcept nogil:
    """Room for a request, whatever it needs that is not there: its band too, where that is NULL. PK_OK or PK_E_NOMEM.

    A heap has a place for all who are, or may come to be, in it; the first has one in any heap.
    """
    cdef group_t* group
    cdef const void* flow
    if _reserve_records(schedule) != PK_OK:
        return PK_E_NOMEM
    if band == NULL:
        return schedule_reserve_bands(schedule, 1)
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


cdef int schedule_reserve_order(const schedule_t* schedule, const band_t* band, int order) noexcept nogil:
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


cdef band_t* schedule_band(const schedule_t* schedule, int32_t priority) noexcept nogil:
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


cdef band_t* schedule_add_band(schedule_t* schedule, int32_t priority, const band_rules_t* rules) noexcept nogil:
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


cdef void schedule_drop_band(schedule_t* schedule, band_t* band) noexcept nogil:
    """A band in which nobody waits."""
    heap_free(&band.groups)
    heap_free(&band.idle)
    schedule.count -= 1
    _shift(schedule, band.place + 1, band.place, schedule.count - band.place)
    slab_give(&schedule.band_slab, band)


# --- C kernel: ranks, and what is left out of a round ---


cdef inline queued_t* _head(const lane_t* lane) noexcept nogil:
    return queued_of(heap_first(&lane.ranked)) if lane.is_ranked else lane.oldest


cdef inline band_t* _band(const group_t* group) noexcept nogil:
    return <band_t*>group.record.parent


cdef inline flow_t* _flow(const lane_t* lane) noexcept nogil:
    return <flow_t*>lane.record.parent


cdef inline int64_t _order(const band_t* band, const queued_t* item) noexcept nogil:
    if band.rules.order == PK_ORDER_FCFS:
        return 0
    return item.expires_ns if band.rules.order == PK_ORDER_EDF else item.slo_ns


cdef inline rank_t _rank_of(const lane_t* lane) noexcept nogil:
    """A flow that lags behind the clock is ranked by how far: whoever had to wait longest goes first."""
    cdef rank_t rank = _head(lane).node.rank
    rank.tag = _flow(lane).tag
    return rank


cdef inline void _rank(heap_t* heap, node_t* node, rank_t rank) noexcept nogil:
    """Give a node a rank, and its place among the others."""
    node.rank = rank
    if node.place:
        heap_move(heap, node)
    else:
        heap_push(heap, node)


cdef void _rank_group(schedule_t* schedule, group_t* group) noexcept nogil:
    """Its first lane may be another one."""
    cdef node_t* node = &group.record.node
    cdef band_t* band = _band(group)
    if group.record.is_listed:
        return
    if group.lanes.count:
        _rank(&band.groups, node, group.lanes.entries[0].rank)
        schedule.at = min(schedule.at, band.place)
    elif node.place:
        heap_drop(&band.groups, node)


cdef void _rank_lane(schedule_t* schedule, lane_t* lane) noexcept nogil:
    """Its first request, or its flow's tag, may be another one."""
    if lane.record.is_listed:
        return
    _rank(&lane.group.lanes, &lane.record.node, _rank_of(lane))
    _rank_group(schedule, lane.group)


cdef void _park_lane(schedule_t* schedule, lane_t* lane) noexcept nogil:
    heap_drop(&lane.group.lanes, &lane.record.node)
    list_add(&schedule.parked_lanes, &lane.record)
    _rank_group(schedule, lane.group)


cdef void _park_group(schedule_t* schedule, group_t* group) noexcept nogil:
    if group.record.node.place:
        heap_drop(&_band(group).groups, &group.record.node)
    list_add(&schedule.parked_groups, &group.record)


cdef void schedule_begin(schedule_t* schedule) noexcept nogil:
    """A new round: nobody is left out."""
    cdef record_t* record = schedule.parked_lanes.first
    while record != NULL:
        list_drop(&schedule.parked_lanes, record)
        _rank_lane(schedule, <lane_t*>record)
        record = schedule.parked_lanes.first
    record = schedule.parked_groups.first
    while record != NULL:
        list_drop(&schedule.parked_groups, record)
        _rank_group(schedule, <group_t*>record)
        record = schedule.parked_groups.first
    schedule.at = 0


cdef queued_t* schedule_peek(schedule_t* schedule) noexcept nogil:
    """Who is next in this round, or NULL."""
    cdef const band_t* band
    while schedule.at < schedule.count:
        band = schedule.bands[schedule.at]
        if band.groups.count:
            return _head(<lane_t*>heap_first(&(<group_t*>heap_first(&band.groups)).lanes))
        schedule.at += 1
    return NULL


cdef void schedule_skip(schedule_t* schedule, queued_t* item) noexcept nogil:
    """Leave its flow's requests of its group out of the rest of the round."""
    if not item.lane.record.is_listed:
        _park_lane(schedule, item.lane)


cdef void schedule_block(schedule_t* schedule, queued_t* item) noexcept nogil:
    """Leave its group out of the rest of the round, in its band and in all below."""
    cdef group_t* group
    cdef uint32_t i
    for i in range(band_of(item).place, schedule.count):
        group = <group_t*>index_find(&schedule.groups, schedule.bands[i], item.group)
        if group != NULL and not group.record.is_listed:
            _park_group(schedule, group)


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


cdef flow_t* _busy_flow(schedule_t* schedule, band_t* band, uint64_t id, slice_t name) noexcept nogil:
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


cdef lane_t* _lane(schedule_t* schedule, band_t* band, flow_t* flow, uint64_t id) noexcept nogil:
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
    _band(group).group_count -= 1
    heap_free(&group.lanes)
    index_drop(&schedule.groups, &group.record)
    slab_give(&schedule.group_slab, group)


cdef void _drop_lane(schedule_t* schedule, lane_t* lane) noexcept nogil:
    """A lane that nobody waits of any more, and its group with the last one."""
    cdef flow_t* flow = _flow(lane)
    cdef group_t* group = lane.group
    if lane.record.is_listed:
        list_drop(&schedule.parked_lanes, &lane.record)
    else:
        heap_drop(&group.lanes, &lane.record.node)
        _rank_group(schedule, group)
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


cdef void _rest_flow(schedule_t* schedule, band_t* band, flow_t* flow, uint64_t turn) noexcept nogil:
    """Nobody waits of it since the request of that turn: it is forgotten, unless it is ahead of the clock."""
    list_drop(&band.flows, &flow.record)
    band.busy -= 1
    if flow.tag <= band.clock:
        _drop_flow(schedule, band, flow)
        return
    flow.record.node.rank.tag = flow.tag
    flow.record.node.rank.turn = turn
    heap_push(&band.idle, &flow.record.node)


cdef void _forget_all_idle(schedule_t* schedule, band_t* band) noexcept nogil:
    while band.idle.count:  # the last first, so that nobody has to move
        band.idle.count -= 1
        _drop_flow(schedule, band, <flow_t*>band.idle.entries[band.idle.count].node)


cdef void _forget_idle(schedule_t* schedule, band_t* band) noexcept nogil:
    """Those that the clock has caught up with; all, and the time, if nobody waits in the band."""
    if band.requests == 0:
        _forget_all_idle(schedule, band)
        band.clock = 0
    while band.idle.count and band.idle.entries[0].rank.tag <= band.clock:
        _drop_idle(schedule, band)


# --- C kernel: requests come and go ---


cdef void schedule_add(schedule_t* schedule, band_t* band, queued_t* item, slice_t name) noexcept nogil:
    """Let it wait; room was reserved. Its rank's turn is set, and greater than that of all who wait."""
    cdef flow_t* flow = _busy_flow(schedule, band, item.flow, name)
    cdef lane_t* lane = _lane(schedule, band, flow, item.group)
    item.lane = lane
    item.node.rank.tag = 0
    item.node.rank.order = _order(band, item)
    item.next = NULL
    item.previous = lane.newest
    if lane.newest == NULL:
        lane.oldest = item
    else:
        lane.newest.next = item
    lane.newest = item
    lane.count += 1
    if lane.is_ranked:
        heap_push(&lane.ranked, &item.node)
    flow.requests += 1
    flow.bytes += item.bytes
    band.requests += 1
    band.bytes += item.bytes
    if _head(lane) == item:
        _rank_lane(schedule, lane)


cdef inline uint64_t _cost(const band_t* band, const queued_t* item) noexcept nogil:
    if band.rules.fairness == PK_FAIR_ROUND_ROBIN or item.cost < 1:
        return 1
    return <uint64_t>min(item.cost, PK_MOST_COST)


cdef void _unlink(queued_t* item) noexcept nogil:
    cdef lane_t* lane = item.lane
    if lane.is_ranked:
        heap_drop(&lane.ranked, &item.node)
    lane.count -= 1
    if item.previous == NULL:
        lane.oldest = item.next
    else:
        item.previous.next = item.next
    if item.next == NULL:
        lane.newest = item.previous
    else:
        item.next.previous = item.previous
    item.next = item.previous = NULL
    item.lane = NULL


cdef void schedule_remove(schedule_t* schedule, queued_t* item) noexcept nogil:
    """It waits no more. Its band stays, even when it is empty now."""
    cdef lane_t* lane = item.lane
    cdef flow_t* flow = _flow(lane)
    cdef band_t* band = band_of(item)
    cdef bint is_head = _head(lane) == item
    _unlink(item)
    flow.requests -= 1
    flow.bytes -= item.bytes
    band.requests -= 1
    band.bytes -= item.bytes
    if lane.oldest == NULL:
        _drop_lane(schedule, lane)
    elif is_head:
        _rank_lane(schedule, lane)
    if flow.requests == 0:
        _rest_flow(schedule, band, flow, item.node.rank.turn)
        _forget_idle(schedule, band)


cdef void schedule_take(schedule_t* schedule, queued_t* item) noexcept nogil:
    """It goes: the clock comes to where its flow stood, and the flow moves on by what the request costs."""
    cdef band_t* band = band_of(item)
    cdef flow_t* flow = _flow(item.lane)
    cdef lane_t* lane = flow.first
    cdef bint is_head = _head(item.lane) == item
    if band.rules.fairness != PK_FAIR_STRICT:
        if flow.tag > band.clock:
            band.clock = flow.tag
        flow.tag = band.clock + _cost(band, item)
        while lane != NULL:
            if lane != item.lane or not is_head:  # else it gets another first request, or goes
                _rank_lane(schedule, lane)
            lane = lane.next
        _forget_idle(schedule, band)
    schedule_remove(schedule, item)


cdef void _sort_lane(lane_t* lane, const band_t* band) noexcept nogil:
    cdef queued_t* item = lane.oldest
    lane.ranked.count = 0
    lane.is_ranked = band.rules.order != PK_ORDER_FCFS
    while item != NULL:
        item.node.place = 0
        item.node.rank.order = _order(band, item)
        if lane.is_ranked:
            heap_push(&lane.ranked, &item.node)
        item = item.next


cdef void schedule_sort(schedule_t* schedule, band_t* band, const band_rules_t* rules) noexcept nogil:
    """Other rules for a band; room for another order was reserved. Where flows are charged otherwise, all begin anew."""
    cdef bint is_reordered = band.rules.order != rules.order
    cdef bint is_recharged = band.rules.fairness != rules.fairness
    cdef flow_t* flow = <flow_t*>band.flows.first
    cdef lane_t* lane
    band.rules = rules[0]
    if not is_reordered and not is_recharged:
        return
    if is_recharged:
        _forget_all_idle(schedule, band)
        band.clock = 0
    while flow != NULL:
        if is_recharged:
            flow.tag = 0
        lane = flow.first
        while lane != NULL:
            if is_reordered:
                _sort_lane(lane, band)
            _rank_lane(schedule, lane)
            lane = lane.next
        flow = <flow_t*>flow.record.next


# --- C kernel: invariants ---


cdef size_t _check_lane(const band_t* band, const lane_t* lane) except? 0:
    """How many wait in it."""
    cdef const queued_t* item = lane.oldest
    cdef const queued_t* before = NULL
    cdef size_t count = 0
    assert lane.group.record.parent == <void*>band and lane.group.record.id == lane.record.id
    assert lane.record.is_listed == (lane.record.node.place == 0)
    assert lane.is_ranked == (band.rules.order != PK_ORDER_FCFS)
    while item != NULL:
        assert item.lane == lane and item.previous == before and queued_of(<node_t*>&item.node) == item
        assert item.node.rank.order == _order(band, item)
        assert bool(item.node.place) == lane.is_ranked
        assert before == NULL or before.node.rank.turn < item.node.rank.turn
        before = item
        item = item.next
        count += 1
    assert lane.newest == before and count == lane.count > 0
    heap_check(&lane.ranked)
    assert lane.ranked.count == (count if lane.is_ranked else 0)
    if not lane.record.is_listed:
        rank = _rank_of(lane)
        assert (rank.tag, rank.order, rank.turn) == (
            lane.record.node.rank.tag, lane.record.node.rank.order, lane.record.node.rank.turn
        )
    return count


cdef size_t _check_flow(const schedule_t* schedule, const band_t* band, const flow_t* flow) except? 0:
    """How many lanes it has."""
    cdef const lane_t* lane = flow.first
    cdef const lane_t* before = NULL
    cdef size_t requests = 0, lanes = 0
    assert flow.record.parent == <void*>band and flow.record.node.place == 0
    if not flow.is_shared:
        assert index_find(&schedule.flows, band, flow.record.id) == &flow.record
    while lane != NULL:
        assert lane.previous == before and _flow(lane) == flow
        assert index_find(&schedule.lanes, flow, lane.record.id) == &lane.record
        assert index_find(&schedule.groups, band, lane.record.id) == &lane.group.record
        requests += _check_lane(band, lane)
        before = lane
        lane = lane.next
        lanes += 1
    assert requests == flow.requests > 0 and lanes > 0
    return lanes


cdef size_t _check_list(const list_t* list) except? 0:
    """How many there are in it."""
    cdef const record_t* record = list.first
    cdef const record_t* before = NULL
    cdef size_t count = 0
    while record != NULL:
        assert record.is_listed and record.node.place == 0 and record.previous == before
        before = record
        record = record.next
        count += 1
    return count


cdef size_t _check_band(const schedule_t* schedule, const band_t* band) except? 0:
    """How many lanes it has."""
    cdef const record_t* record = band.flows.first
    cdef const flow_t* flow
    cdef size_t requests = 0, bytes = 0, lanes = 0
    while record != NULL:
        flow = <const flow_t*>record
        lanes += _check_flow(schedule, band, flow)
        requests += flow.requests
        bytes += flow.bytes
        record = record.next
    assert (requests, bytes, _check_list(&band.flows)) == (band.requests, band.bytes, band.busy)
    assert requests > 0 or (band.idle.count == 0 and band.clock == 0)
    assert band.idle.count == 0 or band.idle.entries[0].rank.tag > band.clock
    heap_check(&band.groups)
    heap_check(&band.idle)
    return lanes


cdef size_t _check_groups(const schedule_t* schedule) except? 0:
    """How many lanes they have."""
    cdef const record_t* record
    cdef const group_t* group
    cdef size_t i, lanes = 0, parked_groups = 0, parked_lanes = 0
    for i in range(schedule.groups.places):
        record = schedule.groups.buckets[i]
        while record != NULL:
            group = <const group_t*>record
            heap_check(&group.lanes)
            assert bool(record.node.place) == (group.lanes.count and not record.is_listed)
            assert record.node.place == 0 or group.lanes.entries[0].rank.turn == record.node.rank.turn
            parked_lanes += group.count - group.lanes.count
            parked_groups += record.is_listed
            lanes += group.count
            record = record.chain
    assert parked_lanes == _check_list(&schedule.parked_lanes)
    assert parked_groups == _check_list(&schedule.parked_groups)
    return lanes


cdef object schedule_check(const schedule_t* schedule):
    """Assert the invariants."""
    cdef const band_t* band
    cdef size_t i, lanes = 0, flows = 0, shared = 0, groups = 0
    for i in range(schedule.count):
        band = schedule.bands[i]
        assert band.place == i and (i == 0 or schedule.bands[i - 1].priority > band.priority)
        assert i >= schedule.at or band.groups.count == 0
        lanes += _check_band(schedule, band)
        flows += band.busy + band.idle.count
        shared += band.shared != NULL
        groups += band.group_count
    assert lanes == schedule.lane_slab.count == schedule.lanes.count == _check_groups(schedule)
    assert flows == schedule.flow_slab.count == schedule.flows.count + shared
    assert schedule.flow_count == schedule.flows.count <= schedule.most_flows
    assert groups == schedule.groups.count == schedule.group_slab.count
    assert schedule.count == schedule.band_slab.count
