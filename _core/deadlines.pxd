# What is due first, of things that lie still in memory.
from libc.stddef cimport size_t
from libc.stdint cimport int64_t

ctypedef struct deadline_t:
    # Embedded in what is due.
    int64_t at_ns
    size_t place               # in the heap, from 1; 0 = not waited for

ctypedef struct deadlines_t:
    deadline_t** heap          # heap[i] is not due after heap[2 i + 1] and heap[2 i + 2]
    size_t capacity
    size_t count

cdef int deadlines_set(deadlines_t* deadlines, deadline_t* deadline, int64_t at_ns) noexcept nogil
cdef void deadlines_drop(deadlines_t* deadlines, deadline_t* deadline) noexcept nogil
cdef deadline_t* deadlines_due(deadlines_t* deadlines, int64_t now_ns) noexcept nogil
cdef void deadlines_free(deadlines_t* deadlines) noexcept nogil


cdef class Deadlines:
    cdef deadlines_t _deadlines
    cdef deadline_t* _table
    cdef size_t _size

    cdef deadline_t* _at(self, size_t key) except NULL
