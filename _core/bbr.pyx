"""The body-based router: an ext_proc service that makes headers of request bodies, so that gateways can route by model.

Invariants: an exchange that was opened is closed once. A stream that cannot go on ends with an error, never as if all
    were well; before the request is answered, the client is told in picker's own name.
Cost: that of `bbrrequest` and `bbrresponse`.   Memory: an exchange is the call's state; its router outlives it.
Threads: one for a router and all its exchanges.
Source: envoy external_processor.proto; Gateway API Inference Extension, body-based routing.
"""
cimport cython
from libc.stdint cimport INT64_MAX, int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memset

from picker._core.alloc cimport PK_E_FORMAT, PK_E_LIMIT, PK_OK
from picker._core.bbrrequest cimport bbr_request, bbr_request_resume
from picker._core.bbrresponse cimport bbr_response, bbr_response_resume
from picker._core.bbrsteps cimport (
    route_asked,
    route_drop,
    route_edits,
    route_may_reject,
    route_refuse,
)
from picker._core.calls cimport (
    PK_GRPC_INTERNAL,
    PK_GRPC_INVALID_ARGUMENT,
    PK_GRPC_OK,
    PK_GRPC_RESOURCE_EXHAUSTED,
    Methods,
    call_end,
    call_t,
    call_wait_until,
    method_t,
)
from picker._core.codec cimport (
    PK_BODY_FULL_DUPLEX_STREAMED,
    PK_REQUEST_BODY,
    PK_REQUEST_HEADERS,
    PK_REQUEST_TRAILERS,
    buffer_free,
    buffer_t,
    codec_decode,
    message_t,
    slice_t,
)
from picker._core.edits cimport edits_free
from picker._core.fields cimport document_free
from picker._core.outbox cimport out_clear, out_free, out_list, out_mark, out_rewind
from picker._core.apis cimport PK_BODY_OK
from picker._core.routing cimport (
    PK_ROUTE_BODY,
    PK_ROUTE_ENDED,
    PK_ROUTE_HEADERS,
    PK_ROUTE_NEW,
    PK_ROUTE_PASSED,
    PK_ROUTE_PLUGINS,
    PK_ROUTE_RESPONSE,
    PK_ROUTE_STEPS,
    PK_STEP_BASE,
    PK_STEP_FIELD,
    PK_STEP_PYTHON,
    route_is_over,
    step_t,
    steps_t,
)
from picker._core.scan cimport scan_free, scan_init
from picker._core.score cimport PK_NEED_PLUGIN
from picker._core.stats cimport (
    PK_FAIL_BAD_REQUEST,
    PK_FAIL_EXHAUSTED,
    PK_FAIL_INTERNAL,
    PK_FAIL_TIMEOUT,
    PK_FAIL_TOO_LARGE,
)
from picker._core.view cimport View

cdef enum:
    CHUNK_BYTES = 62000        # of a body that is given back, as gateways expect
    DEPTH = 256                # of JSON
    MOST_VALUES = 1 << 20
    SURPLUS = 2                # times as many exchanges as may be are told so

# --- C kernel: an exchange ---


cdef int route_open(route_t* route, router_t* router) noexcept nogil:
    """Begin an exchange; `route_close` is due either way. PK_OK, or PK_E_LIMIT: there are too many.

    One that is beyond the number there may be is answered 429, as long as there is room for such.
    """
    memset(route, 0, sizeof(route_t))
    route.router = router
    route.request_mode = PK_BODY_FULL_DUPLEX_STREAMED        # what gateways use that do not say
    route.response_mode = PK_BODY_FULL_DUPLEX_STREAMED
    router.tally.requests += 1
    if router.sessions >= SURPLUS * router.limits.sessions:
        route.is_closed = True
        return PK_E_LIMIT
    route.is_full = router.sessions >= router.limits.sessions
    router.sessions += 1
    return PK_OK


cdef int _start(route_t* route, const message_t* message) noexcept nogil:
    """The first message says how bodies are sent."""
    route.is_started = True
    route.is_observed = message.is_observed
    if not message.has_protocol:
        return PK_OK
    route.request_mode = message.request_mode
    route.response_mode = message.response_mode
    if message.request_mode > PK_BODY_FULL_DUPLEX_STREAMED or message.response_mode > PK_BODY_FULL_DUPLEX_STREAMED:
        return PK_E_FORMAT
    return PK_OK


cdef int route_feed(route_t* route, const uint8_t* data, size_t size, out_t* out) noexcept nogil:
    """One ProcessingRequest. Replies are appended to `out`.

    PK_OK; PK_NEED_PLUGIN (ask it, then `route_resume`); PK_E_FORMAT (not a message, or out of order); PK_E_NOMEM.
    After an error the stream must end, with one; what `out` holds of this call must not be sent.
    """
    cdef message_t message
    if codec_decode(&message, data, size) != PK_OK or route.is_closed:
        return PK_E_FORMAT
    if route_is_over(route):
        return PK_OK                        # the stream is about to close
    if not route.is_started and _start(route, &message) != PK_OK:
        return PK_E_FORMAT
    if route.is_observed:
        route.is_let_go = True
        route.state = PK_ROUTE_ENDED
        return PK_OK
    if route.is_full:
        return route_refuse(route, PK_FAIL_EXHAUSTED, PK_BODY_OK, out)
    if message.kind == PK_REQUEST_HEADERS or message.kind == PK_REQUEST_BODY or message.kind == PK_REQUEST_TRAILERS:
        return bbr_request(route, &message, out)
    return bbr_response(route, &message, out)


cdef int route_resume(route_t* route, out_t* out) noexcept nogil:
    """Go on after PK_NEED_PLUGIN."""
    cdef int code = route_asked(route, out)
    if code != PK_OK or route_is_over(route):
        return code
    return bbr_response_resume(route, out) if route.is_response else bbr_request_resume(route, out)


cdef int route_fail(route_t* route, int failure, out_t* out) noexcept nogil:
    """Answer the client in picker's own name, if that may still be. PK_OK; PK_E_LIMIT: it may not; PK_E_NOMEM."""
    if route_is_over(route) or route.is_closed:
        return PK_OK
    if route.is_answered and not (route.is_response and route_may_reject(route)):
        return PK_E_LIMIT
    return route_refuse(route, failure, PK_BODY_OK, out)


cdef void route_close(route_t* route) noexcept nogil:
    """The stream is over, whatever ended it. Twice is harmless."""
    if route.is_closed:
        return
    route.is_closed = True
    route.router.sessions -= 1
    route_drop(route)
    buffer_free(&route.request_headers)
    buffer_free(&route.response_headers)
    buffer_free(&route.reject_body)
    edits_free(&route.request_edits)
    edits_free(&route.edits)


# --- C kernel: a gRPC method ---


cdef inline bbr_t* _service(const call_t* call) noexcept nogil:
    return <bbr_t*>call.method.service


cdef void _open(call_t* call, int64_t now_ns) noexcept nogil:
    if route_open(<route_t*>call.state, _service(call).router) != PK_OK:
        call_end(call, PK_GRPC_RESOURCE_EXHAUSTED, b"twice as many streams are open as may be: see --max-streams")
        return
    call_wait_until(call, now_ns + _service(call).timeout_ns)


cdef void _refuse(call_t* call, int failure) noexcept nogil:
    """Tell the client, if it has had no answer yet; the gateway hears of an error else."""
    out_rewind(&call.out, call.mark)
    if route_fail(<route_t*>call.state, failure, &call.out) == PK_OK:
        call_end(call, PK_GRPC_OK, b"")
    else:
        call_end(call, PK_GRPC_INTERNAL, b"the body-based router failed")


cdef int _after(call_t* call, int code) noexcept nogil:
    """What the exchange's answer means for the call."""
    cdef route_t* route = <route_t*>call.state
    if code == PK_NEED_PLUGIN:
        return code
    if code == PK_E_FORMAT:
        out_rewind(&call.out, call.mark)
        call_end(call, PK_GRPC_INVALID_ARGUMENT, b"not a ProcessingRequest, or out of order")
    elif code != PK_OK:
        _refuse(call, PK_FAIL_EXHAUSTED)
    elif route.is_cut:
        call_end(call, PK_GRPC_INTERNAL, b"the response was rejected")
    elif route_is_over(route):
        call_end(call, PK_GRPC_OK, b"")
    elif route.state > PK_ROUTE_BODY and call.waits_ns != INT64_MAX:
        call_wait_until(call, INT64_MAX)
    return PK_OK


cdef int _message(call_t* call, slice_t message, int64_t now_ns) noexcept nogil:
    return _after(call, route_feed(<route_t*>call.state, message.data, message.size, &call.out))


cdef void _half_close(call_t* call, int64_t now_ns) noexcept nogil:
    call_end(call, PK_GRPC_OK, b"")


cdef void _expire(call_t* call, int64_t now_ns) noexcept nogil:
    """The request body does not arrive."""
    call.mark = out_mark(&call.out)
    _refuse(call, PK_FAIL_TIMEOUT)


cdef void _changed(call_t* call) noexcept nogil:
    pass


cdef void _fail(call_t* call) noexcept nogil:
    """The plugins' host raised."""
    _refuse(call, PK_FAIL_INTERNAL)


cdef void _close(call_t* call, int64_t now_ns) noexcept nogil:
    route_close(<route_t*>call.state)


cdef int _run(call_t* call, int64_t now_ns) except -1:
    """Ask the plugin, and go on."""
    cdef route_t* route = <route_t*>call.state
    (<Router>_service(call).python).ask(route)
    return _after(call, route_resume(route, &call.out))


cdef void _fill(method_t* method, void* service) noexcept nogil:
    method.path = b"/envoy.service.ext_proc.v3.ExternalProcessor/Process"
    method.state_size = sizeof(route_t)
    method.service = service
    method.open = _open
    method.message = _message
    method.half_close = _half_close
    method.expire = _expire
    method.changed = _changed
    method.fail = _fail
    method.close = _close
    method.run = _run


# --- Python face ---

STEP_FIELD = PK_STEP_FIELD
STEP_BASE = PK_STEP_BASE
STEP_PYTHON = PK_STEP_PYTHON
STATE_NEW = PK_ROUTE_NEW
STATE_BODY = PK_ROUTE_BODY
STATE_PLUGINS = PK_ROUTE_PLUGINS
STATE_PASSED = PK_ROUTE_PASSED
STATE_RESPONSE = PK_ROUTE_RESPONSE
STATE_ENDED = PK_ROUTE_ENDED
MOST_STEPS = PK_ROUTE_STEPS
MOST_HEADERS = PK_ROUTE_HEADERS
FAIL_TIMEOUT = PK_FAIL_TIMEOUT
FAIL_INTERNAL = PK_FAIL_INTERNAL
FAIL_EXHAUSTED = PK_FAIL_EXHAUSTED


cdef slice_t _slice(bytes text):
    cdef slice_t slice
    slice.data = text
    slice.size = len(text)
    return slice


cdef bytes _copy(const buffer_t* buffer):
    return buffer.data[:buffer.size] if buffer.size else b""


cdef int _add_step(steps_t* steps, tuple step, list kept) except -1:
    """(STEP_FIELD or STEP_BASE, field, header, refusal) or (STEP_PYTHON, sees_body, is_closed)."""
    cdef step_t* made
    if steps.count >= PK_ROUTE_STEPS:
        raise OverflowError(f"at most {PK_ROUTE_STEPS} plugins of a direction")
    made = &steps.items[steps.count]
    made.kind = step[0]
    if made.kind == PK_STEP_PYTHON:
        made.sees_body, made.is_closed = step[1], step[2]
        steps.has_python = True
        steps.seeing += made.sees_body
        steps.is_closed = steps.is_closed or (made.sees_body and made.is_closed)
    elif made.kind == PK_STEP_FIELD or made.kind == PK_STEP_BASE:
        made.field, made.header, made.refusal = _slice(step[1]), _slice(step[2]), _slice(step[3])
        kept.append(step)
    else:
        raise ValueError(f"there is no step of kind {step[0]}")
    steps.count += 1
    return 0


cdef list _figures(const steps_t* steps):
    cdef uint32_t i
    return [
        {
            "runs": steps.items[i].runs,
            "missing": steps.items[i].missing,
            "empty": steps.items[i].empty,
            "unusable": steps.items[i].unusable,
            "skipped": steps.items[i].skipped,
        }
        for i in range(steps.count)
    ]


@cython.final
@cython.auto_pickle(False)
@cython.no_gc_clear          # calls that go with it still need it
cdef class Router:
    """What all exchanges share; give its `methods()` to a server.

    `request` and `response` are the steps in their order: (STEP_FIELD or STEP_BASE, field, header, refusal), all bytes:
    the header gets the text of the body's top-level field, or the name that `set_names` knows for it, and a text that
    no header can have is answered 400 with the JSON `refusal`; or (STEP_PYTHON, sees_body, is_closed): `host(number,
    is_response, view)` is called, `number` counting all steps of the direction. `headers`: further headers that
    clients may not set. Names of headers are lower-case.

    `body_bytes`: largest body that is held; `buffered_bytes`: of all; `event_bytes`: of one event of a stream;
    `sessions`: exchanges at once; `timeout_ns`: how long a request's body may take.
    ValueError, OverflowError or TypeError for what cannot be.
    """

    def __cinit__(
        self,
        request,
        response=(),
        *,
        headers=(),
        host=None,
        uint64_t body_bytes=64 << 20,
        uint64_t buffered_bytes=1 << 30,
        uint64_t event_bytes=1 << 20,
        uint64_t chunk_bytes=CHUNK_BYTES,
        int64_t sessions=20000,
        int64_t timeout_ns=300 * 1000000000,
    ):
        cdef router_t* router = &self._router
        memset(router, 0, sizeof(router_t))
        scan_init(&router.scan, MOST_VALUES, DEPTH)
        if min(chunk_bytes, timeout_ns, sessions) < 1:
            raise ValueError("chunk_bytes, timeout_ns and sessions are above 0")
        router.limits.body_bytes, router.limits.buffered_bytes = body_bytes, buffered_bytes
        router.limits.event_bytes, router.limits.chunk_bytes = event_bytes, chunk_bytes
        router.limits.sessions = sessions
        self._service.router = router
        self._service.timeout_ns = timeout_ns
        self._service.python = <void*>self
        self._host = host
        self._kept = []
        for step in request:
            _add_step(&router.request, step, self._kept)
        for step in response:
            _add_step(&router.response, step, self._kept)
        if host is None and (router.request.has_python or router.response.has_python):
            raise ValueError("steps in Python need a host")
        self._protect([step[2] for step in (*request, *response) if step[0] != PK_STEP_PYTHON] + list(headers))

    def __dealloc__(self):
        scan_free(&self._router.scan)

    def _protect(self, names) -> None:
        cdef router_t* router = &self._router
        cdef bytes name
        for name in dict.fromkeys(names):
            if not name or name != name.lower():
                raise ValueError(f"the name of a header is lower-case, not {name!r}")
            if router.header_count >= PK_ROUTE_HEADERS:
                raise OverflowError(f"at most {PK_ROUTE_HEADERS} headers of the router's own")
            self._kept.append(name)
            router.headers[router.header_count] = _slice(name)
            router.header_count += 1

    cdef int ask(self, route_t* route) except -1:
        """The Python step that is due, with a view that is good for as long as it is asked."""
        cdef View view = View.__new__(View)
        view.route = route
        route.reject_status = 0
        route.edits_before = route_edits(route).count
        try:
            self._host(route.step, bool(route.is_response), view)
        finally:
            view.route = NULL
            if route.has_before:
                document_free(&route.before)
                route.has_before = False
        return 0

    def methods(self) -> Methods:
        """Process."""
        cdef Methods made = Methods(self)
        _fill(&made.table[0], &self._service)
        made.count = 1
        return made

    def set_names(self, Names names not None) -> None:
        """What STEP_BASE looks up from now on."""
        self._names = names
        self._router.names = &names.names

    @property
    def sessions(self) -> int:
        """Exchanges under way."""
        return self._router.sessions

    @property
    def buffered_bytes(self) -> int:
        """Bytes of bodies held."""
        return self._router.held

    @property
    def requests(self) -> int:
        """Exchanges so far."""
        return self._router.tally.requests

    @property
    def answered(self) -> int:
        """Requests that went on so far."""
        return self._router.tally.answered

    def figures(self) -> dict:
        """What happened so far: requests; answered (they went on); routed (with headers of the router); bad_requests,
        too_large, timeouts, exhausted, failed (refused); rejected (by plugins, or for a field that no header can hold);
        cut (responses); `request` and `response` step by step: runs, missing, empty, unusable, skipped."""
        cdef router_t* router = &self._router
        return {
            "requests": router.tally.requests,
            "answered": router.tally.answered,
            "routed": router.tally.routed,
            "bad_requests": router.tally.refusals[PK_FAIL_BAD_REQUEST],
            "too_large": router.tally.refusals[PK_FAIL_TOO_LARGE],
            "timeouts": router.tally.refusals[PK_FAIL_TIMEOUT],
            "exhausted": router.tally.refusals[PK_FAIL_EXHAUSTED],
            "failed": router.tally.refusals[PK_FAIL_INTERNAL],
            "rejected": router.tally.rejected,
            "cut": router.tally.cut,
            "request": _figures(&router.request),
            "response": _figures(&router.response),
        }

    def _check(self) -> None:
        """Assert the invariants."""
        cdef const router_t* router = &self._router
        assert router.sessions >= 0
        assert router.sessions or (router.held == 0 and router.scanned == NULL)
        assert router.tally.routed <= router.tally.answered <= router.tally.requests
        assert router.request.count <= PK_ROUTE_STEPS and router.response.count <= PK_ROUTE_STEPS


cdef list _replies(const out_t* out, int code):
    if code == PK_E_FORMAT:
        raise ExchangeError("not a ProcessingRequest, or out of order")
    if code != PK_OK:
        raise MemoryError("no memory for this message")
    return out_list(out)


class ExchangeError(ValueError):
    """The gateway sent what no gateway may: the stream must be ended with INVALID_ARGUMENT."""


@cython.final
@cython.auto_pickle(False)
@cython.no_gc_clear          # the router must be there when the exchange is closed at the last moment
cdef class Exchange:
    """One ext_proc stream through `router`, message by message; for tests and for shells in Python. Close it.

    OverflowError when there are far more than there may be.
    """

    def __cinit__(self, Router router not None):
        memset(&self._out, 0, sizeof(out_t))
        self._owner = router
        if route_open(&self._route, &router._router) != PK_OK:
            raise OverflowError(f"{router._router.sessions} streams at once are too many")
        self._is_open = True

    def __dealloc__(self):
        if self._is_open:
            route_close(&self._route)
        out_free(&self._out)

    def feed(self, const unsigned char[::1] message not None) -> list:
        """Serialised ProcessingRequest in, serialised ProcessingResponses out, to be sent in this order.

        ExchangeError for what is not a message, comes out of order, or after `close`; MemoryError; what the host
        raises. After any of them end the stream: by `refuse` if that may be, else with an error.
        """
        cdef const uint8_t* data = &message[0] if message.shape[0] else <const uint8_t*>b""
        cdef int code
        try:
            code = route_feed(&self._route, data, message.shape[0], &self._out)
            while code == PK_NEED_PLUGIN:
                self._owner.ask(&self._route)
                code = route_resume(&self._route, &self._out)
            return _replies(&self._out, code)
        finally:
            out_clear(&self._out)

    def refuse(self, int failure) -> list:
        """Answer the client in picker's own name: FAIL_TIMEOUT, FAIL_EXHAUSTED or FAIL_INTERNAL.

        Nothing if that was done already. ExchangeError if it is too late; MemoryError.
        """
        cdef int code
        try:
            code = route_fail(&self._route, failure, &self._out)
            if code == PK_E_LIMIT:
                raise ExchangeError("the client has an answer")
            return _replies(&self._out, code)
        finally:
            out_clear(&self._out)

    def close(self) -> None:
        """The stream has ended, by whatever cause. Closing twice is harmless."""
        if self._is_open:
            self._is_open = False
            route_close(&self._route)

    @property
    def state(self) -> int:
        """Where it stands: STATE_NEW, STATE_BODY, STATE_PLUGINS, STATE_PASSED, STATE_RESPONSE or STATE_ENDED."""
        return self._route.state

    @property
    def is_over(self) -> bool:
        """Has picker no more to say? Then the stream must be ended, without an error unless `is_cut`."""
        return bool(route_is_over(&self._route))

    @property
    def is_cut(self) -> bool:
        """Must the stream end with an error, so that the client does not take the response for whole?"""
        return bool(self._route.is_cut)

    def _check(self) -> None:
        """Assert the invariants."""
        cdef const route_t* route = &self._route
        assert route.is_refused + route.is_let_go + route.is_cut <= 1
        assert not route_is_over(route) or route.state == PK_ROUTE_ENDED
        assert route.state != PK_ROUTE_ENDED or route.document.bytes.data == NULL
        assert route.held == route.document.bytes.size + route.gathered.size + route.ready.size
        assert route.taken <= route.line <= route.searched <= route.gathered.size or route.gathered.data == NULL
        assert not route.holds_headers or route.gathers
        assert not route.gathers or route.has_response
        assert route.is_closed or self._is_open
        assert not route.is_closed or (route.held == 0 and route.request_headers.data == NULL and not route.has_before)
        assert self._out.count == 0 and self._out.bytes.size == 0
