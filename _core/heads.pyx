"""What the headers of a request say of a gRPC call: method, pool, what it is sent as, how long its client waits.

Invariants: a header that is not known, or nonsense, says nothing; that a call is not gRPC at all shows in its flags,
    and that it is no request at all.
Cost: O(bytes).   Memory: none.   Threads: that of the connection.
Source: gRPC over HTTP/2, Requests; RFC 9113, 8.2 and 8.3 (what is malformed), 10.5.1 (how large a header is).

libnghttp2 could tell what is malformed, but takes an authority for that with a `|` in it. Such ones come by the
million: they are the names that Istio gives its clusters, and what Envoy calls a server by that was given no other.
What libnghttp2 then leaves to us and is left alone: trailers, of which nothing is read, and a content-length, as each
gRPC message says its own and one that is cut off is an error.
"""
from libc.stddef cimport size_t
from libc.stdint cimport INT64_MAX, int64_t, uint8_t, uint32_t
from libc.string cimport memcmp, strlen

from picker._core.calls cimport call_t, connection_t
from picker._core.pools cimport said_set

cdef enum:
    HEADER_COST = 32           # of a header, beyond its bytes

# What the headers of a call were so far
cdef enum:
    METHOD = 1
    SCHEME = 2
    PATH = 4
    AUTHORITY = 8
    HOST = 16                  # which stands for it
    FIELDS = 32                # other than pseudo-headers
    MALFORMED = 64
    NEEDED = METHOD | SCHEME | PATH

# --- C kernel ---


cdef inline bint _is(const uint8_t* text, size_t size, const char* other) noexcept nogil:
    return size == strlen(other) and memcmp(text, other, size) == 0


cdef bint _is_grpc(const uint8_t* text, size_t size) noexcept nogil:
    """application/grpc, of any format or with parameters; not another type that begins so, as application/grpc-web."""
    cdef const char* kind = b"application/grpc"
    if size < strlen(kind) or memcmp(text, kind, strlen(kind)) != 0:
        return False
    return size == strlen(kind) or text[strlen(kind)] == c"+" or text[strlen(kind)] == c";"


cdef int64_t _unit_ns(uint8_t unit) noexcept nogil:
    if unit == c"n":
        return 1
    if unit == c"u":
        return 1000
    if unit == c"m":
        return 1000000
    if unit == c"S":
        return 1000000000
    if unit == c"M":
        return 60 * <int64_t>1000000000
    return 3600 * <int64_t>1000000000 if unit == c"H" else 0


cdef int64_t _timeout_ns(const uint8_t* text, size_t size) noexcept nogil:
    """grpc-timeout: at most 8 digits and a unit. -1 if it is none."""
    cdef int64_t value = 0
    cdef int64_t unit
    cdef size_t i
    if not 2 <= size <= 9:
        return -1
    unit = _unit_ns(text[size - 1])
    for i in range(size - 1):
        if not c"0" <= text[i] <= c"9":
            return -1
        value = value * 10 + text[i] - c"0"
    if unit == 0:
        return -1
    return value * unit if value <= INT64_MAX // 2 // unit else INT64_MAX // 2


cdef void _find_method(call_t* call, const uint8_t* path, size_t size) noexcept nogil:
    cdef uint32_t i
    for i in range(call.connection.method_count):
        if _is(path, size, call.connection.methods[i].path):
            call.method = &call.connection.methods[i]
            return


cdef bint _is_written_well(const uint8_t* name, size_t name_size, const uint8_t* value, size_t size) noexcept nogil:
    """RFC 9113, 8.2.1: as a header may be, whatever it is."""
    cdef size_t i
    for i in range(name_size):
        if name[i] <= 0x20 or name[i] >= 0x7F or c"A" <= name[i] <= c"Z" or (name[i] == c":" and i):
            return False
    for i in range(size):
        if value[i] == 0 or value[i] == c"\n" or value[i] == c"\r":
            return False
    return name_size > 0


cdef bint _is_of_connection(const uint8_t* name, size_t name_size, const uint8_t* value, size_t size) noexcept nogil:
    """RFC 9113, 8.2.2: what HTTP/2 says otherwise."""
    if _is(name, name_size, b"te"):
        return not _is(value, size, b"trailers")
    return (
        _is(name, name_size, b"connection") or _is(name, name_size, b"transfer-encoding")
        or _is(name, name_size, b"upgrade") or _is(name, name_size, b"keep-alive")
        or _is(name, name_size, b"proxy-connection")
    )


cdef uint32_t _take_pseudo(
    call_t* call, const uint8_t* name, size_t name_size, const uint8_t* value, size_t size
) noexcept nogil:
    """Which it is."""
    if _is(name, name_size, b":path"):
        _find_method(call, value, size)
        return PATH
    if _is(name, name_size, b":method"):
        call.is_post = _is(value, size, b"POST")
        return METHOD
    if _is(name, name_size, b":authority"):
        said_set(&call.connection.asked.authority, value, size)
        return AUTHORITY
    return SCHEME if _is(name, name_size, b":scheme") else MALFORMED


cdef void _take(call_t* call, const uint8_t* name, size_t name_size, const uint8_t* value, size_t size) noexcept nogil:
    cdef int64_t timeout_ns
    if _is(name, name_size, b"content-type"):
        call.is_grpc = _is_grpc(value, size)
    elif _is(name, name_size, b"grpc-encoding"):
        call.is_compressed = not _is(value, size, b"identity")
    elif _is(name, name_size, b"grpc-timeout"):
        timeout_ns = _timeout_ns(value, size)
        if timeout_ns >= 0:
            call.expires_ns = call.connection.now_ns + timeout_ns
    elif _is(name, name_size, b"host"):
        if not call.heads & (AUTHORITY | HOST):
            said_set(&call.connection.asked.authority, value, size)
        call.heads |= HOST
    elif _is(name, name_size, b"x-gateway-inference-pool") and call.connection.asked.pool.size == 0:
        said_set(&call.connection.asked.pool, value, size)


cdef void head_begin(connection_t* connection) noexcept nogil:
    """The headers of a request begin: nothing has been asked for yet."""
    connection.asked.pool.size = 0
    connection.asked.authority.size = 0


cdef void head_read(
    call_t* call, const uint8_t* name, size_t name_size, const uint8_t* value, size_t size
) noexcept nogil:
    """A header of a request. Those beyond the rules are not looked at; `header_bytes` stays above the rule then."""
    cdef uint32_t seen, found
    if call.header_bytes <= call.connection.rules.header_bytes:
        call.header_bytes += <uint32_t>(name_size + size + HEADER_COST)
    if call.header_bytes > call.connection.rules.header_bytes:
        return
    if not _is_written_well(name, name_size, value, size) or _is_of_connection(name, name_size, value, size):
        call.heads |= MALFORMED
    elif name[0] != c":":
        call.heads |= FIELDS
        _take(call, name, name_size, value, size)
    else:
        seen = call.heads
        found = _take_pseudo(call, name, name_size, value, size)
        call.heads |= MALFORMED if seen & (found | FIELDS) else found


cdef bint head_is_malformed(const call_t* call) noexcept nogil:
    """Is it no request? One that is too large is not called so: not all of it was looked at."""
    if call.header_bytes > call.connection.rules.header_bytes:
        return False
    if call.heads & MALFORMED or (call.heads & NEEDED) != NEEDED:
        return True
    return not call.heads & (AUTHORITY | HOST)
