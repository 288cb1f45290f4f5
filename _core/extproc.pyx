"""ext_proc's Process as a method of gRPC connections: each message goes to the call's session, replies go back.

Invariants: a session that was opened is closed once. A stream that cannot go on ends with an error, never as if all
    were well; before the request is answered, the client is told in picker's own name.
Cost: that of the session.   Memory: the session is the call's state.   Threads: that of the connection.
"""
cimport cython
from libc.stdint cimport INT64_MAX, int64_t
from libc.string cimport memset

from picker._core.alloc cimport PK_E_FORMAT, PK_OK
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
from picker._core.codec cimport slice_t
from picker._core.engine cimport Engine
from picker._core.exchange cimport PK_STATE_BODY, PK_STATE_PICKED, session_t
from picker._core.outbox cimport out_mark, out_rewind
from picker._core.score cimport PK_NEED_PLUGIN
from picker._core.session cimport session_close, session_feed, session_open, session_refuse, session_resume
from picker._core.stats cimport PK_FAIL_EXHAUSTED, PK_FAIL_INTERNAL, PK_FAIL_TIMEOUT

# --- C kernel ---


cdef inline extproc_t* _service(const call_t* call) noexcept nogil:
    return <extproc_t*>call.method.service


cdef void _open(call_t* call, int64_t now_ns) noexcept nogil:
    cdef extproc_t* service = _service(call)
    service.opened += 1
    if session_open(<session_t*>call.state, service.engine, service.scratch, now_ns) != PK_OK:
        call_end(call, PK_GRPC_RESOURCE_EXHAUSTED, b"twice as many streams are open as may be: see --max-streams")
        return
    call_wait_until(call, now_ns + service.timeout_ns)


cdef void _refuse(call_t* call, int failure) noexcept nogil:
    """Tell the client, if it has had no answer yet; the gateway hears of an error else."""
    cdef session_t* session = <session_t*>call.state
    out_rewind(&call.out, call.mark)
    if session.state < PK_STATE_PICKED and session_refuse(session, failure, &call.out) == PK_OK:
        call_end(call, PK_GRPC_OK, b"")
    else:
        call_end(call, PK_GRPC_INTERNAL, b"the endpoint picker failed")


cdef int _after(call_t* call, int code) noexcept nogil:
    """What the session's answer means for the call."""
    cdef session_t* session = <session_t*>call.state
    if code == PK_NEED_PLUGIN:
        return code
    if code == PK_E_FORMAT:
        out_rewind(&call.out, call.mark)
        call_end(call, PK_GRPC_INVALID_ARGUMENT, b"not a ProcessingRequest, or out of order")
    elif code != PK_OK:
        _refuse(call, PK_FAIL_EXHAUSTED)
    elif session.state > PK_STATE_BODY and call.waits_ns != INT64_MAX:
        _service(call).picked += session.is_picked
        call_wait_until(call, INT64_MAX)
    if code == PK_OK and (session.is_refused or session.is_let_go):
        call_end(call, PK_GRPC_OK, b"")
    return PK_OK


cdef int _message(call_t* call, slice_t message, int64_t now_ns) noexcept nogil:
    return _after(call, session_feed(<session_t*>call.state, message.data, message.size, now_ns, &call.out))


cdef void _half_close(call_t* call, int64_t now_ns) noexcept nogil:
    call_end(call, PK_GRPC_OK, b"")


cdef void _expire(call_t* call, int64_t now_ns) noexcept nogil:
    """The request body does not arrive."""
    call.mark = out_mark(&call.out)
    _refuse(call, PK_FAIL_TIMEOUT)


cdef void _changed(call_t* call) noexcept nogil:
    pass


cdef void _fail(call_t* call) noexcept nogil:
    """A plugin host raised."""
    _refuse(call, PK_FAIL_INTERNAL)


cdef void _close(call_t* call, int64_t now_ns) noexcept nogil:
    session_close(<session_t*>call.state, now_ns)


cdef int _run(call_t* call, int64_t now_ns) except -1:
    """Ask the plugin, and go on."""
    cdef session_t* session = <session_t*>call.state
    cdef ExtProc owner = <ExtProc>_service(call).python
    owner._engine.run_plugin(
        &session.pick,
        &session.request,
        session.headers.data[:session.headers.size] if session.headers.size else b"",
        session.model.data[:session.model.size] if session.model.size else b"",
    )
    return _after(call, session_resume(session, now_ns, &call.out))


cdef void _fill(method_t* method, void* service) noexcept nogil:
    method.path = b"/envoy.service.ext_proc.v3.ExternalProcessor/Process"
    method.state_size = sizeof(session_t)
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


@cython.final
@cython.auto_pickle(False)
@cython.no_gc_clear          # calls that go with it still need the engine
cdef class ExtProc:
    """The ExternalProcessor service over `engine`; give its `methods()` to a server.

    `timeout_ns`: how long a request body may take; then the client is answered 408. ValueError if not above 0.
    """

    def __cinit__(self, Engine engine not None, *, int64_t timeout_ns):
        if timeout_ns < 1:
            raise ValueError(f"timeout_ns is above 0, not {timeout_ns}")
        memset(&self._service, 0, sizeof(self._service))
        self._engine = engine
        self._service.engine = &engine._engine
        self._service.scratch = &engine._scratch
        self._service.timeout_ns = timeout_ns
        self._service.python = <void*>self

    def methods(self) -> Methods:
        """Process."""
        cdef Methods made = Methods(self)
        _fill(&made.table[0], &self._service)
        made.count = 1
        return made

    @property
    def opened(self) -> int:
        """Streams so far."""
        return self._service.opened

    @property
    def picked(self) -> int:
        """Requests answered with an endpoint so far."""
        return self._service.picked

    def _check(self) -> None:
        """Assert the invariants."""
        assert self._service.picked <= self._service.opened
