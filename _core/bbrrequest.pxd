# The request direction of the body-based router.
from picker._core.codec cimport message_t
from picker._core.outbox cimport out_t
from picker._core.routing cimport route_t

# One message: PK_OK, PK_NEED_PLUGIN, PK_E_FORMAT (out of order) or PK_E_NOMEM
cdef int bbr_request(route_t* route, const message_t* message, out_t* out) noexcept nogil
# Go on after PK_NEED_PLUGIN
cdef int bbr_request_resume(route_t* route, out_t* out) noexcept nogil
