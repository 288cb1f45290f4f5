"""What a session answers: headers with the pick, bodies given back, and refusals in picker's own name.

Invariants: a reply is in `out_t` whole or not at all. A client's own destination header never survives: it is
    overwritten by the pick and removed from what is let through before there is one.
Cost: O(bytes written); bodies are copied once.   Memory: `out_t` belongs to whoever declared it.   Threads: any.
Source: envoy external_processor.proto; the OpenAI API's error object; names of control headers: Gateway API Inference
    Extension and llm-d.
"""
from libc.stddef cimport size_t
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdio cimport snprintf
from libc.string cimport memset

from picker._core.alloc cimport PK_OK
from picker._core.apis cimport PK_BODY_LACKS, PK_BODY_NOT_JSON, PK_BODY_OK, api_lacking
from picker._core.codec cimport (
    PK_BODY_NONE,
    PK_REPLY_REQUEST_HEADERS,
    PK_REPLY_RESPONSE_BODY,
    PK_REPLY_RESPONSE_HEADERS,
    PK_SEND_SKIP,
    buffer_append,
    buffer_t,
    codec_begin_streamed,
    codec_end_streamed,
    codec_write_common,
    codec_write_immediate,
    codec_write_streamed,
    codec_write_trailers,
    header_t,
    mutation_t,
    slice_bytes,
    slice_t,
    slice_text,
)
from picker._core.outbox cimport out_close, out_free, out_lend, out_list, out_open, out_own, out_t
from picker._core.stats cimport PK_FAIL_BAD_REQUEST, PK_FAIL_KINDS, PK_FAIL_NONE

cdef extern from *:
    """
    /* Headers that steer picker, or that picker alone may set: none of a client's reaches a model server. */
    #define PK_CONTROLS(X) \\
        X("x-gateway-destination-endpoint") X("x-llm-d-model-name-rewrite") X("x-gateway-model-name-rewrite") \\
        X("x-gateway-destination-endpoint-subset") X("x-gateway-destination-endpoint-served") \\
        X("x-llm-d-inference-objective") X("x-gateway-inference-objective") X("x-llm-d-inference-fairness-id") \\
        X("x-gateway-inference-fairness-id") X("x-llm-d-slo-ttft-ms") X("x-slo-ttft-ms") X("x-llm-d-slo-tpot-ms") \\
        X("x-slo-tpot-ms") X("x-llm-d-video-fps") X("x-llm-d-video-duration-seconds") X("x-llm-d-video-resolution") \\
        X("epp-profile") X("x-llm-d-request-dropped-reason") \\
        /* what steers the sidecar of a disaggregated model server */ \\
        X("x-prefiller-host-port") X("x-encoder-hosts-ports") X("x-data-parallel-host-port") \\
        X("x-kv-cache-source-host-port")
    #define PK_NAMED(name) {sizeof(name) - 1, name},
    #define PK_SIZED(name) | (uint64_t)1 << (sizeof(name) - 1)
    typedef struct {
        unsigned size;
        const char *name;
    } pk_control_t;
    static const pk_control_t PK_CONTROL[] = {PK_CONTROLS(PK_NAMED)};
    static const uint64_t PK_CONTROL_SIZES = 0 PK_CONTROLS(PK_SIZED);        /* a bit for each */

    typedef struct {
        unsigned status;
        const char *type, *code, *message, *reason;
    } pk_refusal_t;
    static const pk_refusal_t PK_INTERNAL = {
        500, "internal_error", "internal_error", "the endpoint picker failed", "picker_internal_error"};
    /* by PK_FAIL_*; no status: never told to a client */
    static const pk_refusal_t PK_REFUSALS[] = {
        {0},
        {400, "invalid_request_error", "invalid_body", "", "picker_invalid_body"},
        {413, "invalid_request_error", "request_too_large", "the request body is larger than the gateway accepts",
         "picker_body_too_large"},
        {503, "service_unavailable", "no_endpoint", "no model server is ready for this request, try again later",
         "rejected-no-endpoints"},
        {0}, {0}, {0},
        {408, "invalid_request_error", "request_timeout", "the request body did not arrive in time",
         "picker_request_timeout"},
        {0},
        {429, "rate_limit_error", "too_many_requests", "the gateway has as many requests in flight as it can hold, "
         "try again later", "rejected-saturated"},
        {431, "invalid_request_error", "headers_too_large", "the request headers are more than the gateway accepts",
         "picker_headers_too_large"},
        {400, "invalid_request_error", "invalid_header", "the header that names another model is empty, too long or "
         "not a model's name", "picker_invalid_header"},
        {429, "rate_limit_error", "saturated", "the model servers are at their capacity, and requests of this priority "
         "do not wait, try again later", "rejected-saturated"},
        {429, "rate_limit_error", "queue_full", "as many requests wait for a model server as may, try again later",
         "rejected-saturated"},
        {429, "rate_limit_error", "queue_timeout", "no model server had capacity for this request in the time it may "
         "wait, try again later", "rejected-ttl-expired"},
        {503, "service_unavailable", "shutting_down", "the endpoint picker is stopping, try again",
         "rejected-shutting-down"},
        {429, "rate_limit_error", "admission_denied", "the model servers are too busy for a request of this priority, "
         "try again later", "rejected-saturated"},
        {429, "rate_limit_error", "evicted", "the request made room for one of higher priority, try again later",
         "evicted"},
        {429, "rate_limit_error", "rate_limit_exceeded", "the rate limit is reached, try again later",
         "rejected-quota"},
        {0}};
    static const pk_refusal_t PK_AWAY = {
        503, "service_unavailable", "rate_limit_unavailable", "rate limits cannot be looked up, try again later",
        "rejected-quota"};
    static const pk_refusal_t PK_POOL_REFUSAL = {
        503, "service_unavailable", "unknown_pool", "", "rejected-no-endpoints"};
    /* by PK_BODY_* */
    static const char *const PK_PROBLEMS[] = {
        "the request body cannot be read", "the request body is not valid JSON",
        "the request body holds too many or too deeply nested JSON values", "the request body must be a JSON object"};
    #define PK_ERROR_FORM \\
        "{\\"error\\":{\\"message\\":\\"%s\\",\\"type\\":\\"%s\\",\\"param\\":%s,\\"code\\":\\"%s\\"}}"
    """
    ctypedef struct pk_control_t:
        unsigned int size
        const char* name
    const pk_control_t PK_CONTROL[]
    const uint64_t PK_CONTROL_SIZES
    ctypedef struct pk_refusal_t:
        unsigned int status
        const char* type
        const char* code
        const char* message
        const char* reason
    const pk_refusal_t PK_INTERNAL
    const pk_refusal_t PK_AWAY
    const pk_refusal_t PK_POOL_REFUSAL
    const pk_refusal_t PK_REFUSALS[]
    const char* PK_PROBLEMS[]
    const char* PK_ERROR_FORM

cdef enum:
    REFUSAL_BYTES = 512
    MESSAGE_BYTES = 320
    CUT_BYTES = 4              # three dots and an end
    PIECES = 3                 # of a body with something else in the place of some of it
    OWN_HEADERS = 3            # of a refusal
    SPLICED = 1                # the piece that is not the body's

# --- C kernel: headers ---


cdef bint _is_named(slice_t key, const pk_control_t* control) noexcept nogil:
    """Is this the header's name, in whatever case a gateway leaves it?"""
    cdef size_t i
    if key.size != control.size:
        return False
    for i in range(key.size):
        if (key.data[i] | 0x20 if c"A" <= key.data[i] <= c"Z" else key.data[i]) != <uint8_t>control.name[i]:
            return False
    return True


cdef uint32_t out_control(slice_t key) noexcept nogil:
    """The bit of a control header; 0 for any other."""
    cdef uint32_t i
    if key.size > 63 or not PK_CONTROL_SIZES >> key.size & 1:
        return 0
    for i in range(PK_CONTROL_HEADERS):
        if _is_named(key, &PK_CONTROL[i]):
            return <uint32_t>1 << i
    return 0


cdef uint32_t _listed(uint32_t controls, slice_t* names) noexcept nogil:
    """Names of the control headers by their bits; how many."""
    cdef uint32_t i, count = 0
    for i in range(PK_CONTROL_HEADERS):
        if controls & (<uint32_t>1 << i):
            names[count] = slice_text(PK_CONTROL[i].name)
            count += 1
    return count


cdef int out_plain(out_t* out, int reply) noexcept nogil:
    """Headers or a body that may go on as they are."""
    return out_close(out, codec_write_common(out_open(out), reply, NULL))


cdef int out_strip(out_t* out, uint32_t controls) noexcept nogil:
    """Request headers that go on before there is a pick: without the client's control headers."""
    cdef mutation_t mutation
    cdef slice_t removed[PK_CONTROL_HEADERS]
    if controls == 0:
        return out_plain(out, PK_REPLY_REQUEST_HEADERS)
    memset(&mutation, 0, sizeof(mutation_t))
    mutation.removed = removed
    mutation.removed_count = _listed(controls, removed)
    return out_close(out, codec_write_common(out_open(out), PK_REPLY_REQUEST_HEADERS, &mutation))


cdef int out_pick(
    out_t* out, int reply, slice_t destination, uint32_t controls, const slice_t* body, int64_t content_length
) noexcept nogil:
    """The destination, without the client's control headers; `body` in the place of what came, unless it is NULL, and
    the content-length that goes with it, unless that is negative."""
    cdef mutation_t mutation
    cdef slice_t removed[PK_CONTROL_HEADERS]
    cdef header_t length
    cdef char digits[24]
    memset(&mutation, 0, sizeof(mutation_t))
    mutation.destination = destination
    mutation.clear_route_cache = True
    if body != NULL:
        mutation.body = body[0]
        mutation.has_body = True
    if content_length >= 0:
        snprintf(digits, sizeof(digits), b"%lld", <long long>content_length)
        length.key, length.value = slice_text(b"content-length"), slice_text(digits)
        mutation.set = &length
        mutation.set_count = 1
    # Gateways apply removals last: what is overwritten must not be removed.
    mutation.removed = removed
    mutation.removed_count = _listed(controls & ~(<uint32_t>1 << PK_DESTINATION_HEADER), removed)
    return out_close(out, codec_write_common(out_open(out), reply, &mutation))


cdef int out_answer(out_t* out, const answer_reply_t* answer) noexcept nogil:
    """Response headers that go on."""
    cdef mutation_t mutation
    cdef slice_t length = slice_text(b"content-length")
    memset(&mutation, 0, sizeof(mutation_t))
    mutation.set = answer.set
    mutation.set_count = answer.set_count
    mutation.removed = &length
    mutation.removed_count = answer.is_unsized
    mutation.has_mode = answer.wants_no_body
    mutation.request_mode = answer.request_mode
    mutation.response_mode = PK_BODY_NONE
    mutation.response_trailers = PK_SEND_SKIP
    if mutation.set_count or mutation.removed_count or mutation.has_mode:
        return out_close(out, codec_write_common(out_open(out), PK_REPLY_RESPONSE_HEADERS, &mutation))
    return out_plain(out, PK_REPLY_RESPONSE_HEADERS)


# --- C kernel: bodies and trailers ---


cdef int out_chunk(out_t* out, int reply, slice_t chunk, bint end_of_stream) noexcept nogil:
    """One chunk of a body in full duplex."""
    return out_close(out, codec_write_streamed(out_open(out), reply, chunk.data, chunk.size, end_of_stream))


cdef int _cut_chunk(out_t* out, int reply, slice_t* pieces, size_t size, bint end_of_stream) noexcept nogil:
    """The first `size` bytes of what the pieces are together, as a chunk; the pieces become what is left.

    A framed box owns the body: of the first and the last piece nothing is copied.
    """
    cdef buffer_t* bytes = out_open(out)
    cdef int code = codec_begin_streamed(bytes, reply, size, end_of_stream)
    cdef slice_t part
    cdef int i
    for i in range(PIECES):
        part = pieces[i]
        part.size = part.size if part.size < size else size
        if code != PK_OK or part.size == 0:
            continue
        if out.framed and i != SPLICED:
            code = out_lend(out, part, bytes.size)
        else:
            code = buffer_append(bytes, part.data, part.size)
        pieces[i].data += part.size
        pieces[i].size -= part.size
        size -= part.size
    if code == PK_OK:
        code = codec_end_streamed(bytes, end_of_stream)
    return out_close(out, code)


cdef int out_body(
    out_t* out, int reply, buffer_t* body, const splice_t* splice, size_t chunk_bytes, bint end_of_stream
) noexcept nogil:
    """A whole body in full duplex, in chunks of at most `chunk_bytes`; an empty one is one empty chunk.

    `splice`: what stands in the place of some of it; NULL: nothing does. A framed box takes the body over.
    """
    cdef slice_t pieces[PIECES]
    cdef size_t left, size
    cdef int code = PK_OK
    cdef bint is_last = False
    memset(pieces, 0, sizeof(pieces))
    pieces[0] = slice_bytes(body)
    if splice != NULL:
        pieces[0].size = splice.start
        pieces[SPLICED] = splice.text
        pieces[SPLICED + 1].data = body.data + splice.end
        pieces[SPLICED + 1].size = body.size - splice.end
    left = pieces[0].size + pieces[SPLICED].size + pieces[SPLICED + 1].size
    if out.framed:
        out_own(out, body)
    while code == PK_OK and not is_last:
        size = left if left < chunk_bytes else chunk_bytes
        is_last = size == left
        code = _cut_chunk(out, reply, pieces, size, is_last and end_of_stream)
        left -= size
    return code


cdef int out_changed(out_t* out, slice_t body, int64_t length) noexcept nogil:
    """Another body, or piece of it, in the place of a response's; not for full duplex.

    `length`: the content-length that it makes; -1: none is set.
    """
    cdef mutation_t mutation
    cdef header_t header
    cdef char digits[24]
    memset(&mutation, 0, sizeof(mutation_t))
    mutation.body = body
    mutation.has_body = True
    if length >= 0:
        snprintf(digits, sizeof(digits), b"%lld", <long long>length)
        header.key, header.value = slice_text(b"content-length"), slice_text(digits)
        mutation.set = &header
        mutation.set_count = 1
    return out_close(out, codec_write_common(out_open(out), PK_REPLY_RESPONSE_BODY, &mutation))


cdef int out_trailers(out_t* out, int reply) noexcept nogil:
    """Trailers that may go on as they are."""
    return out_close(out, codec_write_trailers(out_open(out), reply))


# --- C kernel: refusals ---


cdef void _explain(int problem, uint32_t offset, char* text, char* param, size_t size) noexcept nogil:
    """What a 400 is about: `text` for people, `param` as JSON."""
    cdef const char* field = api_lacking(problem)
    snprintf(param, size, b"null")
    if field != NULL:
        snprintf(text, size, b"'%s' is missing or empty", field)
        snprintf(param, size, b"\"%s\"", field)
    elif problem == PK_BODY_NOT_JSON:
        snprintf(text, size, b"%s: unexpected byte at offset %u", PK_PROBLEMS[problem], offset)
    else:
        snprintf(text, size, b"%s", PK_PROBLEMS[problem if PK_BODY_OK < problem < PK_BODY_LACKS else PK_BODY_OK])


cdef int _write_refusal(
    out_t* out, const refusal_t* given, const pk_refusal_t* kind, const char* message, const char* param
) noexcept nogil:
    cdef char body[REFUSAL_BYTES]
    cdef char seconds[12]
    cdef header_t headers[OWN_HEADERS + PK_REFUSAL_HEADERS]
    cdef uint32_t i, count = 1
    cdef const char* label = given.type if given.type != NULL else kind.type
    snprintf(body, sizeof(body), PK_ERROR_FORM, message, label, param, kind.code)
    headers[0].key, headers[0].value = slice_text(b"content-type"), slice_text(b"application/json")
    if kind.status == 503 or kind.status == 429:
        snprintf(seconds, sizeof(seconds), b"%u", <unsigned int>(given.retry_after_s if given.retry_after_s else 1))
        headers[1].key, headers[1].value = slice_text(b"retry-after"), slice_text(seconds)
        headers[2].key, headers[2].value = slice_text(b"x-llm-d-request-dropped-reason"), slice_text(kind.reason)
        count = OWN_HEADERS
    for i in range(given.header_count):
        headers[count] = given.headers[i]
        count += 1
    return out_close(
        out,
        codec_write_immediate(out_open(out), kind.status, headers, count, slice_text(body), slice_text(kind.reason)),
    )


cdef int out_refusal(out_t* out, const refusal_t* given) noexcept nogil:
    """An ImmediateResponse with an OpenAI-shaped error. What has no answer of its own is a 500."""
    cdef const pk_refusal_t* kind = &PK_INTERNAL
    cdef const char* message
    cdef char text[128]
    cdef char param[128]
    cdef int failure = given.failure
    if PK_FAIL_NONE < failure < PK_FAIL_KINDS and PK_REFUSALS[failure].status:
        kind = &PK_REFUSALS[failure]
    if given.is_away:
        kind = &PK_AWAY
    _explain(given.problem if failure == PK_FAIL_BAD_REQUEST else PK_BODY_OK, given.offset, text, param, sizeof(text))
    message = given.message if given.message != NULL else kind.message
    if failure == PK_FAIL_BAD_REQUEST:
        message = text
    return _write_refusal(out, given, kind, message, param)


cdef void _show(slice_t said, char* shown) noexcept nogil:
    """What a client says, as it can stand in JSON and on a terminal; not all of it if it is long."""
    cdef size_t i, size = said.size if said.size < PK_SHOWN_BYTES else PK_SHOWN_BYTES
    for i in range(size):
        shown[i] = c"?"
        if 0x20 <= said.data[i] <= 0x7E and said.data[i] != c'"' and said.data[i] != c"\\":
            shown[i] = <char>said.data[i]
    snprintf(shown + size, CUT_BYTES, b"%s", b"..." if size < said.size else b"")


cdef int out_no_pool(out_t* out, slice_t said, bint is_name, bint is_many) noexcept nogil:
    """The same of a request for a pool that is not known: by its name as it is said, or by an authority."""
    cdef char message[MESSAGE_BYTES]
    cdef char shown[PK_SHOWN_BYTES + CUT_BYTES]
    cdef refusal_t given
    memset(&given, 0, sizeof(given))
    _show(said, shown)
    snprintf(
        message, sizeof(message), b"the endpoint picker serves %s pool %s '%s'%s",
        b"more than one" if is_many else b"no", b"named" if is_name else b"for the authority", shown,
        b": name one in the gRPC metadata x-gateway-inference-pool" if is_many else b"",
    )
    return _write_refusal(out, &given, &PK_POOL_REFUSAL, message, b"null")


# --- Python face ---


def refusal(int failure, int problem=0, uint32_t offset=0, uint32_t retry_after_s=0) -> bytes:
    """The ImmediateResponse for a failure (an index of `stats.FAILURES`); for tests and tools.

    `problem` (one of `apis`'s BODY_*) and `offset` say what a 400 is about. MemoryError only.
    """
    cdef out_t out
    cdef refusal_t given
    memset(&given, 0, sizeof(given))
    given.failure, given.problem, given.offset, given.retry_after_s = failure, problem, offset, retry_after_s
    memset(&out, 0, sizeof(out_t))
    try:
        if out_refusal(&out, &given) != PK_OK:
            raise MemoryError("no memory for a refusal")
        return out_list(&out)[0]
    finally:
        out_free(&out)


def no_pool(const unsigned char[::1] said not None, *, bint is_name=False, bint is_many=False) -> bytes:
    """The ImmediateResponse for a pool that is not known by this authority, or this name; MemoryError only.

    `is_many`: several are.
    """
    cdef out_t out
    cdef slice_t text
    text.data = &said[0] if said.shape[0] else <const uint8_t*>b""
    text.size = said.shape[0]
    memset(&out, 0, sizeof(out_t))
    try:
        if out_no_pool(&out, text, is_name, is_many) != PK_OK:
            raise MemoryError("no memory for a refusal")
        return out_list(&out)[0]
    finally:
        out_free(&out)
