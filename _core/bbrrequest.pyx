"""The request direction of the body-based router: gathers the body, lets the steps read it, answers.

Invariants: nothing is answered for the body before the headers; no byte of the body is dropped or answered twice; what
    the steps do not change arrives as it was sent.
Cost: O(bytes); in full duplex a body is copied once, into the exchange: replies lend of it.
Memory: at most `body_bytes` for one body, `buffered_bytes` for all.   Threads: one for all exchanges of a router.
Source: Gateway API Inference Extension, body-based routing; envoy external_processor.proto.
"""
from libc.stdint cimport uint32_t, uint64_t

from picker._core.alloc cimport PK_E_FORMAT, PK_E_LIMIT, PK_E_NOMEM, PK_OK
from picker._core.bbrsteps cimport (
    out_edited,
    route_drop,
    route_hold,
    route_refuse,
    route_run,
    route_scan,
    route_unseen,
)
from picker._core.codec cimport (
    PK_BODY_BUFFERED_PARTIAL,
    PK_BODY_NONE,
    PK_REPLY_REQUEST_BODY,
    PK_REPLY_REQUEST_HEADERS,
    PK_REPLY_REQUEST_TRAILERS,
    PK_REQUEST_BODY,
    PK_REQUEST_HEADERS,
    buffer_append,
    buffer_free,
    codec_next_header,
    header_t,
    slice_equals,
    slice_is,
    slice_starts,
    slice_t,
)
from picker._core.apis cimport PK_BODY_NOT_JSON, PK_BODY_NOT_OBJECT, PK_BODY_OK, PK_BODY_TOO_COMPLEX
from picker._core.replies cimport out_body, out_chunk, out_plain, out_trailers
from picker._core.routing cimport (
    PK_PART_BODY,
    PK_PART_HEADERS,
    PK_ROUTE_BODY,
    PK_ROUTE_ENDED,
    PK_ROUTE_NEW,
    PK_ROUTE_PASSED,
    PK_ROUTE_PLUGINS,
    route_is_buffered,
    route_is_duplex,
    route_is_over,
)
from picker._core.scan cimport PK_JSON_OBJECT
from picker._core.stats cimport PK_FAIL_BAD_REQUEST, PK_FAIL_EXHAUSTED, PK_FAIL_TOO_LARGE

# --- C kernel: the answer ---


cdef int _answer(route_t* route, out_t* out) noexcept nogil:
    """Headers, then, in full duplex, the body that waited for them, then trailers; or the one reply of BUFFERED."""
    cdef bint duplex = route_is_duplex(route.request_mode)
    cdef bint by_body = route.has_body and route_is_buffered(route.request_mode)
    cdef bint changed = by_body and route.document.is_changed
    cdef int reply = PK_REPLY_REQUEST_BODY if by_body else PK_REPLY_REQUEST_HEADERS
    cdef int code = out_edited(route, out, reply, &route.request_edits, changed)
    if code == PK_OK and duplex and route.has_body and not route.passes:
        code = out_body(
            out, PK_REPLY_REQUEST_BODY, &route.document.bytes, NULL, route.router.limits.chunk_bytes,
            route.request_done and not route.has_trailers
        )
    if code == PK_OK and route.has_trailers:
        code = out_trailers(out, PK_REPLY_REQUEST_TRAILERS)
    return code


cdef int _let_go(route_t* route, int code) noexcept nogil:
    """The request is answered to its end: if nobody asks for the response, that was all."""
    if code == PK_OK and route.state == PK_ROUTE_PASSED and route.request_done and route.router.response.count == 0:
        route.is_let_go = True
        route.state = PK_ROUTE_ENDED
    return code


cdef int bbr_request_resume(route_t* route, out_t* out) noexcept nogil:
    """The steps from where they stand, then the answer."""
    cdef int code = route_run(route, out)
    if code != PK_OK or route_is_over(route):
        return code
    route.state = PK_ROUTE_PASSED
    route.is_answered = True
    route.router.tally.answered += 1
    route.router.tally.routed += route.request_edits.count > 0
    code = _answer(route, out)
    route_drop(route)
    if route.router.response.count == 0:
        buffer_free(&route.request_headers)
    return _let_go(route, code)


# --- C kernel: the request comes in ---


cdef inline bint _is_cut(const route_t* route) noexcept nogil:
    """Did the gateway perhaps send only the beginning of the body?"""
    return route.request_mode == PK_BODY_BUFFERED_PARTIAL and not route.request_done


cdef int _problem(route_t* route, int* problem) noexcept nogil:
    """Read the body: `problem` is PK_BODY_*. PK_OK or PK_E_NOMEM."""
    cdef int code = route_scan(route)
    problem[0] = PK_BODY_OK
    if code == PK_E_NOMEM:
        return code
    if code != PK_OK:
        problem[0] = PK_BODY_TOO_COMPLEX if code == PK_E_LIMIT else PK_BODY_NOT_JSON
    elif route.router.scan.tape[0].kind != PK_JSON_OBJECT:
        route.document.is_json = False
        problem[0] = PK_BODY_NOT_OBJECT
    return PK_OK


cdef int _complete(route_t* route, out_t* out) noexcept nogil:
    """All that is shown of the request is here."""
    cdef int problem, code
    route.part = PK_PART_HEADERS
    route.document.size = route.document.bytes.size
    if route.document.size:
        route.part = PK_PART_BODY
        if _problem(route, &problem) != PK_OK:
            return PK_E_NOMEM
        route.is_unseen = problem == PK_BODY_NOT_JSON and _is_cut(route)
        if problem != PK_BODY_OK and not route.may_be_other and not route.is_unseen:
            return route_refuse(route, PK_FAIL_BAD_REQUEST, problem, out)
    if route.is_unseen:
        code = route_unseen(route, out)
        if code != PK_OK or route_is_over(route):
            return code
    route.state = PK_ROUTE_PLUGINS
    route.step = 0
    return bbr_request_resume(route, out)


cdef void _read_header(route_t* route, const header_t* header) noexcept nogil:
    cdef uint32_t i
    if slice_equals(header.key, b"content-type"):
        route.is_grpc = slice_starts(header.value, b"application/grpc")
        route.may_be_other = route.is_grpc or slice_starts(header.value, b"multipart/")
    for i in range(route.router.header_count):
        if slice_is(header.key, <const char*>route.router.headers[i].data, route.router.headers[i].size):
            route.spoofed |= <uint32_t>1 << i


cdef int _headers(route_t* route, const message_t* message, out_t* out) noexcept nogil:
    cdef slice_t rest = message.headers
    cdef header_t header
    cdef int code
    if route.state != PK_ROUTE_NEW:
        return PK_E_FORMAT
    route.state = PK_ROUTE_BODY
    while codec_next_header(&rest, &header):
        _read_header(route, &header)
    if route.router.request.has_python or route.router.response.count:
        if buffer_append(&route.request_headers, message.headers.data, message.headers.size) != PK_OK:
            return PK_E_NOMEM
    route.request_done = message.end_of_stream or route.request_mode == PK_BODY_NONE
    if message.end_of_stream:
        return _complete(route, out)
    if route_is_buffered(route.request_mode):
        code = out_edited(route, out, PK_REPLY_REQUEST_HEADERS, &route.request_edits, False)
        route.spoofed = 0
        return code
    route.is_unseen = route.is_grpc or not route_is_duplex(route.request_mode)
    route.passes = route.is_unseen or (route.may_be_other and not route.router.request.has_python)
    return _complete(route, out) if route.passes else PK_OK      # else answered with the body


cdef int _gather(route_t* route, const message_t* message, out_t* out) noexcept nogil:
    """More of a body that is answered when it is whole."""
    cdef uint64_t size = route.document.bytes.size + message.body.size
    if route.state == PK_ROUTE_PLUGINS:
        return PK_E_FORMAT
    route.has_body = True
    if size > route.router.limits.body_bytes:
        return route_refuse(route, PK_FAIL_TOO_LARGE, PK_BODY_OK, out)
    if buffer_append(&route.document.bytes, message.body.data, message.body.size) != PK_OK:
        return PK_E_NOMEM
    if route_hold(route) != PK_OK:
        return route_refuse(route, PK_FAIL_EXHAUSTED, PK_BODY_OK, out)
    if route.request_done or not route_is_duplex(route.request_mode):
        return _complete(route, out)
    return PK_OK


cdef int _body(route_t* route, const message_t* message, out_t* out) noexcept nogil:
    cdef bint was_done = route.request_done
    if route.state == PK_ROUTE_NEW:
        return PK_E_FORMAT
    if was_done and route_is_duplex(route.request_mode):
        # A second end of stream (Envoy, bodies of 1 MB and more) wants no answer; more body cannot be.
        return PK_E_FORMAT if message.body.size else PK_OK
    route.request_done = was_done or message.end_of_stream
    if route.state < PK_ROUTE_PASSED:
        return _gather(route, message, out)
    if not route_is_duplex(route.request_mode):
        return out_plain(out, PK_REPLY_REQUEST_BODY)
    if route.is_answered:
        return out_chunk(out, PK_REPLY_REQUEST_BODY, message.body, message.end_of_stream)
    return PK_OK                            # the gateway has answered the client itself


cdef int _trailers(route_t* route, out_t* out) noexcept nogil:
    cdef bint duplex = route_is_duplex(route.request_mode)
    if route.state == PK_ROUTE_NEW or route.has_trailers or (route.request_done and duplex):
        return PK_E_FORMAT
    if route.state < PK_ROUTE_PASSED and not duplex:
        return PK_E_FORMAT                  # the body comes first
    route.has_trailers = True
    route.request_done = True
    if route.state == PK_ROUTE_BODY:
        return _complete(route, out)
    if duplex and not route.is_answered:
        return PK_OK
    return out_trailers(out, PK_REPLY_REQUEST_TRAILERS)


cdef int bbr_request(route_t* route, const message_t* message, out_t* out) noexcept nogil:
    """One message. PK_OK, PK_NEED_PLUGIN, PK_E_FORMAT (out of order) or PK_E_NOMEM."""
    if message.kind == PK_REQUEST_HEADERS:
        return _let_go(route, _headers(route, message, out))
    if message.kind == PK_REQUEST_BODY:
        return _let_go(route, _body(route, message, out))
    return _let_go(route, _trailers(route, out))
