"""The response direction of the body-based router: lets it pass as it comes, unless a plugin asks to see the body.

Invariants: without such a plugin every message is answered at once, one for one. With one, a body of JSON is held
    whole, of a stream no more than one event that is not complete; beyond the limits nothing is held, and the plugin
    is left out or, if it insists, the response is not let through.
Cost: O(bytes); what is held is copied twice.
Memory: at most `body_bytes` for one body, `event_bytes` for one event, `buffered_bytes` for all.
Threads: one for all exchanges of a router.
Source: envoy external_processor.proto; HTML Living Standard, server-sent events.
"""
from libc.stddef cimport size_t
from libc.stdint cimport uint8_t
from libc.string cimport memmove

from picker._core.alloc cimport PK_E_FORMAT, PK_E_LIMIT, PK_E_NOMEM, PK_OK
from picker._core.bbrsteps cimport (
    out_edited,
    route_drop,
    route_forget_scan,
    route_hold,
    route_run,
    route_unseen,
)
from picker._core.codec cimport (
    PK_REPLY_RESPONSE_BODY,
    PK_REPLY_RESPONSE_HEADERS,
    PK_REPLY_RESPONSE_TRAILERS,
    PK_RESPONSE_BODY,
    PK_RESPONSE_HEADERS,
    buffer_append,
    buffer_free,
    buffer_t,
    codec_next_header,
    header_t,
    slice_bytes,
    slice_equals,
    slice_starts,
    slice_t,
)
from picker._core.edits cimport edits_free
from picker._core.fields cimport document_find_data, document_free
from picker._core.replies cimport out_body, out_chunk, out_plain, out_trailers
from picker._core.routing cimport (
    PK_PART_BODY,
    PK_PART_EVENT,
    PK_PART_HEADERS,
    PK_ROUTE_ENDED,
    PK_ROUTE_NEW,
    PK_ROUTE_RESPONSE,
    route_is_buffered,
    route_is_duplex,
    route_is_over,
)

# --- C kernel: answers ---


cdef int _headers_go(route_t* route, out_t* out) noexcept nogil:
    """The headers that waited, as the plugins have left them."""
    cdef int code = out_edited(route, out, PK_REPLY_RESPONSE_HEADERS, &route.edits, False)
    route.holds_headers = False
    edits_free(&route.edits)
    return code


cdef int _trailers_go(route_t* route, out_t* out) noexcept nogil:
    return out_trailers(out, PK_REPLY_RESPONSE_TRAILERS) if route.response_trailers else PK_OK


cdef void _ended(route_t* route) noexcept nogil:
    if route.response_done:
        route.state = PK_ROUTE_ENDED
        route_drop(route)


cdef int _whole(route_t* route, out_t* out) noexcept nogil:
    """A body that the plugins have seen."""
    cdef int code = PK_OK
    if route_is_buffered(route.response_mode):
        code = out_edited(route, out, PK_REPLY_RESPONSE_BODY, &route.edits, route.document.is_changed)
    else:
        if route.holds_headers:
            code = _headers_go(route, out)
        if code == PK_OK and route.has_response_body:
            code = out_body(
                out, PK_REPLY_RESPONSE_BODY, &route.document.bytes, NULL, route.router.limits.chunk_bytes,
                route.response_done and not route.response_trailers
            )
    route_drop(route)
    edits_free(&route.edits)
    if code == PK_OK:
        code = _trailers_go(route, out)
    _ended(route)
    return code


cdef int _events(route_t* route, out_t* out) noexcept nogil:
    """The events that the plugins have seen, if any; the end of the body if that has come."""
    cdef bint ends = route.response_done and not route.response_trailers
    cdef int code = PK_OK
    if route_is_buffered(route.response_mode):
        code = out_edited(route, out, PK_REPLY_RESPONSE_BODY, &route.edits, route.ready_changed)
    elif route.ready.size or ends:
        if route.holds_headers:
            code = _headers_go(route, out)
        if code == PK_OK:
            code = out_chunk(out, PK_REPLY_RESPONSE_BODY, slice_bytes(&route.ready), ends)
    elif route.response_done and route.holds_headers:
        code = _headers_go(route, out)
    route.ready.size = 0
    route_hold(route)
    if code == PK_OK:
        code = _trailers_go(route, out)
    _ended(route)
    return code


# --- C kernel: what cannot be shown to plugins ---


cdef int _unseen(route_t* route, out_t* out) noexcept nogil:
    """The body goes on as it comes, if it may."""
    route.gathers = False
    return route_unseen(route, out)


cdef int _give_up(route_t* route, out_t* out) noexcept nogil:
    """More would be held than may be: what is held goes on, the rest follows as it comes."""
    cdef slice_t held = slice_bytes(&route.gathered if route.is_stream else &route.document.bytes)
    cdef int code = _unseen(route, out)
    if code != PK_OK or route_is_over(route):
        return code
    if route_is_buffered(route.response_mode):
        code = out_plain(out, PK_REPLY_RESPONSE_BODY)
    else:
        if route.holds_headers:
            code = _headers_go(route, out)
        if code == PK_OK:
            code = out_chunk(out, PK_REPLY_RESPONSE_BODY, held, route.response_done)
    route_drop(route)
    _ended(route)
    return code


# --- C kernel: events ---


cdef size_t _event_end(route_t* route) noexcept nogil:
    """Behind the first empty line of `gathered` from `line` on; 0 if there is none yet. Looks at each byte once."""
    cdef const uint8_t* data = route.gathered.data
    cdef size_t size = route.gathered.size
    cdef size_t i
    cdef bint is_empty
    for i in range(route.searched, size):
        route.searched = i
        if data[i] != c"\n" and data[i] != c"\r":
            continue
        if data[i] == c"\r" and i + 1 == size and not route.response_done:
            return 0                    # perhaps the first half of "\r\n"
        if data[i] == c"\r" and i + 1 < size and data[i + 1] == c"\n":
            continue                    # the second half ends the line
        is_empty = i == route.line or (i == route.line + 1 and data[route.line] == c"\r")
        route.line = i + 1
        if is_empty:
            route.searched = i + 1
            return i + 1
    route.searched = size
    return 0


cdef int _next_event(route_t* route) noexcept nogil:
    """The next event before the plugins: PK_OK; PK_E_LIMIT: there is none yet; PK_E_NOMEM."""
    cdef size_t end = _event_end(route)
    if end == 0 and route.response_done:
        end = route.gathered.size       # a rest without an empty line behind it
    if end <= route.taken:
        return PK_E_LIMIT
    if buffer_append(&route.document.bytes, route.gathered.data + route.taken, end - route.taken) != PK_OK:
        return PK_E_NOMEM
    document_find_data(&route.document)
    route.taken = end
    route.has_event = True
    route.part = PK_PART_EVENT
    route.step = 0
    return PK_OK


cdef int _event_done(route_t* route) noexcept nogil:
    """The event may go on."""
    route.has_event = False
    route.ready_changed |= route.document.is_changed
    if buffer_append(&route.ready, route.document.bytes.data, route.document.bytes.size) != PK_OK:
        return PK_E_NOMEM
    route_forget_scan(route)
    document_free(&route.document)
    return PK_OK


cdef void _compact(route_t* route) noexcept nogil:
    """Forget the events that were taken out."""
    route.gathered.size -= route.taken
    if route.gathered.size and route.taken:
        memmove(route.gathered.data, route.gathered.data + route.taken, route.gathered.size)
    route.searched -= route.taken
    route.line -= route.taken
    route.taken = 0


cdef int _overlong(route_t* route, out_t* out) noexcept nogil:
    """An event that does not end is let through behind those before it, and all that follows as it comes."""
    cdef int code = _unseen(route, out)
    if code != PK_OK or route_is_over(route):
        return code
    if buffer_append(&route.ready, route.gathered.data, route.gathered.size) != PK_OK:
        return PK_E_NOMEM
    buffer_free(&route.gathered)
    return _events(route, out)


cdef int _each_event(route_t* route, out_t* out) noexcept nogil:
    """The event before the plugins to its end, then each further one; then what has become of them goes on."""
    cdef int code = PK_OK
    while True:
        if route.has_event:
            code = route_run(route, out)
            if code == PK_OK and not route_is_over(route):
                code = _event_done(route)
            if code != PK_OK or route_is_over(route):
                return code
        code = _next_event(route)
        if code == PK_E_LIMIT:
            break
        if code != PK_OK:
            return code
    _compact(route)
    if route.gathered.size > route.router.limits.event_bytes:
        return _overlong(route, out)
    return _events(route, out)


# --- C kernel: the response comes in ---


cdef void _read_header(route_t* route, const header_t* header) noexcept nogil:
    if slice_equals(header.key, b"content-type"):
        route.is_stream = slice_starts(header.value, b"text/event-stream")
    elif slice_equals(header.key, b"content-encoding"):
        route.is_encoded = header.value.size > 0 and not slice_equals(header.value, b"identity")


cdef int _begin(route_t* route, out_t* out) noexcept nogil:
    """Who is to see the body, and can it be shown?"""
    route.has_response = True
    route.is_response = True
    route.state = PK_ROUTE_RESPONSE
    route_drop(route)                       # of a request that the gateway answers itself
    if route.router.response.seeing == 0 or route.response_done:
        return PK_OK
    route.gathers = not route.is_encoded and (
        route_is_duplex(route.response_mode) or route_is_buffered(route.response_mode)
    )
    return PK_OK if route.gathers else _unseen(route, out)


cdef int bbr_response_resume(route_t* route, out_t* out) noexcept nogil:
    """The steps from where they stand, then what has become of the message."""
    cdef int code
    if route.part == PK_PART_EVENT:
        return _each_event(route, out)
    code = route_run(route, out)
    if code != PK_OK or route_is_over(route):
        return code
    if route.part == PK_PART_BODY:
        return _whole(route, out)
    if route.holds_headers:
        return PK_OK
    code = _headers_go(route, out)
    _ended(route)
    return code


cdef int _headers(route_t* route, const message_t* message, out_t* out) noexcept nogil:
    cdef slice_t rest = message.headers
    cdef header_t header
    cdef int code
    if route.has_response:
        return PK_E_FORMAT
    while codec_next_header(&rest, &header):
        _read_header(route, &header)
    if route.router.response.count:
        if buffer_append(&route.response_headers, message.headers.data, message.headers.size) != PK_OK:
            return PK_E_NOMEM
    route.response_done = message.end_of_stream
    route.part = PK_PART_HEADERS
    route.step = 0
    code = _begin(route, out)
    if code != PK_OK or route_is_over(route):
        return code
    route.holds_headers = route.gathers and route_is_duplex(route.response_mode)
    return bbr_response_resume(route, out)


cdef int _show(route_t* route, out_t* out) noexcept nogil:
    """What has come of the body, to the plugins that want to see it."""
    if route.is_stream:
        route.part = PK_PART_EVENT
        return _each_event(route, out)
    if not route.response_done and route_is_duplex(route.response_mode):
        return PK_OK
    route.part = PK_PART_BODY
    route.step = 0
    route.document.size = route.document.bytes.size
    route.document.is_other = False
    return bbr_response_resume(route, out)


cdef int _gather(route_t* route, const message_t* message, out_t* out) noexcept nogil:
    """More of a body that plugins want to see."""
    cdef buffer_t* into = &route.gathered if route.is_stream else &route.document.bytes
    route.has_response_body = True
    if buffer_append(into, message.body.data, message.body.size) != PK_OK:
        return PK_E_NOMEM
    if route_hold(route) != PK_OK or (not route.is_stream and into.size > route.router.limits.body_bytes):
        return _give_up(route, out)
    return _show(route, out)


cdef int _body(route_t* route, const message_t* message, out_t* out) noexcept nogil:
    cdef int code
    if route.state == PK_ROUTE_NEW:
        return PK_E_FORMAT
    if not route.has_response:              # the gateway does not show headers
        code = _begin(route, out)
        if code != PK_OK or route_is_over(route):
            return code
    if route.response_done and route_is_duplex(route.response_mode):
        return PK_E_FORMAT if message.body.size else PK_OK
    route.response_done = route.response_done or message.end_of_stream
    if route.gathers:
        return _gather(route, message, out)
    if route_is_duplex(route.response_mode):
        code = out_chunk(out, PK_REPLY_RESPONSE_BODY, message.body, message.end_of_stream)
    else:
        code = out_plain(out, PK_REPLY_RESPONSE_BODY)
    _ended(route)
    return code


cdef int _trailers(route_t* route, out_t* out) noexcept nogil:
    cdef bint was_done = route.response_done
    cdef int code
    if route.state == PK_ROUTE_NEW or route.response_trailers:
        return PK_E_FORMAT
    if not route.has_response:
        code = _begin(route, out)
        if code != PK_OK or route_is_over(route):
            return code
    route.response_trailers = True
    route.response_done = True
    if route.gathers and not was_done and route_is_duplex(route.response_mode):
        return _show(route, out)
    _ended(route)
    return _trailers_go(route, out)


cdef int bbr_response(route_t* route, const message_t* message, out_t* out) noexcept nogil:
    """One message. PK_OK, PK_NEED_PLUGIN, PK_E_FORMAT (out of order) or PK_E_NOMEM."""
    if message.kind == PK_RESPONSE_HEADERS:
        return _headers(route, message, out)
    if message.kind == PK_RESPONSE_BODY:
        return _body(route, message, out)
    return _trailers(route, out)
