# Decimal numbers out of bytes, as Python's float() reads them.
from libc.stdint cimport uint8_t

# The number at at[0], which is moved behind it; False if there is none.
cdef bint floats_parse(const uint8_t** at, const uint8_t* end, double* value) noexcept nogil
