# A timer wheel: what is due, to the tick, of things that lie still in memory.
from libc.stddef cimport size_t
from libc.stdint cimport int64_t, uint32_t, uint64_t

cdef enum:
    PK_WHEEL_TICK_NS = 10_000_000
    PK_WHEEL_LEVELS = 4        # of 64 slots each: 64 ticks, 41 s, 44 min, 46 h
    PK_WHEEL_SLOTS = 64

ctypedef struct timer_t:
    # Embedded in what is due. Zeroed before its first use.
    timer_t* next
    timer_t* previous
    int64_t at_ns
    uint32_t slot              # of all levels, from 1; 0 = not waited for

ctypedef struct wheel_t:
    int64_t tick               # everything that is due by then has left the slots
    size_t count               # timers waited for
    uint64_t used[PK_WHEEL_LEVELS]                     # bit i: slot i of the level is not empty
    timer_t* slots[PK_WHEEL_LEVELS * PK_WHEEL_SLOTS]
    timer_t* due               # those whose time has come, in no particular order

cdef void wheel_init(wheel_t* wheel, int64_t now_ns) noexcept nogil
# Wait until `at_ns`; a timer that waits already waits anew
cdef void wheel_set(wheel_t* wheel, timer_t* timer, int64_t at_ns) noexcept nogil
# Wait no more; harmless if nobody does
cdef void wheel_drop(wheel_t* wheel, timer_t* timer) noexcept nogil
# One that is due by now, or NULL: never too early, less than two ticks late. It stays: drop it or set it anew
cdef timer_t* wheel_due(wheel_t* wheel, int64_t now_ns) noexcept nogil


cdef class Wheel:
    cdef wheel_t _wheel
    cdef timer_t* _table
    cdef size_t _size

    cdef timer_t* _at(self, size_t key) except NULL
