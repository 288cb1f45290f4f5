"""What an endpoint can take now: credit, by what it is seen to do, or by thresholds.

Adaptive credit asks three things of an endpoint, and each has an answer that nobody had to configure.
Prefill: is the prefill work sent to it about to be done? First tokens teach how long prefills take on it, overhead +
    tokens / rate, and so when it will want more. More than that waits in picker's queue, where its order can still
    change: what waits in an engine is in everybody's way.
Memory: does the request fit into its KV cache? Scrapes teach how many booked tokens fill it.
Places: how many requests does it run at the same time? Met when a scrape shows requests waiting, all but a few of them
    ours, that nothing else explains; from then on as many as it was seen to run, and now and then one more.
A share below one is a band's that must leave room for a higher one: it finds an endpoint full a little earlier.

Invariants: an endpoint with nothing booked and nothing scraped always has credit; no figure makes a window smaller than
    one request. Metrics that are missing or old are left out: what is booked, and first tokens, speak alone.
Cost: O(1) per operation, O(slots) for the saturation. Allocates only in `credits_widen`.
Memory: a table by slot.   Threads: one at a time; the engine holds its lock.
"""
cimport cython
from libc.math cimport INFINITY, exp2, fmax, fmin
from libc.stdint cimport int64_t, uint32_t
from libc.string cimport memset

from picker._core.alloc cimport PK_E_LIMIT, PK_E_RANGE, PK_OK, pk_free, pk_grow
from picker._core.endpoints cimport (
    Booking,
    adapters_t,
    booking_t,
    endpoint_t,
    endpoints_add,
    endpoints_book,
    endpoints_first_byte,
    endpoints_free,
    endpoints_get,
    endpoints_init,
    endpoints_open,
    endpoints_rate,
    endpoints_release,
    endpoints_remove,
    endpoints_scraped,
    identity_fill,
    identity_t,
    load_t,
)

# --- C kernel ---

cdef int64_t MOMENT_NS = 2_000_000         # what comes or goes this close together is of one step of the engine
cdef int64_t STALE_NS = 1_000_000_000      # metrics older than this say nothing
cdef int64_t PATIENCE_NS = 500_000_000     # after which an endpoint is tried whose figures say that it is full or stuck
cdef int64_t HOLD_NS = 5_000_000_000       # a limit met is tried again after this long
cdef double KEEP = 0.95                    # weight of what was observed before, at each observation
cdef double OVERHEAD_S = 0.03              # before anything is learned
cdef double GREATEST_OVERHEAD_S = 2.0
cdef double ENOUGH = 12.0                  # observations for a line, about: with four, one odd burst makes it absurd
cdef double MARGIN = 2.0                   # of what a request asks for, to be left behind it
cdef double LARGE = 3.0                    # times what others hold: what is so large needs the room of several
cdef double URGENT = 4.0                   # overheads of work ahead that a request may find where there is but one band
cdef double WARM = 2.0                     # times what the cache saves that a request may wait: others gain, too
cdef double SMALL = 0.5                    # of an overhead: prompts worth no more go together
cdef int64_t LATELY_NS = 10_000_000_000
cdef double WANTED_HALF_LIFE_NS = 10e9
cdef double OTHERS = 1.25                  # times what is booked: more than that is sent by others
cdef double KV_SHARE = 0.2                 # weight of one more scrape
cdef double KV_LEAST = 0.05                # usage below this teaches nothing
cdef double KV_FULL = 0.85                 # usage at which waiting requests wait for memory


cdef inline double _positive(double value) noexcept nogil:
    # Written so that NaN becomes zero.
    return value if value > 0.0 else 0.0


cdef void credits_init(credits_t* credits) noexcept nogil:
    """An empty table that gives credit to everybody."""
    memset(credits, 0, sizeof(credits_t))


cdef void credits_free(credits_t* credits) noexcept nogil:
    pk_free(credits.slots)
    credits.slots = NULL
    credits.capacity = 0


cdef void credits_rule(credits_t* credits, const credit_rules_t* rules) noexcept nogil:
    """Other rules from now on; what was learned stays."""
    credits.rules = rules[0]


cdef int credits_widen(credits_t* credits, uint32_t width) noexcept nogil:
    """Room for the slots 0 to `width` - 1. PK_OK or PK_E_NOMEM."""
    cdef size_t had = credits.capacity
    cdef int code = pk_grow(<void**>&credits.slots, &credits.capacity, width, sizeof(credit_t))
    if code == PK_OK and credits.capacity > had:
        memset(credits.slots + had, 0, (credits.capacity - had) * sizeof(credit_t))
    return code


cdef void credits_start(credits_t* credits, const endpoints_t* endpoints, uint32_t slot) noexcept nogil:
    """A new endpoint is in `slot`, there is room for it: nothing is known of it."""
    cdef credit_t* credit = &credits.slots[slot]
    credits.is_surveyed = False
    memset(credit, 0, sizeof(credit_t))
    credit.generation = endpoints.slots[slot].generation
    credit.overhead = OVERHEAD_S
    credit.limit = INFINITY


cdef inline credit_t* _credit(
    const credits_t* credits, const endpoints_t* endpoints, uint32_t slot, uint32_t generation
) noexcept nogil:
    """NULL if the endpoint has gone, or was never told of."""
    if endpoints_get(endpoints, slot, generation) == NULL or slot >= credits.capacity:
        return NULL
    return &credits.slots[slot] if credits.slots[slot].generation == generation else NULL


# --- C kernel: what prefill work takes ---


cdef inline double _rate(const endpoints_t* endpoints, uint32_t slot, const credit_t* credit,
                         int64_t now_ns) noexcept nogil:
    return credit.rate if credit.rate > 0.0 else endpoints_rate(endpoints, &endpoints.slots[slot], now_ns)


cdef void _fit(credit_t* credit, double prior_rate) noexcept nogil:
    """The line through what was observed; while that is too little, or no line, the known rate and what is over."""
    cdef double spread = credit.weight * credit.tokens_tokens - credit.tokens * credit.tokens
    cdef double slope = credit.weight * credit.tokens_seconds - credit.tokens * credit.seconds
    cdef double usual = 1.0 / prior_rate
    if credit.weight < ENOUGH or spread <= 0.01 * credit.tokens * credit.tokens:
        slope = usual
    else:
        slope = fmin(fmax(slope / spread, usual / 8.0), usual * 8.0)
    credit.rate = 1.0 / slope
    credit.overhead = (credit.seconds - slope * credit.tokens) / credit.weight
    credit.overhead = fmin(fmax(credit.overhead, 0.001), GREATEST_OVERHEAD_S)


cdef void _observe(credit_t* credit) noexcept nogil:
    """What the last moment's first tokens took, into the sums."""
    cdef double x = credit.group_tokens, y = credit.group_seconds
    if y <= 0.0:
        return
    credit.weight = KEEP * credit.weight + 1.0
    credit.tokens = KEEP * credit.tokens + x
    credit.seconds = KEEP * credit.seconds + y
    credit.tokens_tokens = KEEP * credit.tokens_tokens + x * x
    credit.tokens_seconds = KEEP * credit.tokens_seconds + x * y
    credit.group_tokens = credit.group_seconds = 0.0


cdef inline double _ahead_s(const credit_t* credit, int64_t now_ns) noexcept nogil:
    """Until the prefill work sent to it should be done; negative: it should have been."""
    return <double>(credit.free_ns - now_ns) * 1e-9


cdef void credits_booked(
    credits_t* credits, const endpoints_t* endpoints, const booking_t* booking, int64_t now_ns
) noexcept nogil:
    """A request was just booked."""
    cdef credit_t* credit = _credit(credits, endpoints, booking.slot, booking.generation)
    cdef double seconds
    if credit == NULL:
        return
    credits.is_surveyed = False
    seconds = <double>booking.prefill_tokens / _rate(endpoints, booking.slot, credit, now_ns)
    if credit.free_ns <= now_ns:
        credit.free_ns = now_ns
        seconds += credit.overhead
    credit.free_ns += <int64_t>(seconds * 1e9)
    credit.sent += 1
    credit.sent_ns = now_ns


cdef void credits_first_byte(
    credits_t* credits, const endpoints_t* endpoints, const booking_t* booking, bint learn, int64_t now_ns
) noexcept nogil:
    """A first byte has come, and `endpoints_first_byte` is about to be told. With `learn` it is a first token."""
    cdef credit_t* credit = _credit(credits, endpoints, booking.slot, booking.generation)
    cdef const endpoint_t* endpoint
    cdef double left
    cdef int64_t since
    if credit == NULL or booking.is_answered:
        return
    endpoint = &endpoints.slots[booking.slot]
    credits.is_surveyed = False
    credit.entered += 1
    credit.told = learn if credit.freed_ns == 0 else 0.9 * credit.told + 0.1 * learn
    if learn:
        if now_ns - credit.freed_ns > MOMENT_NS:
            _observe(credit)
            since = credit.freed_ns if credit.freed_ns > booking.booked_ns else booking.booked_ns
            credit.group_seconds = <double>(now_ns - since) * 1e-9
        credit.group_tokens += <double>booking.prefill_tokens
        if credit.weight > 0:
            _fit(credit, endpoints_rate(endpoints, endpoint, now_ns))
        left = <double>(endpoint.prefill_tokens - booking.prefill_tokens)
        left /= _rate(endpoints, booking.slot, credit, now_ns)
        credit.free_ns = now_ns
        if endpoint.unanswered > 1:
            credit.free_ns += <int64_t>((left + credit.overhead) * 1e9)
    credit.freed_ns = now_ns


cdef void credits_released(
    credits_t* credits, const endpoints_t* endpoints, const booking_t* booking, int64_t now_ns
) noexcept nogil:
    """A booking is about to be released."""
    cdef credit_t* credit = _credit(credits, endpoints, booking.slot, booking.generation)
    credits.is_surveyed = False
    if credit != NULL and not booking.is_answered:
        credit.vanished += 1
        credit.vanished_tokens += booking.resident_tokens


# --- C kernel: how much it holds ---


cdef inline bint _is_fresh(const endpoint_t* endpoint, int64_t now_ns) noexcept nogil:
    return endpoint.scraped_ns != 0 and now_ns - endpoint.scraped_ns <= STALE_NS


cdef inline double _queue(const endpoint_t* endpoint, const credit_t* credit) noexcept nogil:
    """Requests of the last scrape that still wait in the engine."""
    return _positive(endpoint.load.waiting - <double>credit.entered)


cdef void _learn_kv(credit_t* credit, const endpoint_t* endpoint) noexcept nogil:
    """How many booked tokens fill the cache: those of the running ones fill what is used."""
    cdef double running = _positive(endpoint.load.running), waiting = _positive(endpoint.load.waiting)
    cdef double held = <double>endpoint.resident_tokens
    if endpoint.load.kv_usage < KV_LEAST or held <= 0.0:
        return
    if running > 0.0:
        held *= running / (running + waiting)
    held /= endpoint.load.kv_usage
    credit.kv_tokens = held if credit.kv_tokens <= 0.0 else credit.kv_tokens + KV_SHARE * (held - credit.kv_tokens)


cdef void _learn_limit(credit_t* credit, const endpoint_t* endpoint, int64_t now_ns) noexcept nogil:
    """Requests wait in the engine, and neither prefill work nor memory explains it: it runs as many as it can."""
    cdef double running = endpoint.load.running, seen = endpoint.load.waiting + running
    cdef bint waits = endpoint.load.waiting > <double>credit.sent and credit.free_ns < now_ns
    if credit.told > 0.5 and <double>endpoint.unanswered > endpoint.load.waiting:
        waits = False    # one that runs has no first token yet: they wait for its prefill
    if seen > OTHERS * <double>endpoint.requests + 1.0:
        waits = False    # so many are not ours, and what prefills they wait for is not known
    if (waits and running >= 1.0 and endpoint.load.kv_usage < KV_FULL) or running > credit.limit:
        credit.limit = running
        credit.limited_ns = now_ns
    elif now_ns - credit.limited_ns >= HOLD_NS and <double>endpoint.requests >= credit.limit - 1.0:
        credit.limit += fmax(1.0, credit.limit / 64.0)
        credit.limited_ns = now_ns


cdef void credits_scraped(
    credits_t* credits, const endpoints_t* endpoints, uint32_t slot, int64_t now_ns
) noexcept nogil:
    """`endpoints_scraped` was just told."""
    cdef const endpoint_t* endpoint = &endpoints.slots[slot]
    cdef credit_t* credit = _credit(credits, endpoints, slot, endpoint.generation)
    if credit == NULL:
        return
    credits.is_surveyed = False
    _learn_kv(credit, endpoint)
    _learn_limit(credit, endpoint, now_ns)
    credit.requests = endpoint.requests
    credit.resident_tokens = endpoint.resident_tokens
    credit.sent = credit.entered = credit.vanished = credit.vanished_tokens = 0


cdef inline double _in_flight(const endpoint_t* endpoint, const credit_t* credit, bint fresh) noexcept nogil:
    """Requests on it: those booked, those that ended untold since it was scraped, and those of others."""
    cdef double others = 0.0
    if fresh:
        others = _positive(endpoint.load.waiting) + _positive(endpoint.load.running)
        others = _positive(others - <double>credit.requests)
        others += <double>credit.vanished
    return <double>endpoint.requests + others


cdef void credits_cache(
    credits_t* credits, const endpoints_t* endpoints, uint32_t slot, int64_t tokens
) noexcept nogil:
    """What the endpoint in a slot in use says that its KV cache holds."""
    cdef credit_t* credit = _credit(credits, endpoints, slot, endpoints.slots[slot].generation)
    if credit != NULL:
        credit.cache_tokens = _positive(<double>tokens)


cdef inline double _cache(const credit_t* credit) noexcept nogil:
    return credit.cache_tokens if credit.cache_tokens > 0.0 else credit.kv_tokens


cdef double _room(const credit_t* credit, const endpoint_t* endpoint, int64_t now_ns) noexcept nogil:
    """Tokens that its KV cache has room for, less those that wait for it; infinite while that is not known.

    By the last scrape and what was booked and released since; without one, by what is booked.
    """
    cdef double room, since
    if not _is_fresh(endpoint, now_ns) or endpoint.load.kv_usage < 0.0:
        return credit.kv_tokens - <double>endpoint.resident_tokens if credit.kv_tokens > 0.0 else INFINITY
    if _cache(credit) <= 0.0:
        return INFINITY
    room = (1.0 - endpoint.load.kv_usage) * _cache(credit)
    since = <double>(endpoint.resident_tokens + credit.vanished_tokens - credit.resident_tokens)
    if endpoint.requests > 0:
        # Those that waited then had no memory yet, whether or not they have it now.
        since += _positive(endpoint.load.waiting) * <double>endpoint.resident_tokens / <double>endpoint.requests
    return room - since


# --- C kernel: credit ---


cdef bint _has_place(const credit_t* credit, double in_flight, double share) noexcept nogil:
    cdef double limit = credit.limit
    if share < 1.0:
        limit = fmin(limit * share, limit - 1.0)
    return in_flight + 1.0 <= fmax(limit, 1.0)


cdef inline bint _has_below(const credits_t* credits, int64_t now_ns) noexcept nogil:
    """Has a band that has one above it asked lately?"""
    return credits.below_ns != 0 and now_ns - credits.below_ns < LATELY_NS


cdef inline double _wants_in_s(const credit_t* credit, const endpoint_t* endpoint, int64_t now_ns) noexcept nogil:
    """Seconds until it wants prefill work, at least 0."""
    return 0.0 if credit.told > 0.5 and endpoint.unanswered == 0 else fmax(_ahead_s(credit, now_ns), 0.0)


cdef void _survey(credits_t* credits, const endpoints_t* endpoints, int64_t now_ns) noexcept nogil:
    """Which endpoint has most room, and how soon one wants work, unless it is known."""
    cdef const endpoint_t* endpoint
    cdef const credit_t* credit
    cdef double room, most = -INFINITY
    cdef uint32_t slot
    if credits.is_surveyed and credits.surveyed_ns == now_ns and credits.surveyed == endpoints.count:
        return
    credits.soonest_s = INFINITY
    for slot in range(endpoints.width):
        endpoint = &endpoints.slots[slot]
        credit = _credit(credits, endpoints, slot, endpoint.generation)
        if credit != NULL and endpoints_open(endpoint, now_ns):
            credits.soonest_s = fmin(credits.soonest_s, _wants_in_s(credit, endpoint, now_ns))
            room = _room(credit, endpoint, now_ns)
            if room > most:
                most = room
                credits.roomiest = slot
    credits.is_surveyed = True
    credits.surveyed_ns = now_ns
    credits.surveyed = endpoints.count


cdef double _wanted(const credits_t* credits, int64_t now_ns) noexcept nogil:
    return credits.wanted * exp2(-<double>(now_ns - credits.wanted_ns) / WANTED_HALF_LIFE_NS)


cdef void _want(credits_t* credits, int64_t resident, int64_t now_ns) noexcept nogil:
    """A request that no band is above asks for room."""
    if <double>resident >= _wanted(credits, now_ns):
        credits.wanted = <double>resident
        credits.wanted_ns = now_ns


cdef inline bint _is_large(const endpoint_t* endpoint, int64_t resident) noexcept nogil:
    """Does it ask for several times what those on the endpoint hold?"""
    return <double>resident * <double>endpoint.requests > LARGE * <double>endpoint.resident_tokens


cdef bint _has_memory(
    credits_t* credits, const credit_t* credit, const endpoints_t* endpoints, uint32_t slot,
    int64_t resident, double share, int64_t now_ns
) noexcept nogil:
    """How long an answer gets is not known before: where others have more room, a request wants more than it needs.

    Below a share of one, the endpoint with most room is left for the largest request of a higher band.
    """
    cdef const endpoint_t* endpoint = &endpoints.slots[slot]
    cdef double room = _room(credit, endpoint, now_ns)
    cdef double left = room - <double>resident
    if room == INFINITY:
        return not (_is_fresh(endpoint, now_ns) and endpoint.load.kv_usage > share)
    if left < 0.0 and share < 1.0:
        return False
    if share >= 1.0 and left >= 0.0 and left >= MARGIN * <double>resident:
        return True
    _survey(credits, endpoints, now_ns)
    if left < 0.0:
        # Too large for any: where most room is, more is gathered soonest, and nobody else waits for it meanwhile.
        return credits.roomiest == slot and room > 0.0 and _is_large(endpoint, resident)
    if share >= 1.0:
        return credits.roomiest == slot
    if credits.roomiest == slot and left < _wanted(credits, now_ns):
        return False
    return left >= (1.0 - share) * _cache(credit)


cdef bint _is_stuck(
    const credit_t* credit, const endpoint_t* endpoint, bint fresh, double ahead_s, int64_t now_ns
) noexcept nogil:
    """Its prefills should have been done by now, but it does not get on. After a while one more is tried all the same.
    """
    if ahead_s > 0.0 or now_ns - credit.sent_ns > PATIENCE_NS:
        return False
    if fresh and _queue(endpoint, credit) > 0.0:
        return True
    return credit.told > 0.5 and endpoint.unanswered > 0 and -PATIENCE_NS * 1e-9 < ahead_s < -credit.overhead


cdef bint _comes_first(
    credits_t* credits, const credit_t* credit, const endpoints_t* endpoints, double ahead_s, double saved_s,
    double work_s, int64_t now_ns
) noexcept nogil:
    """May a request that no band is above go behind so much work? Where bands below send work too, only where it is
    begun soonest, or about."""
    if _has_below(credits, now_ns):
        _survey(credits, endpoints, now_ns)
        if ahead_s > credits.soonest_s + fmax(credit.overhead, saved_s):
            return False
    return ahead_s <= fmax(URGENT * credit.overhead, WARM * saved_s) or work_s <= URGENT * credit.overhead


cdef bint _comes_later(
    const credit_t* credit, double ahead_s, double saved_s, double own_s, double work_s, int64_t now_ns
) noexcept nogil:
    """May one that has a band above it? It counts what it keeps the engine busy against what the cache saves. Small
    prompts go together, to be one step."""
    if ahead_s <= fmax(0.0, saved_s - own_s):
        return True
    return now_ns - credit.sent_ns <= MOMENT_NS and work_s <= SMALL * credit.overhead


cdef bint _wants_work(
    credits_t* credits, const credit_t* credit, const endpoints_t* endpoints, uint32_t slot, int64_t prefill,
    int64_t cached, double share, int64_t now_ns
) noexcept nogil:
    """Is what was sent there about to be done? Waiting there for as long as the cache saves is no worse than to compute
    it anew elsewhere."""
    cdef const endpoint_t* endpoint = &endpoints.slots[slot]
    cdef bint fresh = _is_fresh(endpoint, now_ns)
    cdef double ahead_s = _ahead_s(credit, now_ns)
    cdef double rate, saved_s, own_s, work_s
    if credit.told > 0.5 and endpoint.unanswered == 0:
        return not (fresh and share < 1.0 and _queue(endpoint, credit) > 0.0)
    if _is_stuck(credit, endpoint, fresh, ahead_s, now_ns):
        return False
    if share >= 1.0 and ahead_s <= 0.0 and not _has_below(credits, now_ns):
        return True   # as `_comes_first` says, without asking how long anything takes
    rate = _rate(endpoints, slot, credit, now_ns)
    saved_s, own_s = <double>cached / rate, <double>prefill / rate
    work_s = <double>endpoint.prefill_tokens / rate + own_s
    if share >= 1.0:
        return _comes_first(credits, credit, endpoints, ahead_s, saved_s, work_s, now_ns)
    return _comes_later(credit, ahead_s, saved_s, own_s, work_s, now_ns)


cdef bint _allow_adaptive(
    credits_t* credits, const credit_t* credit, const endpoints_t* endpoints, uint32_t slot,
    int64_t prefill, int64_t cached, int64_t resident, double share, int64_t now_ns
) noexcept nogil:
    cdef const endpoint_t* endpoint = &endpoints.slots[slot]
    cdef double in_flight = _in_flight(endpoint, credit, _is_fresh(endpoint, now_ns))
    if in_flight <= 0.0 or (endpoint.requests == 0 and now_ns - credit.sent_ns > PATIENCE_NS):
        return True
    return (
        _has_place(credit, in_flight, share)
        and _has_memory(credits, credit, endpoints, slot, resident, share, now_ns)
        and _wants_work(credits, credit, endpoints, slot, prefill, cached, share, now_ns)
    )


cdef double _fullness_by_load(
    const credit_rules_t* rules, const credit_t* credit, const endpoint_t* endpoint, int64_t now_ns
) noexcept nogil:
    """The fuller of queue and memory, each by its threshold; what was sent since the scrape counts as queue."""
    cdef double queue
    if endpoint.scraped_ns == 0 or now_ns - endpoint.scraped_ns > rules.stale_ns:
        queue = <double>endpoint.unanswered
        return queue / rules.queue
    queue = _positive(endpoint.load.waiting) + <double>credit.sent
    return fmax(queue / rules.queue, _positive(endpoint.load.kv_usage) / rules.kv)


cdef double _fullness_by_count(const credit_rules_t* rules, const endpoint_t* endpoint) noexcept nogil:
    cdef double requests = <double>endpoint.requests / rules.requests
    cdef double tokens = <double>endpoint.resident_tokens / rules.tokens
    if rules.counts == PK_COUNT_REQUESTS:
        return requests
    return tokens if rules.counts == PK_COUNT_TOKENS else fmax(requests, tokens)


cdef double _fullness_as_seen(
    const credit_t* credit, const endpoints_t* endpoints, uint32_t slot, int64_t now_ns
) noexcept nogil:
    cdef const endpoint_t* endpoint = &endpoints.slots[slot]
    cdef bint fresh = _is_fresh(endpoint, now_ns)
    cdef double fill = _in_flight(endpoint, credit, fresh) / fmax(credit.limit, 1.0)
    cdef double ahead = _ahead_s(credit, now_ns) / (2.0 * credit.overhead)
    if _room(credit, endpoint, now_ns) < INFINITY:
        fill = fmax(fill, 1.0 - _room(credit, endpoint, now_ns) / _cache(credit))
    if endpoint.unanswered > 0 or credit.told <= 0.5:
        fill = fmax(fill, ahead)
    return fill


cdef double credits_fullness(
    const credits_t* credits, const endpoints_t* endpoints, uint32_t slot, int64_t now_ns
) noexcept nogil:
    """How full an endpoint is: 0 empty, about 1 full, above that over-full. Of a slot in use."""
    cdef const endpoint_t* endpoint = &endpoints.slots[slot]
    cdef const credit_t* credit = _credit(credits, endpoints, slot, endpoint.generation)
    if credit == NULL or credits.rules.mode == PK_CREDIT_OFF:
        return 0.0
    if credits.rules.mode == PK_CREDIT_UTILIZATION:
        return _fullness_by_load(&credits.rules, credit, endpoint, now_ns)
    if credits.rules.mode == PK_CREDIT_CONCURRENCY:
        return _fullness_by_count(&credits.rules, endpoint)
    return _fullness_as_seen(credit, endpoints, slot, now_ns)


cdef void credits_ask(credits_t* credits, int64_t resident, double share, int64_t now_ns) noexcept nogil:
    """A request of a band with this share, that holds `resident` tokens at last, is about to ask endpoint by endpoint.
    """
    if credits.rules.mode != PK_CREDIT_ADAPTIVE:
        return
    if share < 1.0:
        credits.below_ns = now_ns
    else:
        _want(credits, resident, now_ns)


cdef bint credits_allow(
    credits_t* credits, const endpoints_t* endpoints, uint32_t slot,
    int64_t prefill, int64_t cached, int64_t resident, double share, int64_t now_ns
) noexcept nogil:
    """May a request go to the endpoint in `slot` that has to compute `prefill` tokens of its prompt there, finds
    `cached` ones, and holds `resident` ones at last?

    `share`: of the endpoint's room that its band may fill; below 1 also means that it leaves room for a higher band.
    `credits_ask` comes before, once for all endpoints.
    """
    cdef const credit_t* credit = _credit(credits, endpoints, slot, endpoints.slots[slot].generation)
    if credit == NULL or credits.rules.mode == PK_CREDIT_OFF:
        return True
    if credits.rules.mode == PK_CREDIT_ADAPTIVE:
        return _allow_adaptive(credits, credit, endpoints, slot, prefill, cached, resident, share, now_ns)
    return credits_fullness(credits, endpoints, slot, now_ns) < share * (1.0 + credits.rules.headroom)


cdef double credits_saturation(
    const credits_t* credits, const endpoints_t* endpoints, int64_t now_ns
) noexcept nogil:
    """How full the pool is: the mean over its endpoints, 1 if it has none."""
    cdef double sum = 0.0
    cdef uint32_t slot
    if endpoints.count == 0:
        return 1.0
    for slot in range(endpoints.width):
        if endpoints.slots[slot].used:
            sum += _positive(credits_fullness(credits, endpoints, slot, now_ns))
    return sum / <double>endpoints.count


# --- Python face ---

cdef dict _COUNTS = {"requests": PK_COUNT_REQUESTS, "tokens": PK_COUNT_TOKENS, "hybrid": PK_COUNT_HYBRID}
cdef double GREATEST = 1e12


cdef double _threshold(object name, object value, bint zero) except -1.0:
    cdef double threshold = value
    if not (0.0 < threshold <= GREATEST or (zero and threshold == 0.0)):
        raise ValueError(f"{name} cannot be {threshold:g}")
    return threshold


cdef int credit_rules_fill(credit_rules_t* rules, object detector) except -1:
    """Rules of a detector: see `Credits`. ValueError for what none can be; then `rules` is as it was."""
    cdef credit_rules_t fresh
    memset(&fresh, 0, sizeof(credit_rules_t))
    kind, *values = detector if detector is not None else ("off",)
    if kind == "adaptive" and not values:
        fresh.mode = PK_CREDIT_ADAPTIVE
    elif kind == "utilization" and len(values) == 4:
        fresh.mode = PK_CREDIT_UTILIZATION
        fresh.queue = _threshold("the queue threshold", values[0], False)
        fresh.kv = _threshold("the KV threshold", values[1], False)
        fresh.headroom = _threshold("headroom", values[2], True)
        fresh.stale_ns = <int64_t>(fmin(_threshold("staleness", values[3], False), 1e9) * 1e9)
    elif kind == "concurrency" and len(values) == 4 and values[0] in _COUNTS:
        fresh.mode = PK_CREDIT_CONCURRENCY
        fresh.counts = _COUNTS[values[0]]
        fresh.requests = _threshold("most requests", values[1], False)
        fresh.tokens = _threshold("most tokens", values[2], False)
        fresh.headroom = _threshold("headroom", values[3], True)
    elif kind != "off" or values:
        raise ValueError(f"no detector is {detector!r}")
    rules[0] = fresh
    return 0


cdef dict credits_view(const credits_t* credits, const endpoints_t* endpoints, uint32_t slot, int64_t now_ns):
    """What is known of the credit of the endpoint in a slot in use, for metrics and people.

    `limit` requests, `kv_tokens` and `kv_used` (the share of them in use or waited for) are None where not known;
    times in seconds, `prefill_rate` in tokens/s.
    """
    cdef const endpoint_t* endpoint = &endpoints.slots[slot]
    cdef const credit_t* credit = _credit(credits, endpoints, slot, endpoint.generation)
    if credit == NULL:
        return {}
    cdef double room = _room(credit, endpoint, now_ns)
    return {
        "fullness": credits_fullness(credits, endpoints, slot, now_ns),
        "in_flight": _in_flight(endpoint, credit, _is_fresh(endpoint, now_ns)),
        "limit": None if credit.limit == INFINITY else credit.limit,
        "kv_tokens": credit.kv_tokens if credit.kv_tokens > 0.0 else None,
        "kv_used": None if room == INFINITY else 1.0 - room / _cache(credit),
        "room_tokens": None if room == INFINITY else room,
        "ahead_s": _positive(_ahead_s(credit, now_ns)),
        "overhead_s": credit.overhead,
        "prefill_rate": _rate(endpoints, slot, credit, now_ns),
        "told": credit.told,
    }


@cython.final
@cython.auto_pickle(False)
cdef class Credits:
    """Credits over endpoints of their own, for tests and benchmarks; the engine runs the same kernel.

    `detector`: None, ("adaptive",), ("utilization", queue, kv, headroom, staleness in s) or ("concurrency",
    "requests" | "tokens" | "hybrid", requests, tokens, headroom). Times in nanoseconds. ValueError for what no
    detector can be, KeyError wherever an endpoint has gone.
    """

    def __cinit__(self, detector=("adaptive",), *, uint32_t limit=1024, double prior_rate=15000.0):
        endpoints_init(&self._table, limit, prior_rate)
        credits_init(&self._credits)
        self.set_detector(detector)

    def __dealloc__(self):
        endpoints_free(&self._table)
        credits_free(&self._credits)

    def set_detector(self, detector) -> None:
        """Other rules from now on."""
        cdef credit_rules_t rules
        credit_rules_fill(&rules, detector)
        credits_rule(&self._credits, &rules)

    def add(self, bytes target not None) -> tuple:
        """(slot, generation) of a new endpoint. OverflowError at the limit, MemoryError."""
        cdef identity_t identity
        identity_fill(&identity, target, target.rpartition(b":")[0], b"", 0)
        if credits_widen(&self._credits, self._table.width + 1) != PK_OK:
            raise MemoryError("no memory for a further endpoint")
        cdef int64_t slot = endpoints_add(&self._table, &identity)
        if slot == PK_E_LIMIT:
            raise OverflowError(f"at most {self._table.limit} endpoints")
        if slot < 0:
            raise MemoryError("no memory for a further endpoint")
        credits_start(&self._credits, &self._table, <uint32_t>slot)
        return slot, self._table.slots[slot].generation

    def remove(self, uint32_t slot, uint32_t generation) -> None:
        """Its bookings become void."""
        if endpoints_remove(&self._table, slot, generation) != PK_OK:
            raise KeyError((slot, generation))

    cdef int _require(self, uint32_t slot) except -1:
        if slot >= self._table.width or not self._table.slots[slot].used:
            raise KeyError(slot)
        return 0

    def scraped(self, uint32_t slot, *, double waiting=-1.0, double running=-1.0, double kv_usage=-1.0,
                int64_t cache_tokens=-1, int64_t now_ns) -> None:
        """A scrape replaces what was known of the load. `cache_tokens`: size of the KV cache, if the page says so."""
        cdef load_t load = load_t(waiting, running, kv_usage, -1.0)
        cdef adapters_t none
        self._require(slot)
        none.count = 0
        endpoints_scraped(&self._table, slot, self._table.slots[slot].generation, &load, &none, &none, now_ns)
        credits_scraped(&self._credits, &self._table, slot, now_ns)
        if cache_tokens >= 0:
            credits_cache(&self._credits, &self._table, slot, cache_tokens)

    def book(self, uint32_t slot, int64_t prefill, int64_t resident, int64_t now_ns) -> Booking:
        """Book a request's tokens, whether or not there is credit. ValueError for absurd numbers of tokens."""
        cdef Booking booking = Booking()
        cdef int code = endpoints_book(&self._table, &booking._held, slot, prefill, resident, now_ns)
        if code == PK_E_RANGE:
            raise ValueError(f"cannot book {prefill} and {resident} tokens")
        if code != PK_OK:
            raise KeyError(slot)
        credits_booked(&self._credits, &self._table, &booking._held, now_ns)
        return booking

    def first_byte(self, Booking booking not None, *, bint learn, int64_t now_ns) -> None:
        """The first byte of its answer; with `learn` it is a first token."""
        credits_first_byte(&self._credits, &self._table, &booking._held, learn, now_ns)
        endpoints_first_byte(&self._table, &booking._held, learn, now_ns)

    def release(self, Booking booking not None, int64_t now_ns) -> None:
        """Release a booking; a second time does nothing."""
        credits_released(&self._credits, &self._table, &booking._held, now_ns)
        endpoints_release(&self._table, &booking._held)

    def allow(self, uint32_t slot, int64_t prefill, int64_t resident, *, int64_t cached=0, double share=1.0,
              int64_t now_ns) -> bool:
        """May such a request go there now? `cached`: tokens of its prompt that need not be computed there."""
        self._require(slot)
        credits_ask(&self._credits, resident, share, now_ns)
        return bool(credits_allow(&self._credits, &self._table, slot, prefill, cached, resident, share, now_ns))

    def fullness(self, uint32_t slot, int64_t now_ns) -> float:
        """0 is empty, about 1 full."""
        self._require(slot)
        return credits_fullness(&self._credits, &self._table, slot, now_ns)

    def saturation(self, int64_t now_ns) -> float:
        """How full the pool is; 1 if it is empty."""
        return credits_saturation(&self._credits, &self._table, now_ns)

    def view(self, uint32_t slot, int64_t now_ns) -> dict:
        """What is known of its credit: see `credits_view`."""
        self._require(slot)
        return credits_view(&self._credits, &self._table, slot, now_ns)

    def _check(self) -> None:
        """Assert the invariants."""
        cdef uint32_t slot
        cdef const credit_t* credit
        for slot in range(self._table.width):
            if self._table.slots[slot].used:
                credit = &self._credits.slots[slot]
                assert credit.generation == self._table.slots[slot].generation
                assert credit.limit >= 1.0 and credit.kv_tokens >= 0.0 and credit.rate >= 0.0
                assert 0.0 < credit.overhead <= GREATEST_OVERHEAD_S and 0.0 <= credit.told <= 1.0
                assert min(credit.sent, credit.entered, credit.vanished, credit.vanished_tokens) >= 0
        assert self._table.width <= self._credits.capacity
