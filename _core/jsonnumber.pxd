# JSON numbers and arrays of plain integers, as bytes between two pointers.
from libc.stdint cimport uint8_t, uint32_t, uint64_t

# Past the number at `at`: False with `at` on the byte that is wrong, or at `end` if it stops too early
cdef bint json_number(const uint8_t** at, const uint8_t* end) noexcept nogil
# Past the `]` of an array whose first item is at `at`; False, `at` unchanged, unless all are plain integers 0..2**32-1
cdef bint json_ints(const uint8_t** at, const uint8_t* end) noexcept nogil
# Integers of such an array from `at` on, at most `room`: how many (0 = its end); moves `at` behind them
cdef uint32_t json_read_ints(const uint8_t** at, const uint8_t* end, uint32_t* out, uint32_t room) noexcept nogil
# The number p..end as a whole number in 0..2**64-1, however it is written; False, `value` unset, if it is none
cdef bint json_uint(const uint8_t* p, const uint8_t* end, uint64_t* value) noexcept nogil
