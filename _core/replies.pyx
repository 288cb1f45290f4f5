"""What a session answers: headers with the pick, bodies given back, and refusals in picker's own name.

Invariants: a reply is in `out_t` whole or not at all. A client's own destination header never survives: it is
    overwritten by the pick and removed from what is let through before there is one.
Cost: O(bytes written); bodies are copied once.   Memory: `out_t` belongs to whoever declared it.   Threads: any.
Source: envoy external_processor.proto; the OpenAI API's error object; names of control headers: Gateway API Inference
    Extension and llm-d.
"""
from libc.stddef cimport size_t
from libc.stdint cimport UINT32_MAX, uint8_t, uint32_t
from libc.stdio cimport snprintf
from libc.string cimport memset, strlen

from picker._core.alloc cimport PK_E_LIMIT, PK_E_NOMEM, PK_OK, pk_free, pk_grow
from picker._core.codec cimport (
    PK_REPLY_REQUEST_HEADERS,
    buffer_append,
    buffer_free,
    buffer_reserve,
    buffer_t,
    codec_write_common,
    codec_write_immediate,
    codec_write_streamed,
    codec_write_trailers,
    header_t,
    mutation_t,
    slice_is,
    slice_t,
)
from picker._core.prompt cimport PK_BODY_NOT_JSON, PK_BODY_OK, PK_BODY_PROBLEMS
from picker._core.stats cimport PK_FAIL_KINDS, PK_FAIL_NONE

cdef extern from *:
    """
    /* Headers that steer picker, or that picker alone may set: none of a client's reaches a model server. */
    static const char *const PK_CONTROL[] = {
        "x-gateway-destination-endpoint", "x-gateway-destination-endpoint-subset",
        "x-gateway-destination-endpoint-served", "x-gateway-inference-objective", "x-llm-d-inference-objective",
        "x-gateway-inference-fairness-id", "x-llm-d-inference-fairness-id", "x-gateway-model-name-rewrite",
        "x-llm-d-model-name-rewrite",
        /* what steers the sidecar of a disaggregated model server */
        "x-prefiller-host-port", "x-encoder-hosts-ports", "x-data-parallel-host-port", "x-kv-cache-source-host-port"};

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
        {429, "rate_limit_error", "too_many_requests", "the gateway holds as many request bodies as it can, "
         "try again later", "rejected-saturated"}};
    /* by PK_BODY_* */
    static const char *const PK_PROBLEMS[] = {
        "the request body cannot be read", "the request body is not valid JSON",
        "the request body holds too many or too deeply nested JSON values", "the request body must be a JSON object",
        "'model' is missing or not a non-empty string", "'messages' is missing or not a non-empty array",
        "'prompt' is missing or empty"};
    static const char *const PK_PARAMS[] = {
        "null", "null", "null", "null", "\\"model\\"", "\\"messages\\"", "\\"prompt\\""};
    #define PK_ERROR_FORM \\
        "{\\"error\\":{\\"message\\":\\"%s%s\\",\\"type\\":\\"%s\\",\\"param\\":%s,\\"code\\":\\"%s\\"}}"
    """
    const char* PK_CONTROL[]
    ctypedef struct pk_refusal_t:
        unsigned int status
        const char* type
        const char* code
        const char* message
        const char* reason
    const pk_refusal_t PK_INTERNAL
    const pk_refusal_t PK_REFUSALS[]
    const char* PK_PROBLEMS[]
    const char* PK_PARAMS[]
    const char* PK_ERROR_FORM

# --- C kernel: the list of replies ---

cdef enum:
    PK_FIRST_BYTES = 512       # enough for all that is said of a small request


cdef inline slice_t _text(const char* text) noexcept nogil:
    cdef slice_t slice
    slice.data = <const uint8_t*>text
    slice.size = strlen(text)
    return slice


cdef void out_clear(out_t* out) noexcept nogil:
    """Forget the replies; keep a small buffer for the next ones."""
    out.count = 0
    out.end = out.bytes.size = 0
    if out.bytes.capacity > 1 << 16:
        buffer_free(&out.bytes)


cdef void out_rewind(out_t* out, size_t end) noexcept nogil:
    """Take framed replies back: what was written behind `end`, where some reply ended."""
    out.end = out.bytes.size = end


cdef void out_free(out_t* out) noexcept nogil:
    cdef bint framed = out.framed
    buffer_free(&out.bytes)
    pk_free(out.ends)
    memset(out, 0, sizeof(out_t))
    out.framed = framed


cdef buffer_t* out_open(out_t* out) noexcept nogil:
    """Where the next reply is written, behind room for its prefix. `out_close` is due, and says if that failed."""
    if out.framed:
        if out.bytes.capacity == 0:
            buffer_reserve(&out.bytes, PK_FIRST_BYTES)
        out.failed = buffer_append(&out.bytes, <const char*>b"\0\0\0\0", PK_PREFIX_BYTES) != PK_OK
    return &out.bytes


cdef int _frame(out_t* out) noexcept nogil:
    """Fill in the prefix: no compression, the size in network order."""
    cdef uint8_t* prefix = out.bytes.data + out.end
    cdef size_t size = out.bytes.size - out.end - PK_PREFIX_BYTES
    cdef uint32_t i
    if size > UINT32_MAX:
        return PK_E_LIMIT
    for i in range(4):
        prefix[1 + i] = <uint8_t>(size >> (24 - 8 * i))
    return PK_OK


cdef int out_close(out_t* out, int code) noexcept nogil:
    """The reply is written, or by `code` it is not: then it is taken back."""
    if code == PK_OK and out.framed:
        code = PK_E_NOMEM if out.failed else _frame(out)
    elif code == PK_OK:
        code = pk_grow(<void**>&out.ends, &out.capacity, out.count + 1, sizeof(size_t))
    if code != PK_OK:
        out.bytes.size = out.end
        return code
    out.end = out.bytes.size
    if not out.framed:
        out.ends[out.count] = out.end
        out.count += 1
    return PK_OK


# --- C kernel: headers ---


cdef uint32_t out_control(slice_t key) noexcept nogil:
    """The bit of a control header; 0 for any other."""
    cdef uint32_t i
    if key.size < 2 or key.data[0] != c"x" or key.data[1] != c"-":
        return 0
    for i in range(PK_CONTROL_HEADERS):
        if slice_is(key, PK_CONTROL[i], strlen(PK_CONTROL[i])):
            return <uint32_t>1 << i
    return 0


cdef uint32_t _listed(uint32_t controls, slice_t* names) noexcept nogil:
    """Names of the control headers by their bits; how many."""
    cdef uint32_t i, count = 0
    for i in range(PK_CONTROL_HEADERS):
        if controls & (<uint32_t>1 << i):
            names[count] = _text(PK_CONTROL[i])
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


cdef int out_pick(out_t* out, int reply, slice_t destination, uint32_t controls) noexcept nogil:
    """The destination, without the client's control headers."""
    cdef mutation_t mutation
    cdef slice_t removed[PK_CONTROL_HEADERS]
    memset(&mutation, 0, sizeof(mutation_t))
    mutation.destination = destination
    mutation.clear_route_cache = True
    # Gateways apply removals last: what is overwritten must not be removed.
    mutation.removed = removed
    mutation.removed_count = _listed(controls & ~(<uint32_t>1 << PK_DESTINATION_HEADER), removed)
    return out_close(out, codec_write_common(out_open(out), reply, &mutation))


cdef int out_header(out_t* out, int reply, slice_t key, slice_t value) noexcept nogil:
    """Headers that go on with one set."""
    cdef mutation_t mutation
    memset(&mutation, 0, sizeof(mutation_t))
    mutation.extra.key = key
    mutation.extra.value = value
    return out_close(out, codec_write_common(out_open(out), reply, &mutation))


# --- C kernel: bodies and trailers ---


cdef int out_chunk(out_t* out, int reply, slice_t chunk, bint end_of_stream) noexcept nogil:
    """One chunk of a body in full duplex."""
    return out_close(out, codec_write_streamed(out_open(out), reply, chunk.data, chunk.size, end_of_stream))


cdef int out_body(out_t* out, int reply, slice_t body, size_t chunk_bytes, bint end_of_stream) noexcept nogil:
    """A whole body in full duplex, in chunks of at most `chunk_bytes`; an empty one is one empty chunk."""
    cdef slice_t chunk = body
    cdef int code = PK_OK
    cdef bint is_last = False
    while code == PK_OK and not is_last:
        chunk.size = body.size if body.size < chunk_bytes else chunk_bytes
        is_last = chunk.size == body.size
        code = out_chunk(out, reply, chunk, is_last and end_of_stream)
        chunk.data += chunk.size
        body.size -= chunk.size
    return code


cdef int out_trailers(out_t* out, int reply) noexcept nogil:
    """Trailers that may go on as they are."""
    return out_close(out, codec_write_trailers(out_open(out), reply))


# --- C kernel: refusals ---


cdef int out_refusal(out_t* out, int failure, int problem, uint32_t offset) noexcept nogil:
    """An ImmediateResponse with an OpenAI-shaped error. `problem` (PK_BODY_*) and `offset` say what a 400 is about.

    What has no answer of its own is a 500.
    """
    cdef const pk_refusal_t* refusal = &PK_INTERNAL
    cdef char body[512]
    cdef char tail[48]
    cdef header_t headers[3]
    cdef uint32_t count = 1
    if PK_FAIL_NONE < failure < PK_FAIL_KINDS and PK_REFUSALS[failure].status:
        refusal = &PK_REFUSALS[failure]
    problem = problem if PK_BODY_OK <= problem < PK_BODY_PROBLEMS else PK_BODY_OK
    tail[0] = 0
    if problem == PK_BODY_NOT_JSON:
        snprintf(tail, sizeof(tail), b": unexpected byte at offset %u", offset)
    snprintf(
        body, sizeof(body), PK_ERROR_FORM, PK_PROBLEMS[problem] if refusal.status == 400 else refusal.message, tail,
        refusal.type, PK_PARAMS[problem], refusal.code
    )
    headers[0].key, headers[0].value = _text(b"content-type"), _text(b"application/json")
    if refusal.status == 503 or refusal.status == 429:
        headers[1].key, headers[1].value = _text(b"retry-after"), _text(b"1")
        headers[2].key, headers[2].value = _text(b"x-llm-d-request-dropped-reason"), _text(refusal.reason)
        count = 3
    return out_close(
        out, codec_write_immediate(out_open(out), refusal.status, headers, count, _text(body), _text(refusal.reason))
    )


# --- Python face ---


cdef list out_list(const out_t* out):
    """The replies as bytes objects."""
    cdef size_t i, start = 0
    cdef list replies = []
    for i in range(out.count):
        replies.append(out.bytes.data[start:out.ends[i]])
        start = out.ends[i]
    return replies


def refusal(int failure, int problem=0, uint32_t offset=0) -> bytes:
    """The ImmediateResponse for a failure (an index of `stats.FAILURES`); for tests and tools.

    `problem` (one of `prompt`'s BODY_*) and `offset` say what a 400 is about. MemoryError only.
    """
    cdef out_t out
    memset(&out, 0, sizeof(out_t))
    try:
        if out_refusal(&out, failure, problem, offset) != PK_OK:
            raise MemoryError("no memory for a refusal")
        return out_list(&out)[0]
    finally:
        out_free(&out)
