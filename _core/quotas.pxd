# Rate limits, as Python sets and shows them. What sessions call is in `quota`.
from libc.stdint cimport int64_t, uint32_t, uint64_t

from picker._core.quota cimport hold_t, quota_t
from picker._core.quotarules cimport rules_t


cdef class Quota:
    cdef quota_t _quota
    cdef dict _tallies
    cdef uint64_t _seed
    cdef bint _ready
    cdef object __weakref__

    cdef rules_t* _make(self, list given) except NULL
    cdef int _fill(
        self, rules_t* made, list given, list sources, list tiers, list limits, list firsts
    ) except -1
    cdef uint32_t _tally(self, str name) except? 0
    cdef uint32_t _held(self) noexcept


cdef class Hold:
    cdef Quota _owner
    cdef hold_t* _hold

    cdef int _end(self, int64_t now_ns) noexcept
    cdef hold_t* _get(self) except NULL
