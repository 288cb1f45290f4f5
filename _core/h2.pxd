# A gRPC server's side of one HTTP/2 connection.
from libc.stddef cimport size_t
from libc.stdint cimport int64_t, uint8_t, uint32_t

from picker._core.calls cimport call_t, connection_t, method_t, rules_t, tally_t

cdef enum:
    PK_SPARE_BLOCKS = 8
    PK_ALL_METHODS = 16

cdef int connection_init(
    connection_t* connection, const method_t* methods, uint32_t method_count, const rules_t* rules, tally_t* tally,
    int64_t now_ns
) noexcept nogil
cdef void connection_free(connection_t* connection, int64_t now_ns) noexcept nogil
cdef Py_ssize_t connection_receive(connection_t* connection, const uint8_t* data, size_t size) noexcept nogil
cdef void connection_resume(connection_t* connection) noexcept nogil
cdef void connection_abandon(connection_t* connection) noexcept nogil
cdef void connection_send(connection_t* connection) noexcept nogil
cdef bint connection_is_over(connection_t* connection) noexcept nogil
cdef void connection_tick(connection_t* connection, int64_t now_ns) noexcept nogil
cdef void connection_drain(connection_t* connection, int64_t now_ns) noexcept nogil
cdef void connection_stop(connection_t* connection) noexcept nogil


cdef class Server:
    cdef rules_t rules
    cdef tally_t tally
    cdef method_t methods[PK_ALL_METHODS]
    cdef uint32_t method_count
    cdef tuple _services
    cdef uint8_t* inbound
    cdef size_t inbound_size
    cdef uint8_t* spare[PK_SPARE_BLOCKS]
    cdef size_t spare_capacity[PK_SPARE_BLOCKS]
    cdef uint32_t spare_count
    cdef object on_error


cdef class Block:
    cdef Server _server
    cdef uint8_t* _data
    cdef Py_ssize_t _size
    cdef size_t _capacity


cdef class Connection:
    cdef Server _server
    cdef connection_t _connection
    cdef bint _is_ready
    cdef readonly object owner

    cdef int _receive(self, const uint8_t* data, size_t size, int64_t now_ns) except -1
    cdef int answer(self, call_t* call) except -1
    cdef int _run(self) except -1
