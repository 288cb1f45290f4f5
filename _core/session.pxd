# One ext_proc stream = one HTTP request: the state machine behind `feed`.
from libc.stddef cimport size_t
from libc.stdint cimport int64_t, uint8_t, uint32_t

from picker._core.dispatch cimport engine_t, scratch_t
from picker._core.engine cimport Engine
from picker._core.exchange cimport session_t
from picker._core.outbox cimport out_t

cdef enum:
    PK_API_VERSION = 2         # of the C function table

ctypedef struct api_t:
    # What a shell without Python needs of the core.
    uint32_t version
    uint32_t session_size      # bytes of a session_t
    int (*open)(session_t*, engine_t*, scratch_t*, int64_t) noexcept nogil
    int (*feed)(session_t*, const uint8_t*, size_t, int64_t, out_t*) noexcept nogil
    int (*turn)(session_t*, int64_t, out_t*) noexcept nogil
    int (*resume)(session_t*, int64_t, out_t*) noexcept nogil
    int (*refuse)(session_t*, int, out_t*) noexcept nogil
    void (*close)(session_t*, int64_t) noexcept nogil

cdef void session_init(session_t* session, engine_t* engine, scratch_t* scratch, int64_t now_ns) noexcept nogil
cdef int session_open(session_t* session, engine_t* engine, scratch_t* scratch, int64_t now_ns) noexcept nogil
cdef int session_feed(
    session_t* session, const uint8_t* data, size_t size, int64_t now_ns, out_t* out
) noexcept nogil
cdef int session_turn(session_t* session, int64_t now_ns, out_t* out) noexcept nogil
cdef int session_resume(session_t* session, int64_t now_ns, out_t* out) noexcept nogil
cdef int session_refuse(session_t* session, int failure, out_t* out) noexcept nogil
cdef void session_close(session_t* session, int64_t now_ns) noexcept nogil


cdef class Session:
    cdef Engine _engine
    cdef session_t _session
    cdef out_t _out
    cdef bint _is_open

    cdef list _answer(self, int code, int64_t now_ns)
