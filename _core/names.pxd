# A map from names to names, made once and then only read.
from libc.stddef cimport size_t
from libc.stdint cimport uint32_t

from picker._core.codec cimport buffer_t, slice_t

ctypedef struct name_t:
    # Where key and value stand in `text`.
    size_t key
    uint32_t key_size
    size_t value
    uint32_t value_size
    bint is_used

ctypedef struct names_t:
    buffer_t text              # all keys and values, one behind the other
    name_t* table              # open addressing: twice as many places as names, a power of two
    size_t places
    size_t count

cdef bint names_find(const names_t* names, slice_t key, slice_t* value) noexcept nogil


cdef class Names:
    cdef names_t names
