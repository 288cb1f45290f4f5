# ext_proc's Process as a method of gRPC connections.
from libc.stdint cimport int64_t, uint64_t

from picker._core.dispatch cimport engine_t, scratch_t
from picker._core.engine cimport Engine

ctypedef struct extproc_t:
    engine_t* engine
    scratch_t* scratch
    int64_t timeout_ns         # for a request body to arrive
    uint64_t opened            # streams so far
    uint64_t picked            # requests answered so far
    void* python               # the ExtProc


cdef class ExtProc:
    cdef extproc_t _service
    cdef Engine _engine
