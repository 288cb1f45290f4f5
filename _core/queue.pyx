"""Flow control's queue: caps, rules that change, and time, around the schedule that says whose turn it is.

Invariants: what waits is counted once in all, once in its band and once in its flow; a request with a time to expire
    stands in the wheel as long as it waits; a band without rules of its own is there only while somebody waits in it.
Cost: O(log n) at most to let wait, take, skip, cancel or expire. A push allocates only where a new band, flow, group or
    lane needs room, which stays for the next ones; whoever waits is part of its owner.
Memory: bounded by what waits and by the limits; owned by the queue, given back by queue_free.
Threads: one at a time; the engine holds its lock.
"""
cimport cython
from libc.stddef cimport size_t
from libc.stdint cimport INT64_MAX, int32_t, int64_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from picker._core.alloc cimport PK_E_LIMIT, PK_E_NOMEM, PK_E_RANGE, PK_OK, pk_alloc, pk_free, pk_resize
from picker._core.codec cimport slice_t
from picker._core.lanes cimport (
    lanes_add_band, lanes_band, lanes_drop_band, lanes_free, lanes_init, lanes_reserve, lanes_reserve_bands,
    lanes_reserve_order,
)
from picker._core.records cimport index_find
from picker._core.schedule cimport (
    PK_FAIR_ROUND_ROBIN, PK_FAIR_STRICT, PK_FAIR_TOKENS, PK_ORDER_EDF, PK_ORDER_FCFS, PK_ORDER_SLO, band_of,
    band_rules_t, band_t, flow_t, lane_t, queued_t, schedule_add, schedule_begin, schedule_block, schedule_check,
    schedule_peek, schedule_remove, schedule_skip, schedule_sort, schedule_take,
)
from picker._core.wheel cimport wheel_check, wheel_drop, wheel_due, wheel_init, wheel_set

# --- C kernel ---


cdef void queue_init(queue_t* queue, const queue_limits_t* limits, int64_t now_ns) noexcept nogil:
    """An empty queue; allocates nothing."""
    memset(queue, 0, sizeof(queue_t))
    queue.limits = limits[0]
    queue.now_ns = now_ns
    queue.default.order = queue.negative.order = PK_ORDER_FCFS
    queue.default.fairness = queue.negative.fairness = PK_FAIR_TOKENS
    lanes_init(&queue.schedule, limits.flows)
    wheel_init(&queue.wheel, now_ns)


cdef void queue_free(queue_t* queue) noexcept nogil:
    """Those who wait are forgotten, not touched: take them out first."""
    cdef queue_limits_t limits = queue.limits
    lanes_free(&queue.schedule)
    queue_init(queue, &limits, queue.now_ns)


cdef inline const band_rules_t* _defaults(const queue_t* queue, int32_t priority) noexcept nogil:
    return &queue.default if priority >= 0 else &queue.negative


cdef inline bint _exceeds(uint64_t now, uint64_t more, uint64_t most) noexcept nogil:
    """Whether a cap does not allow for more; written so that nothing overflows."""
    return most != 0 and (now > most or more > most - now)


cdef int _cap(const queue_t* queue, const band_rules_t* rules, const band_t* band, uint64_t bytes) noexcept nogil:
    """The cap that one more request of so many bytes would break, or PK_CAP_NONE."""
    if _exceeds(0 if band == NULL else band.requests, 1, rules.max_requests):
        return PK_CAP_BAND_REQUESTS
    if _exceeds(0 if band == NULL else band.bytes, bytes, rules.max_bytes):
        return PK_CAP_BAND_BYTES
    if _exceeds(queue.requests, 1, queue.limits.max_requests):
        return PK_CAP_REQUESTS
    if _exceeds(queue.bytes, bytes, queue.limits.max_bytes):
        return PK_CAP_BYTES
    return PK_CAP_BANDS if band == NULL and queue.made >= queue.limits.bands else PK_CAP_NONE


cdef inline int64_t _expires(const band_rules_t* rules, int64_t own_ns, int64_t now_ns) noexcept nogil:
    """Its own, if it has one; else as the band's time to live has it."""
    if own_ns != INT64_MAX or rules.ttl_ns == 0 or (now_ns > 0 and rules.ttl_ns > INT64_MAX - now_ns):
        return own_ns
    return now_ns + rules.ttl_ns


cdef int queue_push(queue_t* queue, queued_t* item, slice_t name, int64_t now_ns) noexcept nogil:
    """Let it wait. PK_OK, PK_E_LIMIT (queue.cap says which) or PK_E_NOMEM."""
    cdef band_t* band = lanes_band(&queue.schedule, item.priority)
    cdef const band_rules_t* rules = _defaults(queue, item.priority) if band == NULL else &band.rules
    cdef int cap = _cap(queue, rules, band, item.bytes)
    if cap != PK_CAP_NONE:
        queue.cap = cap
        return PK_E_LIMIT
    if lanes_reserve(&queue.schedule, band, item) != PK_OK:
        return PK_E_NOMEM
    if band == NULL:
        band = lanes_add_band(&queue.schedule, item.priority, rules)
        queue.made += 1
    if now_ns > queue.now_ns:
        queue.now_ns = now_ns
    item.enqueued_ns = queue.now_ns
    item.expires_ns = _expires(rules, item.expires_ns, queue.now_ns)
    queue.turn += 1
    item.node.rank.turn = queue.turn
    schedule_add(&queue.schedule, band, item, name)
    queue.requests += 1
    queue.bytes += item.bytes
    if item.expires_ns != INT64_MAX:
        wheel_set(&queue.wheel, &item.timer, item.expires_ns)
    return PK_OK


cdef bint queue_holds_before(const queue_t* queue, int32_t priority, uint64_t group) noexcept nogil:
    """Does anybody of this band or a higher one wait for this group?"""
    cdef const band_t* band
    cdef uint32_t i
    if queue.requests == 0:
        return False
    for i in range(queue.schedule.count):
        band = queue.schedule.bands[i]
        if band.priority < priority:
            break
        if index_find(&queue.schedule.groups, band, group) != NULL:
            return True
    return False


cdef void _leave(queue_t* queue, queued_t* item, band_t* band) noexcept nogil:
    """It is out of the schedule."""
    wheel_drop(&queue.wheel, &item.timer)
    queue.requests -= 1
    queue.bytes -= item.bytes
    if band.requests == 0 and not band.has_rules:
        lanes_drop_band(&queue.schedule, band)
        queue.made -= 1


cdef void queue_remove(queue_t* queue, queued_t* item) noexcept nogil:
    """It goes away without having gone; harmless if it does not wait."""
    cdef band_t* band
    if item.lane == NULL:
        return
    band = band_of(item.lane.group)
    schedule_remove(&queue.schedule, item)
    _leave(queue, item, band)


cdef void queue_take(queue_t* queue, queued_t* item) noexcept nogil:
    """It goes: its flow is charged."""
    cdef band_t* band = band_of(item.lane.group)
    schedule_take(&queue.schedule, item)
    _leave(queue, item, band)


cdef void queue_begin(queue_t* queue) noexcept nogil:
    """A new round: nobody is left out."""
    schedule_begin(&queue.schedule)


cdef queued_t* queue_peek(queue_t* queue) noexcept nogil:
    """Who is next in this round, or NULL."""
    return schedule_peek(&queue.schedule)


cdef void queue_skip(queue_t* queue, queued_t* item) noexcept nogil:
    """Leave its flow's requests of its group out of the rest of the round."""
    schedule_skip(&queue.schedule, item)


cdef void queue_block(queue_t* queue, queued_t* item) noexcept nogil:
    """Leave its group out of the rest of the round, in its band and in all below."""
    schedule_block(&queue.schedule, item)


cdef queued_t* queue_expired(queue_t* queue, int64_t now_ns) noexcept nogil:
    """Takes out and returns one whose time has come, or NULL."""
    cdef queued_t* item
    if now_ns > queue.now_ns:
        queue.now_ns = now_ns
    item = <queued_t*>wheel_due(&queue.wheel, queue.now_ns)
    if item != NULL:
        queue_remove(queue, item)
    return item


cdef queued_t* queue_any(queue_t* queue) noexcept nogil:
    """Any that waits, of the highest band, or NULL."""
    cdef uint32_t i
    for i in range(queue.schedule.count):
        if queue.schedule.bands[i].requests:
            return (<flow_t*>queue.schedule.bands[i].flows.first).first.oldest
    return NULL


# --- C kernel: rules ---


cdef bint _is_valid(const band_rules_t* rules) noexcept nogil:
    return (
        PK_ORDER_FCFS <= rules.order <= PK_ORDER_SLO and PK_FAIR_STRICT <= rules.fairness <= PK_FAIR_TOKENS
        and rules.ttl_ns >= 0
    )


cdef bint _are_valid(const queue_rules_t* rules) noexcept nogil:
    cdef uint32_t i, j
    for i in range(rules.count):
        if not _is_valid(&rules.rules[i]):
            return False
        for j in range(i):
            if rules.priorities[i] == rules.priorities[j]:
                return False
    return _is_valid(&rules.default) and _is_valid(&rules.negative)


cdef void _forget_rules(queue_t* queue) noexcept nogil:
    """No band has rules of its own; those in which nobody waits go."""
    cdef uint32_t i = queue.schedule.count
    cdef band_t* band
    while i:
        i -= 1
        band = queue.schedule.bands[i]
        band.has_rules = False
        if band.requests == 0:
            lanes_drop_band(&queue.schedule, band)
    queue.made = queue.schedule.count


cdef const band_rules_t* _rules_of(const queue_rules_t* rules, int32_t priority) noexcept nogil:
    cdef uint32_t i
    for i in range(rules.count):
        if rules.priorities[i] == priority:
            return &rules.rules[i]
    return &rules.default if priority >= 0 else &rules.negative


cdef int _reserve_rules(queue_t* queue, const queue_rules_t* rules) noexcept nogil:
    """Room for bands that are not there, and for the orders of those that are."""
    cdef const band_t* band
    cdef uint32_t i
    for i in range(queue.schedule.count):
        band = queue.schedule.bands[i]
        if lanes_reserve_order(&queue.schedule, band, _rules_of(rules, band.priority).order) != PK_OK:
            return PK_E_NOMEM
    return lanes_reserve_bands(&queue.schedule, rules.count)


cdef int queue_set_rules(queue_t* queue, const queue_limits_t* limits, const queue_rules_t* rules) noexcept nogil:
    """New rules and limits. PK_OK, PK_E_RANGE or PK_E_NOMEM."""
    cdef band_t* band
    cdef uint32_t i
    if not _are_valid(rules):
        return PK_E_RANGE
    if _reserve_rules(queue, rules) != PK_OK:
        return PK_E_NOMEM
    queue.limits = limits[0]
    queue.schedule.most_flows = limits.flows
    queue.default = rules.default
    queue.negative = rules.negative
    _forget_rules(queue)
    for i in range(queue.schedule.count):
        band = queue.schedule.bands[i]
        schedule_sort(&queue.schedule, band, _rules_of(rules, band.priority))
    for i in range(rules.count):
        band = lanes_band(&queue.schedule, rules.priorities[i])
        if band == NULL:
            band = lanes_add_band(&queue.schedule, rules.priorities[i], &rules.rules[i])
            queue.made += 1
        band.has_rules = True
        queue.made -= 1
    return PK_OK


# --- C kernel: counts ---


cdef int64_t _oldest(const flow_t* flow) noexcept nogil:
    """When the one came that has waited longest: each lane has its own first."""
    cdef const lane_t* lane = flow.first
    cdef int64_t oldest = INT64_MAX
    while lane != NULL:
        oldest = min(oldest, lane.oldest.enqueued_ns)
        lane = lane.next
    return oldest


cdef void _count_band(const band_t* band, band_count_t* row) noexcept nogil:
    cdef const flow_t* flow = <const flow_t*>band.flows.first
    row.priority = band.priority
    row.has_rules = band.has_rules
    row.rules = band.rules
    row.requests = band.requests
    row.bytes = band.bytes
    row.flows = band.busy
    row.oldest_ns = INT64_MAX
    while flow != NULL:
        row.oldest_ns = min(row.oldest_ns, _oldest(flow))
        flow = <const flow_t*>flow.record.next


cdef size_t queue_bands(const queue_t* queue, band_count_t* rows, size_t room) noexcept nogil:
    """Counts by band, the highest first; how many there are."""
    cdef size_t i
    for i in range(min(room, <size_t>queue.schedule.count)):
        _count_band(queue.schedule.bands[i], &rows[i])
    return queue.schedule.count


cdef void _count_flow(const band_t* band, const flow_t* flow, flow_count_t* row) noexcept nogil:
    row.priority = band.priority
    row.is_shared = flow.is_shared
    row.flow = flow.record.id
    row.name_size = flow.name_size
    memcpy(row.name, flow.name, flow.name_size)
    row.requests = flow.requests
    row.bytes = flow.bytes
    row.oldest_ns = _oldest(flow)


cdef size_t queue_flows(const queue_t* queue, flow_count_t* rows, size_t room) noexcept nogil:
    """Counts by flow of those that have somebody waiting, of the highest band first; how many there are."""
    cdef const flow_t* flow
    cdef size_t count = 0
    cdef uint32_t i
    for i in range(queue.schedule.count):
        flow = <const flow_t*>queue.schedule.bands[i].flows.first
        while flow != NULL:
            if count < room:
                _count_flow(queue.schedule.bands[i], flow, &rows[count])
            count += 1
            flow = <const flow_t*>flow.record.next
    return count


# --- Python face ---

FCFS, EDF, SLO = PK_ORDER_FCFS, PK_ORDER_EDF, PK_ORDER_SLO
STRICT, ROUND_ROBIN, TOKENS = PK_FAIR_STRICT, PK_FAIR_ROUND_ROBIN, PK_FAIR_TOKENS

cdef dict CAPS = {
    PK_CAP_BAND_REQUESTS: "the band's requests",
    PK_CAP_BAND_BYTES: "the band's bytes",
    PK_CAP_REQUESTS: "requests in all",
    PK_CAP_BYTES: "bytes in all",
    PK_CAP_BANDS: "bands",
}


cdef int _read_rules(band_rules_t* rules, tuple row) except -1:
    rules.order, rules.fairness, rules.max_requests, rules.max_bytes, rules.ttl_ns = row
    return 0


cdef tuple _show_rules(const band_rules_t* rules):
    return rules.order, rules.fairness, rules.max_requests, rules.max_bytes, rules.ttl_ns


@cython.final
@cython.auto_pickle(False)
cdef class Queue:
    """Requests 0 to `size` - 1, and whose turn it is; for tests and benchmarks.

    `max_requests` and `max_bytes` cap what waits in all (0 = no cap), `bands` those without rules of their own, `flows`
    those that are told apart. Times are ns, costs tokens. MemoryError.
    """

    def __cinit__(
        self, size_t size, uint64_t max_requests=0, uint64_t max_bytes=0, uint32_t bands=64, uint32_t flows=4096,
        int64_t now_ns=0
    ):
        cdef queue_limits_t limits = queue_limits_t(max_requests, max_bytes, bands, flows)
        queue_init(&self._queue, &limits, now_ns)
        self._size = size
        self._table = <queued_t*>pk_alloc(size, sizeof(queued_t))
        if self._table == NULL:
            raise MemoryError(f"no memory for {size} requests")

    def __dealloc__(self):
        queue_free(&self._queue)
        pk_free(self._table)

    cdef queued_t* _at(self, size_t key) except NULL:
        if key >= self._size:
            raise IndexError(key)
        return &self._table[key]

    cdef queued_t* _waiting(self, size_t key) except NULL:
        if self._at(key).lane == NULL:
            raise ValueError(f"{key} does not wait")
        return &self._table[key]

    def set_rules(self, list bands not None, tuple default not None, tuple negative not None) -> None:
        """Rules by priority, and of other bands at or above 0 and below. ValueError, MemoryError: the old stay."""
        cdef queue_rules_t rules
        cdef uint32_t i
        cdef int code = PK_E_NOMEM
        cdef int32_t* priorities = <int32_t*>pk_resize(NULL, len(bands), sizeof(int32_t))
        cdef band_rules_t* rows = <band_rules_t*>pk_resize(NULL, len(bands), sizeof(band_rules_t))
        rules.priorities, rules.rules, rules.count = priorities, rows, <uint32_t>len(bands)
        try:
            if priorities != NULL and rows != NULL:
                for i in range(rules.count):
                    priorities[i] = bands[i][0]
                    _read_rules(&rows[i], bands[i][1])
                _read_rules(&rules.default, default)
                _read_rules(&rules.negative, negative)
                code = queue_set_rules(&self._queue, &self._queue.limits, &rules)
        finally:
            pk_free(priorities)
            pk_free(rows)
        if code == PK_E_NOMEM:
            raise MemoryError("no memory for bands")
        if code != PK_OK:
            raise ValueError(f"not rules of bands: {bands}, {default}, {negative}")

    def push(
        self, size_t key, int32_t priority, uint64_t flow, uint64_t group, uint64_t size, int64_t cost, int64_t slo_ns,
        int64_t expires_ns, int64_t now_ns, bytes name=b""
    ) -> None:
        """Let it wait. IndexError; ValueError if it waits; OverflowError naming the cap; MemoryError."""
        cdef queued_t* item = self._at(key)
        cdef slice_t text
        cdef int code
        if item.lane != NULL:
            raise ValueError(f"{key} waits already")
        item.owner = item
        item.priority, item.flow, item.group = priority, flow, group
        item.bytes, item.cost, item.slo_ns, item.expires_ns = size, cost, slo_ns, expires_ns
        text.data, text.size = name, len(name)
        code = queue_push(&self._queue, item, text, now_ns)
        if code == PK_E_LIMIT:
            raise OverflowError(CAPS[self._queue.cap])
        if code != PK_OK:
            raise MemoryError("no memory for a further flow")

    def holds_before(self, int32_t priority, uint64_t group) -> bool:
        """Whether anybody of this band or a higher one waits for this group."""
        return queue_holds_before(&self._queue, priority, group)

    def begin(self) -> None:
        """A new round: nobody is left out."""
        queue_begin(&self._queue)

    def peek(self) -> int | None:
        """Who is next in this round."""
        cdef queued_t* item = queue_peek(&self._queue)
        return None if item == NULL else item - self._table

    def take(self, size_t key) -> None:
        """It goes; its flow is charged. IndexError, ValueError if it does not wait."""
        queue_take(&self._queue, self._waiting(key))

    def skip(self, size_t key) -> None:
        """Leave its flow's requests of its group out of this round. IndexError, ValueError if it does not wait."""
        queue_skip(&self._queue, self._waiting(key))

    def block(self, size_t key) -> None:
        """Leave its group out of this round, in its band and below. IndexError, ValueError if it does not wait."""
        queue_block(&self._queue, self._waiting(key))

    def dispatch(self, size_t most) -> list:
        """Begin a round and take up to `most`."""
        cdef list taken = []
        cdef queued_t* item
        queue_begin(&self._queue)
        while most:
            item = queue_peek(&self._queue)
            if item == NULL:
                break
            queue_take(&self._queue, item)
            taken.append(item - self._table)
            most -= 1
        return taken

    def turn_over(self, size_t count, int64_t step_ns=0) -> None:
        """Take whoever is next and let it wait again, its objective so much later, `count` times; for benchmarks.

        MemoryError.
        """
        cdef queued_t* item
        cdef slice_t name
        name.data, name.size = NULL, 0
        queue_begin(&self._queue)
        while count:
            item = queue_peek(&self._queue)
            if item == NULL:
                break
            queue_take(&self._queue, item)
            item.slo_ns += step_ns
            if queue_push(&self._queue, item, name, self._queue.now_ns) != PK_OK:
                raise MemoryError("no memory for a further flow")
            count -= 1

    def remove(self, size_t key) -> None:
        """It goes away; harmless if it does not wait. IndexError."""
        queue_remove(&self._queue, self._at(key))

    def expired(self, int64_t now_ns) -> int | None:
        """Take out one whose time has come."""
        cdef queued_t* item = queue_expired(&self._queue, now_ns)
        return None if item == NULL else item - self._table

    def any(self) -> int | None:
        """Any that waits, of the highest band."""
        cdef queued_t* item = queue_any(&self._queue)
        return None if item == NULL else item - self._table

    def expires_ns(self, size_t key) -> int:
        """When it was to expire, as its last push said. IndexError."""
        return self._at(key).expires_ns

    def bands(self) -> list:
        """(priority, has rules of its own, rules, requests, bytes, flows, oldest_ns or None), highest first."""
        cdef size_t i, count = queue_bands(&self._queue, NULL, 0)
        cdef band_count_t* rows = <band_count_t*>pk_resize(NULL, count, sizeof(band_count_t))
        if rows == NULL:
            raise MemoryError(f"no memory for {count} rows")
        queue_bands(&self._queue, rows, count)
        try:
            return [
                (
                    rows[i].priority, bool(rows[i].has_rules), _show_rules(&rows[i].rules), rows[i].requests,
                    rows[i].bytes, rows[i].flows, None if rows[i].oldest_ns == INT64_MAX else rows[i].oldest_ns,
                )
                for i in range(count)
            ]
        finally:
            pk_free(rows)

    def flows(self) -> list:
        """(priority, flow or None for those that share, name, requests, bytes, oldest_ns) of those that wait."""
        cdef size_t i, count = queue_flows(&self._queue, NULL, 0)
        cdef flow_count_t* rows = <flow_count_t*>pk_resize(NULL, count, sizeof(flow_count_t))
        if rows == NULL:
            raise MemoryError(f"no memory for {count} rows")
        queue_flows(&self._queue, rows, count)
        try:
            return [
                (
                    rows[i].priority, None if rows[i].is_shared else rows[i].flow, rows[i].name[:rows[i].name_size],
                    rows[i].requests, rows[i].bytes, rows[i].oldest_ns,
                )
                for i in range(count)
            ]
        finally:
            pk_free(rows)

    @property
    def bytes(self) -> int:
        """Bytes that wait."""
        return self._queue.bytes

    def __len__(self) -> int:
        """Requests that wait."""
        return self._queue.requests

    def _check(self) -> None:
        """Assert the invariants."""
        cdef const queue_t* queue = &self._queue
        cdef const queued_t* item
        cdef uint64_t requests = 0, size = 0
        cdef size_t i, timed = 0
        cdef uint32_t made = 0
        schedule_check(&queue.schedule)
        wheel_check(&queue.wheel)
        for i in range(self._size):
            item = &self._table[i]
            assert item.lane != NULL or (item.timer.place == 0 and item.node.place == 0)
            assert item.lane == NULL or (item.timer.place != 0) == (item.expires_ns != INT64_MAX)
            assert item.lane == NULL or (band_of(item.lane.group).priority == item.priority and item.owner == item)
            requests += item.lane != NULL
            size += item.bytes if item.lane != NULL else 0
            timed += item.timer.place != 0
        for i in range(queue.schedule.count):
            made += not queue.schedule.bands[i].has_rules
            assert queue.schedule.bands[i].has_rules or queue.schedule.bands[i].requests
        assert (requests, size, timed, made) == (queue.requests, queue.bytes, queue.wheel.count, queue.made)
