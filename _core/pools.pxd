# Which of several pools a stream is for.
from libc.stdint cimport int64_t, uint8_t, uint32_t

from picker._core.codec cimport slice_t
from picker._core.names cimport Names, names_t

cdef enum:
    PK_POOL_BYTES = 320        # of what names a pool: nothing longer does
    PK_POOL_UNKNOWN = -1
    PK_POOL_MANY = -2

ctypedef struct said_t:
    # What a client says, as far as it is looked at; `size` is that of all of it.
    uint32_t size
    uint8_t text[PK_POOL_BYTES]

ctypedef struct asked_t:
    # Which pool a stream is for.
    said_t pool                # its name; empty: not said
    said_t authority           # else, what the gateway calls its endpoint picker

cdef void said_set(said_t* said, const uint8_t* text, size_t size) noexcept nogil
cdef int64_t pools_find(const names_t* names, const asked_t* asked) noexcept nogil


cdef class PoolNames:
    cdef Names _names
    cdef uint32_t _count

    cdef const names_t* table(self) noexcept
