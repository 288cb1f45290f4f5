# One-pass JSON scanner: a flat tape of values, no tree. Positions are byte offsets into the scanned body.
from libc.stddef cimport size_t
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

cdef enum:
    PK_JSON_NULL = 0
    PK_JSON_FALSE = 1
    PK_JSON_TRUE = 2
    PK_JSON_NUMBER = 3
    PK_JSON_STRING = 4
    PK_JSON_ARRAY = 5
    PK_JSON_OBJECT = 6

cdef enum:
    PK_JSON_ESCAPED = 1    # the string holds a backslash
    PK_JSON_INTS = 2       # a non-empty array of plain integers 0..2**32-1 only: its items are not on the tape

ctypedef struct value_t:
    uint32_t start         # first byte of the value (a string's opening quote)
    uint32_t end           # one past its last byte
    uint32_t next          # tape index of the first value after this one and all it holds
    uint8_t kind           # PK_JSON_*
    uint8_t flags

ctypedef struct scan_t:
    const uint8_t* data    # borrowed for as long as the tape is read
    uint32_t size
    value_t* tape          # tape[0] is the document; in an object, keys (strings) and values alternate
    size_t capacity
    uint32_t count         # 0 after a failed scan
    uint32_t max_values    # limit
    uint32_t max_depth     # limit on containers around and including a value
    uint32_t error_at      # first byte that is wrong (size: the body stops too early), or of the value beyond a limit

cdef void scan_init(scan_t* scan, uint32_t max_values, uint32_t max_depth) noexcept nogil
cdef void scan_free(scan_t* scan) noexcept nogil
# PK_OK; PK_E_FORMAT with error_at; PK_E_LIMIT (values, depth or size >= 2**32); PK_E_NOMEM. Reuses the tape's memory
cdef int scan_json(scan_t* scan, const uint8_t* data, size_t size) noexcept nogil

# All below want index < count.
# Tape index of the value of the LAST member called `name` (unescaped comparison) of the object at `index`; 0 = none
cdef uint32_t scan_member(const scan_t* scan, uint32_t index, const char* name, size_t name_size) noexcept nogil
# Does the string at `index`, unescaped, equal these bytes? False for what is no string
cdef bint scan_equals(const scan_t* scan, uint32_t index, const char* text, size_t size) noexcept nogil
# Unescape the string at `index` into `out` (room bytes; end-start-2 always suffices): bytes written, PK_E_RANGE if it
# does not fit, or PK_E_MISSING if it is no string. A lone surrogate becomes its three-byte form
cdef int64_t scan_unescape(const scan_t* scan, uint32_t index, uint8_t* out, size_t room) noexcept nogil
# Next integers of a PK_JSON_INTS array, at most `room`: how many (0 = its end). Moves `at`, from tape[i].start on
cdef uint32_t scan_ints(const scan_t* scan, uint32_t* at, uint32_t* out, uint32_t room) noexcept nogil
# The same for one integer; False at the array's end
cdef bint scan_next_int(const scan_t* scan, uint32_t* at, uint32_t* value) noexcept nogil
# The number at `index` as a whole number >= 0 into `value` (1e3, 5.0 and -0 count as whole); False if it is none
cdef bint scan_uint(const scan_t* scan, uint32_t index, uint64_t* value) noexcept nogil

cdef class Scanner:
    cdef scan_t state
    cdef const unsigned char[::1] body    # held while the tape points into it; None = the tape is empty

    cdef const value_t* value_of(self, uint32_t index, int kind) except NULL
    cdef int check_value(self, uint32_t i, uint32_t floor) except -1
