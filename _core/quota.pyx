"""Rate limits: what a request may cost is reserved before it goes, and settled when it has ended.

Invariants: a request is let go by all limits that count for it or charged to none; what it is charged is, in the end,
    what it used, in the window it was let go in; what it used beyond its estimate after that window has passed counts
    in the window that lasts. A counter of a window that lasts is never forgotten: keys that find no room share one.
Cost: a look-up or two for each limit that counts; memory is taken for as many holds as there ever were at once.
Memory: a quota owns its rules, counters and holds, and must outlive the sessions that hold any.
Threads: any; every function takes the lock but those that say otherwise.
"""
cimport cython
from libc.stddef cimport size_t
from libc.stdint cimport INT64_MAX, UINT32_MAX, int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from picker._core.alloc cimport PK_E_LIMIT, PK_E_MISSING, PK_E_NOMEM, PK_OK, pk_alloc, pk_free, pk_grow
from picker._core.codec cimport (
    codec_find_metadata,
    codec_next_item,
    codec_value_list,
    codec_value_member,
    codec_value_string,
    header_t,
    slice_is,
    slice_t,
)
from picker._core.counters cimport (
    PK_WINDOWS,
    counter_t,
    counters_find,
    counters_free,
    counters_init,
    counters_take,
    window_at,
    window_length,
)
from picker._core.hashing cimport hash_xxh64
from picker._core.quotarules cimport (
    PK_QUOTA_CHARGES,
    PK_QUOTA_KEY,
    PK_QUOTA_MODEL,
    PK_QUOTA_RULES,
    PK_QUOTA_SOURCES,
    PK_QUOTA_STEPS,
    PK_QUOTA_TEXT_BYTES,
    PK_QUOTA_UNIT,
    limit_t,
    price_t,
    rule_t,
    rules_counter,
    rules_counts_tokens,
    rules_free,
    rules_key,
    rules_new,
    rules_price,
    rules_put,
    rules_reserve,
    rules_t,
    rules_tier,
    source_t,
    text_t,
    tier_t,
)

cdef enum:
    SHARED_COUNTERS = 8192
    MOST_SETTLING = 65536

cdef int64_t MOST_TOKENS = 1 << 30         # of one request, whatever is said
cdef int64_t MOST_USED = 1 << 60           # counted in one window

# --- C kernel: lists of holds; all that follows with the lock held ---


cdef void _push(list_t* into, hold_t* hold) noexcept nogil:
    hold.within = into
    hold.after = NULL
    hold.before = into.last
    if into.last != NULL:
        into.last.after = hold
    else:
        into.first = hold
    into.last = hold
    into.count += 1


cdef void _leave(hold_t* hold) noexcept nogil:
    """Out of the list it is in, if it is in one."""
    cdef list_t* within = hold.within
    if within == NULL:
        return
    if hold.before != NULL:
        hold.before.after = hold.after
    else:
        within.first = hold.after
    if hold.after != NULL:
        hold.after.before = hold.before
    else:
        within.last = hold.before
    within.count -= 1
    hold.within = NULL
    hold.before = hold.after = NULL


# --- C kernel: holds ---


cdef hold_t* _new(quota_t* quota) noexcept nogil:
    cdef hold_t* hold = quota.free
    if hold != NULL:
        quota.free = hold.after
        return hold
    if pk_grow(<void**>&quota.holds, &quota.capacity, <size_t>quota.count + 1, sizeof(hold_t*)) != PK_OK:
        return NULL
    hold = <hold_t*>pk_alloc(1, sizeof(hold_t))
    if hold == NULL:
        return NULL
    hold.slot = quota.count
    quota.holds[quota.count] = hold
    quota.count += 1
    return hold


cdef void _drop_rules(rules_t* rules) noexcept nogil:
    """Rules that nothing was made by any more, and that are not in force."""
    if rules != NULL and not rules.is_current and rules.holds == 0:
        rules_free(rules)


cdef void _release(quota_t* quota, hold_t* hold) noexcept nogil:
    cdef rules_t* rules = hold.rules
    _leave(hold)
    rules.holds -= 1
    hold.rules = NULL
    hold.owner = NULL
    hold.number += 1
    hold.after = quota.free
    quota.free = hold
    _drop_rules(rules)


# --- C kernel: counting here ---


cdef inline int64_t _wall(const quota_t* quota, int64_t now_ns) noexcept nogil:
    return now_ns + quota.wall_ns


cdef counter_t* _counter(quota_t* quota, const limit_t* limit, charge_t* charge, int64_t wall_ns) noexcept nogil:
    """What the charge counts in now; NULL: there is no room even for what is shared.

    Whoever has used what is shared goes on with it while its window lasts, although there may be room again.
    """
    cdef counter_t* counter = counters_find(&quota.counters, charge.id)
    cdef counter_t* shared = NULL
    charge.is_shared = False
    if counter == NULL:
        shared = counters_find(&quota.shared, limit.id)
    if shared == NULL or shared.used == 0 or shared.window != window_at(limit.kind, wall_ns):
        counter = counters_take(&quota.counters, charge.id, limit.kind, wall_ns)
        if counter != NULL:
            return counter
    charge.is_shared = True
    return counters_take(&quota.shared, limit.id, limit.kind, wall_ns)


cdef inline void _use(counter_t* counter, int64_t amount) noexcept nogil:
    counter.used += amount
    counter.used = 0 if counter.used < 0 else MOST_USED if counter.used > MOST_USED else counter.used


cdef inline bint _exceeds(const limit_t* limit, int64_t used, int64_t cost) noexcept nogil:
    """A request of which nothing is known may still not go where nothing is left."""
    return used > limit.amount - (cost if cost else 1)


cdef inline int64_t _reset(const limit_t* limit, int64_t now_ns, int64_t wall_ns) noexcept nogil:
    cdef int64_t length = window_length(limit.kind)
    return now_ns + length - wall_ns % length


cdef inline bint _is_closer(const shown_t* shown, int64_t amount, int64_t remaining) noexcept nogil:
    """Is it nearer to its end than the one that is shown?"""
    return shown.amount < 0 or <double>remaining * <double>shown.amount < <double>shown.remaining * <double>amount


cdef void _show(hold_t* hold, const limit_t* limit, int64_t used, int64_t reset_ns) noexcept nogil:
    """Of all limits of requests, and of all of tokens, the one that is used up first is shown."""
    cdef shown_t* shown = &hold.tokens if rules_counts_tokens(limit) else &hold.requests
    cdef int64_t remaining = limit.amount - used
    remaining = remaining if remaining > 0 else 0
    if _is_closer(shown, limit.amount, remaining):
        shown.amount, shown.remaining, shown.reset_ns = limit.amount, remaining, reset_ns


cdef void _refuse(quota_t* quota, hold_t* hold) noexcept nogil:
    cdef const limit_t* limit = &hold.rules.limits[hold.charges[hold.refused].limit]
    hold.state = PK_HOLD_REFUSED
    quota.tallies[hold.rules.rules[limit.rule].tally].rejected += 1


cdef void _let_go(quota_t* quota, hold_t* hold, int state) noexcept nogil:
    """Count it once for each rule: charges of a rule stand together."""
    cdef uint32_t i, rule, last = UINT32_MAX
    hold.state = state
    for i in range(hold.count):
        rule = hold.rules.limits[hold.charges[i].limit].rule
        if rule != last:
            quota.tallies[hold.rules.rules[rule].tally].requests += 1
        last = rule


cdef bint _may_go(quota_t* quota, hold_t* hold, counter_t** counters, int64_t now_ns) noexcept nogil:
    """Finds the counters; if it may not go, the limit that it waits longest for is the one that has refused it."""
    cdef const limit_t* limit
    cdef charge_t* charge
    cdef int64_t reset_ns, longest_ns = -1, wall_ns = _wall(quota, now_ns), used
    cdef uint32_t i
    for i in range(hold.count):
        charge = &hold.charges[i]
        limit = &hold.rules.limits[charge.limit]
        counters[i] = _counter(quota, limit, charge, wall_ns)
        charge.window = window_at(limit.kind, wall_ns)
        quota.crowded += charge.is_shared
        used = counters[i].used if counters[i] != NULL else limit.amount
        reset_ns = _reset(limit, now_ns, wall_ns)
        if _exceeds(limit, used, charge.cost) and reset_ns > longest_ns:
            longest_ns = reset_ns
            hold.refused, hold.used = i, used
        _show(hold, limit, used, reset_ns)
    return longest_ns < 0


cdef int _charge(quota_t* quota, hold_t* hold, int64_t now_ns) noexcept nogil:
    """Reserve here, all or nothing. PK_OK or PK_E_LIMIT."""
    cdef counter_t* counters[PK_QUOTA_CHARGES]
    cdef const limit_t* limit
    cdef uint32_t i
    hold.requests.amount = hold.tokens.amount = -1
    if not _may_go(quota, hold, counters, now_ns):
        _refuse(quota, hold)
        return PK_E_LIMIT
    hold.requests.amount = hold.tokens.amount = -1
    for i in range(hold.count):
        limit = &hold.rules.limits[hold.charges[i].limit]
        _use(counters[i], hold.charges[i].cost)
        _show(hold, limit, counters[i].used, _reset(limit, now_ns, _wall(quota, now_ns)))
    _let_go(quota, hold, PK_HOLD_MEMORY)
    return PK_OK


cdef int _without(quota_t* quota, hold_t* hold, int mode, int64_t now_ns) noexcept nogil:
    """Decide without a store: as a process alone would, or by the rule for one that cannot be reached."""
    cdef uint32_t rule
    if mode == PK_QUOTA_MEMORY:
        return _charge(quota, hold, now_ns)
    rule = hold.rules.limits[hold.charges[0].limit].rule
    quota.tallies[hold.rules.rules[rule].tally].unavailable += 1
    if mode == PK_QUOTA_SHUT:
        hold.state = PK_HOLD_FAILED
        return PK_E_MISSING
    hold.count = 0
    hold.state = PK_HOLD_FREE
    return PK_OK


# --- C kernel: which limits count ---


cdef inline int64_t _tokens(int64_t tokens) noexcept nogil:
    return 0 if tokens < 0 else tokens if tokens < MOST_TOKENS else MOST_TOKENS


cdef void _match(hold_t* hold) noexcept nogil:
    """The charges, by the estimate. There is room for all that any request can match."""
    cdef const rules_t* rules = hold.rules
    cdef const tier_t* tier
    cdef const limit_t* limit
    cdef charge_t* charge
    cdef uint32_t rule, i
    hold.count = 0
    for rule in range(rules.rule_count):
        tier = rules_tier(rules, rule, hold.keys, hold.model)
        for i in range(tier.count if tier != NULL else 0):
            limit = &rules.limits[tier.first + i]
            charge = &hold.charges[hold.count]
            charge.id = rules_counter(rules, limit, hold.keys, hold.model)
            charge.limit = tier.first + i
            charge.cost = limit.price.request + rules_price(limit, hold.input, 0, hold.output)
            hold.count += 1


# --- C kernel: what sessions call; each takes the lock where it must ---


cdef int quota_open(quota_t* quota, hold_t** hold) noexcept nogil:
    """A hold for one more request; NULL if there are no rules. `quota_settle` is due. PK_OK or PK_E_NOMEM."""
    cdef hold_t* made = NULL
    hold[0] = NULL
    if quota.rules == NULL:
        return PK_OK
    quota_lock(&quota.lock)
    if quota.rules != NULL:
        made = _new(quota)
        if made != NULL:
            made.rules = quota.rules
            made.rules.holds += 1
            made.state = PK_HOLD_OPEN
            made.is_abandoned = False
            made.count = 0
            memset(made.keys, 0, sizeof(made.keys))
            made.requests.amount = made.tokens.amount = -1
            hold[0] = made
    quota_unlock(&quota.lock)
    return PK_OK if made != NULL or quota.rules == NULL else PK_E_NOMEM


cdef bint _is_text(slice_t said, const text_t* text) noexcept nogil:
    return slice_is(said, <const char*>text.bytes, text.size)


cdef void quota_header(hold_t* hold, const header_t* header) noexcept nogil:
    """A request header: it may hold a key. The first of a name counts. Takes no lock."""
    cdef const rules_t* rules = hold.rules
    cdef uint32_t i
    if header.key.size >= PK_QUOTA_TEXT_BYTES or not rules.header_sizes >> header.key.size & 1:
        return
    for i in range(rules.source_count):
        if rules.sources[i].step_count == 0 and hold.keys[i] == 0 and _is_text(header.key, &rules.sources[i].name):
            hold.keys[i] = rules_key(rules, header.value)


cdef slice_t _slice(const text_t* text) noexcept nogil:
    cdef slice_t slice
    slice.data, slice.size = text.bytes, text.size
    return slice


cdef bint _claim(const source_t* source, slice_t metadata, slice_t* text) noexcept nogil:
    """The text at the path; of a list the first. What cannot be read is not there."""
    cdef slice_t value, items
    cdef uint32_t i
    if codec_find_metadata(metadata, _slice(&source.name), _slice(&source.steps[0]), &value) != 1:
        return False
    for i in range(1, source.step_count):
        if codec_value_member(value, _slice(&source.steps[i]), &value) != 1:
            return False
    if codec_value_list(value, &items) and not codec_next_item(&items, &value):
        return False
    return codec_value_string(value, text)


cdef void quota_metadata(hold_t* hold, slice_t metadata) noexcept nogil:
    """What the gateway's filters have found out: it may hold keys. The first that is found counts. Takes no lock."""
    cdef const rules_t* rules = hold.rules
    cdef slice_t text
    cdef uint32_t i
    if metadata.size == 0:
        return
    for i in range(rules.source_count):
        if rules.sources[i].step_count and hold.keys[i] == 0 and _claim(&rules.sources[i], metadata, &text):
            hold.keys[i] = rules_key(rules, text)


cdef int quota_reserve(
    quota_t* quota, hold_t* hold, slice_t model, int64_t input, int64_t output, void* owner, int64_t now_ns
) noexcept nogil:
    """May it go, if it has so many tokens? `model`: as the client calls it.

    PK_OK; PK_E_LIMIT: not now; PK_E_MISSING: the store that knows cannot be reached; PK_QUOTA_WAITS: it is asked, and
    `owner` is woken for `quota_verdict`.
    """
    cdef int code = PK_OK
    quota_lock(&quota.lock)
    hold.model = rules_key(hold.rules, model)
    hold.input, hold.output = _tokens(input), _tokens(output)
    _match(hold)
    if hold.count == 0:
        hold.state = PK_HOLD_FREE
    elif quota.mode == PK_QUOTA_STORE:
        hold.state = PK_HOLD_ASKED
        hold.owner = owner
        _push(&quota.asked, hold)
        code = PK_QUOTA_WAITS
    else:
        code = _without(quota, hold, quota.mode, now_ns)
    quota_unlock(&quota.lock)
    return code


cdef int quota_verdict(quota_t* quota, hold_t* hold, int64_t now_ns) noexcept nogil:
    """What has become of PK_QUOTA_WAITS, as `quota_reserve` says it."""
    cdef int code = PK_OK
    quota_lock(&quota.lock)
    if hold.state == PK_HOLD_ASKED or hold.state == PK_HOLD_SENT:
        code = PK_QUOTA_WAITS
    elif hold.state == PK_HOLD_REFUSED:
        code = PK_E_LIMIT
    elif hold.state == PK_HOLD_FAILED:
        code = _without(quota, hold, quota.fallback, now_ns)
    quota_unlock(&quota.lock)
    return code


cdef void* quota_woken(quota_t* quota) noexcept nogil:
    """The next owner that has been answered; NULL: there is none. It waits no more."""
    cdef hold_t* hold
    cdef void* owner = NULL
    quota_lock(&quota.lock)
    hold = quota.woken.first
    if hold != NULL:
        _leave(hold)
        owner = hold.owner
        hold.owner = NULL
    quota_unlock(&quota.lock)
    return owner


# --- C kernel: settling ---


cdef int64_t _rest(const hold_t* hold, const charge_t* charge, const used_t* used) noexcept nogil:
    """What is still to be charged; below 0: given back."""
    cdef const limit_t* limit = &hold.rules.limits[charge.limit]
    if not used.has_gone:
        return -charge.cost
    return limit.price.request + rules_price(limit, used.input, used.cached, used.output) - charge.cost


cdef void _settle_here(quota_t* quota, hold_t* hold, const used_t* used, int64_t now_ns) noexcept nogil:
    cdef const limit_t* limit
    cdef counter_t* counter
    cdef charge_t* charge
    cdef int64_t rest
    cdef uint32_t i
    for i in range(hold.count):
        charge = &hold.charges[i]
        limit = &hold.rules.limits[charge.limit]
        rest = _rest(hold, charge, used)
        counter = counters_find(&quota.shared if charge.is_shared else &quota.counters,
                                limit.id if charge.is_shared else charge.id)
        if counter == NULL or counter.window != charge.window:
            counter = _counter(quota, limit, charge, _wall(quota, now_ns)) if rest > 0 else NULL
        if counter != NULL:
            _use(counter, rest)


cdef void _settle_there(quota_t* quota, hold_t* hold, const used_t* used) noexcept nogil:
    """The charges become what the store is to be told."""
    cdef bint is_all = True
    cdef uint32_t i
    for i in range(hold.count):
        hold.charges[i].cost = _rest(hold, &hold.charges[i], used)
        is_all = is_all and hold.charges[i].cost == 0
    if is_all:
        _release(quota, hold)
    elif quota.settling.count >= quota.most_settling:
        quota.lost += 1
        _release(quota, hold)
    else:
        hold.state = PK_HOLD_SETTLING
        hold.owner = NULL
        _leave(hold)
        _push(&quota.settling, hold)


cdef void _tally(quota_t* quota, const hold_t* hold, const used_t* used) noexcept nogil:
    cdef uint32_t i, rule, last = UINT32_MAX
    cdef rule_tally_t* tally
    for i in range(hold.count):
        rule = hold.rules.limits[hold.charges[i].limit].rule
        if rule != last:
            tally = &quota.tallies[hold.rules.rules[rule].tally]
            tally.input += <uint64_t>used.input
            tally.cached += <uint64_t>used.cached
            tally.output += <uint64_t>used.output
        last = rule


cdef used_t _sane(const used_t* used) noexcept nogil:
    cdef used_t made
    made.has_gone = used.has_gone
    made.input, made.output = _tokens(used.input), _tokens(used.output)
    made.cached = _tokens(used.cached)
    made.cached = made.cached if made.cached < made.input else made.input
    return made


cdef void quota_settle(quota_t* quota, hold_t* hold, const used_t* used, int64_t now_ns) noexcept nogil:
    """The request is over, however it ended: charge what it used. The hold is gone. Harmless for NULL."""
    cdef used_t made
    if hold == NULL:
        return
    made = _sane(used)
    quota_lock(&quota.lock)
    if made.has_gone and (hold.state == PK_HOLD_MEMORY or hold.state == PK_HOLD_STORED):
        _tally(quota, hold, &made)
    if hold.state == PK_HOLD_MEMORY:
        _settle_here(quota, hold, &made, now_ns)
        _release(quota, hold)
    elif hold.state == PK_HOLD_STORED:
        _settle_there(quota, hold, &made)
    elif hold.state == PK_HOLD_SENT:
        hold.owner = NULL
        hold.is_abandoned = True             # what comes of it is given back
    else:
        _release(quota, hold)
    quota_unlock(&quota.lock)


# --- C kernel: the store's answers ---


cdef hold_t* _sent(quota_t* quota, uint64_t ticket) noexcept nogil:
    """The hold that the store was asked for; NULL: that was long ago."""
    cdef uint32_t slot = <uint32_t>ticket
    cdef hold_t* hold
    if slot >= quota.count:
        return NULL
    hold = quota.holds[slot]
    return hold if hold.state == PK_HOLD_SENT and hold.rules != NULL and hold.number == ticket >> 32 else NULL


cdef void _wake(quota_t* quota, hold_t* hold) noexcept nogil:
    cdef used_t nothing
    if not hold.is_abandoned:
        if hold.owner != NULL:
            _push(&quota.woken, hold)
        return
    memset(&nothing, 0, sizeof(nothing))
    if hold.state == PK_HOLD_STORED:
        _settle_there(quota, hold, &nothing)
    else:
        _release(quota, hold)


cdef void _mirror(quota_t* quota, hold_t* hold, const int64_t* used, int64_t now_ns) noexcept nogil:
    """Keep here what the store says, for when it cannot be asked."""
    cdef counter_t* counter
    cdef uint32_t i
    for i in range(hold.count):
        counter = _counter(quota, &hold.rules.limits[hold.charges[i].limit], &hold.charges[i], _wall(quota, now_ns))
        if counter != NULL and not hold.charges[i].is_shared:
            counter.used = 0
            _use(counter, used[i])


cdef bint _answer(
    quota_t* quota, uint64_t ticket, int64_t refused, const int64_t* used, const int64_t* ends_ms, int64_t store_ms,
    int64_t now_ns
) noexcept nogil:
    """The store has answered: `refused` is the charge it was one too many for, -1 if it may go.

    `used` of each charge's limit, with this request if it may go; when its window ends.
    """
    cdef hold_t* hold
    cdef uint32_t i
    quota_lock(&quota.lock)
    hold = _sent(quota, ticket)
    if hold != NULL:
        if quota.mirrors:
            _mirror(quota, hold, used, now_ns)
        for i in range(hold.count):
            hold.charges[i].window = ends_ms[i]
            _show(hold, &hold.rules.limits[hold.charges[i].limit], used[i], now_ns + (ends_ms[i] - store_ms) * 1_000_000)
        if refused < 0:
            _let_go(quota, hold, PK_HOLD_STORED)
        else:
            hold.refused, hold.used = <uint32_t>refused, used[refused]
            _refuse(quota, hold)
        _wake(quota, hold)
    quota_unlock(&quota.lock)
    return hold != NULL


cdef void _fail(quota_t* quota, uint64_t ticket) noexcept nogil:
    """The store did not answer."""
    cdef hold_t* hold
    quota_lock(&quota.lock)
    hold = _sent(quota, ticket)
    if hold != NULL:
        hold.state = PK_HOLD_FAILED
        _wake(quota, hold)
    quota_unlock(&quota.lock)


cdef hold_t* _take(quota_t* quota, list_t* of) noexcept nogil:
    """The first of a list of this quota; NULL: there is none. One that is asked for is sent, another is still its
    list's no more: release it."""
    cdef hold_t* hold
    quota_lock(&quota.lock)
    hold = of.first
    if hold != NULL:
        _leave(hold)
        if hold.state == PK_HOLD_ASKED:
            hold.state = PK_HOLD_SENT
    quota_unlock(&quota.lock)
    return hold


cdef void _done(quota_t* quota, hold_t* hold) noexcept nogil:
    quota_lock(&quota.lock)
    _release(quota, hold)
    quota_unlock(&quota.lock)


cdef void _replace(quota_t* quota, rules_t* rules) noexcept nogil:
    """Other rules, NULL for none; counters stay."""
    cdef rules_t* old
    quota_lock(&quota.lock)
    old = quota.rules
    quota.rules = rules
    if rules != NULL:
        rules.is_current = True
    if old != NULL:
        old.is_current = False
    _drop_rules(old)
    quota_unlock(&quota.lock)


# --- Python face ---

_KINDS = {"second": 0, "minute": 1, "hour": 2, "day": 3}
_FALLBACKS = {"local": PK_QUOTA_MEMORY, "failOpen": PK_QUOTA_FREE, "failClosed": PK_QUOTA_SHUT}
_VERDICTS = {PK_OK: "ok", PK_E_LIMIT: "limit", PK_E_MISSING: "unavailable", PK_QUOTA_WAITS: "waits"}
OTHER_RULES = "other"


cdef slice_t _bytes(bytes text):
    cdef slice_t slice
    slice.data = text
    slice.size = len(text)
    return slice


cdef int _text_fill(text_t* text, object given, str what) except -1:
    cdef bytes made = given.encode()
    cdef const uint8_t* data = made
    if not 0 < len(made) < PK_QUOTA_TEXT_BYTES:
        raise ValueError(f"{what} has 1 to {PK_QUOTA_TEXT_BYTES - 1} bytes: {given!r}")
    memcpy(text.bytes, data, len(made))
    text.size = <uint32_t>len(made)
    return 0


cdef int _source_fill(source_t* source, object given) except -1:
    kind, name, *path = given
    _text_fill(&source.name, name.lower() if kind == "header" else name, "a source")
    if kind == "header":
        return 0
    (steps,) = path
    if kind != "claim" or not 0 < len(steps) <= PK_QUOTA_STEPS:
        raise ValueError(f"a key comes from a header, or from a claim by 1 to {PK_QUOTA_STEPS} steps, not {given!r}")
    source.step_count = <uint32_t>len(steps)
    for i, step in enumerate(steps):
        _text_fill(&source.steps[<uint32_t>i], step, "a step of a claim's path")
    return 0


cdef int64_t _thousandths(object value, str what) except -1:
    made = round(value * PK_QUOTA_UNIT)
    if not 0 <= made <= 1 << 53:
        raise ValueError(f"{what} is 0 to {(1 << 53) // PK_QUOTA_UNIT}, not {value}")
    return made


cdef int _limit_fill(limit_t* limit, uint32_t rule, str name, object given) except -1:
    window, amount, price = given
    if window not in _KINDS:
        raise ValueError(f"a window is one of {', '.join(_KINDS)}, not {window!r}")
    if len(price) != 4 or max(price) > PK_QUOTA_UNIT or max(price) <= 0:
        raise ValueError(f"a price is 4 numbers of 0 to {PK_QUOTA_UNIT}, one of them above 0, not {price}")
    limit.rule = rule
    limit.kind = _KINDS[window]
    limit.amount = _thousandths(amount, "an amount")
    limit.price.request, limit.price.input, limit.price.cached, limit.price.output = (
        [_thousandths(one, "a price") for one in price]
    )
    identity = f"{name}\n{window}\n{limit.price.request} {limit.price.input} {limit.price.cached} {limit.price.output}"
    limit.id = _identity(identity.encode())
    return 0


cdef uint64_t _identity(bytes text) except? 0:
    """Of a limit; the same in all replicas."""
    return hash_xxh64(text, len(text), 0)


cdef tuple _flat(list given):
    """(tiers as (first, count), limits as (rule, limit), the tier each rule begins with)."""
    cdef list tiers = [], limits = [], firsts = []
    most = 0
    for number, rule in enumerate(given):
        firsts.append(len(tiers))
        for tier in rule["tiers"]:
            tiers.append((len(limits), len(tier)))
            limits += [(number, limit) for limit in tier]
        most += max((len(tier) for tier in rule["tiers"]), default=0)
    if most > PK_QUOTA_CHARGES:
        raise OverflowError(f"at most {PK_QUOTA_CHARGES} limits may count for one request, not {most}")
    if len(given) > PK_QUOTA_RULES - 1:
        raise OverflowError(f"at most {PK_QUOTA_RULES - 1} rules, not {len(given)}")
    return tiers, limits, firsts


cdef int _rule_fill(rules_t* rules, uint32_t number, dict given, uint32_t first, list sources) except -1:
    cdef rule_t* rule = &rules.rules[number]
    _text_fill(&rule.name, given["name"], "a rule's name")
    rule.source = sources.index(given["source"]) if given.get("source") is not None else -1
    rule.is_per_model = given.get("per_model", False)
    rule.names_models = given.get("models") is not None
    rule.default_tier = _tier(given, given.get("default"), first)
    rule.absent_tier = _tier(given, given.get("absent"), first)
    for model in given.get("models") or ():
        rules_put(rules, number, PK_QUOTA_MODEL, rules_key(rules, _bytes(model.encode())), 1)
    for key, tier in given.get("keys", {}).items():
        rules_put(rules, number, PK_QUOTA_KEY, rules_key(rules, _bytes(key.encode())), _tier(given, tier, first))
    return 0


cdef int32_t _tier(dict rule, object tier, uint32_t first) except? -2:
    if tier is None:
        return -1
    if not 0 <= tier < len(rule["tiers"]):
        raise ValueError(f"rule {rule['name']!r} has no tier {tier}")
    return <int32_t>(first + tier)


cdef dict _shown_view(const shown_t* shown, int64_t now_ns):
    if shown.amount < 0:
        return {}
    left_ns = shown.reset_ns - now_ns
    return {
        "limit": shown.amount // PK_QUOTA_UNIT,
        "remaining": shown.remaining // PK_QUOTA_UNIT,
        "reset_s": max(left_ns, 0) * 1e-9,
    }


@cython.final
@cython.auto_pickle(False)
cdef class Quota:
    """Counts what requests use, by the rules it is given. Engines that share it share its limits.

    `seed`: of the hashes of keys; replicas that share a store share it, else it is a secret of the process.
    `counters`: room for so many of them at once (keys x limits). MemoryError, ValueError.
    """

    def __cinit__(self, *, uint64_t seed, uint32_t counters=65536, uint32_t most_settling=MOST_SETTLING):
        memset(&self._quota, 0, sizeof(quota_t))
        quota_lock_init(&self._quota.lock, NULL)
        self._ready = True
        self._seed = seed
        self._tallies = {OTHER_RULES: 0}
        self._quota.most_settling = most_settling
        if not 1 <= counters <= 1 << 26:
            raise ValueError(f"room for 1 to 2^26 counters, not {counters}")
        if (
            counters_init(&self._quota.counters, counters) != PK_OK
            or counters_init(&self._quota.shared, min(counters, SHARED_COUNTERS)) != PK_OK
        ):
            raise MemoryError(f"no memory for {counters} counters")

    def __dealloc__(self):
        cdef uint32_t i
        if not self._ready:
            return
        _replace(&self._quota, NULL)
        for i in range(self._quota.count):
            pk_free(self._quota.holds[i])
        pk_free(self._quota.holds)
        counters_free(&self._quota.counters)
        counters_free(&self._quota.shared)
        quota_lock_destroy(&self._quota.lock)

    def set_rules(self, rules) -> None:
        """Replace the rules, at once; requests under way are settled by those they began with, counters go on.

        Each a dict: `name`; `source` of keys, None (all requests are counted together), ("header", name) or ("claim",
        namespace, path); `tiers`, each a list of limits (window, amount, (price of a request, of an input token, of a
        cached one, of an output token)); `keys`, the tier of keys with one of their own; `default`, the tier of others;
        `absent`, that of requests without a key (None: not limited); `models`, None or the names of those it is about;
        `per_model`, whether each has counters of its own. A limit goes on where its rule's name, window and prices are
        what they were. ValueError, OverflowError for what no rules can be, MemoryError; the old ones then stay.
        """
        cdef list given = list(rules)
        cdef rules_t* made = NULL
        if not given:
            _replace(&self._quota, NULL)
            return
        made = self._make(given)
        for number, rule in enumerate(given):
            made.rules[<uint32_t>number].tally = self._tally(rule["name"])
        _replace(&self._quota, made)

    cdef rules_t* _make(self, list given) except NULL:
        cdef list sources = list(dict.fromkeys(rule["source"] for rule in given if rule.get("source") is not None))
        tiers, limits, firsts = _flat(given)
        cdef rules_t* made
        if len(sources) > PK_QUOTA_SOURCES:
            raise OverflowError(f"keys come from at most {PK_QUOTA_SOURCES} places, not {len(sources)}")
        if len({rule["name"] for rule in given}) < len(given):
            raise ValueError("two rules have one name")
        made = rules_new(<uint32_t>len(given), <uint32_t>len(tiers), <uint32_t>len(limits))
        if made == NULL:
            raise MemoryError(f"no memory for {len(given)} rules")
        made.seed = self._seed
        try:
            self._fill(made, given, sources, tiers, limits, firsts)
        except BaseException:
            rules_free(made)
            raise
        return made

    cdef int _fill(self, rules_t* made, list given, list sources, list tiers, list limits, list firsts) except -1:
        cdef uint32_t i
        named = sum([len(rule.get("keys", ())) + len(rule.get("models") or ()) for rule in given])
        if rules_reserve(made, named) != PK_OK:
            raise MemoryError(f"no memory for {named} keys and models")
        made.source_count = <uint32_t>len(sources)
        for i in range(made.source_count):
            _source_fill(&made.sources[i], sources[i])
            if made.sources[i].step_count == 0:
                made.header_sizes |= <uint64_t>1 << made.sources[i].name.size
        for i in range(made.tier_count):
            made.tiers[i].first, made.tiers[i].count = tiers[i]
        for i in range(made.limit_count):
            rule, limit = limits[i]
            _limit_fill(&made.limits[i], rule, given[rule]["name"], limit)
        for i in range(made.tier_count):
            if len({made.limits[made.tiers[i].first + j].id for j in range(made.tiers[i].count)}) < made.tiers[i].count:
                raise ValueError("a tier limits one thing twice")
        for i in range(made.rule_count):
            _rule_fill(made, i, given[i], firsts[i], sources)
        return 0

    cdef uint32_t _tally(self, str name) except? 0:
        """Figures of a rule go by its name for as long as the process lives; of too many names, together."""
        if name not in self._tallies and len(self._tallies) < PK_QUOTA_RULES:
            self._tallies[name] = len(self._tallies)
        return self._tallies.get(name, 0)

    def set_clock(self, int64_t wall_ns) -> None:
        """What to add to the clock of sessions for UTC since 1970, both in nanoseconds."""
        self._quota.wall_ns = wall_ns

    def set_store(self, bint is_used, *, bint is_reachable=True, str fallback not None="local") -> None:
        """Whether a store counts, and whether it can be asked; if not, `fallback` is the rule: local, failOpen or
        failClosed. In force from the next request on. ValueError for another rule."""
        if fallback not in _FALLBACKS:
            raise ValueError(f"fallback is one of {', '.join(_FALLBACKS)}, not {fallback!r}")
        quota_lock(&self._quota.lock)
        self._quota.fallback = _FALLBACKS[fallback]
        self._quota.mirrors = is_used and fallback == "local"
        self._quota.mode = PK_QUOTA_STORE if is_used and is_reachable else PK_QUOTA_MEMORY
        if is_used and not is_reachable:
            self._quota.mode = self._quota.fallback
        quota_unlock(&self._quota.lock)

    # What the store is asked and told.

    @property
    def is_due(self) -> bool:
        """Has the store something to be asked or told?"""
        return quota_is_due(&self._quota)

    def asked(self, uint32_t most) -> list:
        """Requests to ask the store about: (ticket, ((counter, window's length in ms, cost, amount), ...)) each.

        Each is answered once, by `answer` or `fail`. Costs and amounts in thousandths.
        """
        cdef hold_t* hold
        cdef list rows = []
        while <uint32_t>len(rows) < most:
            hold = _take(&self._quota, &self._quota.asked)
            if hold == NULL:
                break
            rows.append((hold.slot | <uint64_t>hold.number << 32, _asked(hold)))
        return rows

    def answer(self, uint64_t ticket, int64_t refused, used, ends_ms, int64_t store_ms, int64_t now_ns) -> bool:
        """The store's answer at `store_ms` of its clock, which is `now_ns` here.

        `refused`: the index of the limit that is reached, -1 if the request may go; `used` of each limit, with this
        request if it goes; `ends_ms`, when its window ends. False if nobody asked. ValueError for other numbers of them.
        """
        cdef int64_t amounts[PK_QUOTA_CHARGES]
        cdef int64_t ends[PK_QUOTA_CHARGES]
        cdef hold_t* hold = _sent(&self._quota, ticket)
        cdef uint32_t i
        if hold == NULL:
            return False
        if not len(used) == len(ends_ms) == hold.count or refused >= <int64_t>hold.count:
            raise ValueError(f"an answer about {len(used)} limits, where {hold.count} were asked about")
        for i in range(hold.count):
            amounts[i], ends[i] = used[i], ends_ms[i]
        return _answer(&self._quota, ticket, refused, amounts, ends, store_ms, now_ns)

    def fail(self, uint64_t ticket) -> None:
        """The store did not answer; harmless if nobody asked."""
        _fail(&self._quota, ticket)

    def settled(self, uint32_t most) -> list:
        """What the store is to be told, of so many requests: (counter, window's length, its end, change) each, in ms."""
        cdef hold_t* hold
        cdef list rows = []
        while most:
            hold = _take(&self._quota, &self._quota.settling)
            if hold == NULL:
                break
            rows += _settled(hold)
            _done(&self._quota, hold)
            most -= 1
        return rows

    # What is shown.

    def tallies(self) -> list:
        """Figures by rule: dicts with `rule`, `requests`, `rejected`, `unavailable` and tokens of `input`, `cached` (of
        these) and `output`."""
        cdef rule_tally_t tally
        cdef uint32_t place
        cdef list rows = []
        for name, number in self._tallies.items():
            place = number
            quota_lock(&self._quota.lock)
            tally = self._quota.tallies[place]
            quota_unlock(&self._quota.lock)
            if number or tally.requests or tally.rejected:
                rows.append({"rule": name, "requests": tally.requests, "rejected": tally.rejected,
                             "unavailable": tally.unavailable, "input": tally.input, "cached": tally.cached,
                             "output": tally.output})
        return rows

    @property
    def figures(self) -> dict:
        """`counters` in use, `crowded` (charges that shared one for want of room), `lost` settlements, `holds`."""
        cdef quota_t* quota = &self._quota
        return {"counters": quota.counters.count, "crowded": quota.crowded, "lost": quota.lost, "holds": self._held()}

    cdef uint32_t _held(self) noexcept:
        cdef uint32_t i, held = 0
        for i in range(self._quota.count):
            held += self._quota.holds[i].rules != NULL
        return held

    def hold(self, headers=(), bytes metadata not None=b"") -> Hold | None:
        """For tests: what a session has from its request headers ((name, value) in bytes) on; None without rules."""
        cdef Hold made = Hold.__new__(Hold)
        cdef header_t header
        made._owner = self
        if quota_open(&self._quota, &made._hold) != PK_OK:
            raise MemoryError("no memory for a further request")
        if made._hold == NULL:
            return None
        for key, value in headers:
            header.key, header.value = _bytes(key), _bytes(value)
            quota_header(made._hold, &header)
        quota_metadata(made._hold, _bytes(metadata))
        return made

    def _check(self) -> None:
        """Assert the invariants."""
        cdef quota_t* quota = &self._quota
        cdef hold_t* hold
        cdef uint32_t i, free = 0, current = 0
        hold = quota.free
        while hold != NULL:
            free += 1
            assert hold.rules == NULL and hold.within == NULL
            hold = hold.after
        for i in range(quota.count):
            hold = quota.holds[i]
            assert hold.slot == i
            current += hold.rules != NULL and hold.rules == quota.rules
            if hold.rules != NULL:
                assert (hold.within == &quota.asked) == (hold.state == PK_HOLD_ASKED)
                assert (hold.within == &quota.settling) == (hold.state == PK_HOLD_SETTLING)
                assert not hold.is_abandoned or hold.state == PK_HOLD_SENT
        assert free + self._held() == quota.count
        assert quota.rules == NULL or (quota.rules.is_current and quota.rules.holds == current)
        for i in range(quota.counters.count):
            assert quota.counters.table[i + 1].used >= 0


cdef tuple _asked(const hold_t* hold):
    cdef const limit_t* limit
    cdef uint32_t i
    cdef list rows = []
    for i in range(hold.count):
        limit = &hold.rules.limits[hold.charges[i].limit]
        length_ms = window_length(limit.kind) // 1_000_000
        rows.append((hold.charges[i].id, length_ms, hold.charges[i].cost, limit.amount))
    return tuple(rows)


cdef list _settled(const hold_t* hold):
    cdef const charge_t* charge
    cdef uint32_t i
    cdef list rows = []
    for i in range(hold.count):
        charge = &hold.charges[i]
        if charge.cost:
            length_ms = window_length(hold.rules.limits[charge.limit].kind) // 1_000_000
            rows.append((charge.id, length_ms, charge.window, charge.cost))
    return rows


@cython.final
@cython.auto_pickle(False)
@cython.no_gc_clear          # the quota must be there when the hold is given back at the last moment
cdef class Hold:
    """What is reserved for one request; made by `Quota.hold`, for tests. Given back when it is let go of unsettled."""

    def __dealloc__(self):
        self._end(0)

    cdef int _end(self, int64_t now_ns) noexcept:
        cdef used_t nothing
        memset(&nothing, 0, sizeof(nothing))
        if self._hold != NULL:
            quota_settle(&self._owner._quota, self._hold, &nothing, now_ns)
            self._hold = NULL
        return 0

    cdef hold_t* _get(self) except NULL:
        if self._hold == NULL:
            raise ValueError("it is settled")
        return self._hold

    def reserve(self, bytes model not None, int64_t input, int64_t output, int64_t now_ns) -> str:
        """May it go, if it has so many tokens: ok, limit, unavailable or waits."""
        return _VERDICTS[quota_reserve(&self._owner._quota, self._get(), _bytes(model), input, output, NULL, now_ns)]

    def verdict(self, int64_t now_ns) -> str:
        """What has become of `waits`."""
        return _VERDICTS[quota_verdict(&self._owner._quota, self._get(), now_ns)]

    def settle(self, int64_t input, int64_t output, int64_t now_ns, *, int64_t cached=0) -> None:
        """It has used so many tokens. ValueError if it is settled."""
        cdef used_t used
        used.has_gone, used.input, used.cached, used.output = True, input, cached, output
        quota_settle(&self._owner._quota, self._get(), &used, now_ns)
        self._hold = NULL

    def give_back(self, int64_t now_ns) -> None:
        """It did not go."""
        self._get()
        self._end(now_ns)

    def shown(self, int64_t now_ns) -> dict:
        """`requests` and `tokens`: `limit`, `remaining` and `reset_s` of the limits that are used up first."""
        cdef hold_t* hold = self._get()
        return {"requests": _shown_view(&hold.requests, now_ns), "tokens": _shown_view(&hold.tokens, now_ns)}

    @property
    def refused(self) -> tuple | None:
        """(rule, window, amount) of the limit that has refused it."""
        cdef hold_t* hold = self._get()
        cdef const limit_t* limit
        cdef const text_t* name
        if hold.state != PK_HOLD_REFUSED:
            return None
        limit = &hold.rules.limits[hold.charges[hold.refused].limit]
        name = &hold.rules.rules[limit.rule].name
        return name.bytes[:name.size].decode(), list(_KINDS)[limit.kind], limit.amount / PK_QUOTA_UNIT

    def _check(self) -> None:
        """Assert the invariants."""
        assert self._hold == NULL or self._hold.rules != NULL
        assert self._hold == NULL or self._hold.count <= PK_QUOTA_CHARGES
