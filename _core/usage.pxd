# Incremental JSON reader that keeps only the usage figures of an inference response.
from libc.stddef cimport size_t
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from picker._core.restore cimport restore_t

cdef enum:
    PK_USAGE_DEPTH = 64      # deeper documents are refused
    PK_USAGE_KEY = 28        # bytes kept of a member name or a type; none of interest is longer

cdef enum:                   # indexes of usage_t.fields
    PK_USAGE_PROMPT = 0
    PK_USAGE_COMPLETION = 1
    PK_USAGE_TOTAL = 2
    PK_USAGE_CACHED = 3
    PK_USAGE_INPUT = 4           # `input_tokens`, which leave out what is cached where the next two are told
    PK_USAGE_CACHE_READ = 5
    PK_USAGE_CACHE_CREATION = 6
    PK_USAGE_FIELDS = 7

cdef enum:                   # bits of usage_t.said
    PK_SAID_END = 1              # no event follows
    PK_SAID_ERROR = 2
    PK_SAID_NOTHING = 4          # it holds no token

ctypedef struct usage_t:
    int64_t fields[PK_USAGE_FIELDS]   # -1 = not seen; means something only once the document proved whole
    bint error               # an `error` object was seen; likewise
    uint8_t said             # PK_SAID_*, by the `type` at the top; likewise
    uint8_t state            # of the grammar
    uint8_t place            # what the innermost object is
    uint8_t target           # what the value to come means; none unless a name of interest was just read
    uint8_t depth
    uint8_t places[8]        # `place` of the outer levels, by depth
    uint64_t kinds           # bit i: the container i levels out is an object
    bint in_key
    uint8_t value            # what the string being read means, if it is no name
    uint8_t key[PK_USAGE_KEY]
    uint32_t key_size        # above PK_USAGE_KEY: a name of no interest
    uint8_t word             # first letter of the literal being read
    uint8_t word_at          # bytes of the literal, or digits of \u, read so far
    uint32_t code            # code point of \u
    uint64_t number          # integer being read; UINT64_MAX = too large
    bint minus
    restore_t* restore       # borrowed, may be NULL: told of each name of the model

# Of a struct that was zeroed or used; leaves `restore` alone.
cdef void usage_init(usage_t* usage) noexcept nogil
cdef void usage_feed(usage_t* usage, const uint8_t* data, size_t size) noexcept nogil
# Nothing but whitespace was fed.
cdef bint usage_is_blank(const usage_t* usage) noexcept nogil
# Does the name of the model go on in what comes next?
cdef bint usage_in_model(const usage_t* usage) noexcept nogil
# Call once, at the end of the document: is it one whole JSON value? Completes a number at the very end.
cdef bint usage_finish(usage_t* usage) noexcept nogil
