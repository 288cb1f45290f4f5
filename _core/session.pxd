# One ext_proc stream = one HTTP request: the state machine behind `feed`.
from libc.stddef cimport size_t
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from picker._core.codec cimport buffer_t
from picker._core.endpoints cimport booking_t
from picker._core.engine cimport Engine, engine_t, pick_t, request_t, scratch_t
from picker._core.sse cimport sse_t

cdef enum:
    PK_API_VERSION = 1         # of the C function table

# Where a session stands
cdef enum:
    PK_STATE_NEW = 0           # nothing seen
    PK_STATE_BODY = 1          # request headers seen, body on its way
    PK_STATE_WAITING = 2       # picking: a plugin runs (flow control's queue will wait here too)
    PK_STATE_PICKED = 3        # request answered
    PK_STATE_RESPONSE = 4      # response headers seen
    PK_STATE_ENDED = 5         # response complete, or answered by picker itself

# What completed the request: how the pick is answered
cdef enum:
    PK_END_HEADERS = 0         # headers only, or a mode in which the body does not come in time
    PK_END_STREAMED = 1        # FULL_DUPLEX_STREAMED, end of body
    PK_END_TRAILERS = 2        # FULL_DUPLEX_STREAMED, trailers ended the body
    PK_END_BUFFERED = 3        # the whole body in one message

ctypedef struct out_t:
    # Replies of one feed, one behind the other.
    buffer_t bytes
    size_t* ends               # where each ends
    size_t capacity
    size_t count

ctypedef struct session_t:
    engine_t* engine           # borrowed
    scratch_t* scratch         # borrowed: the calling thread's
    int state
    int ending
    int api
    uint32_t request_mode
    uint32_t response_mode
    uint32_t controls          # bit i: the client sent control header i
    int64_t opened_ns
    int64_t first_byte_ns
    int64_t ended_ns
    buffer_t body              # request body, until it is answered
    buffer_t headers           # a copy for plugins, when there are any
    buffer_t model             # a copy for plugins, when there are any
    uint64_t* subset           # owned
    int64_t subset_count       # -1 = no hint
    size_t subset_capacity
    request_t request
    booking_t booking
    pick_t pick
    bint is_picked
    bint is_stream             # the response is text/event-stream
    uint32_t status            # of the response; 0 = none yet
    int failure                # PK_FAIL_*
    uint64_t request_bytes
    uint64_t response_bytes
    sse_t usage
    bint is_counted            # stats and bookings are settled

cdef void session_init(session_t* session, engine_t* engine, scratch_t* scratch, int64_t now_ns) noexcept nogil
cdef int session_feed(
    session_t* session, const uint8_t* data, size_t size, int64_t now_ns, out_t* out
) noexcept nogil
cdef int session_resume(session_t* session, int64_t now_ns, out_t* out) noexcept nogil
cdef int session_refuse(session_t* session, int failure, out_t* out) noexcept nogil
cdef void session_close(session_t* session, int64_t now_ns) noexcept nogil


cdef class Session:
    cdef Engine _engine
    cdef session_t _session
    cdef out_t _out
    cdef bint _is_open

    cdef list _replies(self, int code)
