# A session's way through rate limits: what it asks for, what it is told, what it came to.
from libc.stdint cimport int64_t, uint32_t

from picker._core.codec cimport header_t
from picker._core.dispatch cimport outcome_t
from picker._core.exchange cimport session_t
from picker._core.quota cimport quota_t
from picker._core.replies cimport refusal_t

cdef enum:
    PK_METER_HEADERS = 6       # limit, remaining and reset, of requests and of tokens
    PK_METER_BYTES = 24        # of one's value
    PK_METER_TEXT = 256        # of what a refusal says

ctypedef struct meter_said_t:
    # Room for what a client is told, as long as it takes to write it.
    header_t headers[PK_METER_HEADERS]
    char values[PK_METER_HEADERS][PK_METER_BYTES]
    uint32_t count
    char message[PK_METER_TEXT]

cdef int meter_open(session_t* session) noexcept nogil
cdef int meter_ask(session_t* session, int64_t now_ns) noexcept nogil
cdef int meter_answer(session_t* session) noexcept nogil
cdef void meter_refuse(const session_t* session, meter_said_t* said, refusal_t* refusal) noexcept nogil
cdef void meter_show(const session_t* session, meter_said_t* said, int64_t now_ns) noexcept nogil
cdef void meter_settle(session_t* session, const outcome_t* outcome, int64_t now_ns) noexcept nogil
cdef uint32_t meter_wake(quota_t* quota) noexcept nogil
