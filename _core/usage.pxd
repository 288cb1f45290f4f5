# Incremental JSON reader that keeps only the usage figures of an inference response.
from libc.stddef cimport size_t
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

cdef enum:
    PK_USAGE_DEPTH = 64      # deeper documents are refused
    PK_USAGE_KEY = 24        # bytes kept of a member name; all names of interest are shorter

cdef enum:                   # indexes of usage_t.fields
    PK_USAGE_PROMPT = 0
    PK_USAGE_COMPLETION = 1
    PK_USAGE_TOTAL = 2
    PK_USAGE_CACHED = 3
    PK_USAGE_FIELDS = 4

ctypedef struct usage_t:
    int64_t fields[PK_USAGE_FIELDS]   # -1 = not seen; means something only once the document proved whole
    bint error               # an `error` object was seen; likewise
    uint8_t state            # of the grammar
    uint8_t place            # what the innermost object is
    uint8_t target           # what the value to come means; none unless a name of interest was just read
    uint8_t depth
    uint8_t places[8]        # `place` of the outer levels, by depth
    uint64_t kinds           # bit i: the container i levels out is an object
    bint in_key
    uint8_t key[PK_USAGE_KEY]
    uint32_t key_size        # above PK_USAGE_KEY: a name of no interest
    uint8_t word             # first letter of the literal being read
    uint8_t word_at          # bytes of the literal, or digits of \u, read so far
    uint32_t code            # code point of \u
    uint64_t number          # integer being read; UINT64_MAX = too large
    bint minus

cdef void usage_init(usage_t* usage) noexcept nogil
cdef void usage_feed(usage_t* usage, const uint8_t* data, size_t size) noexcept nogil
# Nothing but whitespace was fed.
cdef bint usage_is_blank(const usage_t* usage) noexcept nogil
# Call once, at the end of the document: is it one whole JSON value? Completes a number at the very end.
cdef bint usage_finish(usage_t* usage) noexcept nogil
