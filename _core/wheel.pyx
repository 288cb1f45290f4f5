"""What is due, to the tick: a hierarchical timer wheel whose timers are part of what they are the time of.

Invariants: a timer at level l agrees with the wheel's tick in all base-64 digits above l and is ahead of it in digit l,
    so no slot is ever behind the wheel and the lowest level in use holds what comes next; those that differ in a digit
    above all levels stand in slot FAR, those whose time has come in slot DUE. A bit is set for each slot in use.
Cost: O(1) to set or drop. A timer moves down at most four times before it is due, and once more for each 46 hours that
    it lies ahead; empty slots cost nothing, however far the clock jumps. Allocates nothing.
Memory: none of its own; the owner keeps a timer where it is until it is dropped.   Threads: one at a time.

A clock that goes back stands still. Times below 0 count as 0.
"""
cimport cython
from libc.stddef cimport size_t
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.string cimport memset

from picker._core.alloc cimport pk_alloc, pk_free

# --- C kernel ---

cdef extern from *:
    """
    #define PK_LOWEST_BIT(bits) ((uint32_t)__builtin_ctzll(bits))
    #define PK_HIGHEST_BIT(bits) ((uint32_t)(63 - __builtin_clzll(bits)))
    """
    uint32_t PK_LOWEST_BIT(uint64_t bits) noexcept nogil
    uint32_t PK_HIGHEST_BIT(uint64_t bits) noexcept nogil


cdef inline uint64_t _tick_of(int64_t now_ns) noexcept nogil:
    """The tick that is running."""
    return <uint64_t>now_ns // PK_WHEEL_TICK_NS if now_ns > 0 else 0


cdef inline uint64_t _tick_after(int64_t at_ns) noexcept nogil:
    """The first that begins at or after it."""
    return _tick_of(at_ns) + (at_ns > 0 and at_ns % PK_WHEEL_TICK_NS != 0)


cdef inline uint32_t _slot(const wheel_t* wheel, uint64_t tick) noexcept nogil:
    cdef uint32_t level
    if tick <= wheel.tick:
        return PK_WHEEL_DUE
    level = PK_HIGHEST_BIT(tick ^ wheel.tick) // 6
    if level >= PK_WHEEL_LEVELS:
        return PK_WHEEL_FAR
    return level * 64 + <uint32_t>((tick >> (6 * level)) & 63)


cdef void wheel_init(wheel_t* wheel, int64_t now_ns) noexcept nogil:
    """Nobody waits, and it is `now_ns`."""
    memset(wheel, 0, sizeof(wheel_t))
    wheel.tick = _tick_of(now_ns)


cdef void _put(wheel_t* wheel, timer_t* timer) noexcept nogil:
    """Into the slot of its time, first."""
    cdef uint32_t slot = _slot(wheel, _tick_after(timer.at_ns))
    timer.place = slot + 1
    timer.previous = NULL
    timer.next = wheel.slots[slot]
    if timer.next != NULL:
        timer.next.previous = timer
    wheel.slots[slot] = timer
    if slot < PK_WHEEL_FAR:
        wheel.used[slot // 64] |= <uint64_t>1 << (slot % 64)


cdef void wheel_drop(wheel_t* wheel, timer_t* timer) noexcept nogil:
    """Wait for it no more; harmless if nobody does."""
    cdef uint32_t slot = timer.place - 1
    if timer.place == 0:
        return
    if timer.next != NULL:
        timer.next.previous = timer.previous
    if timer.previous != NULL:
        timer.previous.next = timer.next
    else:
        wheel.slots[slot] = timer.next
        if timer.next == NULL and slot < PK_WHEEL_FAR:
            wheel.used[slot // 64] &= ~(<uint64_t>1 << (slot % 64))
    timer.next = timer.previous = NULL
    timer.place = 0
    wheel.count -= 1


cdef void wheel_set(wheel_t* wheel, timer_t* timer, int64_t at_ns) noexcept nogil:
    """Wait for it, or wait until another time."""
    wheel_drop(wheel, timer)
    timer.at_ns = at_ns
    wheel.count += 1
    _put(wheel, timer)


cdef void _empty(wheel_t* wheel, uint32_t slot) noexcept nogil:
    """All of a slot that the wheel has come to, to where they belong now."""
    cdef timer_t* timer = wheel.slots[slot]
    cdef timer_t* next
    wheel.slots[slot] = NULL
    if slot < PK_WHEEL_FAR:
        wheel.used[slot // 64] &= ~(<uint64_t>1 << (slot % 64))
    while timer != NULL:
        next = timer.next
        _put(wheel, timer)
        timer = next


cdef bint _next(const wheel_t* wheel, uint64_t now, uint32_t* slot, uint64_t* tick) noexcept nogil:
    """The slot that the wheel comes to next, and when; False if that is not by now, or nobody waits for a time to come.

    Slot FAR is looked through once, however many turns of the highest level the clock has jumped over.
    """
    cdef uint32_t level = 0
    while level < PK_WHEEL_LEVELS and wheel.used[level] == 0:
        level += 1
    if level < PK_WHEEL_LEVELS:
        slot[0] = PK_LOWEST_BIT(wheel.used[level])
        tick[0] = ((wheel.tick >> (6 * level + 6) << 6) + slot[0]) << (6 * level)
        slot[0] += level * 64
        return tick[0] <= now
    slot[0] = PK_WHEEL_FAR
    tick[0] = now >> (6 * PK_WHEEL_LEVELS) << (6 * PK_WHEEL_LEVELS)
    return wheel.slots[PK_WHEEL_FAR] != NULL and tick[0] > wheel.tick


cdef timer_t* wheel_due(wheel_t* wheel, int64_t now_ns) noexcept nogil:
    """One that is due by now, or NULL: never early, less than a tick late. It stays: drop it or set it anew."""
    cdef uint64_t now = _tick_of(now_ns), tick
    cdef uint32_t slot
    while now > wheel.tick:
        if not _next(wheel, now, &slot, &tick):
            wheel.tick = now
            break
        wheel.tick = tick
        _empty(wheel, slot)
    return wheel.slots[PK_WHEEL_DUE]


cdef object wheel_check(const wheel_t* wheel):
    """Assert the invariants."""
    cdef const timer_t* timer
    cdef size_t count = 0
    cdef uint32_t slot
    for slot in range(PK_WHEEL_SLOTS):
        timer = wheel.slots[slot]
        assert timer == NULL or timer.previous == NULL
        if slot < PK_WHEEL_FAR:
            assert (timer != NULL) == bool(wheel.used[slot // 64] & (<uint64_t>1 << (slot % 64)))
        while timer != NULL:
            count += 1
            assert timer.place == slot + 1 == _slot(wheel, _tick_after(timer.at_ns)) + 1
            assert timer.next == NULL or timer.next.previous == timer
            timer = timer.next
    assert count == wheel.count


# --- Python face ---

TICK_NS = PK_WHEEL_TICK_NS


@cython.final
@cython.auto_pickle(False)
cdef class Wheel:
    """Timers of the keys 0 to `size` - 1, in ticks of TICK_NS; for tests. A time below 0 counts as 0."""

    def __cinit__(self, size_t size, int64_t now_ns=0):
        wheel_init(&self._wheel, now_ns)
        self._size = size
        self._table = <timer_t*>pk_alloc(size, sizeof(timer_t))
        if self._table == NULL:
            raise MemoryError(f"no memory for {size} timers")

    def __dealloc__(self):
        pk_free(self._table)

    cdef timer_t* _at(self, size_t key) except NULL:
        if key >= self._size:
            raise IndexError(key)
        return &self._table[key]

    def set(self, size_t key, int64_t at_ns) -> None:
        """Wait for `key` until `at_ns`, whether or not it is waited for already. IndexError."""
        wheel_set(&self._wheel, self._at(key), at_ns)

    def drop(self, size_t key) -> None:
        """Wait for `key` no more; harmless if nobody does. IndexError."""
        wheel_drop(&self._wheel, self._at(key))

    def due(self, int64_t now_ns) -> tuple | None:
        """(key, time) of one that is due by now: never early, less than a tick late. It stays."""
        cdef timer_t* found = wheel_due(&self._wheel, now_ns)
        return None if found == NULL else (found - self._table, found.at_ns)

    def __len__(self) -> int:
        return self._wheel.count

    def _check(self) -> None:
        """Assert the invariants."""
        wheel_check(&self._wheel)
        assert sum([self._table[i].place > 0 for i in range(self._size)]) == self._wheel.count
