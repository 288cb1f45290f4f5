# The one allocator of the core. Every block has one owner, freed in that owner's __dealloc__.
from libc.stdint cimport int64_t
from libc.stddef cimport size_t

cdef enum:
    PK_OK = 0
    PK_E_NOMEM = -1      # allocation failed; state unchanged
    PK_E_LIMIT = -2      # a stated limit was reached; state unchanged
    PK_E_FORMAT = -3     # malformed input
    PK_E_MISSING = -4    # no such item
    PK_E_RANGE = -5      # a number is outside its domain

cdef void* pk_alloc(size_t count, size_t size) noexcept nogil
cdef void* pk_resize(void* block, size_t count, size_t size) noexcept nogil
cdef void pk_free(void* block) noexcept nogil
cdef int pk_grow(void** block, size_t* capacity, size_t needed, size_t size) noexcept nogil
