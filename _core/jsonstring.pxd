# JSON strings, as bytes between two pointers.
from libc.stddef cimport size_t
from libc.stdint cimport int64_t, uint8_t

# Past the string whose opening quote is at `at`: False with `at` on the byte that is wrong, or at `end` if it stops
# too early. `escaped`: it holds a backslash
cdef bint json_string(const uint8_t** at, const uint8_t* end, bint* escaped) noexcept nogil
# What stands between a string's quotes, unescaped: bytes written, or PK_E_RANGE beyond `room` (end - p suffices).
# A lone surrogate becomes its three-byte form
cdef int64_t json_unescape(const uint8_t* p, const uint8_t* end, uint8_t* out, size_t room) noexcept nogil
# Does it, unescaped, equal `text`?
cdef bint json_equals(const uint8_t* p, const uint8_t* end, const uint8_t* text, size_t size) noexcept nogil
# `text` (valid UTF-8) as a JSON string, quotes included: bytes written, or PK_E_RANGE if room < 6 * size + 2
cdef int64_t json_quote(const uint8_t* text, size_t size, uint8_t* out, size_t room) noexcept nogil
