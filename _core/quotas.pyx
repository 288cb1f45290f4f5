"""Rate limits, as Python sets them, asks and tells a store for them, and shows them.

Invariants: see `quota`, its kernel; this is its Python face.
Cost: rules are made beside those in force, and take their place at once.   Memory: owns everything in it.
Threads: what holds the lock neither takes the GIL nor runs Python, which might let go of the GIL.
"""
cimport cython
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from picker._core.alloc cimport PK_E_LIMIT, PK_E_MISSING, PK_OK, pk_free
from picker._core.codec cimport header_t, slice_t
from picker._core.counters cimport counters_free, counters_init, window_length
from picker._core.hashing cimport hash_xxh64
from picker._core.metering cimport meter_wake
from picker._core.quota cimport (
    PK_HOLD_ASKED,
    PK_HOLD_REFUSED,
    PK_HOLD_SENT,
    PK_HOLD_SETTLING,
    PK_QUOTA_FREE,
    PK_QUOTA_MEMORY,
    PK_QUOTA_SHUT,
    PK_QUOTA_STORE,
    PK_QUOTA_WAITS,
    charge_t,
    hold_t,
    quota_answer,
    quota_done,
    quota_fail,
    quota_header,
    quota_is_due,
    quota_lock,
    quota_lock_destroy,
    quota_lock_init,
    quota_metadata,
    quota_open,
    quota_replace,
    quota_reserve,
    quota_sent,
    quota_settle,
    quota_t,
    quota_take,
    quota_unlock,
    quota_verdict,
    rule_tally_t,
    shown_t,
    used_t,
)
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
    rule_t,
    rules_free,
    rules_key,
    rules_new,
    rules_put,
    rules_reserve,
    rules_t,
    source_t,
    text_t,
)

cdef enum:
    SHARED_COUNTERS = 8192
    MOST_SETTLING = 65536

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
    cdef bytes text              # owns what the slices look at
    _text_fill(&rule.name, given["name"], "a rule's name")
    rule.source = sources.index(given["source"]) if given.get("source") is not None else -1
    rule.is_per_model = given.get("per_model", False)
    rule.names_models = given.get("models") is not None
    rule.default_tier = _tier(given, given.get("default"), first)
    rule.absent_tier = _tier(given, given.get("absent"), first)
    for model in given.get("models") or ():
        text = model.encode()
        rules_put(rules, number, PK_QUOTA_MODEL, rules_key(rules, _bytes(text)), 1)
    for key, tier in given.get("keys", {}).items():
        text = key.encode()
        rules_put(rules, number, PK_QUOTA_KEY, rules_key(rules, _bytes(text)), _tier(given, tier, first))
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
        "reset_s": max(left_ns, 0) / 1e9,
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
        quota_replace(&self._quota, NULL)
        for i in range(self._quota.count):
            if self._quota.holds[i].rules != NULL:       # the store was not told
                quota_done(&self._quota, self._quota.holds[i])
        for i in range(self._quota.count):
            pk_free(self._quota.holds[i])
        pk_free(self._quota.holds)
        counters_free(&self._quota.counters)
        counters_free(&self._quota.shared)
        quota_lock_destroy(&self._quota.lock)

    def set_rules(self, rules, *, bint bounds_output=True) -> None:
        """Replace the rules, at once; requests under way are settled by those they began with, counters go on.

        Each a dict: `name`; `source` of keys, None (all requests are counted together), ("header", name) or ("claim",
        namespace, path); `tiers`, each a list of limits (window, amount, (price of a request, of an input token, of a
        cached one, of an output token)); `keys`, the tier of keys with one of their own; `default`, the tier of others;
        `absent`, that of requests without a key (None: not limited); `models`, None or the names of those it is about;
        `per_model`, whether each has counters of its own. A limit goes on where its rule's name, window and prices are
        what they were. `bounds_output`: what a client says an answer is at most is reserved for it; else no more than
        answers usually have. ValueError, OverflowError for what no rules can be, MemoryError; the old ones then stay.
        """
        cdef list given = list(rules)
        cdef rules_t* made = NULL
        if not given:
            quota_replace(&self._quota, NULL)
            return
        made = self._make(given)
        for number, rule in enumerate(given):
            made.rules[<uint32_t>number].tally = self._tally(rule["name"])
        quota_replace(&self._quota, made)
        self._quota.bounds_output = bounds_output

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
            hold = quota_take(&self._quota, &self._quota.asked)
            if hold == NULL:
                break
            rows.append((hold.slot | <uint64_t>hold.number << 32, _asked(hold)))
        return rows

    def answer(self, uint64_t ticket, int64_t refused, used, ends_ms, int64_t store_ms, int64_t now_ns) -> bool:
        """The store's answer at `store_ms` of its clock, which is `now_ns` here.

        `refused`: the index of the limit that is reached, -1 if the request may go; `used` of each limit, with this
        request if it goes; `ends_ms`, when its window ends. False if nobody asked. ValueError for more or fewer.
        """
        cdef int64_t amounts[PK_QUOTA_CHARGES]
        cdef int64_t ends[PK_QUOTA_CHARGES]
        cdef hold_t* hold = quota_sent(&self._quota, ticket)
        cdef uint32_t i
        if hold == NULL:
            return False
        if not len(used) == len(ends_ms) == hold.count or refused >= <int64_t>hold.count:
            raise ValueError(f"an answer about {len(used)} limits, where {hold.count} were asked about")
        for i in range(hold.count):
            amounts[i], ends[i] = used[i], ends_ms[i]
        return quota_answer(&self._quota, ticket, refused, amounts, ends, store_ms, now_ns)

    def wake(self) -> int:
        """Let the sessions that have been answered or failed go on, with those whose turn has come; how many."""
        return meter_wake(&self._quota)

    def fail(self, uint64_t ticket) -> None:
        """The store did not answer; harmless if nobody asked."""
        quota_fail(&self._quota, ticket)

    def settled(self, uint32_t most) -> list:
        """What the store is to be told of so many requests: (counter, window's length, its end, change) each, in ms."""
        cdef hold_t* hold
        cdef list rows = []
        while most:
            hold = quota_take(&self._quota, &self._quota.settling)
            if hold == NULL:
                break
            rows += _settled(hold)
            quota_done(&self._quota, hold)
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
