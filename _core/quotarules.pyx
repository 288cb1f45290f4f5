"""Which limits count for a request: rules of whose, of which models, how much of what in which time.

Invariants: made once, then only read; what is said of a key or a model stands in the table once. A request without a
    key, or with one of nobody in particular, has hash 0 or a place of its own.
Cost: a look-up or two for each rule.   Memory: a set of rules owns its tables.   Threads: any may read.
"""
from libc.stddef cimport size_t
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t

from picker._core.alloc cimport PK_E_NOMEM, PK_OK, pk_alloc, pk_free
from picker._core.hashing cimport hash_xxh64

# --- C kernel: making ---


cdef rules_t* rules_new(uint32_t rule_count, uint32_t tier_count, uint32_t limit_count) noexcept nogil:
    """Zeroed, with room for so many; NULL without memory."""
    cdef rules_t* rules = <rules_t*>pk_alloc(1, sizeof(rules_t))
    if rules == NULL:
        return NULL
    rules.rules = <rule_t*>pk_alloc(rule_count, sizeof(rule_t))
    rules.tiers = <tier_t*>pk_alloc(tier_count, sizeof(tier_t))
    rules.limits = <limit_t*>pk_alloc(limit_count, sizeof(limit_t))
    if rules.rules == NULL or rules.tiers == NULL or rules.limits == NULL:
        rules_free(rules)
        return NULL
    rules.rule_count, rules.tier_count, rules.limit_count = rule_count, tier_count, limit_count
    return rules


cdef void rules_free(rules_t* rules) noexcept nogil:
    """Harmless for NULL."""
    if rules == NULL:
        return
    pk_free(rules.rules)
    pk_free(rules.tiers)
    pk_free(rules.limits)
    pk_free(rules.places)
    pk_free(rules)


cdef int rules_reserve(rules_t* rules, size_t named) noexcept nogil:
    """Room for so many keys and models; at least half of the table stays free. PK_OK or PK_E_NOMEM."""
    cdef size_t places = 2
    while places < 2 * named:
        places *= 2
    rules.places = <place_t*>pk_alloc(places, sizeof(place_t))
    rules.mask = <uint32_t>(places - 1)
    return PK_OK if rules.places != NULL else PK_E_NOMEM


# --- C kernel: hashes ---


cdef inline uint64_t _mixed(const uint64_t* parts, size_t count, uint64_t seed) noexcept nogil:
    """Never 0."""
    cdef uint64_t made = hash_xxh64(<const uint8_t*>parts, count * sizeof(uint64_t), seed)
    return made if made else 1


cdef uint64_t rules_key(const rules_t* rules, slice_t key) noexcept nogil:
    """Hash of a key or of a model's name; 0: it is empty."""
    cdef uint64_t made
    if key.size == 0:
        return 0
    made = hash_xxh64(key.data, key.size, rules.seed)
    return made if made else 1


cdef uint64_t _said(const rules_t* rules, uint32_t rule, uint32_t what, uint64_t hashed) noexcept nogil:
    """The id of what is said of a key or a model by a rule."""
    cdef uint64_t parts[3]
    parts[0], parts[1], parts[2] = rule, what, hashed
    return _mixed(parts, 3, rules.seed)


cdef place_t* _place(const rules_t* rules, uint64_t id) noexcept nogil:
    """Where it stands, or would stand."""
    cdef uint32_t at = <uint32_t>id & rules.mask
    while rules.places[at].id != 0 and rules.places[at].id != id:
        at = (at + 1) & rules.mask
    return &rules.places[at]


cdef void rules_put(rules_t* rules, uint32_t rule, uint32_t what, uint64_t hashed, int32_t value) noexcept nogil:
    """A key has this tier, or a model counts; there is room."""
    cdef uint64_t id = _said(rules, rule, what, hashed)
    cdef place_t* place = _place(rules, id)
    place.id = id
    place.value = value


cdef inline int32_t _find(const rules_t* rules, uint32_t rule, uint32_t what, uint64_t hashed) noexcept nogil:
    cdef const place_t* place = _place(rules, _said(rules, rule, what, hashed))
    return place.value if place.id != 0 else -1


# --- C kernel: asking ---


cdef const tier_t* rules_tier(const rules_t* rules, uint32_t rule, const uint64_t* keys, uint64_t model) noexcept nogil:
    """What the rule grants a request with these keys (by source; 0 = none) for that model; NULL: it says nothing."""
    cdef const rule_t* one = &rules.rules[rule]
    cdef int32_t tier
    cdef uint64_t key
    if one.names_models and (model == 0 or _find(rules, rule, PK_QUOTA_MODEL, model) < 0):
        return NULL
    key = keys[one.source] if one.source >= 0 else 0
    if one.source >= 0 and key == 0:
        tier = one.absent_tier
    else:
        tier = _find(rules, rule, PK_QUOTA_KEY, key) if key else -1
        tier = tier if tier >= 0 else one.default_tier
    return &rules.tiers[tier] if tier >= 0 else NULL


cdef uint64_t rules_counter(
    const rules_t* rules, const limit_t* limit, const uint64_t* keys, uint64_t model
) noexcept nogil:
    """The id of what a request is counted in."""
    cdef const rule_t* rule = &rules.rules[limit.rule]
    cdef uint64_t parts[3]
    parts[0] = limit.id
    parts[1] = keys[rule.source] if rule.source >= 0 else 0
    parts[2] = model if rule.is_per_model else 0
    return _mixed(parts, 3, rules.seed)


cdef int64_t rules_price(const limit_t* limit, int64_t input, int64_t cached, int64_t output) noexcept nogil:
    """What so many tokens cost, `cached` of the `input` read from a cache; besides what a request costs."""
    return (input - cached) * limit.price.input + cached * limit.price.cached + output * limit.price.output


cdef bint rules_counts_tokens(const limit_t* limit) noexcept nogil:
    """And not requests alone?"""
    return limit.price.input > 0 or limit.price.cached > 0 or limit.price.output > 0
