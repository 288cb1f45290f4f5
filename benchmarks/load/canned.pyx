"""A service that answers canned bytes: what a connection costs without a session behind it.

Invariants: as many replies, of about the same size, as picker gives to one small request.
Cost: O(1) for a message.   Memory: none.   Threads: that of the connection.
"""
# cython: language_level=3
cimport cython
from libc.stdint cimport int64_t, uint8_t
from libc.string cimport memset

from picker._core.calls cimport PK_GRPC_OK, Methods, call_end, call_t, method_t
from picker._core.codec cimport PK_REQUEST_BODY, PK_REQUEST_HEADERS, buffer_append, slice_t
from picker._core.outbox cimport out_close, out_open

cdef enum:
    PICK_BYTES = 260
    BODY_BYTES = 1040          # the request body, given back
    ECHO_BYTES = 100
    END_BYTES = 16             # a message up to here is an end of body

cdef uint8_t[BODY_BYTES] zeros
memset(zeros, 0, BODY_BYTES)


cdef void _say(call_t* call, size_t size) noexcept nogil:
    out_close(&call.out, buffer_append(out_open(&call.out), zeros, size))


cdef void _open(call_t* call, int64_t now_ns) noexcept nogil:
    pass


cdef int _message(call_t* call, slice_t message, int64_t now_ns) noexcept nogil:
    """Tell messages apart by the number of their first field."""
    cdef int kind = message.data[0] >> 3 if message.size else 0
    if kind == PK_REQUEST_BODY and message.size <= END_BYTES:
        _say(call, PICK_BYTES)
        _say(call, BODY_BYTES)
    elif kind != PK_REQUEST_HEADERS and kind != PK_REQUEST_BODY:
        _say(call, ECHO_BYTES)
    return 0


cdef void _half_close(call_t* call, int64_t now_ns) noexcept nogil:
    call_end(call, PK_GRPC_OK, b"")


cdef void _later(call_t* call, int64_t now_ns) noexcept nogil:
    pass


cdef void _nothing(call_t* call) noexcept nogil:
    pass


def methods(path=b"/envoy.service.ext_proc.v3.ExternalProcessor/Process") -> Methods:
    """Canned answers in place of ext_proc's."""
    cdef Methods made = Methods(path)
    cdef method_t* method = &made.table[0]
    method.path = path
    method.state_size = 1
    method.service = <void*>zeros
    method.open = _open
    method.message = _message
    method.half_close = _half_close
    method.expire = _later
    method.close = _later
    method.changed = _nothing
    method.fail = _nothing
    made.count = 1
    return made
