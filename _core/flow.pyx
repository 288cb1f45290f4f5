"""Flow control of one pool: its rules, shares of priorities, drain rate, and the list of those who got their turn.

Invariants: a turn is in the queue, or in the list of those woken, or in neither; it leaves the list once.
Cost: O(1), but O(priorities of late) for `flow_seen` and `flow_share`, O(endpoints) where ceilings go by saturation.
Memory: owns queue and credits; turns belong to their sessions.   Threads: the engine holds its lock.
"""
from libc.math cimport INFINITY, ceil
from libc.stdint cimport INT64_MAX, int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from picker._core.alloc cimport PK_OK
from picker._core.codec cimport slice_t
from picker._core.credits cimport (
    PK_CREDIT_SHARE_BELOW,
    credit_rules_t,
    credit_rules_fill,
    credits_free,
    credits_init,
    credits_rule,
    credits_saturation,
)
from picker._core.endpoints cimport endpoints_t
from picker._core.queue cimport (
    queue_begin,
    queue_free,
    queue_init,
    queue_limits_t,
    queue_peek,
    queue_remove,
    queue_rules_t,
    queue_set_rules,
)
from picker._core.schedule cimport (
    PK_FAIR_ROUND_ROBIN,
    PK_FAIR_STRICT,
    PK_FAIR_TOKENS,
    PK_ORDER_EDF,
    PK_ORDER_FCFS,
    PK_ORDER_SLO,
    band_rules_t,
    queued_t,
)

cdef enum:
    MOST_BANDS = 1024          # priorities without rules of their own that may wait at once
    MOST_FLOWS = 1 << 17       # at once: those beyond share a flow
    MOST_RETRY_S = 60

cdef int64_t ACTIVE_NS = 10_000_000_000    # a priority that came so recently is one that may come again
cdef int64_t DRAIN_NS = 1_000_000_000      # between two looks at how fast turns are given
cdef double DRAIN_SPAN_S = 4.0             # the latest so many seconds count for about two thirds

# --- C kernel: life ---


cdef void flow_init(flow_t* flow) noexcept nogil:
    """Of a zeroed struct: off."""
    cdef queue_limits_t limits
    limits.max_requests = limits.max_bytes = 0
    limits.bands = MOST_BANDS
    limits.flows = MOST_FLOWS
    queue_init(&flow.queue, &limits, 0)
    credits_init(&flow.credits)


cdef void flow_free(flow_t* flow) noexcept nogil:
    queue_free(&flow.queue)
    credits_free(&flow.credits)


cdef int flow_rule(
    flow_t* flow, const flow_rules_t* rules, const flow_bands_t* bands, const credit_rules_t* credits
) noexcept nogil:
    """New rules, in force at once, also for those who wait. PK_OK, PK_E_RANGE or PK_E_NOMEM: then as before."""
    cdef queue_rules_t queue_rules
    cdef int code
    queue_rules.priorities, queue_rules.rules, queue_rules.count = bands.priorities, bands.rules, bands.count
    queue_rules.default, queue_rules.negative = bands.default_rules, bands.negative_rules
    code = queue_set_rules(&flow.queue, &bands.limits, &queue_rules)
    if code != PK_OK:
        return code
    flow.rules = rules[0]
    credits_rule(&flow.credits, credits)
    flow_stir(flow)
    return PK_OK


# --- C kernel: shares ---


cdef inline bint _is_active(const active_t* band, int64_t now_ns) noexcept nogil:
    return now_ns - band.seen_ns < ACTIVE_NS


cdef void _drop_stale(flow_t* flow, int64_t now_ns) noexcept nogil:
    cdef uint32_t i, kept = 0
    for i in range(flow.active_count):
        if _is_active(&flow.active[i], now_ns):
            flow.active[kept] = flow.active[i]
            kept += 1
    flow.active_count = kept


cdef void flow_seen(flow_t* flow, int32_t priority, int64_t now_ns) noexcept nogil:
    """A request of this priority has come."""
    cdef uint32_t place = 0
    for place in range(flow.active_count):
        if flow.active[place].priority == priority:
            flow.active[place].seen_ns = now_ns
            return
    _drop_stale(flow, now_ns)
    if flow.active_count == PK_ACTIVE_BANDS:
        return
    place = flow.active_count
    while place and flow.active[place - 1].priority < priority:
        flow.active[place] = flow.active[place - 1]
        place -= 1
    flow.active[place].priority = priority
    flow.active[place].seen_ns = now_ns
    flow.active_count += 1


cdef double _reserved(const flow_t* flow, int32_t priority, int64_t now_ns) noexcept nogil:
    """All, unless a higher priority has come lately."""
    cdef uint32_t i
    for i in range(flow.active_count):
        if flow.active[i].priority <= priority:
            break
        if _is_active(&flow.active[i], now_ns):
            return PK_CREDIT_SHARE_BELOW
    return 1.0


cdef double _rank(const flow_t* flow, int32_t priority, int64_t now_ns) noexcept nogil:
    """0 for the highest priority of late, 1 for the lowest."""
    cdef uint32_t i, above = 0, count = 0
    for i in range(flow.active_count):
        if _is_active(&flow.active[i], now_ns):
            count += 1
            above += flow.active[i].priority > priority
    return <double>above / <double>(count - 1) if count > 1 else 0.0


cdef double _distance(const flow_t* flow, int32_t priority, int64_t now_ns) noexcept nogil:
    """The same by how far priorities are apart."""
    cdef uint32_t i
    cdef double value = <double>priority, high = value, low = value, one
    for i in range(flow.active_count):
        if _is_active(&flow.active[i], now_ns):
            one = <double>flow.active[i].priority
            high = one if one > high else high
            low = one if one < low else low
    return (high - value) / (high - low) if high > low else 0.0


cdef double _reflected(
    const flow_t* flow, const endpoints_t* endpoints, int32_t priority, int64_t now_ns
) noexcept nogil:
    cdef double saturation = credits_saturation(&flow.credits, endpoints, now_ns)
    saturation = saturation if saturation < 1.0 else 1.0
    return 1.0 - _rank(flow, priority, now_ns) * saturation


cdef double flow_share(
    const flow_t* flow, const endpoints_t* endpoints, int32_t priority, int64_t now_ns
) noexcept nogil:
    """How much of each endpoint requests of this priority may fill: 1 = all."""
    cdef const flow_rules_t* rules = &flow.rules
    if rules.ceiling == PK_CEILING_RESERVE:
        return _reserved(flow, priority, now_ns)
    if rules.ceiling == PK_CEILING_STATIC:
        return rules.most
    if rules.ceiling == PK_CEILING_REFLECTIVE:
        return _reflected(flow, endpoints, priority, now_ns)
    if rules.by_value:
        return rules.most - (rules.most - rules.least) * _distance(flow, priority, now_ns)
    return rules.most - (rules.most - rules.least) * _rank(flow, priority, now_ns)


# --- C kernel: how fast turns are given ---


cdef void _look_at_drain(flow_t* flow, int64_t now_ns) noexcept nogil:
    """While nobody is short of anything, the rate of turns says how many came, and no more than the least of what
    could be given."""
    cdef double seconds = <double>(now_ns - flow.drain_ns) * 1e-9
    cdef double rate = <double>flow.drained / seconds
    if flow.was_short or rate > flow.drain_per_s:
        if flow.drain_per_s == 0.0:
            flow.drain_per_s = rate
        flow.drain_per_s += (rate - flow.drain_per_s) * seconds / (seconds + DRAIN_SPAN_S)
    flow.drain_ns = now_ns
    flow.drained = 0
    flow.was_short = False


cdef void flow_drained(flow_t* flow, int64_t now_ns) noexcept nogil:
    """A turn was given."""
    if now_ns - flow.drain_ns >= DRAIN_NS or now_ns < flow.drain_ns:
        if flow.drain_ns and now_ns > flow.drain_ns:
            _look_at_drain(flow, now_ns)
        flow.drain_ns = now_ns
    flow.drained += 1


cdef uint32_t flow_retry_after(const flow_t* flow) noexcept nogil:
    """Seconds until those who wait now have had their turn, as far as can be said: 1 to MOST_RETRY_S."""
    cdef double seconds = 1.0
    if flow.drain_per_s > 0.0:
        seconds = ceil(<double>(flow.queue.requests + 1) / flow.drain_per_s)
    seconds = seconds if seconds < <double>MOST_RETRY_S else <double>MOST_RETRY_S
    return <uint32_t>seconds if seconds > 1.0 else 1


# --- C kernel: turns ---


cdef bint flow_is_first(flow_t* flow, int32_t priority) noexcept nogil:
    """Does nobody of this priority or a higher one wait?"""
    cdef const queued_t* head
    if flow.queue.requests == 0:
        return True
    queue_begin(&flow.queue)
    head = queue_peek(&flow.queue)
    return head == NULL or head.priority < priority


cdef void _list(turns_t* turns, turn_t* turn) noexcept nogil:
    turn.before = turns.last
    turn.after = NULL
    if turns.last != NULL:
        turns.last.after = turn
    else:
        turns.first = turn
    turns.last = turn
    turns.count += 1


cdef void _unlist(turns_t* turns, turn_t* turn) noexcept nogil:
    if turn.before != NULL:
        turn.before.after = turn.after
    else:
        turns.first = turn.after
    if turn.after != NULL:
        turn.after.before = turn.before
    else:
        turns.last = turn.before
    turn.before = turn.after = NULL
    turns.count -= 1


cdef void flow_wake(flow_t* flow, turn_t* turn, int code, int failure) noexcept nogil:
    """It waits no longer: `code` is what became of it. It must be out of the queue."""
    turn.state = PK_TURN_WOKEN
    turn.code = code
    turn.failure = failure
    _list(&flow.woken, turn)


cdef turn_t* flow_call(flow_t* flow, bint is_python) noexcept nogil:
    """The first of those woken that Python serves, or C; NULL: there is none."""
    cdef turn_t* turn = flow.woken.first
    while turn != NULL and (turn.python != NULL) != is_python:
        turn = turn.after
    if turn != NULL:
        _unlist(&flow.woken, turn)
        turn.state = PK_TURN_CALLED
    return turn


cdef void flow_run(flow_t* flow, turn_t* turn) noexcept nogil:
    """It has been picked for, and may be evicted until it is answered."""
    if not turn.is_evictable:
        turn.is_evictable = True
        _list(&flow.evictable, turn)


cdef void flow_evict(flow_t* flow, turn_t* turn, int failure, int64_t now_ns) noexcept nogil:
    """It is to make room: its session is to be told."""
    _unlist(&flow.evictable, turn)
    turn.is_evictable = False
    turn.is_evicted = True
    turn.retry_after_s = flow_retry_after(flow)
    flow.evicted += 1
    flow.evicted_ns = now_ns
    flow_wake(flow, turn, PK_REFUSED, failure)


cdef void flow_forget(flow_t* flow, turn_t* turn) noexcept nogil:
    """Its session goes on without it, or is over."""
    if turn.state == PK_TURN_QUEUED:
        queue_remove(&flow.queue, &turn.queued)
        flow_stir(flow)
    elif turn.state == PK_TURN_WOKEN:
        _unlist(&flow.woken, turn)
    if turn.is_evictable:
        turn.is_evictable = False
        _unlist(&flow.evictable, turn)
    flow.evicted -= turn.is_evicted
    turn.is_evicted = False
    if turn.is_granted:
        turn.is_granted = False
        flow.granted -= 1
        flow_stir(flow)
    turn.state = PK_TURN_NONE


cdef int flow_header(const flow_t* flow, slice_t name) noexcept nogil:
    """Which of the headers that hold fairness ids it is; -1: none."""
    cdef const flow_rules_t* rules = &flow.rules
    cdef const flow_header_t* header
    cdef uint32_t i
    cdef size_t at
    cdef uint8_t byte
    if name.size >= 64 or not rules.header_sizes >> name.size & 1:
        return -1
    for i in range(rules.header_count):
        header = &rules.headers[i]
        if header.size != name.size:
            continue
        at = 0
        while at < name.size:
            byte = name.data[at]
            if (byte | 0x20 if c"A" <= byte <= c"Z" else byte) != header.name[at]:
                break
            at += 1
        if at == name.size:
            return <int>i
    return -1


# --- Python face: rules ---

_ORDERS = {"fcfs": PK_ORDER_FCFS, "edf": PK_ORDER_EDF, "slo-deadline": PK_ORDER_SLO}
_FAIRNESS = {"strict": PK_FAIR_STRICT, "round-robin": PK_FAIR_ROUND_ROBIN, "tokens": PK_FAIR_TOKENS}

_DEFAULTS = {
    "detector": ("adaptive",), "queues": True, "bands": (),
    "default_band": ("fcfs", "tokens", 5000, 1_000_000_000, 60.0),
    "default_negative_band": ("fcfs", "tokens", 5000, 1_000_000_000, 60.0),
    "max_requests": 0, "max_bytes": 0, "no_endpoint_ttl_s": 0.0, "ceiling": None,
    "fairness_headers": ("x-llm-d-inference-fairness-id", "x-gateway-inference-fairness-id"), "admitters": (),
    "evicts": False,
}


cdef object _known(dict names, object given, str what):
    if given not in names:
        raise ValueError(f"{what} is one of {', '.join(names)}, not {given!r}")
    return names[given]


cdef int64_t _ns(double seconds, str what) except -1:
    """Of a time that may be for ever."""
    if not seconds >= 0.0:
        raise ValueError(f"{what} is not below 0, not {seconds}")
    return <int64_t>(seconds * 1e9) if seconds < 9e9 else INT64_MAX


cdef int _fill_band(band_rules_t* rules, object given) except -1:
    order, fairness, max_requests, max_bytes, ttl_s = given
    rules.order = _known(_ORDERS, order, "order")
    rules.fairness = _known(_FAIRNESS, fairness, "fairness")
    rules.max_requests = max_requests
    rules.max_bytes = max_bytes
    rules.ttl_ns = _ns(ttl_s, "ttl_s")
    if rules.ttl_ns == INT64_MAX:
        rules.ttl_ns = 0
    return 0


cdef int _fill_bands(flow_bands_t* bands, dict given) except -1:
    memset(bands, 0, sizeof(flow_bands_t))
    bands.limits.max_requests, bands.limits.max_bytes = given["max_requests"], given["max_bytes"]
    bands.limits.bands, bands.limits.flows = MOST_BANDS, MOST_FLOWS
    _fill_band(&bands.default_rules, given["default_band"])
    _fill_band(&bands.negative_rules, given["default_negative_band"])
    for priority, *rest in given["bands"]:
        if bands.count == PK_RULED_BANDS:
            raise OverflowError(f"at most {PK_RULED_BANDS} bands have rules of their own")
        bands.priorities[bands.count] = priority
        _fill_band(&bands.rules[bands.count], rest)
        bands.count += 1
    return 0


cdef double _share_of(object given, str what) except -2.0:
    cdef double share = given
    if not 0.0 <= share < INFINITY:
        raise ValueError(f"{what} is a share of the pool, not {given!r}")
    return share


cdef int _fill_ceiling(flow_rules_t* rules, object given) except -1:
    kinds = {"static": PK_CEILING_STATIC, "holdback": PK_CEILING_HOLDBACK, "reflective": PK_CEILING_REFLECTIVE}
    if given is None:
        rules.ceiling = PK_CEILING_RESERVE
        return 0
    kind, *rest = given
    rules.ceiling = _known(kinds, kind, "ceiling")
    if rules.ceiling == PK_CEILING_STATIC:
        rules.least = rules.most = _share_of(rest[0], "threshold")
    elif rules.ceiling == PK_CEILING_HOLDBACK:
        shape, domain, least, most = rest
        _known({"linear": 0}, shape, "shape")
        rules.by_value = _known({"rank": False, "value": True}, domain, "domain")
        rules.least, rules.most = _share_of(least, "min"), _share_of(most, "max")
    return 0


cdef int _fill_admitters(flow_rules_t* rules, object given) except -1:
    for kind, *rest in given:
        if kind == "probabilistic":
            rules.has_probability = True
            rules.queue, rules.kv, rules.power, rules.k = rest
            if min(rules.queue, rules.kv, rules.power, rules.k) <= 0.0:
                raise ValueError(f"what a probabilistic admitter goes by is above 0, not {rest}")
        elif kind == "latency-slo":
            rules.has_slo = True
        else:
            raise ValueError(f"admitters are probabilistic or latency-slo, not {kind!r}")
    return 0


cdef int _fill_headers(flow_rules_t* rules, object given) except -1:
    cdef bytes name
    for text in given:
        name = text.lower().encode("ascii")
        if not 0 < len(name) < PK_FLOW_HEADER_BYTES:
            raise ValueError(f"a header name has 1 to {PK_FLOW_HEADER_BYTES - 1} bytes: {text!r}")
        if rules.header_count == PK_FLOW_HEADERS:
            raise OverflowError(f"at most {PK_FLOW_HEADERS} headers may hold a fairness id")
        rules.headers[rules.header_count].size = <uint32_t>len(name)
        memcpy(rules.headers[rules.header_count].name, <const uint8_t*>name, len(name))
        rules.header_sizes |= <uint64_t>1 << len(name)
        rules.header_count += 1
    return 0


cdef int flow_fill(flow_rules_t* rules, flow_bands_t* bands, credit_rules_t* credits, object given) except -1:
    """Rules as `Engine.set_flow` takes them. ValueError, OverflowError, TypeError for what cannot be."""
    memset(rules, 0, sizeof(flow_rules_t))
    if given is not None:
        unknown = set(given) - set(_DEFAULTS)
        if unknown:
            raise ValueError(f"flow control has no {sorted(unknown)}; there are {sorted(_DEFAULTS)}")
    values = {**_DEFAULTS, **(given or {})}
    rules.is_on = given is not None
    rules.queues, rules.evicts = values["queues"], values["evicts"]
    rules.no_endpoint_ttl_ns = _ns(values["no_endpoint_ttl_s"], "no_endpoint_ttl_s")
    _fill_bands(bands, values)
    _fill_ceiling(rules, values["ceiling"])
    _fill_admitters(rules, values["admitters"])
    _fill_headers(rules, values["fairness_headers"])
    credit_rules_fill(credits, values["detector"] if given is not None else None)
    return 0


cdef dict flow_view(const flow_t* flow):
    """What is known of all of it; bands, flows and credits have views of their own."""
    return {
        "is_on": bool(flow.rules.is_on),
        "queues": bool(flow.rules.queues),
        "waiting": flow.queue.requests,
        "waiting_bytes": flow.queue.bytes,
        "woken": flow.woken.count,
        "evictable": flow.evictable.count,
        "max_requests": flow.queue.limits.max_requests,
        "max_bytes": flow.queue.limits.max_bytes,
        "drain_per_s": flow.drain_per_s,
        "retry_after_s": flow_retry_after(flow),
    }
