# What comes first, of things that lie still in memory and may leave from anywhere.
from libc.stddef cimport size_t
from libc.stdint cimport int64_t, uint32_t, uint64_t

ctypedef struct rank_t:
    # The least comes first: by tag, then order, then turn.
    uint64_t tag
    int64_t order
    uint64_t turn

ctypedef struct node_t:
    # Embedded in what is ranked. The rank must not change while the node is in a heap.
    rank_t rank
    node_t* left
    node_t* right
    node_t* parent
    uint32_t distance          # to the nearest free place below, from 1; 0 = in no heap
    uint32_t far               # the distance of `left`, so that it need not be looked at

cdef void heap_push(node_t** root, node_t* node) noexcept nogil
cdef void heap_drop(node_t** root, node_t* node) noexcept nogil
cdef int64_t heap_check(const node_t* root) except -1


cdef inline bint rank_before(const rank_t* a, const rank_t* b) noexcept nogil:
    if a.tag != b.tag:
        return a.tag < b.tag
    return a.order < b.order or (a.order == b.order and a.turn < b.turn)


cdef class Heap:
    cdef node_t* _root
    cdef node_t* _table
    cdef size_t _size
    cdef size_t _count

    cdef node_t* _at(self, size_t key) except NULL
