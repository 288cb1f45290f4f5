"""Whose turn it is: who is picked for at once, who waits, who is turned away; and who of those waiting is next.

Invariants: a request is given one turn, or one refusal. A turn spends its credit under the same lock that saw it. While
    somebody waits nobody of the same priority or a lower one is picked for before him, and whatever may free credit
    sets `flow.is_due`. A pick that needs Python is granted alone: until it is booked nobody else gets a turn.
Cost: where nobody waits and an endpoint has credit, that of the pick and of looking at credits. A round of dispatching
    looks once at each group that cannot go.
Memory: a turn is part of its session.   Threads: any; every function takes the lock.
"""
from libc.math cimport pow
from libc.stdint cimport INT64_MAX, int64_t, uint32_t

from picker._core.alloc cimport PK_E_LIMIT, PK_E_MISSING, PK_OK
from picker._core.codec cimport slice_t
from picker._core.dispatch cimport (
    asked_pick_t,
    engine_t,
    pick_among,
    pick_is_possible,
    pick_may_be_taken_back,
    pthread_mutex_lock,
    pthread_mutex_unlock,
    request_t,
)
from picker._core.endpoints cimport endpoint_t, endpoints_get, endpoints_rate
from picker._core.flow cimport (
    PK_QUEUED,
    PK_REFUSED,
    PK_TURN_QUEUED,
    PK_TURN_WOKEN,
    PK_WOKEN_AT_ONCE,
    flow_call,
    flow_evict,
    flow_forget,
    flow_is_first,
    flow_retry_after,
    flow_rules_t,
    flow_seen,
    flow_share,
    flow_t,
    flow_wake,
    turn_t,
)
from picker._core.flowstats cimport (
    flowstats_left,
    flowstats_passed,
    flowstats_queued,
    flowstats_refused,
)
from picker._core.queue cimport (
    queue_any,
    queue_begin,
    queue_block,
    queue_expired,
    queue_holds_before,
    queue_peek,
    queue_push,
    queue_remove,
    queue_take,
)
from picker._core.schedule cimport queued_t
from picker._core.score cimport PK_NEED_PLUGIN, random_unit
from picker._core.stats cimport (
    PK_FAIL_ABANDONED,
    PK_FAIL_DENIED,
    PK_FAIL_EVICTED,
    PK_FAIL_EXHAUSTED,
    PK_FAIL_NONE,
    PK_FAIL_NO_ENDPOINT,
    PK_FAIL_QUEUE_FULL,
    PK_FAIL_QUEUE_TTL,
    PK_FAIL_SATURATED,
    series_t,
)
from picker._core.subset cimport subset_allows

cdef enum:
    MOST_VICTIMS = 2           # at once

cdef int64_t EVICTED_NS = 500_000_000      # before it is seen what an eviction has brought
cdef double COLD_KV = 0.02                 # KV usage below which an endpoint has hardly begun

# --- C kernel: admitters; all with the lock held ---


cdef inline bint _is_open_to(const request_t* request, const endpoint_t* endpoint) noexcept nogil:
    if not endpoint.used:
        return False
    return request.subset == NULL or subset_allows(request.subset, endpoint.target_hash, endpoint.address_hash)


cdef double _saturation(const engine_t* engine, const request_t* request) noexcept nogil:
    """By thresholds of queue and memory, as the last scrapes have them: mean over those it may go to."""
    cdef const flow_rules_t* rules = &engine.flow.rules
    cdef const endpoint_t* endpoint
    cdef double sum = 0.0, queue, kv
    cdef uint32_t slot, count = 0
    for slot in range(engine.endpoints.width):
        endpoint = &engine.endpoints.slots[slot]
        if _is_open_to(request, endpoint):
            queue, kv = endpoint.load.waiting / rules.queue, endpoint.load.kv_usage / rules.kv
            queue = queue if queue > kv else kv
            sum += queue if queue > 0.0 else 0.0
            count += 1
    return sum / <double>count if count else 0.0


cdef bint _is_soon_enough(const engine_t* engine, const request_t* request, int64_t slo_ns) noexcept nogil:
    """Can an endpoint answer as soon as the client wishes, or is one idle, or hardly begun?"""
    cdef const endpoint_t* endpoint
    cdef double seconds
    cdef uint32_t slot, count = 0
    for slot in range(engine.endpoints.width):
        endpoint = &engine.endpoints.slots[slot]
        if not _is_open_to(request, endpoint):
            continue
        count += 1
        if endpoint.requests == 0 or endpoint.load.running == 0.0 or 0.0 <= endpoint.load.kv_usage < COLD_KV:
            return True
        seconds = <double>(endpoint.prefill_tokens + request.prompt_tokens)
        seconds /= endpoints_rate(&engine.endpoints, endpoint, request.now_ns)
        if seconds * 1e9 <= <double>slo_ns:
            return True
    return count == 0


cdef bint _is_denied(engine_t* engine, const asked_pick_t* asked) noexcept nogil:
    """Do admitters turn a request of negative priority away?"""
    cdef const flow_rules_t* rules = &engine.flow.rules
    cdef double chance
    if rules.has_probability:
        chance = rules.k * pow(_saturation(engine, asked.request), rules.power)
        if random_unit(&engine.random) < chance:
            return True
    return rules.has_slo and asked.slo_ns > 0 and not _is_soon_enough(engine, asked.request, asked.slo_ns)


# --- C kernel: admission; all with the lock held ---


cdef inline series_t* _series(const engine_t* engine, const asked_pick_t* asked) noexcept nogil:
    return engine.stats.series[asked.request.series]


cdef int _refuse(engine_t* engine, asked_pick_t* asked, int failure) noexcept nogil:
    flowstats_refused(&engine.flowstats, _series(engine, asked), asked.request.objective.priority, failure)
    asked.turn.failure = failure
    asked.turn.retry_after_s = flow_retry_after(&engine.flow)
    return PK_REFUSED


cdef int _none(engine_t* engine, asked_pick_t* asked) noexcept nogil:
    """There is no endpoint for it. The pool may be empty for a while only; a subset that is empty stays so."""
    cdef const request_t* request = asked.request
    if engine.endpoints.count == 0 and engine.flow.rules.no_endpoint_ttl_ns:
        if request.subset == NULL or request.subset.count != 0:
            return PK_QUEUED
    return _refuse(engine, asked, PK_FAIL_NO_ENDPOINT)


cdef int _pick(engine_t* engine, asked_pick_t* asked, double share) noexcept nogil:
    return pick_among(engine, asked.request, asked.booking, asked.pick, share)


cdef int _passed(engine_t* engine, asked_pick_t* asked, int code) noexcept nogil:
    """What came of a pick without a wait."""
    if code == PK_E_MISSING:
        return _none(engine, asked)
    if code == PK_OK or code == PK_NEED_PLUGIN:
        flowstats_passed(&engine.flowstats, _series(engine, asked), asked.request.objective.priority)
    if code == PK_OK:
        pick_may_be_taken_back(engine, asked)
    return code


cdef int _short(engine_t* engine, asked_pick_t* asked) noexcept nogil:
    """No credit, or others are first."""
    cdef flow_t* flow = &engine.flow
    if asked.request.objective.priority < 0:
        flow.was_short = True
        return _refuse(engine, asked, PK_FAIL_SATURATED)
    if not flow.rules.queues:
        return _passed(engine, asked, _pick(engine, asked, -1.0))
    flow.was_short = True
    return PK_QUEUED


cdef bint _may_try(engine_t* engine, const asked_pick_t* asked) noexcept nogil:
    """Would it take nothing from anybody who is before it?

    Those before it that may go elsewhere could not go when they were last looked at; if something has changed since,
    they are looked at first.
    """
    cdef flow_t* flow = &engine.flow
    cdef int priority = asked.request.objective.priority
    if flow_is_first(flow, priority):
        return True
    if queue_holds_before(&flow.queue, priority, asked.turn.queued.group):
        return False
    if flow.is_due:
        _dispatch(engine, asked.request.now_ns, PK_WOKEN_AT_ONCE)
    return not flow.is_due


cdef int _admit(engine_t* engine, asked_pick_t* asked) noexcept nogil:
    cdef flow_t* flow = &engine.flow
    cdef const request_t* request = asked.request
    cdef int priority = request.objective.priority
    cdef int code
    flow_seen(flow, priority, request.now_ns)
    if priority < 0 and _is_denied(engine, asked):
        return _refuse(engine, asked, PK_FAIL_DENIED)
    if not _may_try(engine, asked):
        return _short(engine, asked) if pick_is_possible(engine, request) else _none(engine, asked)
    code = _pick(engine, asked, flow_share(flow, &engine.endpoints, priority, request.now_ns))
    return _short(engine, asked) if code == PK_QUEUED else _passed(engine, asked, code)


# --- C kernel: turns; all with the lock held ---


cdef void _wake(engine_t* engine, asked_pick_t* asked, int code, int failure, int64_t now_ns) noexcept nogil:
    """It is out of the queue."""
    flowstats_left(
        &engine.flowstats, _series(engine, asked), asked.turn.queued.priority, asked.turn.queued.bytes, failure,
        now_ns - asked.turn.queued.enqueued_ns
    )
    if code == PK_REFUSED:
        asked.turn.retry_after_s = flow_retry_after(&engine.flow)
    flow_wake(&engine.flow, &asked.turn, code, failure)


cdef uint32_t _expire(engine_t* engine, int64_t now_ns, uint32_t most) noexcept nogil:
    """Tell those who have waited as long as they may; how many."""
    cdef queued_t* item = queue_expired(&engine.flow.queue, now_ns)
    cdef int failure = PK_FAIL_QUEUE_TTL if engine.endpoints.count else PK_FAIL_NO_ENDPOINT
    cdef uint32_t count = 0
    while item != NULL:
        _wake(engine, <asked_pick_t*>item, PK_REFUSED, failure, now_ns)
        count += 1
        item = queue_expired(&engine.flow.queue, now_ns) if count < most else NULL
    return count


cdef int _try(engine_t* engine, asked_pick_t* asked, int64_t now_ns) noexcept nogil:
    """Its turn, if it can have it: as `pick_among`."""
    cdef const flow_rules_t* rules = &engine.flow.rules
    cdef double share = -1.0
    asked.request.now_ns = now_ns
    asked.request.waited_ns = now_ns - asked.turn.queued.enqueued_ns
    if rules.is_on and rules.queues:
        share = flow_share(&engine.flow, &engine.endpoints, asked.request.objective.priority, now_ns)
    return _pick(engine, asked, share)


cdef bint _serve(engine_t* engine, asked_pick_t* asked, int64_t now_ns) noexcept nogil:
    """Give the head its turn; False if it cannot have it now."""
    cdef int code = _try(engine, asked, now_ns)
    if code == PK_QUEUED or (code == PK_E_MISSING and engine.endpoints.count == 0 and engine.flow.rules.is_on):
        return False
    queue_take(&engine.flow.queue, &asked.turn.queued)
    if code == PK_E_MISSING:
        _wake(engine, asked, PK_REFUSED, PK_FAIL_NO_ENDPOINT, now_ns)
    elif code != PK_OK and code != PK_NEED_PLUGIN:
        _wake(engine, asked, PK_REFUSED, PK_FAIL_EXHAUSTED, now_ns)
    else:
        _wake(engine, asked, code, PK_FAIL_NONE, now_ns)
    if code == PK_NEED_PLUGIN:
        asked.turn.is_granted = True
        engine.flow.granted += 1
    return True


cdef bint _holds_up(const engine_t* engine, const asked_pick_t* victim, const asked_pick_t* asked) noexcept nogil:
    """Is it of a lower priority, and runs where the other may go?"""
    cdef const endpoint_t* endpoint
    if victim.request.objective.priority >= asked.request.objective.priority:
        return False
    endpoint = endpoints_get(&engine.endpoints, victim.booking.slot, victim.booking.generation)
    return endpoint != NULL and _is_open_to(asked.request, endpoint)


cdef asked_pick_t* _victim(const engine_t* engine, const asked_pick_t* asked) noexcept nogil:
    """The lowest priority, and of that the newest; NULL: nobody can make room."""
    cdef turn_t* turn = engine.flow.evictable.last
    cdef asked_pick_t* found = NULL
    cdef asked_pick_t* one
    while turn != NULL:
        one = <asked_pick_t*>turn
        if _holds_up(engine, one, asked):
            if found == NULL or one.request.objective.priority < found.request.objective.priority:
                found = one
        turn = turn.before
    return found


cdef void _make_room(engine_t* engine, const asked_pick_t* asked, int64_t now_ns) noexcept nogil:
    """The head cannot go: let those go that may be evicted. A gateway that shows no responses would cut theirs."""
    cdef flow_t* flow = &engine.flow
    cdef asked_pick_t* victim
    cdef uint32_t count = 0
    if not flow.rules.evicts or not engine.shows_responses:
        return
    if flow.evicted or (flow.evicted_ns and now_ns - flow.evicted_ns < EVICTED_NS):
        return                               # what that brings is not seen yet
    while count < MOST_VICTIMS:
        victim = _victim(engine, asked)
        if victim == NULL:
            return
        flow_evict(flow, &victim.turn, PK_FAIL_EVICTED, now_ns)
        count += 1


cdef uint32_t _dispatch(engine_t* engine, int64_t now_ns, uint32_t most) noexcept nogil:
    """Turns to those that can have them; how many."""
    cdef flow_t* flow = &engine.flow
    cdef queued_t* item
    cdef uint32_t count = 0
    if flow.granted:
        return 0                             # the credit it will take is not known yet
    flow.is_due = False
    queue_begin(&flow.queue)
    while count < most and flow.granted == 0:
        item = queue_peek(&flow.queue)
        if item == NULL:
            return count
        if _serve(engine, <asked_pick_t*>item, now_ns):
            count += 1
        else:
            _make_room(engine, <asked_pick_t*>item, now_ns)
            queue_block(&flow.queue, item)
    flow.is_due = True
    return count


# --- C kernel: what sessions and shells call; each takes the lock ---


cdef int engine_admit(engine_t* engine, asked_pick_t* asked) noexcept nogil:
    """A request asks for its turn, at `request.now_ns`.

    As `pick_among`; or PK_REFUSED, and `turn.failure` says why; PK_QUEUED: `engine_enqueue` it, once what it borrows is
    its own.
    """
    cdef int code
    pthread_mutex_lock(&engine.lock)
    asked.request.waited_ns = 0
    asked.turn.changes = engine.flow.changes
    if not engine.flow.rules.is_on or asked.is_free:
        code = _pick(engine, asked, -1.0)
    else:
        code = _admit(engine, asked)
    pthread_mutex_unlock(&engine.lock)
    return code


cdef void _fill(engine_t* engine, asked_pick_t* asked) noexcept nogil:
    """What the queue goes by."""
    cdef const request_t* request = asked.request
    cdef queued_t* item = &asked.turn.queued
    item.owner = asked
    item.priority = request.objective.priority
    item.cost = request.prompt_tokens + (
        request.max_tokens if request.max_tokens >= 0 else <int64_t>engine.output_tokens
    )
    item.slo_ns = INT64_MAX if asked.slo_ns <= 0 else item.received_ns + asked.slo_ns
    item.expires_ns = INT64_MAX              # as its band has it
    if engine.endpoints.count == 0:
        item.expires_ns = INT64_MAX - 1      # never
        if engine.flow.rules.no_endpoint_ttl_ns < item.expires_ns - request.now_ns:
            item.expires_ns = request.now_ns + engine.flow.rules.no_endpoint_ttl_ns


cdef int _full(const engine_t* engine) noexcept nogil:
    """Why there is no room to wait in: behind it all, endpoints are full, or there are none."""
    return PK_FAIL_QUEUE_FULL if engine.endpoints.count else PK_FAIL_NO_ENDPOINT


cdef int engine_enqueue(engine_t* engine, asked_pick_t* asked, slice_t name) noexcept nogil:
    """Let it wait, in the flow called `name`. PK_QUEUED or PK_REFUSED."""
    cdef flow_t* flow = &engine.flow
    cdef int code
    pthread_mutex_lock(&engine.lock)
    _fill(engine, asked)
    code = queue_push(&flow.queue, &asked.turn.queued, name, asked.request.now_ns)
    if code == PK_OK:
        flowstats_queued(
            &engine.flowstats, _series(engine, asked), asked.turn.queued.priority, asked.turn.queued.bytes
        )
        asked.turn.state = PK_TURN_QUEUED
        # Alone, it has just been tried; behind others, those may be due still.
        flow.is_due = (flow.is_due and flow.queue.requests > 1) or flow.changes != asked.turn.changes
        code = PK_QUEUED
    else:
        code = _refuse(engine, asked, _full(engine) if code == PK_E_LIMIT else PK_FAIL_EXHAUSTED)
    pthread_mutex_unlock(&engine.lock)
    return code


cdef uint32_t engine_dispatch(engine_t* engine, int64_t now_ns, uint32_t most) noexcept nogil:
    """Turns, and refusals whose time has come, to at most `most` of those who wait; how many. `engine_call` them.

    `flow.is_due` says whether there may be more.
    """
    cdef uint32_t expired, count, half = most - most // 2      # a crowd that expires at once holds up no turns
    if engine.flow.queue.requests == 0:
        return 0
    pthread_mutex_lock(&engine.lock)
    expired = _expire(engine, now_ns, half)
    count = expired + _dispatch(engine, now_ns, most - expired)
    if expired == half:
        engine.flow.is_due = True
    pthread_mutex_unlock(&engine.lock)
    return count


cdef turn_t* engine_call(engine_t* engine, bint is_python) noexcept nogil:
    """The next whose wait is over, of those that Python serves or of the others; NULL: there is none."""
    cdef turn_t* turn
    if engine.flow.woken.count == 0:
        return NULL
    pthread_mutex_lock(&engine.lock)
    turn = flow_call(&engine.flow, is_python)
    pthread_mutex_unlock(&engine.lock)
    return turn


cdef bint engine_leave(engine_t* engine, asked_pick_t* asked, int64_t now_ns) noexcept nogil:
    """It waits no longer, whatever for. True if it had been picked for: what is booked is the session's to release."""
    cdef bint is_picked
    pthread_mutex_lock(&engine.lock)
    if asked.turn.state == PK_TURN_QUEUED:
        flowstats_left(
            &engine.flowstats, _series(engine, asked), asked.turn.queued.priority, asked.turn.queued.bytes,
            PK_FAIL_ABANDONED, now_ns - asked.turn.queued.enqueued_ns
        )
    is_picked = asked.turn.state >= PK_TURN_WOKEN and asked.turn.code == PK_OK
    flow_forget(&engine.flow, &asked.turn)
    pthread_mutex_unlock(&engine.lock)
    return is_picked


cdef void engine_turn_out(engine_t* engine, int failure, int64_t now_ns) noexcept nogil:
    """Refuse all who wait."""
    cdef queued_t* item
    pthread_mutex_lock(&engine.lock)
    item = queue_any(&engine.flow.queue)
    while item != NULL:
        queue_remove(&engine.flow.queue, item)
        _wake(engine, <asked_pick_t*>item, PK_REFUSED, failure, now_ns)
        item = queue_any(&engine.flow.queue)
    pthread_mutex_unlock(&engine.lock)
