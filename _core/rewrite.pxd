# Rules that send requests for one model to another.
from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from picker._core.codec cimport buffer_t, slice_t
from picker._core.stats cimport PK_MODEL_BYTES

cdef enum:
    PK_REWRITE_RULES = 4096        # in one table
    PK_REWRITE_TARGETS = 100       # of one rule
    PK_REWRITE_CHOICES = 16384     # targets of all rules
    PK_REWRITE_WEIGHT = 1_000_000  # of one target

ctypedef struct span_t:
    # A piece of a text buffer, by place: the buffer may move.
    uint32_t at
    uint32_t size

ctypedef struct names_t:
    # A set of strings, numbered in the order they came.
    buffer_t text
    span_t* spans
    size_t room
    uint32_t count
    uint32_t limit
    uint32_t* table            # open addressing: 0 = empty, else number + 1
    uint32_t mask

ctypedef struct choice_t:
    span_t target
    uint32_t rule              # its number; PK_REWRITE_RULES = the generic one
    uint64_t edge              # sum of the weights to this one and with it
    uint64_t count             # decisions, unless the rule is for any model

ctypedef struct rule_t:
    span_t object_name
    uint32_t first             # of its choices
    uint32_t count             # of its choices; 0 = no rule

ctypedef struct rewrites_t:
    buffer_t text              # names of objects and targets
    rule_t* rules              # by the number of their model in `models`
    size_t rule_room
    choice_t* choices
    size_t choice_room
    uint32_t choice_count
    names_t models
    rule_t generic             # for any model without a rule
    names_t seen               # models the generic rule was asked for; 0 = `other`
    uint64_t* tallies          # its decisions, by model and target
    size_t tally_room

ctypedef struct tally_t:
    # A copy of one counter.
    uint32_t object_size
    uint32_t model_size
    uint32_t target_size
    uint8_t names[3 * PK_MODEL_BYTES]
    uint64_t count

cdef void rewrites_init(rewrites_t* rewrites, uint32_t limit) noexcept nogil
cdef void rewrites_free(rewrites_t* rewrites) noexcept nogil
cdef bint rewrites_any(const rewrites_t* rewrites) noexcept nogil
cdef int rewrites_choose(rewrites_t* rewrites, slice_t model, uint64_t random, buffer_t* target) noexcept nogil
cdef void rewrites_carry(rewrites_t* fresh, rewrites_t* old) noexcept nogil
cdef bint rewrites_name(const rewrites_t* rewrites, uint32_t index, slice_t* name) noexcept nogil
cdef int rewrites_tally(const rewrites_t* rewrites, uint32_t index, tally_t* out) noexcept nogil


cdef int rewrites_extend(rewrites_t* rewrites, object rules) except -1
cdef tuple tally_view(const tally_t* tally)


cdef class Rewrites:
    cdef rewrites_t _rewrites
    cdef uint32_t _limit
