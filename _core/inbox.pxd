# gRPC messages out of the bytes of a stream.
from libc.stdint cimport uint8_t, uint32_t

from picker._core.codec cimport buffer_t, slice_t

cdef enum:
    PK_INBOX_MORE = 0          # no further whole message
    PK_INBOX_MESSAGE = 1
    PK_INBOX_COMPRESSED = 2    # the next message is compressed

ctypedef struct inbox_t:
    uint8_t prefix[5]
    uint8_t prefix_size
    bint is_given              # the gathered message was handed out: its bytes are free
    uint32_t expected          # bytes of the message under way
    buffer_t gathered          # of it, where it does not come in one piece

cdef int inbox_next(inbox_t* inbox, slice_t* rest, uint32_t largest, slice_t* message) noexcept nogil
cdef bint inbox_is_empty(const inbox_t* inbox) noexcept nogil
cdef void inbox_free(inbox_t* inbox) noexcept nogil


cdef class Inbox:
    cdef inbox_t _inbox
    cdef uint32_t _largest
