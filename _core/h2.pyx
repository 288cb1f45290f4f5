"""A gRPC server's side of one HTTP/2 connection: bytes of the socket in, bytes for the socket out.

Invariants: whatever ends a connection ends its calls, once each. What it holds is bounded by its rules: a peer that
    does not read is soon not read from. No frame a peer can send ends more than its own connection.
Cost: O(bytes); see `calls`.   Memory: the connection owns its calls and what they hold; freed with it.
Threads: one at a time per server.
Source: RFC 9113 by libnghttp2; gRPC over HTTP/2.

Envoy ends each ext_proc stream by RST_STREAM, and more streams than a fixed number per second are its trade, so resets
are not limited by rate. A reset frees all that its stream held there and then, and reads are of bounded size, so a peer
that does nothing but open and reset streams gets no more than its turns of the loop.
"""
cimport cython
from cpython.buffer cimport PyBuffer_FillInfo
from libc.stddef cimport size_t
from libc.stdint cimport INT64_MAX, int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memset

from picker._core.alloc cimport PK_E_LIMIT, PK_E_NOMEM, PK_OK, pk_alloc, pk_free, pk_resize
from picker._core.calls cimport (
    PK_GRPC_DEADLINE_EXCEEDED,
    PK_GRPC_INTERNAL,
    PK_GRPC_RESOURCE_EXHAUSTED,
    PK_GRPC_UNAVAILABLE,
    PK_GRPC_UNIMPLEMENTED,
    Methods,
    call_end,
    call_flush,
    call_free,
    call_new,
    call_open,
    call_send,
    call_t,
    call_take,
    call_wait_until,
    connection_t,
    connection_take,
    method_t,
)
from picker._core.codec cimport buffer_append, buffer_free, buffer_t, slice_t
from picker._core.deadlines cimport deadlines_drop, deadlines_due, deadlines_free, deadlines_set
from picker._core.heads cimport head_begin, head_is_malformed, head_read
from picker._core.inbox cimport (
    PK_INBOX_COMPRESSED,
    PK_INBOX_MESSAGE,
    PK_INBOX_MORE,
    inbox_is_empty,
    inbox_next,
)
from picker._core.nghttp2 cimport (
    NGHTTP2_DATA,
    NGHTTP2_ENHANCE_YOUR_CALM,
    NGHTTP2_ERR_CALLBACK_FAILURE,
    NGHTTP2_ERR_FLOODED,
    NGHTTP2_ERR_NOMEM,
    NGHTTP2_ERR_PAUSE,
    NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE,
    NGHTTP2_ERR_WOULDBLOCK,
    NGHTTP2_FLAG_ACK,
    NGHTTP2_FLAG_END_STREAM,
    NGHTTP2_FLAG_NONE,
    NGHTTP2_GOAWAY,
    NGHTTP2_HCAT_REQUEST,
    NGHTTP2_HEADERS,
    NGHTTP2_INTERNAL_ERROR,
    NGHTTP2_NO_ERROR,
    NGHTTP2_NV_FLAG_NO_COPY_NAME,
    NGHTTP2_NV_FLAG_NO_COPY_VALUE,
    NGHTTP2_PING,
    NGHTTP2_PROTOCOL_ERROR,
    NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE,
    NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS,
    NGHTTP2_SETTINGS_MAX_HEADER_LIST_SIZE,
    nghttp2_frame,
    nghttp2_mem,
    nghttp2_nv,
    nghttp2_option,
    nghttp2_option_del,
    nghttp2_option_new,
    nghttp2_option_set_no_auto_window_update,
    nghttp2_option_set_no_closed_streams,
    nghttp2_option_set_no_http_messaging,
    nghttp2_option_set_stream_reset_rate_limit,
    nghttp2_session,
    nghttp2_session_callbacks,
    nghttp2_session_callbacks_del,
    nghttp2_session_callbacks_new,
    nghttp2_session_callbacks_set_on_begin_headers_callback,
    nghttp2_session_callbacks_set_on_data_chunk_recv_callback,
    nghttp2_session_callbacks_set_on_frame_recv_callback,
    nghttp2_session_callbacks_set_on_frame_send_callback,
    nghttp2_session_callbacks_set_on_header_callback,
    nghttp2_session_callbacks_set_on_stream_close_callback,
    nghttp2_session_callbacks_set_send_callback,
    nghttp2_session_callbacks_set_send_data_callback,
    nghttp2_session_del,
    nghttp2_session_get_last_proc_stream_id,
    nghttp2_session_get_stream_user_data,
    nghttp2_session_mem_recv,
    nghttp2_session_send,
    nghttp2_session_server_new3,
    nghttp2_session_set_local_window_size,
    nghttp2_session_set_stream_user_data,
    nghttp2_session_terminate_session,
    nghttp2_session_want_read,
    nghttp2_session_want_write,
    nghttp2_settings_entry,
    nghttp2_submit_goaway,
    nghttp2_submit_ping,
    nghttp2_submit_response,
    nghttp2_submit_rst_stream,
    nghttp2_submit_settings,
    nghttp2_submit_shutdown_notice,
    ssize_t,
)
from picker._core.outbox cimport out_mark
from picker._core.score cimport PK_NEED_PLUGIN

cdef enum:
    RESETS = 1 << 30           # as good as no limit; see above
    LINGER_NS = 1000000000     # for a client to see that its call has ended

# --- C kernel: calls that begin ---


cdef void _refuse_http(call_t* call, const char* status) noexcept nogil:
    """To who does not speak gRPC."""
    cdef nghttp2_nv nv
    nv.name, nv.value = <uint8_t*>b":status", <uint8_t*>status
    nv.namelen, nv.valuelen = 7, 3
    nv.flags = NGHTTP2_NV_FLAG_NO_COPY_NAME | NGHTTP2_NV_FLAG_NO_COPY_VALUE
    call.is_begun = call.is_ended = True
    nghttp2_submit_response(call.connection.session, call.id, &nv, 1, NULL)


cdef void _begin_call(call_t* call) noexcept nogil:
    """The request headers are whole."""
    call.connection.tally.refused += 1
    if head_is_malformed(call):
        nghttp2_submit_rst_stream(call.connection.session, NGHTTP2_FLAG_NONE, call.id, NGHTTP2_PROTOCOL_ERROR)
    elif not call.is_post:
        _refuse_http(call, b"405")
    elif not call.is_grpc:
        _refuse_http(call, b"415")
    elif call.header_bytes > call.connection.rules.header_bytes:
        call_end(call, PK_GRPC_RESOURCE_EXHAUSTED, b"the request headers are too large")
    elif call.method == NULL:
        call_end(call, PK_GRPC_UNIMPLEMENTED, b"no such method")
    else:
        call.connection.tally.refused -= 1
        call_open(call)


# --- C kernel: what libnghttp2 calls on the way in ---


cdef inline call_t* _call(nghttp2_session* session, int32_t id) noexcept nogil:
    return <call_t*>nghttp2_session_get_stream_user_data(session, id)


cdef int _on_begin_headers(nghttp2_session* session, const nghttp2_frame* frame, void* user) noexcept nogil:
    cdef call_t* call
    if frame.hd.type != NGHTTP2_HEADERS or frame.headers.cat != NGHTTP2_HCAT_REQUEST:
        return 0
    head_begin(<connection_t*>user)
    call = call_new(<connection_t*>user, frame.hd.stream_id)
    if call == NULL:
        return NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE
    nghttp2_session_set_stream_user_data(session, frame.hd.stream_id, call)
    return 0


cdef int _on_header(
    nghttp2_session* session, const nghttp2_frame* frame, const uint8_t* name, size_t name_size, const uint8_t* value,
    size_t size, uint8_t flags, void* user
) noexcept nogil:
    cdef call_t* call = _call(session, frame.hd.stream_id)
    if call == NULL or call.is_open or call.is_ended:
        return 0                        # trailers say nothing
    head_read(call, name, name_size, value, size)
    return 0


cdef void _half_close(call_t* call) noexcept nogil:
    """The client has no more to say."""
    call.is_half_closed = True
    if not call.is_open:
        return
    if not inbox_is_empty(&call.inbox):
        call_end(call, PK_GRPC_INTERNAL, b"the last message is cut off")
        return
    call.method.half_close(call, call.connection.now_ns)


cdef int _on_frame(nghttp2_session* session, const nghttp2_frame* frame, void* user) noexcept nogil:
    cdef connection_t* connection = <connection_t*>user
    cdef call_t* call
    if frame.hd.type == NGHTTP2_PING and frame.hd.flags & NGHTTP2_FLAG_ACK:
        connection.is_pinged = False
    if frame.hd.type != NGHTTP2_HEADERS and frame.hd.type != NGHTTP2_DATA:
        return 0
    call = _call(session, frame.hd.stream_id)
    if call == NULL:
        return 0
    if frame.hd.type == NGHTTP2_HEADERS and frame.headers.cat == NGHTTP2_HCAT_REQUEST:
        _begin_call(call)
    if frame.hd.flags & NGHTTP2_FLAG_END_STREAM:
        _half_close(call)
    call_flush(call)
    return 0


cdef void _bad_message(call_t* call, int code) noexcept nogil:
    """What came is not a message that picker takes."""
    if code == PK_INBOX_COMPRESSED and call.is_compressed:
        call_end(call, PK_GRPC_UNIMPLEMENTED, b"messages must not be compressed")
    elif code == PK_INBOX_COMPRESSED:
        call_end(call, PK_GRPC_INTERNAL, b"a compressed message without grpc-encoding")
    elif code == PK_E_LIMIT:
        call_end(call, PK_GRPC_RESOURCE_EXHAUSTED, b"the message is larger than --grpc-max-recv-msg-size")
    elif code == PK_E_NOMEM:
        call_end(call, PK_GRPC_RESOURCE_EXHAUSTED, b"no memory for this message")
    else:
        call_end(call, PK_GRPC_INTERNAL, b"not a gRPC message")


cdef bint _give_messages(call_t* call, slice_t* rest) noexcept nogil:
    """Give the method the messages in `rest`, until it needs Python: then True, and `rest` is what is left."""
    cdef connection_t* connection = call.connection
    cdef slice_t message
    cdef int code = PK_INBOX_MORE
    while call.is_open:
        code = inbox_next(&call.inbox, rest, connection.rules.message_bytes, &message)
        if code != PK_INBOX_MESSAGE:
            break
        connection.tally.messages += 1
        call.mark = out_mark(&call.out)
        if call.method.message(call, message, connection.now_ns) == PK_NEED_PLUGIN:
            return True
    if call.is_open and code != PK_INBOX_MORE:
        _bad_message(call, code)
    return False


cdef int _on_data(
    nghttp2_session* session, uint8_t flags, int32_t id, const uint8_t* data, size_t size, void* user
) noexcept nogil:
    cdef connection_t* connection = <connection_t*>user
    cdef call_t* call = _call(session, id)
    cdef slice_t rest
    connection.taken += size
    if call == NULL:
        connection_take(connection)
        return 0
    call.taken += size
    rest.data = data
    rest.size = size
    if _give_messages(call, &rest):
        connection.paused = call
        connection.rest = rest
        return NGHTTP2_ERR_PAUSE
    call_flush(call)
    call_take(call)
    connection_take(connection)
    return 0


cdef int _on_close(nghttp2_session* session, int32_t id, uint32_t error, void* user) noexcept nogil:
    cdef call_t* call = _call(session, id)
    if call != NULL:
        nghttp2_session_set_stream_user_data(session, id, NULL)
        call_free(call)
        connection_take(<connection_t*>user)
    return 0


# --- C kernel: what libnghttp2 calls on the way out ---


cdef ssize_t _on_send(nghttp2_session* session, const uint8_t* data, size_t size, int flags, void* user) noexcept nogil:
    cdef connection_t* connection = <connection_t*>user
    if connection.out.size >= connection.rules.write_bytes:
        return NGHTTP2_ERR_WOULDBLOCK
    if buffer_append(&connection.out, data, size) != PK_OK:
        return NGHTTP2_ERR_CALLBACK_FAILURE
    return <ssize_t>size


cdef int _on_sent(nghttp2_session* session, const nghttp2_frame* frame, void* user) noexcept nogil:
    """An answer that ended before the request did: a client that goes on regardless is stopped (RFC 9113, 8.1).

    Not at once: clients end the stream themselves when they see the end, and some take a reset for a failure.
    """
    cdef connection_t* connection = <connection_t*>user
    cdef call_t* call
    if frame.hd.type == NGHTTP2_GOAWAY and frame.goaway.error_code != NGHTTP2_NO_ERROR:
        connection.tally.faults += 1
    if frame.hd.type == NGHTTP2_HEADERS and frame.hd.flags & NGHTTP2_FLAG_END_STREAM:
        call = _call(session, frame.hd.stream_id)
        if call != NULL and not call.is_half_closed:
            if deadlines_set(&connection.deadlines, &call.deadline, connection.now_ns + LINGER_NS) != PK_OK:
                _reset(call)
    return 0


cdef void _reset(call_t* call) noexcept nogil:
    nghttp2_submit_rst_stream(call.connection.session, NGHTTP2_FLAG_NONE, call.id, NGHTTP2_NO_ERROR)


# --- C kernel: memory of libnghttp2 ---


cdef void* _malloc(size_t size, void* user) noexcept nogil:
    return pk_resize(NULL, size, 1)


cdef void* _calloc(size_t count, size_t size, void* user) noexcept nogil:
    return pk_alloc(count, size)


cdef void* _realloc(void* block, size_t size, void* user) noexcept nogil:
    return pk_resize(block, size, 1)


cdef void _free(void* block, void* user) noexcept nogil:
    pk_free(block)


# --- C kernel: the connection ---


cdef void _set_callbacks(nghttp2_session_callbacks* callbacks) noexcept nogil:
    nghttp2_session_callbacks_set_send_callback(callbacks, _on_send)
    nghttp2_session_callbacks_set_send_data_callback(callbacks, call_send)
    nghttp2_session_callbacks_set_on_begin_headers_callback(callbacks, _on_begin_headers)
    nghttp2_session_callbacks_set_on_header_callback(callbacks, _on_header)
    nghttp2_session_callbacks_set_on_frame_recv_callback(callbacks, _on_frame)
    nghttp2_session_callbacks_set_on_frame_send_callback(callbacks, _on_sent)
    nghttp2_session_callbacks_set_on_data_chunk_recv_callback(callbacks, _on_data)
    nghttp2_session_callbacks_set_on_stream_close_callback(callbacks, _on_close)


cdef int _new_session(connection_t* connection) noexcept nogil:
    cdef nghttp2_session_callbacks* callbacks = NULL
    cdef nghttp2_option* option = NULL
    cdef nghttp2_mem memory
    cdef int code = NGHTTP2_ERR_NOMEM
    memory.mem_user_data = NULL
    memory.malloc, memory.calloc, memory.realloc, memory.free = _malloc, _calloc, _realloc, _free
    if nghttp2_session_callbacks_new(&callbacks) == 0 and nghttp2_option_new(&option) == 0:
        _set_callbacks(callbacks)
        nghttp2_option_set_no_auto_window_update(option, 1)
        nghttp2_option_set_no_closed_streams(option, 1)
        nghttp2_option_set_no_http_messaging(option, 1)      # see `heads`
        nghttp2_option_set_stream_reset_rate_limit(option, RESETS, RESETS)
        code = nghttp2_session_server_new3(&connection.session, callbacks, connection, option, &memory)
    nghttp2_option_del(option)
    nghttp2_session_callbacks_del(callbacks)
    return PK_OK if code == 0 else PK_E_NOMEM


cdef int _submit_settings(connection_t* connection) noexcept nogil:
    cdef nghttp2_settings_entry settings[3]
    settings[0].settings_id = NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS
    settings[0].value = connection.rules.streams
    settings[1].settings_id = NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE
    settings[1].value = connection.rules.stream_window
    settings[2].settings_id = NGHTTP2_SETTINGS_MAX_HEADER_LIST_SIZE
    settings[2].value = connection.rules.header_bytes
    if nghttp2_submit_settings(connection.session, NGHTTP2_FLAG_NONE, settings, 3) != 0:
        return PK_E_NOMEM
    if nghttp2_session_set_local_window_size(
        connection.session, NGHTTP2_FLAG_NONE, 0, <int32_t>connection.rules.connection_window
    ) != 0:
        return PK_E_NOMEM
    return PK_OK


cdef int connection_init(
    connection_t* connection, const method_t* methods, uint32_t method_count, const rules_t* rules, tally_t* tally,
    int64_t now_ns
) noexcept nogil:
    """A new connection; the first bytes to send are ready. PK_OK or PK_E_NOMEM; `connection_free` is due either way."""
    cdef int code
    memset(connection, 0, sizeof(connection_t))
    connection.methods = methods
    connection.method_count = method_count
    connection.rules = rules
    connection.tally = tally
    connection.now_ns = connection.heard_ns = now_ns
    tally.connections += 1
    code = _new_session(connection)
    return _submit_settings(connection) if code == PK_OK else code


cdef void connection_free(connection_t* connection, int64_t now_ns) noexcept nogil:
    """The connection is gone, and all its calls with it."""
    connection.now_ns = now_ns
    while connection.calls != NULL:
        call_free(connection.calls)
    nghttp2_session_del(connection.session)
    connection.session = NULL
    deadlines_free(&connection.deadlines)
    buffer_free(&connection.out)
    connection.is_dead = True


cdef uint32_t _error(ssize_t code) noexcept nogil:
    """What the peer is told."""
    if code == NGHTTP2_ERR_NOMEM:
        return NGHTTP2_INTERNAL_ERROR
    return NGHTTP2_ENHANCE_YOUR_CALM if code == NGHTTP2_ERR_FLOODED else NGHTTP2_PROTOCOL_ERROR


cdef Py_ssize_t connection_receive(connection_t* connection, const uint8_t* data, size_t size) noexcept nogil:
    """Bytes of the socket, at `connection.now_ns`. How many were taken: all, unless a call is paused for its plugin
    (`connection.paused`): then `connection_resume` with the plugin's answer, and go on with what is left. What breaks
    HTTP/2 so that there is no going on makes the connection one that is over, once its GOAWAY is sent.
    """
    cdef ssize_t taken
    connection.heard_ns = connection.now_ns
    if connection.is_dead:
        return <Py_ssize_t>size
    taken = nghttp2_session_mem_recv(connection.session, data, size)
    if taken >= 0:
        return taken
    connection.is_dead = True
    nghttp2_session_terminate_session(connection.session, _error(taken))
    return <Py_ssize_t>size


cdef void connection_resume(connection_t* connection) noexcept nogil:
    """The paused call has its plugin's answer: go on with the messages behind it. It may be paused again."""
    cdef call_t* call = connection.paused
    cdef slice_t rest = connection.rest
    connection.paused = NULL
    if _give_messages(call, &rest):
        connection.paused = call
        connection.rest = rest
        return
    call_flush(call)
    call_take(call)
    connection_take(connection)


cdef void connection_abandon(connection_t* connection) noexcept nogil:
    """The paused call gets no answer. What came behind it is lost, and with it the connection."""
    cdef call_t* call = connection.paused
    connection.paused = NULL
    connection.is_dead = True
    if call != NULL:
        call_flush(call)
        call_take(call)
    connection_take(connection)


cdef void connection_send(connection_t* connection) noexcept nogil:
    """Gather up to about `write_bytes` of what can be sent now in `connection.out`.

    Once that has failed nothing more is sent: a frame may be lost, and the peer's header tables are not ours any more.
    """
    if connection.is_mute:
        return
    if nghttp2_session_send(connection.session) != 0:
        connection.is_mute = True
        connection.is_dead = True


cdef bint connection_is_over(connection_t* connection) noexcept nogil:
    """Is there nothing more to read or to write?"""
    if connection.out.size:
        return False
    if connection.is_dead:
        return True
    return not (nghttp2_session_want_read(connection.session) or nghttp2_session_want_write(connection.session))


# --- C kernel: time ---


cdef void _expire_calls(connection_t* connection) noexcept nogil:
    cdef call_t* call = <call_t*>deadlines_due(&connection.deadlines, connection.now_ns)
    while call != NULL:
        if call.is_ended:
            deadlines_drop(&connection.deadlines, &call.deadline)
            _reset(call)
        elif call.expires_ns <= connection.now_ns:
            call_end(call, PK_GRPC_DEADLINE_EXCEEDED, b"the time the client gave is up")
        else:
            call_wait_until(call, INT64_MAX)
            call.method.expire(call, connection.now_ns)
        call_flush(call)
        call = <call_t*>deadlines_due(&connection.deadlines, connection.now_ns)


cdef void _ping(connection_t* connection) noexcept nogil:
    """Is there anybody? A peer that went without a word would hold its streams for ever."""
    cdef int64_t silent_ns = connection.now_ns - connection.heard_ns
    if connection.is_pinged:
        if silent_ns > connection.rules.ping_timeout_ns and (
            connection.now_ns - connection.pinged_ns > connection.rules.ping_timeout_ns
        ):
            connection.is_dead = True
    elif silent_ns > connection.rules.ping_after_ns:
        connection.is_pinged = True
        connection.pinged_ns = connection.now_ns
        nghttp2_submit_ping(connection.session, NGHTTP2_FLAG_NONE, NULL)


cdef void connection_tick(connection_t* connection, int64_t now_ns) noexcept nogil:
    """Do what is due by now."""
    connection.now_ns = now_ns
    if connection.is_dead:
        return
    _expire_calls(connection)
    _ping(connection)
    if connection.is_draining and not connection.is_last_called:
        if now_ns - connection.notice_ns >= connection.rules.notice_ns:
            connection.is_last_called = True
            nghttp2_submit_goaway(
                connection.session, NGHTTP2_FLAG_NONE, nghttp2_session_get_last_proc_stream_id(connection.session),
                NGHTTP2_NO_ERROR, NULL, 0
            )


cdef void connection_drain(connection_t* connection, int64_t now_ns) noexcept nogil:
    """Ask the client to go elsewhere; what it has begun is served. It is over when all calls are (RFC 9113, 6.8)."""
    if connection.is_draining or connection.is_dead:
        return
    connection.is_draining = True
    connection.notice_ns = now_ns
    nghttp2_submit_shutdown_notice(connection.session)


cdef void connection_stop(connection_t* connection) noexcept nogil:
    """End every call with UNAVAILABLE."""
    cdef call_t* call = connection.calls
    while call != NULL:
        call_end(call, PK_GRPC_UNAVAILABLE, b"the endpoint picker is stopping")
        call_flush(call)
        call = call.after


# --- Python face ---

_RULES = {
    "streams": 21024, "message_bytes": 128 << 20, "header_bytes": 64 << 10, "stream_window": 1 << 20,
    "connection_window": 16 << 20, "stream_pending": 1 << 20, "connection_pending": 32 << 20, "write_bytes": 256 << 10,
    "ping_after_ns": 30 * 10**9, "ping_timeout_ns": 20 * 10**9, "notice_ns": 10**9,
}


cdef int _rules_fill(rules_t* rules, object given) except -1:
    unknown = set(given) - set(_RULES)
    if unknown:
        raise ValueError(f"no rule called {sorted(unknown)}; there are {sorted(_RULES)}")
    values = {**_RULES, **given}
    for name, value in values.items():
        if value < 1 or (name.endswith("window") and value > 0x7FFFFFFF):
            raise ValueError(f"rule {name} cannot be {value}")
    rules.streams, rules.message_bytes = values["streams"], values["message_bytes"]
    rules.header_bytes = values["header_bytes"]
    rules.stream_window, rules.connection_window = values["stream_window"], values["connection_window"]
    rules.stream_pending, rules.connection_pending = values["stream_pending"], values["connection_pending"]
    rules.write_bytes = values["write_bytes"]
    rules.ping_after_ns, rules.ping_timeout_ns = values["ping_after_ns"], values["ping_timeout_ns"]
    rules.notice_ns = values["notice_ns"]
    return 0


@cython.final
@cython.auto_pickle(False)
@cython.no_gc_clear          # connections that go with it still need its methods
cdef class Server:
    """What all connections share: the methods they answer, rules, and a buffer that sockets are read into.

    The buffer is the object itself: `inbound_bytes` writable bytes, good until a connection has taken them.
    `on_error(exception)` hears of what a plugin host raised. ValueError for what cannot be; MemoryError.
    """

    def __cinit__(self, services, *, rules=(), size_t inbound_bytes=256 << 10, on_error=None):
        cdef Methods methods
        cdef uint32_t i
        _rules_fill(&self.rules, dict(rules))
        memset(&self.tally, 0, sizeof(self.tally))
        self._services = tuple(services)
        self.on_error = on_error
        for methods in self._services:
            if self.method_count + methods.count > PK_ALL_METHODS:
                raise ValueError(f"at most {PK_ALL_METHODS} methods")
            for i in range(methods.count):
                self.methods[self.method_count] = methods.table[i]
                self.method_count += 1
        self.inbound_size = inbound_bytes
        self.inbound = <uint8_t*>pk_alloc(inbound_bytes, 1)
        if self.inbound == NULL:
            raise MemoryError(f"no memory for {inbound_bytes} bytes to read into")

    def __dealloc__(self):
        cdef uint32_t i
        pk_free(self.inbound)
        for i in range(self.spare_count):
            pk_free(self.spare[i])

    def __getbuffer__(self, Py_buffer* view, int flags):
        PyBuffer_FillInfo(view, self, self.inbound, self.inbound_size, 0, flags)

    @property
    def open_calls(self) -> int:
        """Streams of all connections."""
        return self.tally.open_calls

    def counters(self) -> dict:
        """What connections have seen since the start: connections, calls, messages, refused calls, HTTP/2 faults."""
        return {
            "connections": self.tally.connections, "calls": self.tally.calls, "messages": self.tally.messages,
            "refused": self.tally.refused, "faults": self.tally.faults,
        }

    def _check(self) -> None:
        """Assert the invariants."""
        assert self.method_count <= PK_ALL_METHODS
        assert self.spare_count <= PK_SPARE_BLOCKS
        assert all([self.spare_capacity[i] <= 4 * self.rules.write_bytes for i in range(self.spare_count)])
        assert self.tally.open_calls >= 0


@cython.final
@cython.auto_pickle(False)
@cython.no_gc_clear          # its memory goes back to the server
cdef class Block:
    """Bytes on their way to a socket; their memory goes back to the server's pool when nobody holds this."""

    def __cinit__(self):
        self._data = NULL

    def __dealloc__(self):
        if self._data != NULL:
            _give_back(self._server, self._data, self._capacity)

    def __getbuffer__(self, Py_buffer* view, int flags):
        PyBuffer_FillInfo(view, self, self._data, self._size, 1, flags)

    def __len__(self) -> int:
        return self._size

    def _check(self) -> None:
        """Assert the invariants."""
        assert self._size <= <Py_ssize_t>self._capacity


cdef void _give_back(Server server, uint8_t* data, size_t capacity):
    """To the pool, as far as there is room for it."""
    if server.spare_count < PK_SPARE_BLOCKS and capacity <= 4 * server.rules.write_bytes:
        server.spare[server.spare_count] = data
        server.spare_capacity[server.spare_count] = capacity
        server.spare_count += 1
    else:
        pk_free(data)


cdef void _lend(Server server, buffer_t* out):
    """From the pool, for the next write."""
    if out.data == NULL and server.spare_count:
        server.spare_count -= 1
        out.data = server.spare[server.spare_count]
        out.capacity = server.spare_capacity[server.spare_count]


cdef Block _hand_over(Server server, buffer_t* out):
    """What is to be written, without a copy; the connection goes on in another block."""
    cdef Block block = Block.__new__(Block)
    block._server = server
    block._data, block._size, block._capacity = out.data, out.size, out.capacity
    memset(out, 0, sizeof(buffer_t))
    return block


cdef enum:
    SMALL_BYTES = 16 << 10     # up to here a copy is cheaper than another block, and an idle connection may keep it


@cython.final
@cython.auto_pickle(False)
@cython.no_gc_clear          # its calls are closed at the last moment, by what the server holds
cdef class Connection:
    """A connection that `server` has accepted at `now_ns`; close it when the socket is gone. MemoryError.

    `owner`: whoever has the socket, for services that answer when nothing has been read.
    """

    def __cinit__(self, Server server not None, int64_t now_ns, owner=None):
        self._server = server
        self._is_ready = True
        self.owner = owner
        if connection_init(
            &self._connection, server.methods, server.method_count, &server.rules, &server.tally, now_ns
        ) != PK_OK:
            raise MemoryError("no memory for a further connection")
        self._connection.python = <void*>self

    def __dealloc__(self):
        if self._is_ready:
            self.close(self._connection.now_ns)

    cdef int answer(self, call_t* call) except -1:
        """Let Python answer the call, however often it is asked."""
        cdef int code = PK_NEED_PLUGIN
        try:
            while code == PK_NEED_PLUGIN:
                code = call.method.run(call, self._connection.now_ns)
        except Exception as problem:
            call.method.fail(call)
            if self._server.on_error is not None:
                self._server.on_error(problem)
        return 0

    cdef int _run(self) except -1:
        """Go on with the call that is paused for Python. What goes wrong beyond that is the end of the connection."""
        cdef connection_t* connection = &self._connection
        try:
            while connection.paused != NULL:
                self.answer(connection.paused)
                connection_resume(connection)
        except BaseException:
            connection_abandon(connection)
            raise
        return 0

    cdef int _receive(self, const uint8_t* data, size_t size, int64_t now_ns) except -1:
        cdef Py_ssize_t taken
        self._connection.now_ns = now_ns
        while True:
            taken = connection_receive(&self._connection, data, size)
            if self._connection.paused == NULL:
                return 0
            data += taken
            size -= taken
            self._run()

    def received(self, size_t size, int64_t now_ns) -> None:
        """The first `size` bytes of the server's buffer have come. ValueError if it has not as many."""
        if size > self._server.inbound_size:
            raise ValueError(f"the buffer has {self._server.inbound_size} bytes, not {size}")
        if self._is_ready:
            self._receive(self._server.inbound, size, now_ns)

    def feed(self, const unsigned char[::1] data not None, int64_t now_ns) -> None:
        """These bytes have come."""
        if self._is_ready and data.shape[0]:
            self._receive(&data[0], data.shape[0], now_ns)

    def take(self) -> memoryview | bytes | None:
        """What to write next, or None. Not to be called while the socket takes no more: nothing is lost meanwhile."""
        cdef buffer_t* out = &self._connection.out
        if not self._is_ready:
            return None
        _lend(self._server, out)
        connection_send(&self._connection)
        if out.size > SMALL_BYTES:
            return memoryview(_hand_over(self._server, out))
        written = out.data[:out.size] if out.size else None
        out.size = 0
        if out.capacity > SMALL_BYTES:
            _give_back(self._server, out.data, out.capacity)
            memset(out, 0, sizeof(buffer_t))
        return written

    def tick(self, int64_t now_ns) -> None:
        """Do what is due by now: end what waited too long, see whether the peer is still there. Then `take`."""
        if self._is_ready:
            connection_tick(&self._connection, now_ns)

    def wake(self) -> None:
        """Something that calls wait for has changed. Then `take`."""
        cdef call_t* call = self._connection.calls if self._is_ready else NULL
        while call != NULL:
            if call.is_open:
                call.method.changed(call)
                call_flush(call)
            call = call.after

    def drain(self, int64_t now_ns) -> None:
        """Ask the peer to open no more streams here. Then `take`, and `tick` on; `is_over` when the last has ended."""
        if self._is_ready:
            connection_drain(&self._connection, now_ns)

    def stop(self) -> None:
        """End all calls with UNAVAILABLE. Then `take`."""
        if self._is_ready:
            connection_stop(&self._connection)

    def close(self, int64_t now_ns) -> None:
        """The socket is gone. Closing twice is harmless."""
        if self._is_ready:
            self._is_ready = False
            self.owner = None
            connection_free(&self._connection, now_ns)

    @property
    def is_over(self) -> bool:
        """Is there nothing more to read or to write? Then the socket should be closed."""
        return not self._is_ready or bool(connection_is_over(&self._connection))

    @property
    def pending(self) -> int:
        """Bytes of replies that wait to be sent."""
        return self._connection.pending if self._is_ready else 0

    def _check(self) -> None:
        """Assert the invariants."""
        cdef const call_t* call = self._connection.calls if self._is_ready else NULL
        cdef uint64_t pending = 0
        cdef size_t waited = 0
        while call != NULL:
            assert call.out.waiting == call.counted
            assert call.taken == 0 or call.counted > self._server.rules.stream_pending
            assert not (call.is_open and call.is_ended)
            assert call.after == NULL or call.after.before == call
            assert call.deadline.place == 0 or not call.is_ended or (call.is_begun and not call.is_half_closed)
            pending += call.counted
            waited += call.deadline.place > 0
            call = call.after
        if self._is_ready:
            assert self._connection.pending == pending
            assert self._connection.taken == 0 or pending > self._server.rules.connection_pending
            assert self._connection.deadlines.count == waited
            assert self._connection.paused == NULL
