# The engine: endpoints, prefix index, pipeline and stats behind one lock. What sessions call is in `dispatch`.
from picker._core.dispatch cimport engine_t, pick_t, request_t, scratch_t
from picker._core.names cimport Names
from picker._core.quotas cimport Quota


cdef class Engine:
    cdef engine_t _engine
    cdef scratch_t _scratch
    cdef object _plugins
    cdef Names _objectives
    cdef Quota _quota
    cdef bint _ready

    cdef int run_plugin(self, const pick_t* pick, const request_t* request, bytes headers, bytes model) except -1
