"""The response direction of an exchange: lets it pass, and learns from it who answered, how fast, at what cost.

Invariants: chunks go on one for one as they come; nothing of the response is kept.
Cost: O(bytes); a chunk is copied once.   Memory: none of its own.   Threads: one at a time per session.
"""
from libc.stddef cimport size_t
from libc.stdint cimport int64_t, uint8_t, uint32_t

from picker._core.alloc cimport PK_E_FORMAT, PK_OK
from picker._core.codec cimport (
    PK_BODY_NONE,
    PK_REPLY_RESPONSE_BODY,
    PK_REPLY_RESPONSE_HEADERS,
    PK_REPLY_RESPONSE_TRAILERS,
    PK_RESPONSE_BODY,
    PK_RESPONSE_HEADERS,
    codec_find_metadata,
    codec_next_header,
    codec_value_string,
    header_t,
    message_t,
    slice_equals,
    slice_starts,
    slice_t,
    slice_text,
)
from picker._core.dispatch cimport engine_answered, engine_first_byte, engine_served, engine_token
from picker._core.endpoints cimport PK_TOKEN_BYTES
from picker._core.exchange cimport (
    PK_STATE_ENDED,
    PK_STATE_NEW,
    PK_STATE_RESPONSE,
    is_duplex,
    session_header,
    session_t,
)
from picker._core.outbox cimport out_t
from picker._core.replies cimport out_chunk, out_header, out_plain, out_trailers
from picker._core.request cimport request_drop
from picker._core.sse cimport sse_feed, sse_finish, sse_init

# --- C kernel ---


cdef uint32_t _number(slice_t text) noexcept nogil:
    """A status; 0 if it is none."""
    cdef uint32_t value = 0
    cdef size_t i
    for i in range(text.size):
        if i == 3 or not c"0" <= text.data[i] <= c"9":
            return 0
        value = value * 10 + text.data[i] - c"0"
    return value


cdef void _begin_response(session_t* session) noexcept nogil:
    session.has_response = True
    session.state = PK_STATE_RESPONSE
    sse_init(&session.usage, session.is_stream)
    if not session.is_picked:
        request_drop(session)                 # the gateway answers the client itself


cdef void _first_byte(session_t* session, int64_t now_ns) noexcept nogil:
    """A streamed answer's first byte is the first token; a whole answer's is its end, which teaches nothing."""
    if session.has_first_byte or not session.is_picked:
        return
    session.has_first_byte = True
    session.first_byte_ns = now_ns
    engine_first_byte(
        session.engine, &session.booking, session.pick.decision, session.is_stream and session.status == 200, now_ns
    )


cdef void _end_of_response(session_t* session, int64_t now_ns) noexcept nogil:
    if not session.response_done:
        session.response_done = True
        session.state = PK_STATE_ENDED
        session.ended_ns = now_ns
        sse_finish(&session.usage)


cdef void _answered(session_t* session, const message_t* message, int64_t now_ns) noexcept nogil:
    """Tell the engine who answered, and how."""
    cdef slice_t value, target
    if message.metadata.size and codec_find_metadata(
        message.metadata, slice_text(b"envoy.lb"), slice_text(b"x-gateway-destination-endpoint-served"), &value
    ) == 1 and codec_value_string(value, &target) and target.size:
        engine_served(session.engine, &session.booking, target, now_ns)
    engine_answered(session.engine, &session.booking, session.status, now_ns)


cdef int _headers(session_t* session, const message_t* message, int64_t now_ns, out_t* out) noexcept nogil:
    cdef slice_t rest = message.headers, token
    cdef header_t header
    cdef uint8_t text[PK_TOKEN_BYTES]
    if session.has_response:
        return PK_E_FORMAT
    while codec_next_header(&rest, &header):
        if slice_equals(header.key, b":status"):
            session.status = _number(header.value)
        elif slice_equals(header.key, b"content-type"):
            session.is_stream = slice_starts(header.value, b"text/event-stream")
    _begin_response(session)
    token.data = text
    token.size = 0
    if session.is_picked:
        _answered(session, message, now_ns)
        token.size = engine_token(session.engine, &session.booking, text)
    if message.end_of_stream or session.response_mode == PK_BODY_NONE:
        _first_byte(session, now_ns)
        _end_of_response(session, now_ns)
    if token.size == 0:
        return out_plain(out, PK_REPLY_RESPONSE_HEADERS)
    return out_header(out, PK_REPLY_RESPONSE_HEADERS, session_header(session), token)


cdef int _body(session_t* session, const message_t* message, int64_t now_ns, out_t* out) noexcept nogil:
    if session.state == PK_STATE_NEW:
        return PK_E_FORMAT
    if not session.has_response:
        _begin_response(session)            # the gateway does not show headers
    if session.response_done and is_duplex(session.response_mode):
        return PK_E_FORMAT if message.body.size else PK_OK
    session.response_bytes += message.body.size
    if message.body.size:
        _first_byte(session, now_ns)
        sse_feed(&session.usage, message.body.data, message.body.size)
    if message.end_of_stream:
        _first_byte(session, now_ns)
        _end_of_response(session, now_ns)
    if is_duplex(session.response_mode):
        return out_chunk(out, PK_REPLY_RESPONSE_BODY, message.body, message.end_of_stream)
    return out_plain(out, PK_REPLY_RESPONSE_BODY)


cdef int _trailers(session_t* session, int64_t now_ns, out_t* out) noexcept nogil:
    if session.state == PK_STATE_NEW:
        return PK_E_FORMAT
    if not session.has_response:
        _begin_response(session)
    _first_byte(session, now_ns)
    _end_of_response(session, now_ns)
    return out_trailers(out, PK_REPLY_RESPONSE_TRAILERS)


cdef int response_feed(session_t* session, const message_t* message, int64_t now_ns, out_t* out) noexcept nogil:
    """One message of the response. PK_OK, PK_E_FORMAT (out of order) or PK_E_NOMEM."""
    if message.kind == PK_RESPONSE_HEADERS:
        return _headers(session, message, now_ns, out)
    if message.kind == PK_RESPONSE_BODY:
        return _body(session, message, now_ns, out)
    return _trailers(session, now_ns, out)
