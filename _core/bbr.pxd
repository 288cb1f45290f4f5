# The body-based router: ext_proc streams whose requests get headers made of their bodies.
from libc.stddef cimport size_t
from libc.stdint cimport int64_t, uint8_t

from picker._core.names cimport Names
from picker._core.outbox cimport out_t
from picker._core.routing cimport route_t, router_t

ctypedef struct bbr_t:
    router_t* router
    int64_t timeout_ns         # for a request body to arrive
    void* python               # the Router

cdef int route_open(route_t* route, router_t* router) noexcept nogil
cdef int route_feed(route_t* route, const uint8_t* data, size_t size, out_t* out) noexcept nogil
cdef int route_resume(route_t* route, out_t* out) noexcept nogil
cdef int route_fail(route_t* route, int failure, out_t* out) noexcept nogil
cdef void route_close(route_t* route) noexcept nogil


cdef class Router:
    cdef router_t _router
    cdef bbr_t _service
    cdef Names _names
    cdef list _kept            # bytes that the steps point into
    cdef object _host

    cdef int ask(self, route_t* route) except -1


cdef class Exchange:
    cdef Router _owner
    cdef route_t _route
    cdef out_t _out
    cdef bint _is_open
