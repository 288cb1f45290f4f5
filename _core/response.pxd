# The response direction of an exchange.
from libc.stdint cimport int64_t

from picker._core.codec cimport message_t
from picker._core.exchange cimport session_t
from picker._core.replies cimport out_t

cdef int response_feed(session_t* session, const message_t* message, int64_t now_ns, out_t* out) noexcept nogil
