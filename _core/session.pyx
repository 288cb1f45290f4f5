"""One ext_proc stream, which is one HTTP request: bytes of a ProcessingRequest in, bytes of replies out.

Invariants: every message the gateway waits on is answered, in the form its body mode demands; nothing is answered for
    the request body before its headers; whatever ends the stream, what was booked is released once and counted once.
Cost: O(bytes); a body is copied once into the session and once into the reply. Memory is bounded by `body_bytes`.
Memory: a session owns its buffers; it borrows engine and scratch.   Threads: one at a time per session.
Source: envoy external_processor.proto and processing_mode.proto; Gateway API Inference Extension, endpoint picker
    protocol (proposal 004).
"""
cimport cython
from cpython.pycapsule cimport PyCapsule_New
from libc.stddef cimport size_t
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdio cimport snprintf
from libc.string cimport memset

from picker._core.alloc cimport PK_E_FORMAT, PK_E_LIMIT, PK_E_MISSING, PK_E_NOMEM, PK_OK, pk_free, pk_grow
from picker._core.codec cimport (
    PK_BODY_BUFFERED,
    PK_BODY_BUFFERED_PARTIAL,
    PK_BODY_FULL_DUPLEX_STREAMED,
    PK_BODY_NONE,
    PK_REPLY_REQUEST_BODY,
    PK_REPLY_REQUEST_HEADERS,
    PK_REPLY_REQUEST_TRAILERS,
    PK_REPLY_RESPONSE_BODY,
    PK_REPLY_RESPONSE_HEADERS,
    PK_REPLY_RESPONSE_TRAILERS,
    PK_REQUEST_BODY,
    PK_REQUEST_HEADERS,
    PK_REQUEST_TRAILERS,
    PK_RESPONSE_BODY,
    PK_RESPONSE_HEADERS,
    buffer_append,
    buffer_free,
    codec_decode,
    codec_find_metadata,
    codec_next_header,
    codec_next_item,
    codec_value_list,
    codec_value_string,
    codec_write_common,
    codec_write_immediate,
    codec_write_streamed,
    codec_write_trailers,
    header_t,
    message_t,
    mutation_t,
    slice_is,
    slice_t,
)
from picker._core.endpoints cimport PK_TOKEN_BYTES
from picker._core.engine cimport (
    Engine,
    engine_answered,
    engine_first_byte,
    engine_model,
    engine_open,
    engine_pick,
    engine_resume,
    engine_settle,
    engine_token,
    engine_unanswered,
    outcome_t,
)
from picker._core.hashing cimport chain_start, chain_t, hash_xxh64
from picker._core.prompt cimport (
    PK_API_OTHER,
    PK_BODY_NO_MESSAGES,
    PK_BODY_NO_MODEL,
    PK_BODY_NO_PROMPT,
    PK_BODY_NOT_JSON,
    PK_BODY_NOT_OBJECT,
    PK_BODY_OK,
    PK_BODY_TOO_COMPLEX,
    PK_BYTES_PER_TOKEN,
    prompt_api,
    prompt_hash,
    prompt_read,
    prompt_root,
    prompt_t,
)
from picker._core.scan cimport scan_json, scan_unescape, value_t
from picker._core.score cimport PK_NEED_PLUGIN
from picker._core.sse cimport sse_feed, sse_finish, sse_init
from picker._core.stats cimport (
    PK_FAIL_BAD_REQUEST,
    PK_FAIL_CANCELED,
    PK_FAIL_INTERNAL,
    PK_FAIL_MODEL_SERVER,
    PK_FAIL_NO_ANSWER,
    PK_FAIL_NO_ENDPOINT,
    PK_FAIL_NONE,
    PK_FAIL_TIMEOUT,
    PK_FAIL_TOO_LARGE,
    PK_MODEL_BYTES,
)

cdef enum:
    SUBSET_LIMIT = 16384       # endpoints in a subset hint; what is beyond is not looked at
    CONTROL_HEADERS = 9

# --- C kernel: small things ---

cdef extern from *:
    """
    /* Headers that steer picker and must not reach the model server; bit i of session_t.controls. */
    static const char *const PK_CONTROL[] = {
        "x-gateway-inference-objective", "x-llm-d-inference-objective", "x-gateway-inference-fairness-id",
        "x-llm-d-inference-fairness-id", "x-gateway-model-name-rewrite", "x-llm-d-model-name-rewrite",
        "x-gateway-destination-endpoint-subset", "x-gateway-destination-endpoint-served",
        "x-gateway-destination-endpoint"};
    static const char *const PK_ERRORS[] = {
        "", "the request body is not valid JSON", "the request body holds too many or too deeply nested JSON values",
        "the request body must be a JSON object", "'model' is missing or not a non-empty string",
        "'messages' is missing or not a non-empty array", "'prompt' is missing or empty"};
    static const char *const PK_PARAMS[] = {"null", "null", "null", "null", "\\"model\\"", "\\"messages\\"", "\\"prompt\\""};
    static const char PK_ERROR_FORM[] =
        "{\\"error\\":{\\"message\\":\\"%s%s\\",\\"type\\":\\"%s\\",\\"param\\":%s,\\"code\\":\\"%s\\"}}";
    """
    const char* PK_CONTROL[]
    const char* PK_ERRORS[]
    const char* PK_PARAMS[]
    const char PK_ERROR_FORM[]

cdef extern from "string.h" nogil:
    size_t strlen(const char*) noexcept


cdef slice_t _text(const char* text) noexcept nogil:
    cdef slice_t slice
    slice.data = <const uint8_t*>text
    slice.size = strlen(text)
    return slice


cdef bint _is(slice_t text, const char* other) noexcept nogil:
    return slice_is(text, other, strlen(other))


cdef int _sent(out_t* out, int code) noexcept nogil:
    """Close the reply just written."""
    if code != PK_OK:
        return code
    if pk_grow(<void**>&out.ends, &out.capacity, out.count + 1, sizeof(size_t)) != PK_OK:
        return PK_E_NOMEM
    out.ends[out.count] = out.bytes.size
    out.count += 1
    return PK_OK


cdef bint _is_duplex(uint32_t mode) noexcept nogil:
    return mode == PK_BODY_FULL_DUPLEX_STREAMED


# --- C kernel: answers of picker's own ---


cdef int _answer(
    session_t* session, uint32_t status, const char* kind, const char* code, const char* message, const char* tail,
    const char* param, const char* reason, out_t* out
) noexcept nogil:
    """An ImmediateResponse with an OpenAI-shaped error; the session is over."""
    cdef char body[512]
    cdef header_t headers[3]
    cdef uint32_t count = 1
    snprintf(body, sizeof(body), PK_ERROR_FORM, message, tail, kind, param, code)
    headers[0].key, headers[0].value = _text(b"content-type"), _text(b"application/json")
    if status == 503:
        headers[1].key, headers[1].value = _text(b"retry-after"), _text(b"1")
        headers[2].key, headers[2].value = _text(b"x-llm-d-request-dropped-reason"), _text(reason)
        count = 3
    session.state = PK_STATE_ENDED
    buffer_free(&session.body)
    return _sent(out, codec_write_immediate(&out.bytes, status, headers, count, _text(body), _text(reason)))


cdef int session_refuse(session_t* session, int failure, out_t* out) noexcept nogil:
    """Answer the client in picker's own name: 400, 408, 413, 503 or 500."""
    session.failure = failure
    if failure == PK_FAIL_TOO_LARGE:
        return _answer(
            session, 413, b"invalid_request_error", b"request_too_large",
            b"the request body is larger than the gateway accepts", b"", b"null", b"picker_body_too_large", out
        )
    if failure == PK_FAIL_NO_ENDPOINT:
        return _answer(
            session, 503, b"service_unavailable", b"no_endpoint",
            b"no model server is ready for this request, try again later", b"", b"null", b"rejected-no-endpoints", out
        )
    if failure == PK_FAIL_TIMEOUT:
        return _answer(
            session, 408, b"invalid_request_error", b"request_timeout",
            b"the request body did not arrive in time", b"", b"null", b"picker_request_timeout", out
        )
    session.failure = PK_FAIL_INTERNAL
    return _answer(
        session, 500, b"internal_error", b"internal_error", b"the endpoint picker failed", b"", b"null",
        b"picker_internal_error", out
    )


cdef int _refuse_body(session_t* session, int refused, out_t* out) noexcept nogil:
    """400, naming what is wrong."""
    cdef char tail[48]
    tail[0] = 0
    if refused == PK_BODY_NOT_JSON:
        snprintf(tail, sizeof(tail), b": unexpected byte at offset %u", session.scratch.scan.error_at)
    session.failure = PK_FAIL_BAD_REQUEST
    return _answer(
        session, 400, b"invalid_request_error", b"invalid_body", PK_ERRORS[refused], tail, PK_PARAMS[refused],
        b"picker_invalid_body", out
    )


# --- C kernel: the request comes in ---


cdef slice_t _session_header(const session_t* session) noexcept nogil:
    cdef slice_t name
    name.data = session.engine.session_header
    name.size = session.engine.session_header_size
    return name


cdef void _read_control(session_t* session, const header_t* header) noexcept nogil:
    cdef slice_t token_header = _session_header(session)
    cdef uint32_t i
    if slice_is(header.key, <const char*>token_header.data, token_header.size) and header.value.size:
        session.request.session = hash_xxh64(header.value.data, header.value.size, 0)
    if header.key.size < 2 or header.key.data[0] != c"x" or header.key.data[1] != c"-":
        return
    for i in range(CONTROL_HEADERS):
        if _is(header.key, PK_CONTROL[i]):
            session.controls |= 1 << i


cdef slice_t _trimmed(slice_t text) noexcept nogil:
    while text.size and (text.data[0] == c" " or text.data[0] == c"["):
        text.data += 1
        text.size -= 1
    while text.size and (text.data[text.size - 1] == c" "):
        text.size -= 1
    return text


cdef int _subset_add(session_t* session, slice_t entry) noexcept nogil:
    """One "ip:port" or "ip", IPv6 in brackets or, without a port, bare."""
    cdef slice_t bare = _trimmed(entry)
    while entry.size and entry.data[0] == c" ":
        entry.data += 1
        entry.size -= 1
    while entry.size and entry.data[entry.size - 1] == c" ":
        entry.size -= 1
    if entry.size == 0 or session.subset_count >= SUBSET_LIMIT:
        return PK_OK
    if bare.size and bare.data[bare.size - 1] == c"]":
        bare.size -= 1
        entry = bare
    if pk_grow(<void**>&session.subset, &session.subset_capacity, session.subset_count + 1, 8) != PK_OK:
        return PK_E_NOMEM
    session.subset[session.subset_count] = hash_xxh64(entry.data, entry.size, 0)
    session.subset_count += 1
    return PK_OK


cdef int _subset_text(session_t* session, slice_t text) noexcept nogil:
    """A comma list."""
    cdef slice_t entry
    cdef size_t i
    entry.data = text.data
    entry.size = 0
    for i in range(text.size):
        if text.data[i] == c",":
            if _subset_add(session, entry) != PK_OK:
                return PK_E_NOMEM
            entry.data = text.data + i + 1
            entry.size = 0
        else:
            entry.size += 1
    return _subset_add(session, entry)


cdef int _read_subset(session_t* session, slice_t metadata) noexcept nogil:
    """The gateway's subset hint, when this message has one: a list of strings, or one comma string."""
    cdef slice_t value, items, text
    cdef int got
    if metadata.size == 0 or session.engine.ignores_subset:
        return PK_OK
    got = codec_find_metadata(
        metadata, _text(b"envoy.lb.subset_hint"), _text(b"x-gateway-destination-endpoint-subset"), &value
    )
    if got != 1:
        return got
    session.subset_count = 0
    if codec_value_string(value, &text):
        return _subset_text(session, text)
    if not codec_value_list(value, &items):
        return PK_OK
    while codec_next_item(&items, &value):
        if codec_value_string(value, &text) and _subset_text(session, text) != PK_OK:
            return PK_E_NOMEM
    return PK_OK


cdef int _request_headers(session_t* session, message_t* message, int64_t now_ns, out_t* out) noexcept nogil:
    cdef slice_t rest = message.headers
    cdef header_t header
    if session.state != PK_STATE_NEW:
        return PK_E_FORMAT
    session.state = PK_STATE_BODY
    if message.has_protocol:
        session.request_mode = message.request_mode
        session.response_mode = message.response_mode
    while codec_next_header(&rest, &header):
        if _is(header.key, b":path"):
            session.api = prompt_api(header.value)
        else:
            _read_control(session, &header)
    if session.engine.keeps_headers and buffer_append(
        &session.headers, message.headers.data, message.headers.size
    ) != PK_OK:
        return PK_E_NOMEM
    if message.end_of_stream:
        return _complete(session, PK_END_HEADERS, now_ns, out)
    if _is_duplex(session.request_mode):
        return PK_OK                        # answered together with the body
    if session.request_mode == PK_BODY_BUFFERED or session.request_mode == PK_BODY_BUFFERED_PARTIAL:
        return _sent(out, codec_write_common(&out.bytes, PK_REPLY_REQUEST_HEADERS, NULL))
    return _complete(session, PK_END_HEADERS, now_ns, out)


cdef int _request_body(session_t* session, message_t* message, int64_t now_ns, out_t* out) noexcept nogil:
    session.request_bytes += message.body.size
    if session.state >= PK_STATE_PICKED:
        if _is_duplex(session.request_mode):
            return PK_OK                    # a second end of stream (Envoy, bodies of 1 MB and more) wants no answer
        return _sent(out, codec_write_common(&out.bytes, PK_REPLY_REQUEST_BODY, NULL))
    if session.state != PK_STATE_BODY:
        return PK_E_FORMAT
    if session.request_bytes > session.engine.limits.body_bytes:
        return session_refuse(session, PK_FAIL_TOO_LARGE, out)
    if buffer_append(&session.body, message.body.data, message.body.size) != PK_OK:
        return PK_E_NOMEM
    if not _is_duplex(session.request_mode):
        return _complete(session, PK_END_BUFFERED, now_ns, out)
    return _complete(session, PK_END_STREAMED, now_ns, out) if message.end_of_stream else PK_OK


cdef int _request_trailers(session_t* session, int64_t now_ns, out_t* out) noexcept nogil:
    if session.state == PK_STATE_NEW or session.state == PK_STATE_WAITING:
        return PK_E_FORMAT
    if session.state == PK_STATE_BODY and _is_duplex(session.request_mode):
        return _complete(session, PK_END_TRAILERS, now_ns, out)
    return _sent(out, codec_write_trailers(&out.bytes, PK_REPLY_REQUEST_TRAILERS))


# --- C kernel: the pick ---


cdef int _model(session_t* session, const prompt_t* prompt) noexcept nogil:
    """Name and hash of the model; its series."""
    cdef uint8_t name[PK_MODEL_BYTES]
    cdef const value_t* value = &session.scratch.scan.tape[prompt.model]
    cdef const uint8_t* data = session.scratch.scan.data + value.start + 1
    cdef size_t size = value.end - value.start - 2
    cdef int64_t plain = scan_unescape(&session.scratch.scan, prompt.model, name, sizeof(name))
    if plain >= 0:
        data, size = name, <size_t>plain
    session.request.adapter = hash_xxh64(data, size, 0)
    session.request.series = engine_model(session.engine, data, size)
    if session.engine.keeps_headers:
        return buffer_append(&session.model, data, size)
    return PK_OK


cdef int _read_prompt(session_t* session, int64_t* refused) noexcept nogil:
    """Scan and hash the body into the request. `refused` is PK_BODY_*."""
    cdef scratch_t* scratch = session.scratch
    cdef prompt_t prompt
    cdef chain_t chain
    cdef const uint8_t* body = session.body.data if session.body.size else <const uint8_t*>b""
    cdef int code = scan_json(&scratch.scan, body, session.body.size)
    if code == PK_E_NOMEM:
        return code
    if code != PK_OK:
        refused[0] = PK_BODY_TOO_COMPLEX if code == PK_E_LIMIT else PK_BODY_NOT_JSON
        return PK_OK
    refused[0] = prompt_read(&prompt, &scratch.scan, session.api)
    if refused[0] == PK_BODY_NOT_OBJECT or refused[0] == PK_BODY_NO_MODEL:
        return PK_OK
    code = _model(session, &prompt)
    if code != PK_OK or refused[0] != PK_BODY_OK:
        return code
    chain_start(
        &chain, prompt_root(&prompt, &scratch.scan, session.engine.hash_seed), scratch.hashes,
        session.engine.limits.prompt_blocks
    )
    prompt_hash(&prompt, &scratch.scan, &chain)
    session.request.hashes = scratch.hashes
    session.request.hash_count = chain.count
    session.request.prompt_tokens = <int64_t>((chain.total + PK_BYTES_PER_TOKEN - 1) // PK_BYTES_PER_TOKEN)
    session.request.max_tokens = prompt.max_tokens
    return PK_OK


cdef int _complete(session_t* session, int ending, int64_t now_ns, out_t* out) noexcept nogil:
    """The request is all here: read it, pick, answer."""
    cdef int64_t refused = PK_BODY_OK
    cdef int code
    session.ending = ending
    session.request.max_tokens = -1
    if ending != PK_END_HEADERS and session.api != PK_API_OTHER:
        code = _read_prompt(session, &refused)
        if code != PK_OK:
            return code
        if refused != PK_BODY_OK:
            return _refuse_body(session, <int>refused, out)
    session.request.subset = session.subset
    session.request.subset_count = session.subset_count
    session.request.now_ns = now_ns
    session.state = PK_STATE_WAITING
    return _picked(
        session, engine_pick(session.engine, &session.request, &session.booking, &session.pick), out
    )


cdef int session_resume(session_t* session, int64_t now_ns, out_t* out) noexcept nogil:
    """Go on after PK_NEED_PLUGIN."""
    if session.state != PK_STATE_WAITING:
        return PK_E_FORMAT
    return _picked(
        session, engine_resume(session.engine, &session.request, &session.booking, &session.pick), out
    )


cdef int _picked(session_t* session, int code, out_t* out) noexcept nogil:
    if code == PK_E_MISSING:
        return session_refuse(session, PK_FAIL_NO_ENDPOINT, out)
    if code != PK_OK:
        return code
    session.state = PK_STATE_PICKED
    session.is_picked = True
    code = _write_pick(session, out)
    buffer_free(&session.body)
    buffer_free(&session.headers)
    return code


cdef int _write_pick(session_t* session, out_t* out) noexcept nogil:
    """The destination, then, in full duplex, the body it waited with."""
    cdef mutation_t mutation
    cdef slice_t removed[CONTROL_HEADERS]
    cdef uint32_t i
    cdef int code
    memset(&mutation, 0, sizeof(mutation_t))
    mutation.destination.data = session.pick.destination
    mutation.destination.size = session.pick.destination_size
    mutation.removed = removed
    mutation.clear_route_cache = True
    for i in range(CONTROL_HEADERS):
        # The destination is overwritten, not removed: gateways apply removals last.
        if session.controls & (1 << i) and not _is(_text(PK_CONTROL[i]), b"x-gateway-destination-endpoint"):
            removed[mutation.removed_count] = _text(PK_CONTROL[i])
            mutation.removed_count += 1
    if session.ending == PK_END_BUFFERED:
        return _sent(out, codec_write_common(&out.bytes, PK_REPLY_REQUEST_BODY, &mutation))
    code = _sent(out, codec_write_common(&out.bytes, PK_REPLY_REQUEST_HEADERS, &mutation))
    if code != PK_OK or session.ending == PK_END_HEADERS:
        return code
    return _write_body(session, out)


cdef int _write_body(session_t* session, out_t* out) noexcept nogil:
    """The whole body in chunks; the last one ends the stream, unless trailers do."""
    cdef size_t at = 0, size
    cdef bint is_last = False
    cdef int code
    while not is_last:
        size = session.body.size - at
        if size > session.engine.limits.chunk_bytes:
            size = session.engine.limits.chunk_bytes
        is_last = at + size == session.body.size
        code = _sent(out, codec_write_streamed(
            &out.bytes, PK_REPLY_REQUEST_BODY, session.body.data + at, size,
            is_last and session.ending == PK_END_STREAMED
        ))
        if code != PK_OK:
            return code
        at += size
    if session.ending == PK_END_TRAILERS:
        return _sent(out, codec_write_trailers(&out.bytes, PK_REPLY_REQUEST_TRAILERS))
    return PK_OK


# --- C kernel: the response passes ---


cdef uint32_t _number(slice_t text) noexcept nogil:
    cdef uint32_t value = 0
    cdef size_t i
    for i in range(text.size if text.size < 4 else 4):
        if not c"0" <= text.data[i] <= c"9":
            return 0
        value = value * 10 + text.data[i] - c"0"
    return value


cdef bint _starts(slice_t text, const char* start) noexcept nogil:
    cdef slice_t head = text
    head.size = strlen(start)
    return text.size >= head.size and _is(head, start)


cdef void _first_byte(session_t* session, int64_t now_ns) noexcept nogil:
    """A streamed answer's first byte is the first token; a whole answer's is its end, which teaches nothing."""
    if session.first_byte_ns == 0 and session.is_picked:
        session.first_byte_ns = now_ns
        engine_first_byte(
            session.engine, &session.booking, session.pick.decision, session.is_stream and session.status == 200, now_ns
        )


cdef int _response_headers(session_t* session, message_t* message, int64_t now_ns, out_t* out) noexcept nogil:
    cdef slice_t rest = message.headers
    cdef header_t header
    cdef mutation_t mutation
    cdef uint8_t token[PK_TOKEN_BYTES]
    while codec_next_header(&rest, &header):
        if _is(header.key, b":status"):
            session.status = _number(header.value)
        elif _is(header.key, b"content-type"):
            session.is_stream = _starts(header.value, b"text/event-stream")
    session.state = PK_STATE_RESPONSE
    sse_init(&session.usage, session.is_stream)
    memset(&mutation, 0, sizeof(mutation_t))
    if session.is_picked:
        engine_answered(session.engine, &session.booking, session.status, now_ns)
        mutation.extra.key = _session_header(session)
        mutation.extra.value.data = token
        mutation.extra.value.size = engine_token(session.engine, &session.booking, token)
        if mutation.extra.value.size == 0:
            mutation.extra.key.size = 0
    if message.end_of_stream or session.response_mode == PK_BODY_NONE:
        _first_byte(session, now_ns)
        _end_of_response(session, now_ns)
    return _sent(out, codec_write_common(
        &out.bytes, PK_REPLY_RESPONSE_HEADERS, &mutation if mutation.extra.key.size else NULL
    ))


cdef int _response_body(session_t* session, message_t* message, int64_t now_ns, out_t* out) noexcept nogil:
    if session.state != PK_STATE_RESPONSE and session.state != PK_STATE_ENDED:
        return PK_E_FORMAT
    session.response_bytes += message.body.size
    if message.body.size:
        _first_byte(session, now_ns)
        sse_feed(&session.usage, message.body.data, message.body.size)
    if message.end_of_stream:
        _end_of_response(session, now_ns)
    if _is_duplex(session.response_mode):
        return _sent(out, codec_write_streamed(
            &out.bytes, PK_REPLY_RESPONSE_BODY, message.body.data, message.body.size, message.end_of_stream
        ))
    return _sent(out, codec_write_common(&out.bytes, PK_REPLY_RESPONSE_BODY, NULL))


cdef void _end_of_response(session_t* session, int64_t now_ns) noexcept nogil:
    if session.state == PK_STATE_RESPONSE:
        session.state = PK_STATE_ENDED
        session.ended_ns = now_ns
        sse_finish(&session.usage)


# --- C kernel: life ---


cdef void session_init(session_t* session, engine_t* engine, scratch_t* scratch, int64_t now_ns) noexcept nogil:
    memset(session, 0, sizeof(session_t))
    session.engine = engine
    session.scratch = scratch
    session.opened_ns = now_ns
    session.subset_count = -1
    session.request_mode = PK_BODY_FULL_DUPLEX_STREAMED      # what gateways use that do not say
    session.response_mode = PK_BODY_FULL_DUPLEX_STREAMED
    sse_init(&session.usage, False)


cdef int session_feed(
    session_t* session, const uint8_t* data, size_t size, int64_t now_ns, out_t* out
) noexcept nogil:
    """One ProcessingRequest. Replies are appended to `out`.

    PK_OK; PK_NEED_PLUGIN (run it, then `session_resume`); PK_E_FORMAT (not a message, or out of order); PK_E_NOMEM.
    """
    cdef message_t message
    cdef int code = codec_decode(&message, data, size)
    if code != PK_OK:
        return code
    if message.kind == PK_REQUEST_HEADERS or message.kind == PK_REQUEST_BODY or message.kind == PK_REQUEST_TRAILERS:
        code = _read_subset(session, message.metadata) if session.state < PK_STATE_WAITING else PK_OK
        if code < 0:
            return code
        if session.state == PK_STATE_ENDED and not session.is_picked:
            return PK_OK                    # answered already: the gateway is about to close
    if message.kind == PK_REQUEST_HEADERS:
        return _request_headers(session, &message, now_ns, out)
    if message.kind == PK_REQUEST_BODY:
        return _request_body(session, &message, now_ns, out)
    if message.kind == PK_REQUEST_TRAILERS:
        return _request_trailers(session, now_ns, out)
    if message.kind == PK_RESPONSE_HEADERS:
        return _response_headers(session, &message, now_ns, out)
    if message.kind == PK_RESPONSE_BODY:
        return _response_body(session, &message, now_ns, out)
    _end_of_response(session, now_ns)
    return _sent(out, codec_write_trailers(&out.bytes, PK_REPLY_RESPONSE_TRAILERS))


cdef int _outcome(const session_t* session) noexcept nogil:
    """PK_FAIL_* of a session that is over."""
    if session.failure != PK_FAIL_NONE:
        return session.failure
    if session.status >= 400:
        return PK_FAIL_MODEL_SERVER
    if session.state == PK_STATE_ENDED:
        return PK_FAIL_NONE
    return PK_FAIL_NO_ANSWER if session.state == PK_STATE_PICKED else PK_FAIL_CANCELED


cdef void _settle(session_t* session) noexcept nogil:
    cdef outcome_t outcome
    outcome.series = session.request.series
    outcome.failure = session.failure
    outcome.is_picked = session.is_picked
    outcome.duration_s = (session.ended_ns - session.opened_ns) * 1e-9
    outcome.ttft_s = (session.first_byte_ns - session.opened_ns) * 1e-9 if session.first_byte_ns else -1.0
    outcome.request_bytes = session.request_bytes
    outcome.response_bytes = session.response_bytes
    outcome.input_tokens = session.usage.prompt_tokens
    outcome.output_tokens = session.usage.completion_tokens
    outcome.cached_tokens = session.usage.cached_tokens
    outcome.predicted_tokens = session.pick.cached_tokens
    engine_settle(session.engine, &session.booking, &outcome)


cdef void session_close(session_t* session, int64_t now_ns) noexcept nogil:
    """The stream is over, whatever ended it: release and count, once."""
    if session.is_counted:
        return
    session.is_counted = True
    session.failure = _outcome(session)
    if session.failure == PK_FAIL_NO_ANSWER:
        engine_unanswered(session.engine, &session.booking, now_ns)
    if session.ended_ns == 0:
        session.ended_ns = now_ns
    _settle(session)
    buffer_free(&session.body)
    buffer_free(&session.headers)
    buffer_free(&session.model)
    pk_free(session.subset)
    session.subset = NULL


# --- C function table: the same core for a shell without Python ---

ctypedef struct api_t:
    uint32_t version
    uint32_t session_size      # bytes of a session_t
    void (*init)(session_t*, engine_t*, scratch_t*, int64_t) noexcept nogil
    int (*feed)(session_t*, const uint8_t*, size_t, int64_t, out_t*) noexcept nogil
    int (*resume)(session_t*, int64_t, out_t*) noexcept nogil
    int (*refuse)(session_t*, int, out_t*) noexcept nogil
    void (*close)(session_t*, int64_t) noexcept nogil

cdef api_t _API
_API.version = PK_API_VERSION
_API.session_size = sizeof(session_t)
_API.init = session_init
_API.feed = session_feed
_API.resume = session_resume
_API.refuse = session_refuse
_API.close = session_close

C_API = PyCapsule_New(&_API, b"picker._core.session.C_API", NULL)
"""PyCapsule of the function table; readers compare its first field, the version, before anything else."""

# --- Python face ---


class SessionError(ValueError):
    """The gateway sent what no gateway may: the stream must be ended with INVALID_ARGUMENT."""


@cython.final
@cython.auto_pickle(False)
cdef class Session:
    """One ext_proc stream on `engine`, opened at `now_ns` (any monotonic clock, the same in every call).

    OverflowError when the engine has as many sessions as it may. Close it, whatever happens.
    """

    def __cinit__(self, Engine engine not None, int64_t now_ns):
        memset(&self._out, 0, sizeof(out_t))
        if engine_open(&engine._engine) != PK_OK:
            raise OverflowError(f"at most {engine._engine.limits.sessions} streams at once")
        self._engine = engine
        session_init(&self._session, &engine._engine, &engine._scratch, now_ns)
        self._is_open = True

    def __dealloc__(self):
        if self._is_open:
            session_close(&self._session, self._session.opened_ns)
        buffer_free(&self._out.bytes)
        pk_free(self._out.ends)

    def feed(self, const unsigned char[::1] message not None, int64_t now_ns) -> list:
        """Serialised ProcessingRequest in, serialised ProcessingResponses out, to be sent in this order.

        SessionError for what is not a message or comes out of order, MemoryError; after either, end the stream.
        """
        cdef const uint8_t* data = &message[0] if message.shape[0] else <const uint8_t*>b""
        cdef int code = session_feed(&self._session, data, message.shape[0], now_ns, &self._out)
        while code == PK_NEED_PLUGIN:
            self._engine.run_plugin(
                &self._session.request,
                self._session.headers.data[:self._session.headers.size] if self._session.headers.size else b"",
                self._session.model.data[:self._session.model.size] if self._session.model.size else b"",
            )
            code = session_resume(&self._session, now_ns, &self._out)
        return self._replies(code)

    cdef list _replies(self, int code):
        cdef size_t i, start = 0
        cdef list replies = []
        try:
            if code == PK_E_FORMAT:
                raise SessionError("not a ProcessingRequest, or out of order")
            if code != PK_OK:
                raise MemoryError("no memory for this message")
            for i in range(self._out.count):
                replies.append(self._out.bytes.data[start:self._out.ends[i]])
                start = self._out.ends[i]
            return replies
        finally:
            self._out.count = 0
            self._out.bytes.size = 0
            if self._out.bytes.capacity > 1 << 16:
                buffer_free(&self._out.bytes)

    def refuse(self, int failure) -> list:
        """Answer the client in picker's own name: `failure` is FAIL_TIMEOUT or FAIL_INTERNAL."""
        return self._replies(session_refuse(&self._session, failure, &self._out))

    def close(self, int64_t now_ns) -> None:
        """The stream has ended, by whatever cause. Closing twice is harmless."""
        if self._is_open:
            self._is_open = False
            session_close(&self._session, now_ns)

    @property
    def state(self) -> int:
        """Where it stands: STATE_NEW, STATE_BODY, STATE_WAITING, STATE_PICKED, STATE_RESPONSE or STATE_ENDED."""
        return self._session.state

    @property
    def destination(self) -> str:
        """The endpoint(s) picked, "" when none was."""
        if not self._session.is_picked:
            return ""
        return self._session.pick.destination[:self._session.pick.destination_size].decode()

    def _check(self) -> None:
        """Assert the invariants."""
        assert self._session.is_picked or self._session.booking.generation == 0
        assert self._session.state < PK_STATE_PICKED or self._session.body.data == NULL
        assert self._session.subset_count >= -1
        assert self._out.count == 0


FAIL_TIMEOUT = PK_FAIL_TIMEOUT
FAIL_INTERNAL = PK_FAIL_INTERNAL
STATE_NEW = PK_STATE_NEW
STATE_BODY = PK_STATE_BODY
STATE_WAITING = PK_STATE_WAITING
STATE_PICKED = PK_STATE_PICKED
STATE_RESPONSE = PK_STATE_RESPONSE
STATE_ENDED = PK_STATE_ENDED
