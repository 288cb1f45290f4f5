"""The steps of the body-based router over one message: body fields become headers, plugins in Python are asked.

Invariants: a header that the router sets is valid: no control character, UTF-8, of bounded length. A copy that the
    client sent is overwritten or removed, on every path; and where one was, the route is chosen anew.
Cost: O(bytes) for the one scan of a body, O(members) for each field.
Memory: what a message needs is the exchange's; the tape is the router's.   Threads: one for all exchanges of a router.
Source: Gateway API Inference Extension, body-based routing.
"""
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdio cimport snprintf
from libc.string cimport memset

from picker._core.alloc cimport PK_E_FORMAT, PK_E_LIMIT, PK_E_MISSING, PK_E_NOMEM, PK_E_RANGE, PK_OK
from picker._core.codec cimport (
    PK_REPLY_REQUEST_BODY,
    PK_REPLY_REQUEST_HEADERS,
    buffer_free,
    codec_write_common,
    codec_write_immediate,
    header_t,
    mutation_t,
    slice_bytes,
    slice_text,
)
from picker._core.edits cimport edited_remove, edited_t, edits_add, edits_find, edits_mutation
from picker._core.fields cimport document_free, document_scan
from picker._core.names cimport names_find
from picker._core.outbox cimport out_close, out_open
from picker._core.apis cimport PK_BODY_NOT_JSON
from picker._core.replies cimport out_plain, out_refusal, refusal_t
from picker._core.routing cimport (
    PK_PART_EVENT,
    PK_PART_HEADERS,
    PK_ROUTE_ENDED,
    PK_STEP_BASE,
    PK_STEP_PYTHON,
    PK_VALUE_BYTES,
    route_is_buffered,
    route_is_over,
    router_t,
    step_t,
)
from picker._core.scan cimport (
    PK_JSON_ARRAY,
    PK_JSON_ESCAPED,
    PK_JSON_NULL,
    PK_JSON_OBJECT,
    PK_JSON_STRING,
    scan_member,
    scan_unescape,
    value_t,
)
from picker._core.score cimport PK_NEED_PLUGIN
from picker._core.stats cimport PK_FAIL_INTERNAL

# --- C kernel: what an exchange holds ---


cdef int route_hold(route_t* route) noexcept nogil:
    """Tell the router how many bytes of bodies the exchange holds. PK_OK, or PK_E_LIMIT: too many are held in all."""
    cdef router_t* router = route.router
    cdef uint64_t size = route.document.bytes.size + route.gathered.size + route.ready.size
    router.held += size - route.held
    route.held = size
    return PK_E_LIMIT if router.held > router.limits.buffered_bytes else PK_OK


cdef void route_forget_scan(route_t* route) noexcept nogil:
    """The body has changed, or goes."""
    if route.router.scanned == &route.document:
        route.router.scanned = NULL


cdef void route_drop(route_t* route) noexcept nogil:
    """The bodies are answered, or nobody waits for them any more."""
    route_forget_scan(route)
    document_free(&route.document)
    buffer_free(&route.gathered)
    buffer_free(&route.ready)
    route_hold(route)


cdef int route_scan(route_t* route) noexcept nogil:
    """Have the body on the router's tape. PK_OK, PK_E_FORMAT, PK_E_LIMIT, or PK_E_NOMEM."""
    cdef router_t* router = route.router
    cdef int code
    if router.scanned == &route.document:
        return PK_OK
    router.scanned = NULL
    code = document_scan(&route.document, &router.scan)
    if code == PK_OK:
        router.scanned = &route.document
    return code


cdef edits_t* route_edits(route_t* route) noexcept nogil:
    """Of the message before the plugins."""
    return &route.edits if route.is_response else &route.request_edits


cdef steps_t* route_steps(route_t* route) noexcept nogil:
    return &route.router.response if route.is_response else &route.router.request


# --- C kernel: answers of picker's own ---


cdef void _end(route_t* route) noexcept nogil:
    route.state = PK_ROUTE_ENDED
    route.gathers = route.holds_headers = False
    route_drop(route)


cdef int route_refuse(route_t* route, int failure, int problem, out_t* out) noexcept nogil:
    """An ImmediateResponse; the exchange is over. `failure` (PK_FAIL_*), of a 400 also `problem` (PK_BODY_*)."""
    cdef refusal_t refusal
    memset(&refusal, 0, sizeof(refusal))
    refusal.failure, refusal.problem = failure, problem
    refusal.offset = route.router.scan.error_at if problem == PK_BODY_NOT_JSON else 0
    route.is_refused = True
    route.router.tally.refusals[failure] += 1
    _end(route)
    return out_refusal(out, &refusal)


cdef int route_reject(route_t* route, uint32_t status, slice_t body, out_t* out) noexcept nogil:
    """An ImmediateResponse with that JSON; the exchange is over."""
    cdef header_t header
    header.key, header.value = slice_text(b"content-type"), slice_text(b"application/json")
    route.is_refused = True
    _end(route)
    return out_close(
        out, codec_write_immediate(out_open(out), status, &header, 1, body, slice_text(b"picker_rejected"))
    )


cdef void route_cut(route_t* route) noexcept nogil:
    """The response must not go on, and has begun: the stream ends with an error, and with it the client's."""
    route.is_cut = True
    route.router.tally.cut += 1
    _end(route)


# --- C kernel: a field's text ---


cdef bint _is_header_value(slice_t text) noexcept nogil:
    """No control characters, no halves of surrogate pairs."""
    cdef size_t i
    for i in range(text.size):
        if text.data[i] < 0x20 or text.data[i] == 0x7F:
            return False
        if text.data[i] == 0xED and i + 1 < text.size and text.data[i + 1] >= 0xA0:
            return False
    return True


cdef int _text(route_t* route, step_t* step, uint8_t* room, slice_t* text) noexcept nogil:
    """The field as a header's value: PK_OK, PK_E_MISSING (no such field, or nothing in it), PK_E_FORMAT (it is neither
    text nor number), or PK_E_RANGE (no header has such a value). A number, true or false counts as it is written."""
    cdef uint32_t index = scan_member(&route.router.scan, 0, <const char*>step.field.data, step.field.size)
    cdef const value_t* value = &route.router.scan.tape[index]
    cdef uint32_t quote = value.kind == PK_JSON_STRING
    cdef int64_t plain
    if index == 0:
        step.missing += 1
        return PK_E_MISSING
    if value.kind == PK_JSON_ARRAY or value.kind == PK_JSON_OBJECT:
        step.unusable += 1
        return PK_E_FORMAT
    if value.kind == PK_JSON_NULL or value.end - value.start == 2 * quote:
        step.empty += 1
        return PK_E_MISSING
    text.data = route.router.scan.data + value.start + quote
    text.size = value.end - value.start - 2 * quote
    if value.flags & PK_JSON_ESCAPED:
        plain = scan_unescape(&route.router.scan, index, room, PK_VALUE_BYTES)
        text.data, text.size = room, <uint64_t>plain if plain >= 0 else PK_VALUE_BYTES + 1
    return PK_OK if text.size <= PK_VALUE_BYTES and _is_header_value(text[0]) else PK_E_RANGE


cdef int _to_header(route_t* route, step_t* step, out_t* out) noexcept nogil:
    """A built-in step."""
    cdef uint8_t room[PK_VALUE_BYTES]
    cdef slice_t text
    cdef int code
    step.runs += 1
    text.data = NULL
    text.size = 0
    code = _text(route, step, room, &text)
    if code == PK_E_RANGE:
        route.router.tally.rejected += 1
        return route_reject(route, 400, step.refusal, out)
    if code != PK_OK:
        return PK_OK
    if step.kind == PK_STEP_BASE and (
        route.router.names == NULL or not names_find(route.router.names, text, &text)
    ):
        text.size = 0
    code = edits_add(route_edits(route), step.header, text, False)
    return code if code != PK_E_LIMIT else route_refuse(route, PK_FAIL_INTERNAL, 0, out)


# --- C kernel: the steps ---


cdef bint _applies(const route_t* route, const step_t* step) noexcept nogil:
    """Is this step for what is before the plugins now?"""
    if step.kind != PK_STEP_PYTHON:
        return route.part != PK_PART_HEADERS and route.document.is_json
    if not route.is_response:
        return not (step.sees_body and route.is_unseen)
    if route.part == PK_PART_HEADERS:
        return not step.sees_body or route.response_done        # no body comes: it is asked all the same
    return step.sees_body


cdef int route_run(route_t* route, out_t* out) noexcept nogil:
    """The steps from `route.step` on: PK_OK when all are done or the client was answered, PK_NEED_PLUGIN: the next one
    is in Python (then `route_asked`); PK_E_NOMEM."""
    cdef steps_t* steps = route_steps(route)
    cdef step_t* step
    cdef int code
    while route.step < steps.count and not route_is_over(route):
        step = &steps.items[route.step]
        if _applies(route, step):
            if step.kind == PK_STEP_PYTHON:
                step.runs += 1
                return PK_NEED_PLUGIN
            code = route_scan(route)
            if code == PK_OK:
                code = _to_header(route, step, out)
            if code != PK_OK:
                return PK_E_NOMEM
        route.step += 1
    return PK_OK


cdef int route_unseen(route_t* route, out_t* out) noexcept nogil:
    """The plugins that want to see the body are not asked about it. If one insists, nobody else sees it either."""
    cdef steps_t* steps = route_steps(route)
    cdef uint32_t i
    for i in range(steps.count):
        steps.items[i].skipped += steps.items[i].sees_body
    if not steps.is_closed:
        return PK_OK
    if route_may_reject(route):
        return route_refuse(route, PK_FAIL_INTERNAL, 0, out)
    route_cut(route)
    return PK_OK


cdef bint route_may_reject(const route_t* route) noexcept nogil:
    """Has nothing of the answer gone to the client?"""
    if not route.is_response or route.part == PK_PART_HEADERS or route.holds_headers:
        return True
    return route_is_buffered(route.response_mode)


cdef int route_asked(route_t* route, out_t* out) noexcept nogil:
    """A Python step has had its say. PK_OK or PK_E_NOMEM."""
    route.step += 1
    if route.reject_status == 0:
        return PK_OK
    route.router.tally.rejected += 1
    if route_may_reject(route):
        return route_reject(route, route.reject_status, slice_bytes(&route.reject_body), out)
    route_cut(route)
    return PK_OK


# --- C kernel: replies with edits ---


cdef void _strip(const route_t* route, edited_t* edited, mutation_t* mutation) noexcept nogil:
    """Without the router's headers as the client sent them, unless they are overwritten: removals come last."""
    cdef slice_t value
    cdef uint32_t i
    for i in range(route.router.header_count):
        if not route.spoofed & (<uint32_t>1 << i):
            continue
        if edits_find(&route.request_edits, route.router.headers[i], &value) == 0:
            edited_remove(edited, mutation, route.router.headers[i])


cdef int out_edited(route_t* route, out_t* out, int reply, const edits_t* edits, bint with_body) noexcept nogil:
    """Headers or a body that go on as the plugins have left them. `with_body`: the body too, for BUFFERED modes."""
    cdef mutation_t mutation
    cdef edited_t edited
    cdef char number[24]
    cdef bint is_request = reply == PK_REPLY_REQUEST_HEADERS or reply == PK_REPLY_REQUEST_BODY
    memset(&mutation, 0, sizeof(mutation_t))
    edits_mutation(edits, &edited, &mutation)
    if is_request:
        _strip(route, &edited, &mutation)
        mutation.clear_route_cache = mutation.set_count > 0 or mutation.removed_count > 0
    if with_body:
        mutation.has_body = True
        mutation.body = slice_bytes(&route.ready if route.part == PK_PART_EVENT else &route.document.bytes)
        snprintf(number, sizeof(number), b"%zu", mutation.body.size)
        edited.set[mutation.set_count].key = slice_text(b"content-length")
        edited.set[mutation.set_count].value = slice_text(number)
        mutation.set_count += 1
    if mutation.set_count == 0 and mutation.removed_count == 0 and not with_body:
        return out_plain(out, reply)
    return out_close(out, codec_write_common(out_open(out), reply, &mutation))
