# What is due, to the tick, of things that lie still in memory.
from libc.stddef cimport size_t
from libc.stdint cimport int64_t, uint32_t, uint64_t

cdef enum:
    PK_WHEEL_TICK_NS = 10_000_000
    PK_WHEEL_LEVELS = 4        # of 64 slots each: up to 640 ms, 41 s, 44 min, 46 h ahead
    PK_WHEEL_FAR = 256         # the slot of what is farther ahead
    PK_WHEEL_DUE = 257         # the slot of what is due
    PK_WHEEL_SLOTS = 258

ctypedef struct timer_t:
    # Embedded in what is due. Zeroed before its first use.
    timer_t* next
    timer_t* previous
    int64_t at_ns
    uint32_t place             # its slot, from 1; 0 = not waited for

ctypedef struct wheel_t:
    uint64_t tick              # what is due by then is in slot PK_WHEEL_DUE
    size_t count               # timers waited for
    uint64_t used[PK_WHEEL_LEVELS]                     # bit i: slot i of the level is not empty
    timer_t* slots[PK_WHEEL_SLOTS]

cdef void wheel_init(wheel_t* wheel, int64_t now_ns) noexcept nogil
cdef void wheel_set(wheel_t* wheel, timer_t* timer, int64_t at_ns) noexcept nogil
cdef void wheel_drop(wheel_t* wheel, timer_t* timer) noexcept nogil
cdef timer_t* wheel_due(wheel_t* wheel, int64_t now_ns) noexcept nogil
cdef object wheel_check(const wheel_t* wheel)


cdef class Wheel:
    cdef wheel_t _wheel
    cdef timer_t* _table
    cdef size_t _size

    cdef timer_t* _at(self, size_t key) except NULL
