# What is to become of a message's headers: a list of edits, the latest of a name counts.
from libc.stddef cimport size_t
from libc.stdint cimport uint32_t

from picker._core.codec cimport buffer_t, header_t, mutation_t, slice_t

cdef enum:
    PK_MOST_EDITS = 64         # of one message
    PK_EDIT_BYTES = 1 << 16    # names and values of all of them

ctypedef struct edit_t:
    # Where name and value stand in `text`.
    uint32_t name
    uint32_t name_size
    uint32_t value
    uint32_t value_size
    bint removed

ctypedef struct edits_t:
    buffer_t text
    edit_t* items
    size_t capacity
    uint32_t count

ctypedef struct edited_t:
    # The same as a reply says it; pointed into by a mutation.
    header_t set[PK_MOST_EDITS + 1]
    slice_t removed[2 * PK_MOST_EDITS]

cdef int edits_add(edits_t* edits, slice_t name, slice_t value, bint removed) noexcept nogil
cdef int edits_find(const edits_t* edits, slice_t name, slice_t* value) noexcept nogil
cdef void edits_rewind(edits_t* edits, uint32_t count) noexcept nogil
cdef void edits_free(edits_t* edits) noexcept nogil
cdef void edits_mutation(const edits_t* edits, edited_t* edited, mutation_t* mutation) noexcept nogil
cdef void edited_remove(edited_t* edited, mutation_t* mutation, slice_t name) noexcept nogil
