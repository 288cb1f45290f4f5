# What comes first, of things that lie still in memory and may leave from anywhere.
from libc.stddef cimport size_t
from libc.stdint cimport int64_t, uint32_t, uint64_t

ctypedef struct rank_t:
    # The least comes first: by tag, then order, then turn.
    uint64_t tag
    int64_t order
    uint64_t turn

ctypedef struct node_t:
    # Embedded in what is ranked.
    rank_t rank
    uint32_t place             # in its heap, from 1; 0 = in none

ctypedef struct entry_t:
    rank_t rank
    node_t* node

ctypedef struct heap_t:
    # Zeroed before its first use; must not move.
    uint32_t count
    uint32_t capacity
    entry_t* entries           # entries[i] is not before entries[(i - 1) / 4]
    entry_t one                # the first, as long as there is no other

cdef int heap_reserve(heap_t* heap, size_t count) noexcept nogil
cdef void heap_push(heap_t* heap, node_t* node) noexcept nogil
cdef void heap_drop(heap_t* heap, node_t* node) noexcept nogil
cdef void heap_move(heap_t* heap, node_t* node) noexcept nogil
cdef void heap_free(heap_t* heap) noexcept nogil
cdef object heap_check(const heap_t* heap)


cdef inline bint rank_before(const rank_t* a, const rank_t* b) noexcept nogil:
    if a.tag != b.tag:
        return a.tag < b.tag
    return a.order < b.order or (a.order == b.order and a.turn < b.turn)


cdef inline node_t* heap_first(const heap_t* heap) noexcept nogil:
    """What comes first, or NULL."""
    return heap.entries[0].node if heap.count else NULL


cdef class Heap:
    cdef heap_t _heap
    cdef node_t* _table
    cdef size_t _size

    cdef node_t* _at(self, size_t key) except NULL
    cdef node_t* _ranked(self, size_t key) except NULL
