"""Whose turn it is: strict priority between bands, fair queueing between the flows of a band, an order in a flow.

A flow's tag is the virtual time at which its next request begins. The least goes next; that moves the band's clock to
its tag, and its tag on by what the request costs. Whoever comes, or comes back, begins at the clock, or at the old tag
where that is still ahead: being idle saves nothing up and lets no debt go. So of any two flows that wait all the while,
neither gets more than the other by more than the greatest cost of each, however uneven the costs; there are no rounds
to spin through. What a flow could not take when its turn came (it was left out of a round) is not saved up either.
With PK_FAIR_ROUND_ROBIN every request costs 1, with PK_FAIR_STRICT nothing, so that only the order counts.

Invariants: a lane is ranked by its flow's tag and its first request, a group by its first lane; what is left out of a
    round is in a list instead of its heap; no band before `at` has anybody left to try.
Cost: O(log n) to add, remove, skip; to take, that for each lane of the flow; to block, O(bands) more. Allocates
    nothing: room for what comes is reserved before.
Memory: the requests belong to those who add them; of the rest: lanes.pyx.   Threads: one at a time.
Source: P. Goyal, H. Vin, H. Cheng, Start-time Fair Queueing, SIGCOMM 1996.
"""
from libc.stddef cimport size_t
from libc.stdint cimport int64_t, uint32_t, uint64_t

from picker._core.codec cimport slice_t
from picker._core.heap cimport heap_check, heap_drop, heap_first, heap_move, heap_push, heap_t, node_t, rank_t
from picker._core.lanes cimport (
    lanes_drop, lanes_forget_all_idle, lanes_forget_idle, lanes_lane, lanes_rest_flow, lanes_wake_flow,
)
from picker._core.records cimport index_find, list_add, list_drop, list_t, record_t

# --- C kernel ---


cdef inline queued_t* _head(const lane_t* lane) noexcept nogil:
    return queued_of(heap_first(&lane.ranked)) if lane.is_ranked else lane.oldest


cdef inline int64_t _order(const band_t* band, const queued_t* item) noexcept nogil:
    if band.rules.order == PK_ORDER_FCFS:
        return 0
    return item.expires_ns if band.rules.order == PK_ORDER_EDF else item.slo_ns


cdef inline rank_t _rank_of(const lane_t* lane) noexcept nogil:
    """A flow that lags behind the clock is ranked by how far: whoever had to wait longest goes first."""
    cdef rank_t rank = _head(lane).node.rank
    rank.tag = flow_of(lane).tag
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
    cdef band_t* band = band_of(group)
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
        heap_drop(&band_of(group).groups, &group.record.node)
    list_add(&schedule.parked_groups, &group.record)


cdef void _drop_lane(schedule_t* schedule, lane_t* lane) noexcept nogil:
    """Nobody waits of it any more."""
    if lane.record.is_listed:
        list_drop(&schedule.parked_lanes, &lane.record)
    else:
        heap_drop(&lane.group.lanes, &lane.record.node)
        _rank_group(schedule, lane.group)
    lanes_drop(schedule, lane)


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
    for i in range(band_of(item.lane.group).place, schedule.count):
        group = <group_t*>index_find(&schedule.groups, schedule.bands[i], item.group)
        if group != NULL and not group.record.is_listed:
            _park_group(schedule, group)


# --- C kernel: requests come and go ---


cdef void schedule_add(schedule_t* schedule, band_t* band, queued_t* item, slice_t name) noexcept nogil:
    """Let it wait; room was reserved. Its rank's turn is set, and greater than that of all who wait."""
    cdef flow_t* flow = lanes_wake_flow(schedule, band, item.flow, name)
    cdef lane_t* lane = lanes_lane(schedule, band, flow, item.group)
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
    cdef flow_t* flow = flow_of(lane)
    cdef band_t* band = band_of(item.lane.group)
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
        lanes_rest_flow(schedule, band, flow, item.node.rank.turn)
        lanes_forget_idle(schedule, band)


cdef void schedule_take(schedule_t* schedule, queued_t* item) noexcept nogil:
    """It goes: the clock comes to where its flow stood, and the flow moves on by what the request costs."""
    cdef band_t* band = band_of(item.lane.group)
    cdef flow_t* flow = flow_of(item.lane)
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
        lanes_forget_idle(schedule, band)
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
    """Other rules for a band, room for which was reserved. Where flows are charged otherwise, all begin anew."""
    cdef bint is_reordered = band.rules.order != rules.order
    cdef bint is_recharged = band.rules.fairness != rules.fairness
    cdef flow_t* flow = <flow_t*>band.flows.first
    cdef lane_t* lane
    band.rules = rules[0]
    if not is_reordered and not is_recharged:
        return
    if is_recharged:
        lanes_forget_all_idle(schedule, band)
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
        assert lane.previous == before and flow_of(lane) == flow
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
