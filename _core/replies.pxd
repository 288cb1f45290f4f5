# What a session answers: ProcessingResponses, one behind the other.
from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint32_t

from picker._core.codec cimport buffer_t, slice_t

cdef enum:
    PK_PREFIX_BYTES = 5        # of a gRPC message: a flag and its size
    PK_CONTROL_HEADERS = 13
    PK_DESTINATION_HEADER = 0  # the control header that is overwritten

ctypedef struct out_t:
    # Replies, one behind the other.
    buffer_t bytes
    bint framed                # each as a gRPC message, behind its prefix; else `ends` tells them apart
    bint failed                # no memory for the prefix of the reply under way
    size_t end                 # of the last whole reply
    size_t* ends               # where each ends
    size_t capacity
    size_t count

cdef void out_clear(out_t* out) noexcept nogil
cdef void out_rewind(out_t* out, size_t end) noexcept nogil
cdef buffer_t* out_open(out_t* out) noexcept nogil
cdef int out_close(out_t* out, int code) noexcept nogil
cdef void out_free(out_t* out) noexcept nogil
cdef uint32_t out_control(slice_t key) noexcept nogil
cdef int out_plain(out_t* out, int reply) noexcept nogil
cdef int out_strip(out_t* out, uint32_t controls) noexcept nogil
cdef int out_pick(out_t* out, int reply, slice_t destination, uint32_t controls) noexcept nogil
cdef int out_header(out_t* out, int reply, slice_t key, slice_t value) noexcept nogil
cdef int out_chunk(out_t* out, int reply, slice_t chunk, bint end_of_stream) noexcept nogil
cdef int out_body(out_t* out, int reply, slice_t body, size_t chunk_bytes, bint end_of_stream) noexcept nogil
cdef int out_trailers(out_t* out, int reply) noexcept nogil
cdef int out_refusal(out_t* out, int failure, int problem, uint32_t offset) noexcept nogil


cdef list out_list(const out_t* out)
