"""What is due first: a binary heap of deadlines that are part of what they are the deadline of.

Invariants: each deadline knows its place; nothing is due before the first.
Cost: O(log n) to set or drop, O(1) to look.   Memory: a pointer for each deadline; the owner keeps the deadline where
    it is until it is dropped.   Threads: one at a time.
"""
cimport cython
from libc.stddef cimport size_t
from libc.stdint cimport int64_t
from libc.string cimport memset

from picker._core.alloc cimport PK_OK, pk_alloc, pk_free, pk_grow

# --- C kernel ---


cdef inline void _put(deadlines_t* deadlines, size_t index, deadline_t* deadline) noexcept nogil:
    deadlines.heap[index] = deadline
    deadline.place = index + 1


cdef void _up(deadlines_t* deadlines, size_t index, deadline_t* deadline) noexcept nogil:
    """Let it rise from the hole at `index`."""
    cdef size_t parent
    while index:
        parent = (index - 1) // 2
        if deadlines.heap[parent].at_ns <= deadline.at_ns:
            break
        _put(deadlines, index, deadlines.heap[parent])
        index = parent
    _put(deadlines, index, deadline)


cdef void _down(deadlines_t* deadlines, size_t index, deadline_t* deadline) noexcept nogil:
    """Let it sink into the hole at `index`."""
    cdef size_t child = 2 * index + 1
    while child < deadlines.count:
        if child + 1 < deadlines.count and deadlines.heap[child + 1].at_ns < deadlines.heap[child].at_ns:
            child += 1
        if deadline.at_ns <= deadlines.heap[child].at_ns:
            break
        _put(deadlines, index, deadlines.heap[child])
        index = child
        child = 2 * index + 1
    _put(deadlines, index, deadline)


cdef int deadlines_set(deadlines_t* deadlines, deadline_t* deadline, int64_t at_ns) noexcept nogil:
    """Wait for it, or wait until another time. PK_OK or PK_E_NOMEM; one that waits can always be set anew."""
    cdef int64_t before = deadline.at_ns
    cdef int code
    if deadline.place == 0:
        code = pk_grow(<void**>&deadlines.heap, &deadlines.capacity, deadlines.count + 1, sizeof(deadline_t*))
        if code != PK_OK:
            return code
        deadline.at_ns = at_ns
        deadlines.count += 1
        _up(deadlines, deadlines.count - 1, deadline)
        return PK_OK
    deadline.at_ns = at_ns
    if at_ns < before:
        _up(deadlines, deadline.place - 1, deadline)
    else:
        _down(deadlines, deadline.place - 1, deadline)
    return PK_OK


cdef void deadlines_drop(deadlines_t* deadlines, deadline_t* deadline) noexcept nogil:
    """Wait for it no more; harmless if nobody does."""
    cdef size_t hole
    cdef deadline_t* last
    if deadline.place == 0:
        return
    hole = deadline.place - 1
    deadline.place = 0
    deadlines.count -= 1
    last = deadlines.heap[deadlines.count]
    if last == deadline:
        return
    if hole and deadlines.heap[(hole - 1) // 2].at_ns > last.at_ns:
        _up(deadlines, hole, last)
    else:
        _down(deadlines, hole, last)


cdef deadline_t* deadlines_due(deadlines_t* deadlines, int64_t now_ns) noexcept nogil:
    """The first that is due by now, or NULL. It stays: drop it or set it anew."""
    if deadlines.count == 0 or deadlines.heap[0].at_ns > now_ns:
        return NULL
    return deadlines.heap[0]


cdef void deadlines_free(deadlines_t* deadlines) noexcept nogil:
    """Forget them all; the owners must not drop theirs afterwards."""
    pk_free(deadlines.heap)
    memset(deadlines, 0, sizeof(deadlines_t))


# --- Python face ---


@cython.final
@cython.auto_pickle(False)
cdef class Deadlines:
    """Deadlines of the keys 0 to `size` - 1; for tests."""

    def __cinit__(self, size_t size):
        memset(&self._deadlines, 0, sizeof(deadlines_t))
        self._size = size
        self._table = <deadline_t*>pk_alloc(size, sizeof(deadline_t))
        if self._table == NULL:
            raise MemoryError(f"no memory for {size} deadlines")

    def __dealloc__(self):
        deadlines_free(&self._deadlines)
        pk_free(self._table)

    cdef deadline_t* _at(self, size_t key) except NULL:
        if key >= self._size:
            raise IndexError(key)
        return &self._table[key]

    def set(self, size_t key, int64_t at_ns) -> None:
        """Wait for `key` until `at_ns`, whether or not it is waited for already. IndexError, MemoryError."""
        if deadlines_set(&self._deadlines, self._at(key), at_ns) != PK_OK:
            raise MemoryError("no memory for a further deadline")

    def drop(self, size_t key) -> None:
        """Wait for `key` no more; harmless if nobody does. IndexError."""
        deadlines_drop(&self._deadlines, self._at(key))

    def due(self, int64_t now_ns) -> tuple | None:
        """(key, time) of the first that is due by now."""
        cdef deadline_t* found = deadlines_due(&self._deadlines, now_ns)
        return None if found == NULL else (found - self._table, found.at_ns)

    def __len__(self) -> int:
        return self._deadlines.count

    def _check(self) -> None:
        """Assert the invariants."""
        cdef size_t i
        for i in range(self._deadlines.count):
            assert self._deadlines.heap[i].place == i + 1
            assert i == 0 or self._deadlines.heap[(i - 1) // 2].at_ns <= self._deadlines.heap[i].at_ns
        assert sum([self._table[i].place > 0 for i in range(self._size)]) == self._deadlines.count
