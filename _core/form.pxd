# multipart/form-data: model and prompt of a form, and that there are files.
from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from picker._core.codec cimport slice_t
from picker._core.hashing cimport chain_t

cdef enum:
    PK_FORM_HEAD_BYTES = 8192  # of the headers of one part, at most
    PK_FORM_FILE_BYTES = 65536  # of a file that tell it from others, beside its size

ctypedef struct form_t:
    slice_t model              # as it stands; of fields of one name the last counts
    slice_t prompt
    uint32_t files
    uint64_t digest            # of all files, in order

# PK_OK; PK_E_FORMAT: not the form it is said to be, or it stops too early
cdef int form_read(form_t* form, const uint8_t* data, size_t size, slice_t boundary) noexcept nogil
cdef void form_hash(const form_t* form, chain_t* chain) noexcept nogil
