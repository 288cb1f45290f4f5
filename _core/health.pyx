"""grpc.health.v1.Health as methods of gRPC connections: Check, List and Watch, driven by one flag.

`liveness` always serves; every other name follows readiness, as gateways and manifests ask for several
(`inference-extension`, the ext_proc service, `readiness`, the empty name). A strict service, as where a leader is
elected, knows only the names of STRICT_NAMES.

Invariants: a watcher is told of each change once.   Cost: O(1) each.   Memory: none.   Threads: that of the connection.
Source: grpc.health.v1 health.proto; Gateway API Inference Extension, health of an endpoint picker.
"""
cimport cython
from libc.stddef cimport size_t
from libc.stdint cimport int64_t, uint8_t, uint32_t
from libc.string cimport strlen

from picker._core.alloc cimport PK_OK
from picker._core.calls cimport (
    PK_GRPC_INTERNAL,
    PK_GRPC_INVALID_ARGUMENT,
    PK_GRPC_NOT_FOUND,
    PK_GRPC_OK,
    PK_GRPC_RESOURCE_EXHAUSTED,
    Methods,
    call_end,
    call_t,
    method_t,
)
from picker._core.codec cimport buffer_append, buffer_t, slice_is, slice_t, slice_text
from picker._core.outbox cimport out_close, out_open, out_t

cdef extern from *:
    """
    static const char *const PK_HEALTH_NAMES[] = {
        "", "liveness", "readiness", "envoy.service.ext_proc.v3.ExternalProcessor", "inference-extension"};
    """
    const char* PK_HEALTH_NAMES[]

cdef enum:
    LISTED = 5
    STRICT = 4                 # of them are known to a strict service
    LONGEST_SHIFT = 35         # of a length: five bytes of seven bits
    SERVING = 1                # HealthCheckResponse.ServingStatus
    NOT_SERVING = 2
    SERVICE_UNKNOWN = 3

# What is asked about
cdef enum:
    READY = 0
    LIVE = 1                   # never changes
    UNKNOWN = 2                # nor does this

ctypedef struct watch_t:
    bint is_asked
    int kind                   # READY, LIVE or UNKNOWN
    int told                   # the status

# --- C kernel: messages ---


cdef bint _service_name(slice_t message, slice_t* name) noexcept nogil:
    """HealthCheckRequest.service, its only field; False if it is no such message."""
    cdef size_t at = 1
    cdef int shift = 0
    name.data = message.data
    name.size = 0
    if message.size == 0:
        return True
    if message.data[0] != 0x0A:
        return False
    while at < message.size and shift < LONGEST_SHIFT:
        name.size |= <size_t>(message.data[at] & 0x7F) << shift
        shift += 7
        at += 1
        if message.data[at - 1] < 0x80:
            name.data += at
            return name.size == message.size - at
    return False


cdef inline const health_t* _service(const call_t* call) noexcept nogil:
    return <const health_t*>call.method.service


cdef int _kind(const call_t* call, slice_t name) noexcept nogil:
    cdef uint32_t i
    if slice_is(name, b"liveness", 8):
        return LIVE
    for i in range(STRICT):
        if slice_is(name, PK_HEALTH_NAMES[i], strlen(PK_HEALTH_NAMES[i])):
            return READY
    return UNKNOWN if _service(call).is_strict else READY


cdef int _status(const call_t* call, int kind) noexcept nogil:
    if kind == UNKNOWN:
        return SERVICE_UNKNOWN
    return SERVING if kind == LIVE or _service(call).is_ready else NOT_SERVING


cdef int _write_status(out_t* out, int status) noexcept nogil:
    """A HealthCheckResponse."""
    cdef uint8_t message[2]
    message[0], message[1] = 0x08, <uint8_t>status
    return out_close(out, buffer_append(out_open(out), message, sizeof(message)))


cdef int _write_entry(buffer_t* out, const char* name, int status) noexcept nogil:
    """An entry of HealthListResponse.statuses: { key: name, value: { status } }."""
    cdef uint8_t head[4]
    cdef uint8_t tail[4]
    cdef size_t size = strlen(name)
    head[0], head[1], head[2], head[3] = 0x0A, <uint8_t>(size + 6), 0x0A, <uint8_t>size
    tail[0], tail[1], tail[2], tail[3] = 0x12, 2, 0x08, <uint8_t>status
    cdef int code = buffer_append(out, head, sizeof(head))
    code = buffer_append(out, name, size) if code == PK_OK else code
    return buffer_append(out, tail, sizeof(tail)) if code == PK_OK else code


cdef int _write_list(call_t* call) noexcept nogil:
    cdef buffer_t* out = out_open(&call.out)
    cdef int kind, code = PK_OK
    cdef uint32_t i
    for i in range(LISTED):
        kind = _kind(call, slice_text(PK_HEALTH_NAMES[i]))
        if code == PK_OK and kind != UNKNOWN:
            code = _write_entry(out, PK_HEALTH_NAMES[i], _status(call, kind))
    return out_close(&call.out, code)


# --- C kernel: methods ---


cdef void _open(call_t* call, int64_t now_ns) noexcept nogil:
    cdef watch_t* watch = <watch_t*>call.state
    watch.is_asked = False
    watch.kind = READY
    watch.told = 0


cdef void _answered(call_t* call, int code) noexcept nogil:
    """The one answer of a unary call."""
    if code == PK_OK:
        call_end(call, PK_GRPC_OK, b"")
    else:
        call_end(call, PK_GRPC_RESOURCE_EXHAUSTED, b"no memory for an answer")


cdef int _check(call_t* call, slice_t message, int64_t now_ns) noexcept nogil:
    cdef slice_t name
    cdef int kind
    if not _service_name(message, &name):
        call_end(call, PK_GRPC_INVALID_ARGUMENT, b"not a HealthCheckRequest")
        return PK_OK
    kind = _kind(call, name)
    if kind == UNKNOWN:
        call_end(call, PK_GRPC_NOT_FOUND, b"unknown service")
    else:
        _answered(call, _write_status(&call.out, _status(call, kind)))
    return PK_OK


cdef int _list(call_t* call, slice_t message, int64_t now_ns) noexcept nogil:
    _answered(call, _write_list(call))
    return PK_OK


cdef void _tell(call_t* call) noexcept nogil:
    cdef watch_t* watch = <watch_t*>call.state
    cdef int status = _status(call, watch.kind)
    if watch.is_asked and watch.told != status:
        watch.told = status
        if _write_status(&call.out, status) != PK_OK:
            call_end(call, PK_GRPC_RESOURCE_EXHAUSTED, b"no memory for an answer")


cdef int _watch(call_t* call, slice_t message, int64_t now_ns) noexcept nogil:
    cdef watch_t* watch = <watch_t*>call.state
    cdef slice_t name
    if watch.is_asked or not _service_name(message, &name):
        call_end(call, PK_GRPC_INVALID_ARGUMENT, b"not one HealthCheckRequest")
        return PK_OK
    watch.is_asked = True
    watch.kind = _kind(call, name)
    _tell(call)
    return PK_OK


cdef void _half_close(call_t* call, int64_t now_ns) noexcept nogil:
    if not (<watch_t*>call.state).is_asked:
        call_end(call, PK_GRPC_INTERNAL, b"a request without a message")


cdef void _ignore(call_t* call, int64_t now_ns) noexcept nogil:
    pass


cdef void _ignore_change(call_t* call) noexcept nogil:
    pass


cdef void _fill(
    method_t* method, const char* path, int (*message)(call_t*, slice_t, int64_t) noexcept nogil, void* service
) noexcept nogil:
    method.path = path
    method.state_size = sizeof(watch_t)
    method.service = service
    method.open = _open
    method.message = message
    method.half_close = _half_close
    method.expire = _ignore
    method.changed = _tell if message == _watch else _ignore_change
    method.fail = _ignore_change
    method.close = _ignore


# --- Python face ---

NAMES = tuple([PK_HEALTH_NAMES[i].decode() for i in range(LISTED)])
STRICT_NAMES = NAMES[:STRICT]


@cython.final
@cython.auto_pickle(False)
cdef class Health:
    """The health service; not ready until told. Give its `methods()` to a server, `wake` its connections on change.

    A `strict` one knows no names but STRICT_NAMES: others are NOT_FOUND, or SERVICE_UNKNOWN where they are watched.
    """

    def __cinit__(self, *, bint strict=False):
        self._service.is_ready = False
        self._service.is_strict = strict

    @property
    def is_ready(self) -> bool:
        """Whether picker asks for traffic."""
        return bool(self._service.is_ready)

    @is_ready.setter
    def is_ready(self, bint ready):
        self._service.is_ready = ready

    def methods(self) -> Methods:
        """Check, List and Watch."""
        cdef Methods made = Methods(self)
        _fill(&made.table[0], b"/grpc.health.v1.Health/Check", _check, &self._service)
        _fill(&made.table[1], b"/grpc.health.v1.Health/List", _list, &self._service)
        _fill(&made.table[2], b"/grpc.health.v1.Health/Watch", _watch, &self._service)
        made.count = 3
        return made

    def _check(self) -> None:
        """Assert the invariants."""
        assert (len(NAMES), len(STRICT_NAMES)) == (LISTED, STRICT)
