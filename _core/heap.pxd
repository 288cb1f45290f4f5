# A leftist heap of nodes that are part of what they rank: no memory of its own, any node can leave.
from libc.stddef cimport size_t
from libc.stdint cimport int64_t, uint32_t, uint64_t

ctypedef struct rank_t:
    # The least comes first: by tag, then order, then turn. No two nodes of a heap have the same turn.
    uint64_t tag
    int64_t order
    uint64_t turn

ctypedef struct node_t:
    # Embedded in what is ranked.
    rank_t rank
    node_t* left
    node_t* right
    node_t* parent
    uint32_t distance          # to the nearest free place below, from 1; 0 = in no heap

cdef bint rank_before(const rank_t* a, const rank_t* b) noexcept nogil
# Put a node that is in no heap under `root` (NULL = empty), by its rank
cdef void heap_push(node_t** root, node_t* node) noexcept nogil
# Take a node out, wherever it stands; it must be in this heap
cdef void heap_drop(node_t** root, node_t* node) noexcept nogil
# All of one heap into another
cdef void heap_join(node_t** root, node_t** other) noexcept nogil


cdef class Heap:
    cdef node_t* _root
    cdef node_t* _table
    cdef size_t _size
    cdef size_t _count

    cdef node_t* _at(self, size_t key) except NULL
