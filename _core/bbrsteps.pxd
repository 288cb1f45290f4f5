# What the body-based router does with a message: its steps, built in or in Python.
from libc.stdint cimport uint32_t

from picker._core.codec cimport slice_t
from picker._core.edits cimport edits_t
from picker._core.outbox cimport out_t
from picker._core.routing cimport route_t, steps_t

cdef int route_hold(route_t* route) noexcept nogil
cdef void route_drop(route_t* route) noexcept nogil
cdef int route_scan(route_t* route) noexcept nogil
cdef void route_forget_scan(route_t* route) noexcept nogil
cdef edits_t* route_edits(route_t* route) noexcept nogil
cdef steps_t* route_steps(route_t* route) noexcept nogil

cdef int route_refuse(route_t* route, int failure, int problem, out_t* out) noexcept nogil
cdef int route_reject(route_t* route, uint32_t status, slice_t body, out_t* out) noexcept nogil
cdef void route_cut(route_t* route) noexcept nogil

# The steps from `route.step` on: PK_OK when all are done or the client was answered, PK_NEED_PLUGIN, PK_E_NOMEM
cdef int route_run(route_t* route, out_t* out) noexcept nogil
# A Python step was asked, or is to be left out: whether the exchange goes on
cdef int route_unseen(route_t* route, out_t* out) noexcept nogil
cdef bint route_may_reject(const route_t* route) noexcept nogil
cdef int route_asked(route_t* route, out_t* out) noexcept nogil

cdef int out_edited(route_t* route, out_t* out, int reply, const edits_t* edits, bint with_body) noexcept nogil
