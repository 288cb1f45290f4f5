# Whose turn it is: flow control over an engine. Functions take the engine's lock.
from libc.stdint cimport int64_t, uint32_t

from picker._core.codec cimport slice_t
from picker._core.dispatch cimport asked_pick_t, engine_t
from picker._core.flow cimport turn_t

cdef int engine_admit(engine_t* engine, asked_pick_t* asked) noexcept nogil
cdef int engine_enqueue(engine_t* engine, asked_pick_t* asked, slice_t name) noexcept nogil
cdef uint32_t engine_dispatch(engine_t* engine, int64_t now_ns, uint32_t most) noexcept nogil
cdef turn_t* engine_call(engine_t* engine, bint is_python) noexcept nogil
cdef bint engine_leave(engine_t* engine, asked_pick_t* asked, int64_t now_ns) noexcept nogil
cdef void engine_turn_out(engine_t* engine, int failure, int64_t now_ns) noexcept nogil
