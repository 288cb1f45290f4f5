"""Rate limits: what a request may cost is reserved before it goes, and settled when it has ended.

Invariants: a request is let go by all limits that count for it or charged to none; what it is charged is, in the end,
    what it used, in the window it was let go in; what it used beyond its estimate after that window has passed counts
    in the window that lasts. A counter of a window that lasts is never forgotten: keys that find no room share one.
Cost: a look-up or two for each limit that counts; memory is taken for as many holds as there ever were at once.
Memory: a quota owns its rules, counters and holds, and must outlive the sessions that hold any.
Threads: any; every function takes the lock but those that say otherwise.
"""
from libc.stddef cimport size_t
from libc.stdint cimport UINT32_MAX, int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memset

from picker._core.alloc cimport PK_E_LIMIT, PK_E_MISSING, PK_E_NOMEM, PK_OK, pk_alloc, pk_grow
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
    counter_t,
    counters_find,
    counters_take,
    window_has_passed,
    window_length,
)
from picker._core.quotarules cimport (
    PK_QUOTA_CHARGES,
    PK_QUOTA_TEXT_BYTES,
    limit_t,
    rules_counter,
    rules_counts_tokens,
    rules_free,
    rules_key,
    rules_price,
    rules_t,
    rules_tier,
    source_t,
    text_t,
    tier_t,
)

cdef extern from *:
    """
    static const char PK_BEARER[] = "bearer ";
    """
    const char BEARER "PK_BEARER"[8]

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
    if shared == NULL or shared.used == 0 or window_has_passed(shared, wall_ns):
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
        charge.window = counters[i].window if counters[i] != NULL else 0
        quota.crowded += charge.is_shared
        used = counters[i].used if counters[i] != NULL else limit.amount
        reset_ns = _reset(limit, now_ns, wall_ns)
        if _exceeds(limit, used, charge.cost) and reset_ns > longest_ns:
            longest_ns = reset_ns
            hold.refused, hold.used, hold.reset_ns = i, used, reset_ns
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


cdef slice_t _credential(slice_t value) noexcept nogil:
    """A header's value, of `Bearer TOKEN` the token (RFC 6750: the scheme in any case)."""
    cdef size_t i
    if value.size <= sizeof(BEARER) - 1:
        return value
    for i in range(sizeof(BEARER) - 1):
        if (value.data[i] | 0x20 if c"A" <= value.data[i] <= c"Z" else value.data[i]) != <uint8_t>BEARER[i]:
            return value
    value.data += sizeof(BEARER) - 1
    value.size -= sizeof(BEARER) - 1
    return value


cdef void quota_header(hold_t* hold, const header_t* header) noexcept nogil:
    """A request header: it may hold a key. The first of a name counts. Takes no lock."""
    cdef const rules_t* rules = hold.rules
    cdef uint32_t i
    if header.key.size >= PK_QUOTA_TEXT_BYTES or not rules.header_sizes >> header.key.size & 1:
        return
    for i in range(rules.source_count):
        if rules.sources[i].step_count == 0 and hold.keys[i] == 0 and _is_text(header.key, &rules.sources[i].name):
            hold.keys[i] = rules_key(rules, _credential(header.value))


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


cdef counter_t* _reserved_in(
    quota_t* quota, const charge_t* charge, const limit_t* limit, int64_t wall_ns
) noexcept nogil:
    """What the charge was reserved in, if its window lasts; else NULL."""
    cdef counter_t* counter
    if charge.is_shared:
        counter = counters_find(&quota.shared, limit.id)
    else:
        counter = counters_find(&quota.counters, charge.id)
    if counter == NULL or counter.window != charge.window or window_has_passed(counter, wall_ns):
        return NULL
    return counter


cdef void _settle_here(quota_t* quota, hold_t* hold, const used_t* used, int64_t now_ns) noexcept nogil:
    cdef const limit_t* limit
    cdef counter_t* counter
    cdef charge_t* charge
    cdef int64_t rest, wall_ns = _wall(quota, now_ns)
    cdef uint32_t i
    for i in range(hold.count):
        charge = &hold.charges[i]
        limit = &hold.rules.limits[charge.limit]
        rest = _rest(hold, charge, used)
        counter = _reserved_in(quota, charge, limit, wall_ns)
        if counter == NULL and rest > 0:
            counter = _counter(quota, limit, charge, wall_ns)
        if counter != NULL:
            _use(counter, rest)


cdef void _settle_there(quota_t* quota, hold_t* hold, const used_t* used) noexcept nogil:
    """The charges become what the store is to be told."""
    cdef bint is_exact = True
    cdef uint32_t i
    for i in range(hold.count):
        hold.charges[i].cost = _rest(hold, &hold.charges[i], used)
        is_exact = is_exact and hold.charges[i].cost == 0
    if is_exact:
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


cdef hold_t* quota_sent(quota_t* quota, uint64_t ticket) noexcept nogil:
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


cdef bint quota_answer(
    quota_t* quota, uint64_t ticket, int64_t refused, const int64_t* used, const int64_t* ends_ms, int64_t store_ms,
    int64_t now_ns
) noexcept nogil:
    """The store has answered: `refused` is the charge it was one too many for, -1 if it may go.

    `used` of each charge's limit, with this request if it may go; when its window ends.
    """
    cdef hold_t* hold
    cdef int64_t reset_ns
    cdef uint32_t i
    quota_lock(&quota.lock)
    hold = quota_sent(quota, ticket)
    if hold != NULL:
        if quota.mirrors:
            _mirror(quota, hold, used, now_ns)
        for i in range(hold.count):
            hold.charges[i].window = ends_ms[i]
            reset_ns = now_ns + (ends_ms[i] - store_ms) * 1_000_000
            _show(hold, &hold.rules.limits[hold.charges[i].limit], used[i], reset_ns)
        if refused < 0:
            _let_go(quota, hold, PK_HOLD_STORED)
        else:
            hold.refused, hold.used = <uint32_t>refused, used[refused]
            hold.reset_ns = now_ns + (ends_ms[refused] - store_ms) * 1_000_000
            _refuse(quota, hold)
        _wake(quota, hold)
    quota_unlock(&quota.lock)
    return hold != NULL


cdef void quota_fail(quota_t* quota, uint64_t ticket) noexcept nogil:
    """The store did not answer."""
    cdef hold_t* hold
    quota_lock(&quota.lock)
    hold = quota_sent(quota, ticket)
    if hold != NULL:
        hold.state = PK_HOLD_FAILED
        _wake(quota, hold)
    quota_unlock(&quota.lock)


cdef hold_t* quota_take(quota_t* quota, list_t* of) noexcept nogil:
    """The first of a list of this quota, out of it; NULL: there is none. One that asks is sent, another is to be
    done with."""
    cdef hold_t* hold
    quota_lock(&quota.lock)
    hold = of.first
    if hold != NULL:
        _leave(hold)
        if hold.state == PK_HOLD_ASKED:
            hold.state = PK_HOLD_SENT
    quota_unlock(&quota.lock)
    return hold


cdef void quota_done(quota_t* quota, hold_t* hold) noexcept nogil:
    quota_lock(&quota.lock)
    _release(quota, hold)
    quota_unlock(&quota.lock)


cdef void quota_replace(quota_t* quota, rules_t* rules) noexcept nogil:
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
