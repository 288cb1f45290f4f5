# The response direction of an exchange.
from libc.stdint cimport int64_t

from picker._core.codec cimport message_t
from picker._core.dispatch cimport outcome_t
from picker._core.exchange cimport answer_t, session_t
from picker._core.replies cimport out_t

cdef void response_init(answer_t* answer) noexcept nogil
cdef int response_feed(session_t* session, const message_t* message, int64_t now_ns, out_t* out) noexcept nogil
# The stream is over: in this order
cdef void response_close(session_t* session, int64_t now_ns) noexcept nogil
cdef bint response_failed(const answer_t* answer) noexcept nogil
cdef bint response_whole(const session_t* session) noexcept nogil
cdef void response_outcome(const session_t* session, outcome_t* outcome) noexcept nogil
cdef void response_free(session_t* session) noexcept nogil
