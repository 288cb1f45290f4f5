# What was used of limits in the windows of time that they count in.
from libc.stddef cimport size_t
from libc.stdint cimport int64_t, uint32_t, uint64_t

# Windows begin with each second, minute, hour or day of UTC
cdef enum:
    PK_WINDOW_SECOND = 0
    PK_WINDOW_MINUTE = 1
    PK_WINDOW_HOUR = 2
    PK_WINDOW_DAY = 3
    PK_WINDOWS = 4

ctypedef struct counter_t:
    uint64_t id                # of what is counted
    int64_t window             # number of the one that `used` is of
    int64_t used
    uint32_t kind              # PK_WINDOW_*
    uint32_t next              # in its chain; places count from 1, 0 = none
    uint32_t newer             # of its kind, by last use
    uint32_t older

ctypedef struct counters_t:
    counter_t* table           # [0] is not used
    uint32_t* heads            # of chains, by id
    uint32_t mask
    uint32_t room
    uint32_t count
    uint32_t newest[PK_WINDOWS]
    uint32_t oldest[PK_WINDOWS]

cdef int64_t window_length(uint32_t kind) noexcept nogil
cdef int64_t window_at(uint32_t kind, int64_t wall_ns) noexcept nogil
cdef bint window_has_passed(const counter_t* counter, int64_t wall_ns) noexcept nogil

cdef int counters_init(counters_t* counters, uint32_t room) noexcept nogil
cdef void counters_free(counters_t* counters) noexcept nogil
cdef counter_t* counters_find(const counters_t* counters, uint64_t id) noexcept nogil
cdef counter_t* counters_take(counters_t* counters, uint64_t id, uint32_t kind, int64_t wall_ns) noexcept nogil


cdef class Counters:
    cdef counters_t _counters
