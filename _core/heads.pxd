# The headers of a request.
from libc.stddef cimport size_t
from libc.stdint cimport uint8_t

from picker._core.calls cimport call_t, connection_t

cdef bint head_is_malformed(const call_t* call) noexcept nogil
cdef void head_begin(connection_t* connection) noexcept nogil
cdef void head_read(
    call_t* call, const uint8_t* name, size_t name_size, const uint8_t* value, size_t size
) noexcept nogil
