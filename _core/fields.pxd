# A body that holds JSON: its members read, and changed without touching a byte of the rest.
from libc.stddef cimport size_t
from libc.stdint cimport uint32_t

from picker._core.codec cimport buffer_t, slice_t
from picker._core.scan cimport scan_t

ctypedef struct document_t:
    buffer_t bytes
    size_t start               # where in them the JSON stands
    size_t size                # of it
    bint is_json               # it was scanned, and is
    bint is_other              # it was scanned, and is not
    bint is_changed            # since it came

cdef int document_scan(document_t* document, scan_t* scan) noexcept nogil
cdef void document_free(document_t* document) noexcept nogil
cdef void document_find_data(document_t* document) noexcept nogil

# The following want the document just scanned by `scan`; afterwards that holds no longer. `into` takes the new bytes.
cdef int document_set(
    const document_t* document, const scan_t* scan, uint32_t object, slice_t name, slice_t quoted, slice_t json,
    buffer_t* into
) noexcept nogil
cdef int document_remove(
    const document_t* document, const scan_t* scan, uint32_t object, slice_t name, buffer_t* into
) noexcept nogil
cdef int document_replace(
    const document_t* document, const scan_t* scan, uint32_t index, slice_t json, buffer_t* into
) noexcept nogil
cdef void document_take(document_t* document, buffer_t* bytes, document_t* former) noexcept nogil
