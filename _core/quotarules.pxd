# Which limits count for a request: rules of whose, of which models, how much of what in which time.
from libc.stddef cimport size_t
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t

from picker._core.codec cimport slice_t

cdef enum:
    PK_QUOTA_UNIT = 1000       # amounts are in thousandths, so that weights need no rounding as they add up
    PK_QUOTA_CHARGES = 16      # limits that may count for one request
    PK_QUOTA_SOURCES = 8       # of keys, of all rules
    PK_QUOTA_STEPS = 4         # of a claim's path
    PK_QUOTA_TEXT_BYTES = 64   # of a header's name, a namespace, a step, a rule's name
    PK_QUOTA_RULES = 256

ctypedef struct price_t:
    # What a request costs, in thousandths.
    int64_t request            # for being one
    int64_t input              # for a token of the prompt
    int64_t cached             # for one that was read from a cache
    int64_t output

ctypedef struct limit_t:
    uint64_t id                # of what it limits, whatever the amount: counters outlast edits
    uint32_t rule
    uint32_t kind              # PK_WINDOW_*
    int64_t amount             # thousandths
    price_t price

ctypedef struct tier_t:
    # What keys of one kind may use.
    uint32_t first             # of its limits
    uint32_t count

ctypedef struct text_t:
    uint8_t bytes[PK_QUOTA_TEXT_BYTES]
    uint32_t size

ctypedef struct source_t:
    # Where a key is found.
    text_t name                # of the header, or of the namespace of a claim
    text_t steps[PK_QUOTA_STEPS]
    uint32_t step_count        # 0: it is a header

ctypedef struct rule_t:
    text_t name
    uint32_t tally
    int32_t source             # -1: all requests share a counter
    int32_t default_tier       # of keys that are not named; -1: they are not limited
    int32_t absent_tier        # of requests without a key
    bint names_models          # it is about some models alone
    bint is_per_model          # each has counters of its own

ctypedef struct place_t:
    uint64_t id                # 0 = free
    int32_t value

ctypedef struct rules_t:
    # Made once, then only read; lives until the last hold made by them has ended.
    uint64_t seed              # of the hashes of keys
    uint32_t source_count
    uint32_t rule_count
    uint32_t tier_count
    uint32_t limit_count
    source_t sources[PK_QUOTA_SOURCES]
    rule_t* rules
    tier_t* tiers
    limit_t* limits
    place_t* places            # open addressing: the tier of a rule's key, and a rule's models
    uint32_t mask
    uint64_t header_sizes      # a bit for each size a header's name may have
    uint32_t holds             # made by them
    bint is_current

cdef uint64_t rules_key(const rules_t* rules, slice_t key) noexcept nogil
cdef void rules_put(rules_t* rules, uint32_t rule, uint32_t what, uint64_t hashed, int32_t value) noexcept nogil
cdef int rules_reserve(rules_t* rules, size_t named) noexcept nogil
cdef rules_t* rules_new(uint32_t rule_count, uint32_t tier_count, uint32_t limit_count) noexcept nogil
cdef void rules_free(rules_t* rules) noexcept nogil
cdef const tier_t* rules_tier(const rules_t* rules, uint32_t rule, const uint64_t* keys, uint64_t model) noexcept nogil
cdef uint64_t rules_counter(
    const rules_t* rules, const limit_t* limit, const uint64_t* keys, uint64_t model
) noexcept nogil
cdef int64_t rules_price(const limit_t* limit, int64_t input, int64_t cached, int64_t output) noexcept nogil
cdef bint rules_counts_tokens(const limit_t* limit) noexcept nogil

cdef enum:
    PK_QUOTA_KEY = 1           # `what` of rules_put
    PK_QUOTA_MODEL = 2
