# The gateway's subset hint: the endpoints a request may go to.
from libc.stddef cimport size_t
from libc.stdint cimport int64_t, uint32_t, uint64_t

from picker._core.codec cimport slice_t

cdef enum:
    PK_SUBSET_ENDPOINTS = 16384    # entries of one hint; what is beyond is not looked at

ctypedef struct subset_t:
    uint64_t* table            # open addressing over hashes of "ip:port" or "ip"; 0 = empty
    uint32_t slots             # of the table: a power of two, or 0
    int64_t count              # -1 = no hint: the whole pool
    uint64_t seen              # hash of the metadata read last
    bint is_pinned             # hints count no more

cdef void subset_init(subset_t* subset) noexcept nogil
cdef void subset_free(subset_t* subset) noexcept nogil
cdef int subset_pin(subset_t* subset, slice_t text) noexcept nogil
cdef int subset_read(subset_t* subset, slice_t metadata) noexcept nogil
cdef bint subset_allows(const subset_t* subset, uint64_t target_hash, uint64_t address_hash) noexcept nogil


cdef class Subset:
    cdef subset_t _subset
