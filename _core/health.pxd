# grpc.health.v1.Health as methods of gRPC connections.
from libc.stdint cimport uint8_t

ctypedef struct health_t:
    bint is_strict             # names are known or not
    bint is_ready


cdef class Health:
    cdef health_t _service
