"""What was used of limits in the windows of time that they count in.

Invariants: a counter of a window that lasts is never given up; one whose window has passed is nought, and its place
    another's to take. Of each kind of window counters are listed by their last use, so that the oldest one's window has
    passed if any has.
Cost: O(1), expected; memory is taken at the start, never later.   Memory: owned by the table.   Threads: one at a time.
"""
cimport cython
from libc.stddef cimport size_t
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.string cimport memset

from picker._core.alloc cimport PK_E_NOMEM, PK_OK, pk_alloc, pk_free

# --- C kernel ---


cdef int64_t window_length(uint32_t kind) noexcept nogil:
    """Nanoseconds."""
    if kind == PK_WINDOW_SECOND:
        return 1_000_000_000
    if kind == PK_WINDOW_MINUTE:
        return 60_000_000_000
    return 3_600_000_000_000 if kind == PK_WINDOW_HOUR else 86_400_000_000_000


cdef int64_t window_at(uint32_t kind, int64_t wall_ns) noexcept nogil:
    """Number of the window at that time (of UTC, since 1970; not before)."""
    return wall_ns // window_length(kind)


cdef bint window_has_passed(const counter_t* counter, int64_t wall_ns) noexcept nogil:
    """Is its window over? A clock that is set back a little is still in the one that had begun; far back, in none."""
    cdef int64_t now = window_at(counter.kind, wall_ns)
    return counter.window != now and counter.window != now + 1


cdef inline uint32_t* _head(const counters_t* counters, uint64_t id) noexcept nogil:
    return &counters.heads[<uint32_t>(id ^ (id >> 32)) & counters.mask]


cdef void _unlist(counters_t* counters, uint32_t place) noexcept nogil:
    """Out of its kind's list."""
    cdef counter_t* counter = &counters.table[place]
    if counter.newer:
        counters.table[counter.newer].older = counter.older
    else:
        counters.newest[counter.kind] = counter.older
    if counter.older:
        counters.table[counter.older].newer = counter.newer
    else:
        counters.oldest[counter.kind] = counter.newer


cdef void _list(counters_t* counters, uint32_t place) noexcept nogil:
    """Into its kind's list, as the newest."""
    cdef counter_t* counter = &counters.table[place]
    counter.newer = 0
    counter.older = counters.newest[counter.kind]
    counters.newest[counter.kind] = place
    if counter.older:
        counters.table[counter.older].newer = place
    else:
        counters.oldest[counter.kind] = place


cdef void _unchain(counters_t* counters, uint32_t place) noexcept nogil:
    cdef uint32_t* link = _head(counters, counters.table[place].id)
    while link[0] != place:
        link = &counters.table[link[0]].next
    link[0] = counters.table[place].next


cdef uint32_t _room(counters_t* counters, int64_t wall_ns) noexcept nogil:
    """A place that nobody uses, or whose window has passed; 0: there is none."""
    cdef uint32_t kind, place
    if counters.count < counters.room:
        counters.count += 1
        return counters.count
    for kind in range(PK_WINDOWS):
        place = counters.oldest[kind]
        if place and window_has_passed(&counters.table[place], wall_ns):
            _unlist(counters, place)
            _unchain(counters, place)
            return place
    return 0


cdef counter_t* counters_find(const counters_t* counters, uint64_t id) noexcept nogil:
    """The counter of `id`, of whatever window; NULL if there is none."""
    cdef uint32_t place = _head(counters, id)[0]
    while place and counters.table[place].id != id:
        place = counters.table[place].next
    return &counters.table[place] if place else NULL


cdef counter_t* _make(counters_t* counters, uint64_t id, uint32_t kind, int64_t wall_ns) noexcept nogil:
    cdef uint32_t place = _room(counters, wall_ns)
    cdef uint32_t* head = _head(counters, id)
    cdef counter_t* counter
    if place == 0:
        return NULL
    counter = &counters.table[place]
    counter.id = id
    counter.kind = kind
    counter.next = head[0]
    head[0] = place
    _list(counters, place)
    counter.window = window_at(kind, wall_ns)
    counter.used = 0
    return counter


cdef counter_t* counters_take(counters_t* counters, uint64_t id, uint32_t kind, int64_t wall_ns) noexcept nogil:
    """The counter of `id` in the window of that time, made if it is not there; NULL: there is no room for it.

    An id is always of one kind.
    """
    cdef counter_t* counter = counters_find(counters, id)
    cdef uint32_t place
    if counter == NULL:
        return _make(counters, id, kind, wall_ns)
    place = <uint32_t>(counter - counters.table)
    if counters.newest[kind] != place:
        _unlist(counters, place)
        _list(counters, place)
    if window_has_passed(counter, wall_ns):
        counter.window = window_at(kind, wall_ns)
        counter.used = 0
    return counter


cdef int counters_init(counters_t* counters, uint32_t room) noexcept nogil:
    """PK_OK or PK_E_NOMEM; `counters_free` is due either way. `room`: 1 to 2^31."""
    cdef size_t heads = 1
    memset(counters, 0, sizeof(counters_t))
    while heads < room:
        heads *= 2
    counters.room = room
    counters.mask = <uint32_t>(heads - 1)
    counters.table = <counter_t*>pk_alloc(<size_t>room + 1, sizeof(counter_t))
    counters.heads = <uint32_t*>pk_alloc(heads, sizeof(uint32_t))
    return PK_OK if counters.table != NULL and counters.heads != NULL else PK_E_NOMEM


cdef void counters_free(counters_t* counters) noexcept nogil:
    pk_free(counters.table)
    pk_free(counters.heads)
    memset(counters, 0, sizeof(counters_t))


# --- Python face ---

WINDOWS = ("second", "minute", "hour", "day")


@cython.final
@cython.auto_pickle(False)
cdef class Counters:
    """Room for so many counters (1 to 2^31); for tests. ValueError, MemoryError."""

    def __cinit__(self, uint32_t room):
        memset(&self._counters, 0, sizeof(counters_t))
        if not 1 <= room <= 1 << 31:
            raise ValueError(f"room for 1 to 2^31 counters, not {room}")
        if counters_init(&self._counters, room) != PK_OK:
            raise MemoryError(f"no memory for {room} counters")

    def __dealloc__(self):
        counters_free(&self._counters)

    def add(self, uint64_t id, int64_t amount, *, uint32_t kind, int64_t wall_ns) -> int | None:
        """Count `amount` more; what is used then in the window of that time, None if there is no room for a counter.

        `kind`: an index of WINDOWS, ValueError for any other and for a time before 1970.
        """
        cdef counter_t* counter
        if kind >= PK_WINDOWS or wall_ns < 0:
            raise ValueError(f"no window of kind {kind} at {wall_ns}")
        counter = counters_find(&self._counters, id)
        if counter != NULL and counter.kind != kind:
            raise ValueError(f"{id} is of kind {counter.kind}, not {kind}")
        counter = counters_take(&self._counters, id, kind, wall_ns)
        if counter == NULL:
            return None
        counter.used += amount
        return counter.used

    def find(self, uint64_t id) -> tuple | None:
        """(kind, number of the window, used) of a counter that is there."""
        cdef const counter_t* counter = counters_find(&self._counters, id)
        return None if counter == NULL else (counter.kind, counter.window, counter.used)

    def __len__(self) -> int:
        return self._counters.count

    def _check(self) -> None:
        """Assert the invariants."""
        cdef const counters_t* counters = &self._counters
        cdef uint32_t kind, place, newer
        cdef list listed = []
        for kind in range(PK_WINDOWS):
            place, newer = counters.newest[kind], 0
            while place:
                listed.append(place)
                assert counters.table[place].kind == kind and counters.table[place].newer == newer
                newer, place = place, counters.table[place].older
            assert counters.oldest[kind] == newer
        assert sorted(listed) == list(range(1, counters.count + 1))
        for place in listed:
            assert counters_find(counters, counters.table[place].id) == &counters.table[place]
        assert counters.count <= counters.room
