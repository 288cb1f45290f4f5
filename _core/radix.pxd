# Prefix index: path-compressed radix tree over chained block hashes, with per-endpoint LRU.
from libc.stdint cimport uint32_t, uint64_t

from picker._core.lru cimport lru_t
from picker._core.runs cimport runs_t

ctypedef struct radix_t:
    runs_t runs            # the trie; each node's holders name entries of `lru`
    lru_t lru
    uint64_t max_blocks    # limit on (block, endpoint) pairs
    uint64_t heap          # bytes of holder sets

# PK_OK, PK_E_NOMEM, or PK_E_RANGE when max_blocks is 2**31 or more; on failure there is nothing to free
cdef int radix_init(radix_t* radix, uint32_t width, uint32_t capacity, uint64_t max_blocks) noexcept nogil
cdef void radix_free(radix_t* radix) noexcept nogil
# Room for endpoint slots 0..width-1 (never shrinks)
cdef int radix_widen(radix_t* radix, uint32_t width) noexcept nogil
# out[slot] = leading blocks of `hashes` that endpoint `slot` holds, for every slot < width; returns the largest
cdef uint32_t radix_match(const radix_t* radix, const uint64_t* hashes, uint32_t count, uint32_t* out) noexcept nogil
# Endpoint `slot` now holds these blocks (most recent); evicts its own oldest tails to stay within its capacity.
# After PK_E_NOMEM it holds a leading part of them, and may have evicted; the index stays valid.
cdef int radix_insert(radix_t* radix, const uint64_t* hashes, uint32_t count, uint32_t slot) noexcept nogil
# Endpoint `slot` holds nothing any more
cdef void radix_forget(radix_t* radix, uint32_t slot) noexcept nogil
# Blocks endpoint `slot` may hold; evicts at once if it holds more
cdef int radix_set_capacity(radix_t* radix, uint32_t slot, uint32_t blocks) noexcept nogil
cdef uint32_t radix_held(const radix_t* radix, uint32_t slot) noexcept nogil
cdef uint64_t radix_total(const radix_t* radix) noexcept nogil      # (block, endpoint) pairs held
cdef uint64_t radix_bytes(const radix_t* radix) noexcept nogil      # bytes of memory in use


cdef class Radix:
    cdef radix_t radix
    cdef int _slot(self, uint32_t slot) except -1
