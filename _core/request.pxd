# The request direction of an exchange.
from libc.stdint cimport int64_t

from picker._core.codec cimport message_t
from picker._core.exchange cimport session_t
from picker._core.replies cimport out_t

# One message: PK_OK, PK_NEED_PLUGIN, PK_E_FORMAT (out of order) or PK_E_NOMEM
cdef int request_feed(session_t* session, const message_t* message, int64_t now_ns, out_t* out) noexcept nogil
# Its turn has come, or it has lost it: what that means is told once
cdef int request_turn(session_t* session, int64_t now_ns, out_t* out) noexcept nogil
cdef int request_resume(session_t* session, out_t* out) noexcept nogil
cdef int request_refuse(session_t* session, int failure, out_t* out) noexcept nogil
cdef void request_drop(session_t* session) noexcept nogil
