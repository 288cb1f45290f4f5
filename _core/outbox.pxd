# Replies on their way out: one behind the other, told apart by their ends or framed as gRPC messages.
from libc.stddef cimport size_t

from picker._core.codec cimport buffer_t, slice_t

cdef enum:
    PK_PREFIX_BYTES = 5        # of a gRPC message: a flag and its size

ctypedef struct lent_t:
    # A piece of `body`, sent where it stands instead of being copied into `bytes`.
    size_t at                  # it comes before this byte of `bytes`
    slice_t text

ctypedef struct out_t:
    buffer_t bytes
    bint framed                # each reply is a gRPC message behind its prefix; else `ends` tells replies apart
    bint failed                # no memory for the prefix of the reply under way
    size_t end                 # of the last whole reply
    size_t* ends               # where each ends
    size_t capacity
    size_t count
    # only if framed:
    buffer_t body              # owned: a request body that replies lend of
    lent_t* lent
    size_t lent_capacity
    size_t lent_count
    size_t lent_bytes          # by the reply under way
    size_t waiting             # bytes of whole replies that were not sent
    size_t sent                # of `bytes`
    size_t lent_sent           # pieces
    size_t lent_done           # bytes of the next piece

cdef void out_clear(out_t* out) noexcept nogil
cdef void out_free(out_t* out) noexcept nogil
cdef buffer_t* out_open(out_t* out) noexcept nogil
cdef int out_close(out_t* out, int code) noexcept nogil
cdef void out_own(out_t* out, buffer_t* body) noexcept nogil
cdef int out_lend(out_t* out, slice_t text, size_t at) noexcept nogil
cdef size_t out_mark(const out_t* out) noexcept nogil
cdef void out_rewind(out_t* out, size_t mark) noexcept nogil
cdef int out_send(out_t* out, buffer_t* into, size_t size) noexcept nogil


cdef list out_list(const out_t* out)


cdef class Outbox:
    cdef out_t _out
    cdef size_t _marked
