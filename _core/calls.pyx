"""gRPC calls on an HTTP/2 connection: from response headers to trailers, with no more kept than the rules allow.

Invariants: a method is told once that a call has opened and once that it is over; what it answered before it ended the
    call is sent before the trailers are. What waits to be sent is in the connection's account; while a call or a
    connection has too much of it, its client's window stays shut.
Cost: O(bytes), each copied once, from the replies to what goes to the socket.
Memory: a call belongs to its connection, the method's state to the call.   Threads: that of the connection.
Source: gRPC over HTTP/2; RFC 9113, 5.2 (flow control) and 8.1 (an answer before the end of the request).
"""
cimport cython
from libc.stddef cimport size_t
from libc.stdint cimport INT64_MAX, int32_t, int64_t, uint8_t, uint32_t
from libc.stdio cimport snprintf
from libc.string cimport memset, strlen

from picker._core.alloc cimport PK_OK, pk_free, pk_resize
from picker._core.codec cimport buffer_append
from picker._core.deadlines cimport deadlines_drop, deadlines_set
from picker._core.inbox cimport inbox_free
from picker._core.nghttp2 cimport (
    NGHTTP2_DATA_FLAG_EOF,
    NGHTTP2_DATA_FLAG_NO_COPY,
    NGHTTP2_DATA_FLAG_NO_END_STREAM,
    NGHTTP2_ERR_CALLBACK_FAILURE,
    NGHTTP2_ERR_DEFERRED,
    NGHTTP2_ERR_WOULDBLOCK,
    NGHTTP2_FLAG_NONE,
    NGHTTP2_INTERNAL_ERROR,
    NGHTTP2_NV_FLAG_NO_COPY_NAME,
    nghttp2_data_provider,
    nghttp2_data_source,
    nghttp2_frame,
    nghttp2_nv,
    nghttp2_session,
    nghttp2_session_consume_connection,
    nghttp2_session_consume_stream,
    nghttp2_session_resume_data,
    nghttp2_submit_response,
    nghttp2_submit_rst_stream,
    nghttp2_submit_trailer,
    ssize_t,
)
from picker._core.outbox cimport out_free, out_send

cdef enum:
    FRAME_HEAD = 9             # bytes before a frame's payload
    HEADERS_BEGIN = 2          # of the response
    HEADERS_ALL = 4            # of a response that is nothing but its end

# --- C kernel: the life of a call ---


cdef call_t* call_new(connection_t* connection, int32_t id) noexcept nogil:
    """A call whose headers are on their way; NULL without memory."""
    cdef call_t* call = <call_t*>pk_resize(NULL, 1, sizeof(call_t))
    if call == NULL:
        return NULL
    memset(call, 0, sizeof(call_t))
    call.connection = connection
    call.id = id
    call.out.framed = True
    call.expires_ns = INT64_MAX
    call.waits_ns = INT64_MAX
    call.after = connection.calls
    if call.after != NULL:
        call.after.before = call
    connection.calls = call
    connection.tally.open_calls += 1
    return call


cdef void _close(call_t* call) noexcept nogil:
    """Tell the method, once."""
    deadlines_drop(&call.connection.deadlines, &call.deadline)
    if call.is_open:
        call.is_open = False
        call.method.close(call, call.connection.now_ns)


cdef void call_free(call_t* call) noexcept nogil:
    """The stream is gone."""
    cdef connection_t* connection = call.connection
    _close(call)
    connection.pending -= call.counted
    connection.tally.open_calls -= 1
    if connection.paused == call:
        connection.paused = NULL
    if call.before != NULL:
        call.before.after = call.after
    else:
        connection.calls = call.after
    if call.after != NULL:
        call.after.before = call.before
    inbox_free(&call.inbox)
    out_free(&call.out)
    pk_free(call.state)
    pk_free(call)


cdef void call_open(call_t* call) noexcept nogil:
    """Its headers are whole and good: the method's turn."""
    call.state = pk_resize(NULL, 1, call.method.state_size)
    if call.state == NULL:
        call_end(call, PK_GRPC_RESOURCE_EXHAUSTED, b"no memory for a further call")
        return
    call.connection.tally.calls += 1
    call_wait_until(call, INT64_MAX)         # at the latest, what the client wishes
    if call.is_ended:
        return                               # there was no memory for that
    call.is_open = True
    call.method.open(call, call.connection.now_ns)


cdef void call_wait_until(call_t* call, int64_t at_ns) noexcept nogil:
    """When `expire` is due; INT64_MAX = never. Before that the client's own limit may end the call."""
    cdef int64_t first = at_ns if at_ns < call.expires_ns else call.expires_ns
    call.waits_ns = at_ns
    if first == INT64_MAX or call.is_ended:
        deadlines_drop(&call.connection.deadlines, &call.deadline)
    elif deadlines_set(&call.connection.deadlines, &call.deadline, first) != PK_OK:
        call_end(call, PK_GRPC_RESOURCE_EXHAUSTED, b"no memory for a further call")


cdef void call_end(call_t* call, int status, const char* text) noexcept nogil:
    """No more will be answered: `status` (PK_GRPC_*) follows the replies. `text`: static, printable ASCII, no %."""
    if call.is_ended:
        return
    call.is_ended = True
    call.status = status
    call.text = text
    _close(call)


# --- C kernel: what is taken of the client ---


cdef void connection_take(connection_t* connection) noexcept nogil:
    """Let the client send more, unless too much waits to be sent to it."""
    if connection.taken and connection.pending <= connection.rules.connection_pending:
        nghttp2_session_consume_connection(connection.session, connection.taken)
        connection.taken = 0


cdef void call_take(call_t* call) noexcept nogil:
    """The same of one stream."""
    if call.taken and call.counted <= call.connection.rules.stream_pending:
        nghttp2_session_consume_stream(call.connection.session, call.id, call.taken)
        call.taken = 0


# --- C kernel: HTTP/2 headers and trailers ---


cdef inline void _set(nghttp2_nv* nv, const char* name, const char* value) noexcept nogil:
    nv.name = <uint8_t*>name
    nv.namelen = strlen(name)
    nv.value = <uint8_t*>value
    nv.valuelen = strlen(value)
    nv.flags = NGHTTP2_NV_FLAG_NO_COPY_NAME      # values are copied, the numbers among them are ours


cdef size_t _trailers(const call_t* call, nghttp2_nv* nvs, char* number, size_t size) noexcept nogil:
    """grpc-status, and grpc-message if there is something to say; how many."""
    snprintf(number, size, b"%d", call.status)
    _set(&nvs[0], b"grpc-status", number)
    if call.status == PK_GRPC_OK:
        return 1
    _set(&nvs[1], b"grpc-message", call.text)
    return 2


cdef int _begin(call_t* call) noexcept nogil:
    """Response headers, then replies; or headers alone where there is nothing but an end."""
    cdef nghttp2_data_provider replies
    cdef nghttp2_nv nvs[HEADERS_ALL]
    cdef char number[16]
    cdef size_t count = HEADERS_BEGIN
    cdef bint is_all = call.is_ended and call.counted == 0
    _set(&nvs[0], b":status", b"200")
    _set(&nvs[1], b"content-type", b"application/grpc")
    if is_all:
        count += _trailers(call, &nvs[HEADERS_BEGIN], number, sizeof(number))
    replies.source.ptr = call
    replies.read_callback = _read
    return nghttp2_submit_response(call.connection.session, call.id, nvs, count, NULL if is_all else &replies)


cdef int _end(call_t* call) noexcept nogil:
    cdef nghttp2_nv nvs[HEADERS_ALL]
    cdef char number[16]
    cdef size_t count = _trailers(call, nvs, number, sizeof(number))
    return nghttp2_submit_trailer(call.connection.session, call.id, nvs, count)


# --- C kernel: replies on their way out ---


cdef void call_flush(call_t* call) noexcept nogil:
    """Let HTTP/2 know of what was answered."""
    cdef connection_t* connection = call.connection
    cdef size_t waiting = call.out.waiting
    cdef int code = 0
    connection.pending += waiting - call.counted
    call.counted = waiting
    if waiting == 0 and not call.is_ended:
        return
    if not call.is_begun:
        call.is_begun = True
        code = _begin(call)
    elif call.is_deferred:
        call.is_deferred = False
        code = nghttp2_session_resume_data(connection.session, call.id)
    if code != 0:
        nghttp2_submit_rst_stream(connection.session, NGHTTP2_FLAG_NONE, call.id, NGHTTP2_INTERNAL_ERROR)


cdef ssize_t _read(
    nghttp2_session* session, int32_t id, uint8_t* into, size_t room, uint32_t* flags, nghttp2_data_source* source,
    void* user
) noexcept nogil:
    """How much may be sent now; `call_send` is asked for it then."""
    cdef call_t* call = <call_t*>source.ptr
    cdef size_t size = call.counted if call.counted < room else room
    if size == 0 and not call.is_ended:
        call.is_deferred = True
        return NGHTTP2_ERR_DEFERRED
    flags[0] |= NGHTTP2_DATA_FLAG_NO_COPY
    if size == call.counted and call.is_ended:
        flags[0] |= NGHTTP2_DATA_FLAG_EOF | NGHTTP2_DATA_FLAG_NO_END_STREAM
        if _end(call) != 0:
            return NGHTTP2_ERR_CALLBACK_FAILURE
    return <ssize_t>size


cdef int call_send(
    nghttp2_session* session, nghttp2_frame* frame, const uint8_t* head, size_t size, nghttp2_data_source* source,
    void* user
) noexcept nogil:
    """A DATA frame of the next `size` bytes."""
    cdef call_t* call = <call_t*>source.ptr
    cdef connection_t* connection = call.connection
    cdef size_t before = connection.out.size
    if before >= connection.rules.write_bytes:
        return NGHTTP2_ERR_WOULDBLOCK
    if (
        buffer_append(&connection.out, head, FRAME_HEAD) != PK_OK
        or out_send(&call.out, &connection.out, size) != PK_OK
    ):
        connection.out.size = before
        return NGHTTP2_ERR_CALLBACK_FAILURE
    call.counted -= size
    connection.pending -= size
    call_take(call)
    connection_take(connection)
    return 0


# --- Python face ---


@cython.final
@cython.auto_pickle(False)
@cython.no_gc_clear          # calls that go with it still need the service
cdef class Methods:
    """What a server answers, by path. Made by the modules whose methods they are; `service` lives as long as this."""

    def __cinit__(self, service):
        self.service = service
        self.count = 0
        memset(self.table, 0, sizeof(self.table))

    @property
    def paths(self) -> list:
        """What is answered."""
        return [self.table[i].path.decode() for i in range(self.count)]

    def _check(self) -> None:
        """Assert the invariants."""
        assert self.count <= PK_MOST_METHODS
        assert len(set(self.paths)) == self.count
        for i in range(self.count):
            assert self.table[i].state_size > 0
            assert self.table[i].service != NULL
