# A session's way through flow control: what its headers say of it, its wait, its turn.
from libc.stdint cimport int64_t

from picker._core.codec cimport header_t, slice_t
from picker._core.exchange cimport session_t

cdef void turn_init(session_t* session, int64_t now_ns) noexcept nogil
cdef void turn_read_header(session_t* session, const header_t* header) noexcept nogil
cdef void turn_read_slo(session_t* session, slice_t value) noexcept nogil
cdef int turn_ask(session_t* session) noexcept nogil
cdef int turn_keep_hashes(session_t* session) noexcept nogil
cdef void turn_leave(session_t* session, int64_t now_ns) noexcept nogil


cdef inline bint turn_is_awaited(const session_t* session) noexcept nogil:
    """Does it wait, or has it not been told yet that it does no longer?"""
    return session.asked.turn.state != 0
