"""The response direction of an exchange: lets it pass, and learns from it who answered, how fast, at what cost.

Invariants: chunks go on one for one as they come, but for the beginning of a model's name that is to be restored; what
    is held back of one goes on before the end; nothing else of the response is kept.
Cost: O(bytes); a chunk is copied once, twice where a name is restored. By `engine.tracks` bodies are not read at all.
Memory: owns what `restore` holds back.   Threads: one at a time per session.
Source: gRPC over HTTP/2 (grpc-status in trailers, or in headers without a body).
"""
from libc.stddef cimport size_t
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memchr, memset

from picker._core.alloc cimport PK_E_FORMAT, PK_E_NOMEM, PK_OK
from picker._core.apis cimport PK_FORMAT_GRPC, api_get
from picker._core.codec cimport (
    PK_BODY_BUFFERED,
    PK_BODY_BUFFERED_PARTIAL,
    PK_BODY_NONE,
    PK_REPLY_RESPONSE_BODY,
    PK_REPLY_RESPONSE_TRAILERS,
    PK_RESPONSE_BODY,
    PK_RESPONSE_HEADERS,
    codec_find_metadata,
    codec_has_metadata,
    codec_next_header,
    codec_next_item,
    codec_value_list,
    codec_value_string,
    header_t,
    message_t,
    slice_bytes,
    slice_equals,
    slice_number,
    slice_starts,
    slice_t,
    slice_text,
)
from picker._core.dispatch cimport (
    PK_TRACK_FULL,
    PK_TRACK_HEADERS,
    engine_answered,
    engine_first_byte,
    engine_served,
    engine_token,
    outcome_t,
)
from picker._core.endpoints cimport PK_TOKEN_BYTES
from picker._core.exchange cimport (
    PK_ANSWER_EVENTS,
    PK_ANSWER_FRAMES,
    PK_ANSWER_JSON,
    PK_ANSWER_UNREAD,
    PK_STATE_ENDED,
    PK_STATE_NEW,
    PK_STATE_RESPONSE,
    answer_t,
    is_duplex,
    session_header,
    session_t,
)
from picker._core.framed cimport (
    framed_cached_tokens,
    framed_completion_tokens,
    framed_feed,
    framed_init,
    framed_prompt_tokens,
)
from picker._core.metering cimport meter_said_t, meter_show
from picker._core.outbox cimport out_t
from picker._core.replies cimport answer_reply_t, out_answer, out_changed, out_chunk, out_plain, out_trailers
from picker._core.request cimport request_drop
from picker._core.restore cimport restore_free, restore_init
from picker._core.sse cimport (
    PK_SSE_COMPLETE,
    sse_cached_tokens,
    sse_completion_tokens,
    sse_feed,
    sse_finish,
    sse_init,
    sse_prompt_tokens,
    sse_restore,
)
from picker._core.stats cimport PK_FAIL_ABANDONED, gaps_add
from picker._core.turns cimport turn_is_awaited, turn_leave

cdef enum:
    MOST_DIGITS = 18

# --- C kernel: headers ---


cdef void _read_header(answer_t* answer, const header_t* header) noexcept nogil:
    cdef int64_t status
    if slice_equals(header.key, b":status"):
        status = slice_number(header.value, 3)
        answer.status = <uint32_t>status if status > 0 else 0
    elif slice_equals(header.key, b"content-type"):
        answer.is_grpc = slice_starts(header.value, b"application/grpc")
        answer.is_stream = slice_starts(header.value, b"text/event-stream")
    elif slice_equals(header.key, b"content-encoding"):
        answer.is_encoded = not slice_equals(header.value, b"identity")
    elif slice_equals(header.key, b"content-length"):
        answer.length = slice_number(header.value, MOST_DIGITS)
    elif slice_equals(header.key, b"grpc-status"):
        answer.grpc_status = slice_number(header.value, 9)


cdef void _read_headers(answer_t* answer, slice_t headers) noexcept nogil:
    cdef header_t header
    while codec_next_header(&headers, &header):
        _read_header(answer, &header)


cdef void _read_trailers(answer_t* answer, slice_t trailers) noexcept nogil:
    cdef header_t trailer
    while codec_next_header(&trailers, &trailer):
        if slice_equals(trailer.key, b"grpc-status"):
            answer.grpc_status = slice_number(trailer.value, 9)


cdef uint8_t _format(const session_t* session) noexcept nogil:
    """How the body is to be read."""
    cdef const answer_t* answer = &session.answer
    if session.engine.tracks != PK_TRACK_FULL or session.response_mode == PK_BODY_NONE or answer.is_encoded:
        return PK_ANSWER_UNREAD
    if answer.is_grpc:
        return PK_ANSWER_FRAMES if api_get(session.api).format == PK_FORMAT_GRPC else PK_ANSWER_UNREAD
    return PK_ANSWER_EVENTS if answer.is_stream else PK_ANSWER_JSON


cdef int _begin(session_t* session, int64_t now_ns) noexcept nogil:
    """The response begins. PK_OK or PK_E_NOMEM."""
    cdef answer_t* answer = &session.answer
    session.has_response = True
    session.state = PK_STATE_RESPONSE
    answer.format = _format(session)
    if answer.format == PK_ANSWER_FRAMES:
        framed_init(&answer.framed)
    sse_init(&answer.usage, answer.format == PK_ANSWER_EVENTS)
    if session.is_picked and (session.asked.turn.is_evictable or turn_is_awaited(session)):
        turn_leave(session, now_ns)           # it is answered: too late to make room
    if not session.is_picked:
        if turn_is_awaited(session):
            session.failure = PK_FAIL_ABANDONED
            turn_leave(session, now_ns)
        request_drop(session)                 # the gateway answers the client itself
        return PK_OK
    if session.client_model.size == 0 or not session.engine.restores_models:
        return PK_OK
    answer.restores = answer.format == PK_ANSWER_EVENTS or answer.format == PK_ANSWER_JSON
    if not answer.restores:
        return PK_OK
    return restore_init(&answer.restore, slice_bytes(&session.target_model), slice_bytes(&session.client_model))


cdef uint32_t _breaker_status(const answer_t* answer) noexcept nogil:
    """What the circuit breaker is told: gRPC says in a status of its own that nobody answers, or that it is broken."""
    if answer.grpc_status == 14:
        return 503
    return 500 if answer.grpc_status == 13 or answer.grpc_status == 2 else answer.status


cdef slice_t _first(slice_t text) noexcept nogil:
    """The first of a comma list, without spaces around it."""
    cdef size_t i
    for i in range(text.size):
        if text.data[i] == c",":
            text.size = i
            break
    while text.size and text.data[0] == c" ":
        text.data += 1
        text.size -= 1
    while text.size and text.data[text.size - 1] == c" ":
        text.size -= 1
    return text


cdef bint _served(const message_t* message, slice_t* target) noexcept nogil:
    """The endpoint that the gateway says has answered; False if it says none, or what is no "ip:port"."""
    cdef slice_t value, items
    if message.metadata.size == 0 or codec_find_metadata(
        message.metadata, slice_text(b"envoy.lb"), slice_text(b"x-gateway-destination-endpoint-served"), &value
    ) != 1:
        return False
    if codec_value_list(value, &items) and not codec_next_item(&items, &value):
        return False
    if not codec_value_string(value, target):
        return False
    target[0] = _first(target[0])
    return target.size and memchr(target.data, c":", target.size) != NULL


cdef void _answered(session_t* session, const message_t* message, int64_t now_ns) noexcept nogil:
    """Tell the engine who answered, and how."""
    cdef slice_t target
    if _served(message, &target):
        engine_served(session.engine, &session.booking, target, now_ns)
    engine_answered(session.engine, &session.booking, _breaker_status(&session.answer), now_ns)


cdef slice_t _verdict(const message_t* message) noexcept nogil:
    """What a conformance test is told of the endpoint that has answered."""
    cdef slice_t target
    if not codec_has_metadata(message.metadata, slice_text(b"envoy.lb")):
        return slice_text(b"fail: missing envoy lb metadata")
    return target if _served(message, &target) else slice_text(b"fail: missing destination endpoint served metadata")


cdef void _set(answer_reply_t* reply, slice_t key, slice_t value) noexcept nogil:
    if value.size:
        reply.set[reply.set_count].key = key
        reply.set[reply.set_count].value = value
        reply.set_count += 1


cdef int _headers(session_t* session, const message_t* message, int64_t now_ns, out_t* out) noexcept nogil:
    cdef answer_t* answer = &session.answer
    cdef answer_reply_t reply
    cdef uint8_t text[PK_TOKEN_BYTES]
    cdef meter_said_t said
    cdef slice_t token
    cdef uint32_t i
    if session.has_response:
        return PK_E_FORMAT
    _read_headers(answer, message.headers)
    if _begin(session, now_ns) != PK_OK:
        return PK_E_NOMEM
    memset(&reply, 0, sizeof(reply))
    if session.is_picked:
        _answered(session, message, now_ns)
        token.data, token.size = text, engine_token(session.engine, &session.booking, text)
        _set(&reply, session_header(session), token)
    meter_show(session, &said, now_ns)
    for i in range(said.count):
        _set(&reply, said.headers[i].key, said.headers[i].value)
    if session.engine.tells_served:
        _set(&reply, slice_text(b"x-conformance-test-served-endpoint"), _verdict(message))
    if message.end_of_stream or session.response_mode == PK_BODY_NONE:
        _first_byte(session, False, now_ns)
        _end(session, now_ns)
        return out_answer(out, &reply)
    if session.engine.tracks == PK_TRACK_HEADERS:
        _first_byte(session, False, now_ns)
        reply.wants_no_body = not is_duplex(session.response_mode)
        reply.request_mode = session.request_mode
    reply.is_unsized = answer.restores and not _is_buffered(session.response_mode)
    return out_answer(out, &reply)


# --- C kernel: time ---


cdef void _first_byte(session_t* session, bint learn, int64_t now_ns) noexcept nogil:
    """Prefill is done. `learn`: how long it took says how fast the endpoint is."""
    if session.has_first_byte or not session.is_picked:
        return
    session.has_first_byte = True
    session.first_byte_ns = now_ns
    engine_first_byte(session.engine, &session.booking, session.pick.decision, learn, now_ns)


cdef inline void _count_tokens(session_t* session, uint64_t tokens, int64_t now_ns) noexcept nogil:
    """So many have come by now. A streamed answer's first is the end of prefill; a whole answer's teaches nothing."""
    cdef answer_t* answer = &session.answer
    if tokens == answer.tokens:
        return
    if answer.tokens == 0:
        _first_byte(session, answer.is_stream and answer.status == 200, now_ns)
    else:
        gaps_add(&answer.gaps, now_ns - answer.token_ns)
    answer.tokens = tokens
    answer.token_ns = now_ns


cdef void _end(session_t* session, int64_t now_ns) noexcept nogil:
    if not session.response_done:
        session.response_done = True
        session.state = PK_STATE_ENDED
        session.ended_ns = now_ns
        sse_finish(&session.answer.usage)


# --- C kernel: bodies ---


cdef inline bint _is_buffered(uint32_t mode) noexcept nogil:
    return mode == PK_BODY_BUFFERED or mode == PK_BODY_BUFFERED_PARTIAL


cdef int _read_json(session_t* session, const message_t* message, slice_t* chunk) noexcept nogil:
    """Read a chunk of JSON or of events; `chunk` becomes what goes on of it. PK_OK or PK_E_NOMEM."""
    cdef answer_t* answer = &session.answer
    cdef bint is_last
    if not answer.restores:
        if chunk.size:
            sse_feed(&answer.usage, chunk.data, chunk.size)
        return PK_OK
    is_last = message.end_of_stream or _is_buffered(session.response_mode)
    return sse_restore(&answer.usage, &answer.restore, message.body, is_last, chunk)


cdef int _read(session_t* session, const message_t* message, int64_t now_ns, slice_t* chunk) noexcept nogil:
    """Learn from a chunk; `chunk` becomes what goes on of it. PK_OK or PK_E_NOMEM."""
    cdef answer_t* answer = &session.answer
    cdef int code = PK_OK
    session.response_bytes += message.body.size
    if answer.format == PK_ANSWER_UNREAD:
        if message.body.size:
            _first_byte(session, False, now_ns)
    elif answer.format == PK_ANSWER_FRAMES:
        framed_feed(&answer.framed, message.body.data, message.body.size)
        answer.is_stream = answer.framed.streamed > 0
        _count_tokens(session, answer.framed.tokens, now_ns)
    else:
        code = _read_json(session, message, chunk)
        _count_tokens(session, answer.usage.tokens, now_ns)
    if message.end_of_stream:
        _first_byte(session, False, now_ns)
        _end(session, now_ns)
    return code


cdef int64_t _new_length(const session_t* session, const message_t* message, slice_t chunk) noexcept nogil:
    """The content-length of a held body that was changed; -1 where the gateway sends none, or there is more to come."""
    if not _is_buffered(session.response_mode):
        return -1
    if message.end_of_stream or session.response_mode == PK_BODY_BUFFERED:
        return <int64_t>chunk.size
    if session.answer.length < 0:
        return -1
    return session.answer.length + <int64_t>chunk.size - <int64_t>message.body.size


cdef int _body(session_t* session, const message_t* message, int64_t now_ns, out_t* out) noexcept nogil:
    cdef slice_t chunk = message.body
    cdef bint duplex = is_duplex(session.response_mode), changed = False
    if session.state == PK_STATE_NEW:
        return PK_E_FORMAT
    if not session.has_response and _begin(session, now_ns) != PK_OK:       # the gateway does not show headers
        return PK_E_NOMEM
    if session.response_done and duplex:
        return PK_E_FORMAT if message.body.size else PK_OK
    if not session.response_done:
        if _read(session, message, now_ns, &chunk) != PK_OK:
            return PK_E_NOMEM
        changed = session.answer.restores and session.answer.restore.changed
    if duplex:
        if chunk.size == 0 and message.body.size and not message.end_of_stream:
            return PK_OK                    # held back, all of it
        return out_chunk(out, PK_REPLY_RESPONSE_BODY, chunk, message.end_of_stream)
    if changed:
        return out_changed(out, chunk, _new_length(session, message, chunk))
    return out_plain(out, PK_REPLY_RESPONSE_BODY)


cdef int _flush(session_t* session, out_t* out) noexcept nogil:
    """Trailers come: what is held back goes on before them. Where it cannot, better an error than a lost byte."""
    cdef message_t nothing
    cdef slice_t chunk
    if session.response_done or not session.answer.restores or session.answer.restore.held.size == 0:
        return PK_OK
    if not is_duplex(session.response_mode):
        return PK_E_FORMAT
    memset(&nothing, 0, sizeof(nothing))
    nothing.body.data = <const uint8_t*>b""
    if sse_restore(&session.answer.usage, &session.answer.restore, nothing.body, True, &chunk) != PK_OK:
        return PK_E_NOMEM
    return out_chunk(out, PK_REPLY_RESPONSE_BODY, chunk, False)


cdef int _trailers(session_t* session, const message_t* message, int64_t now_ns, out_t* out) noexcept nogil:
    cdef int code
    if session.state == PK_STATE_NEW:
        return PK_E_FORMAT
    if not session.has_response and _begin(session, now_ns) != PK_OK:
        return PK_E_NOMEM
    _read_trailers(&session.answer, message.headers)
    code = _flush(session, out)
    if code != PK_OK:
        return code
    _first_byte(session, False, now_ns)
    _end(session, now_ns)
    return out_trailers(out, PK_REPLY_RESPONSE_TRAILERS)


cdef int response_feed(session_t* session, const message_t* message, int64_t now_ns, out_t* out) noexcept nogil:
    """One message of the response. PK_OK, PK_E_FORMAT (out of order) or PK_E_NOMEM."""
    if message.kind == PK_RESPONSE_HEADERS:
        return _headers(session, message, now_ns, out)
    if message.kind == PK_RESPONSE_BODY:
        return _body(session, message, now_ns, out)
    return _trailers(session, message, now_ns, out)


# --- C kernel: what it came to ---


cdef void response_init(answer_t* answer) noexcept nogil:
    """Of a zeroed struct."""
    answer.grpc_status = answer.length = -1
    sse_init(&answer.usage, False)


cdef void response_close(session_t* session, int64_t now_ns) noexcept nogil:
    """The stream is over."""
    if session.has_response:
        sse_finish(&session.answer.usage)
    if not session.response_done:
        session.ended_ns = now_ns


cdef void response_free(session_t* session) noexcept nogil:
    restore_free(&session.answer.restore)
    session.answer.restores = False


cdef bint response_failed(const answer_t* answer) noexcept nogil:
    """Did the model server say so?"""
    return answer.status >= 400 or answer.usage.saw_error or answer.grpc_status > 0


cdef bint response_whole(const session_t* session) noexcept nogil:
    """Is it, though its end was not shown? Trailers that are not shown hide it; it may still say so itself."""
    cdef const answer_t* answer = &session.answer
    if session.engine.tracks != PK_TRACK_FULL:
        return True                         # nobody looked
    if answer.format == PK_ANSWER_JSON:
        return answer.usage.end == PK_SSE_COMPLETE
    return answer.usage.done or (answer.is_grpc and answer.grpc_status == 0)


cdef inline double _seconds(int64_t start_ns, int64_t end_ns) noexcept nogil:
    return (<double>end_ns - <double>start_ns) * 1e-9


cdef void response_outcome(const session_t* session, outcome_t* outcome) noexcept nogil:
    """How long it took and what it cost. Of what was not looked at nothing is known."""
    cdef const answer_t* answer = &session.answer
    cdef bint is_framed = answer.format == PK_ANSWER_FRAMES
    cdef bint is_ended = session.response_done or session.engine.tracks == PK_TRACK_FULL or not session.has_response
    outcome.status = answer.status
    outcome.is_stream = answer.is_stream
    outcome.duration_s = _seconds(session.opened_ns, session.ended_ns) if is_ended else -1.0
    outcome.ttft_s = -1.0
    if session.has_first_byte and answer.status < 400 and not (_tells_tokens(answer) and answer.tokens == 0):
        outcome.ttft_s = _seconds(session.opened_ns, session.first_byte_ns)
    outcome.gaps = answer.gaps
    outcome.response_bytes = <int64_t>session.response_bytes if session.has_response and is_ended else -1
    outcome.input_tokens = framed_prompt_tokens(&answer.framed) if is_framed else sse_prompt_tokens(&answer.usage)
    outcome.output_tokens = (
        framed_completion_tokens(&answer.framed) if is_framed else sse_completion_tokens(&answer.usage)
    )
    outcome.cached_tokens = framed_cached_tokens(&answer.framed) if is_framed else sse_cached_tokens(&answer.usage)


cdef inline bint _tells_tokens(const answer_t* answer) noexcept nogil:
    return answer.format == PK_ANSWER_EVENTS or answer.format == PK_ANSWER_FRAMES
