"""What comes first: a heap of nodes that are part of what they rank.

Invariants: each node knows its place; nothing is before what stands above it; four stand below each.
Cost: O(log n) to put a node in, to take any out, to move one whose rank has changed; O(1) to look. Ranks stand in the
    heap itself, so that only those who move are touched. `heap_reserve` alone allocates, and not for a single node.
Memory: owns its entries; the owner keeps a node where it is until it is taken out.   Threads: one at a time.
"""
cimport cython
from libc.stddef cimport size_t
from libc.stdint cimport UINT32_MAX, int64_t, uint32_t, uint64_t
from libc.string cimport memset

from picker._core.alloc cimport PK_E_LIMIT, PK_E_NOMEM, PK_OK, pk_alloc, pk_free, pk_resize

# --- C kernel ---

cdef enum:
    WIDTH = 4                  # of a level: two cache lines of entries, half as many levels as of two
    LEAST_CAPACITY = 8


cdef int heap_reserve(heap_t* heap, size_t count) noexcept nogil:
    """Room for so many in all. PK_OK, PK_E_NOMEM, or PK_E_LIMIT for more than 2**32 - 1."""
    cdef size_t capacity = max(LEAST_CAPACITY, 2 * <size_t>heap.capacity)
    cdef bint is_one = heap.capacity <= 1
    cdef entry_t* entries
    if count <= max(heap.capacity, 1):
        return PK_OK
    capacity = min(max(capacity, count), UINT32_MAX)
    if count > capacity:
        return PK_E_LIMIT
    entries = <entry_t*>pk_resize(NULL if is_one else heap.entries, capacity, sizeof(entry_t))
    if entries == NULL:
        return PK_E_NOMEM
    if is_one:
        entries[0] = heap.one
    heap.entries = entries
    heap.capacity = <uint32_t>capacity
    return PK_OK


cdef inline void _put(heap_t* heap, uint32_t at, entry_t entry) noexcept nogil:
    heap.entries[at] = entry
    entry.node.place = at + 1


cdef void _up(heap_t* heap, uint32_t at, entry_t entry) noexcept nogil:
    """Let it rise from the hole at `at`."""
    cdef uint32_t above
    while at:
        above = (at - 1) // WIDTH
        if not rank_before(&entry.rank, &heap.entries[above].rank):
            break
        _put(heap, at, heap.entries[above])
        at = above
    _put(heap, at, entry)


cdef inline entry_t* _first_of(const heap_t* heap, uint64_t child) noexcept nogil:
    """Who comes first of those that begin at `child`, which there is."""
    cdef entry_t* first = &heap.entries[child]
    cdef uint64_t i
    for i in range(child + 1, min(child + WIDTH, heap.count)):
        if rank_before(&heap.entries[i].rank, &first.rank):
            first = &heap.entries[i]
    return first


cdef void _down(heap_t* heap, uint32_t at, entry_t entry) noexcept nogil:
    """Let it sink into the hole at `at`."""
    cdef uint64_t child = <uint64_t>at * WIDTH + 1
    cdef entry_t* below
    while child < heap.count:
        below = _first_of(heap, child)
        if not rank_before(&below.rank, &entry.rank):
            break
        _put(heap, at, below[0])
        at = <uint32_t>(below - heap.entries)
        child = <uint64_t>at * WIDTH + 1
    _put(heap, at, entry)


cdef void _fill(heap_t* heap, uint32_t at, entry_t entry) noexcept nogil:
    """Put it into the hole at `at`, or where it belongs instead."""
    if at and rank_before(&entry.rank, &heap.entries[(at - 1) // WIDTH].rank):
        _up(heap, at, entry)
    else:
        _down(heap, at, entry)


cdef void heap_push(heap_t* heap, node_t* node) noexcept nogil:
    """Put a node in that is in no heap, by its rank; room was reserved, but for the first."""
    cdef entry_t entry
    if heap.capacity == 0:
        heap.entries = &heap.one
        heap.capacity = 1
    entry.rank = node.rank
    entry.node = node
    heap.count += 1
    _up(heap, heap.count - 1, entry)


cdef void heap_drop(heap_t* heap, node_t* node) noexcept nogil:
    """Take a node out of this heap, wherever it stands."""
    cdef uint32_t hole = node.place - 1
    node.place = 0
    heap.count -= 1
    if hole != heap.count:
        _fill(heap, hole, heap.entries[heap.count])


cdef void heap_move(heap_t* heap, node_t* node) noexcept nogil:
    """Its rank is another one."""
    cdef entry_t entry
    entry.rank = node.rank
    entry.node = node
    _fill(heap, node.place - 1, entry)


cdef void heap_free(heap_t* heap) noexcept nogil:
    """Forget them all; they are not touched."""
    if heap.capacity > 1:
        pk_free(heap.entries)
    memset(heap, 0, sizeof(heap_t))


cdef object heap_check(const heap_t* heap):
    """Assert the invariants."""
    cdef uint32_t i
    assert heap.count <= heap.capacity and (heap.capacity != 1 or heap.entries == &heap.one)
    for i in range(heap.count):
        assert heap.entries[i].node.place == i + 1
        assert not rank_before(&heap.entries[i].rank, &heap.entries[i].node.rank)
        assert not rank_before(&heap.entries[i].node.rank, &heap.entries[i].rank)
        assert i == 0 or not rank_before(&heap.entries[i].rank, &heap.entries[(i - 1) // WIDTH].rank)


# --- Python face ---


@cython.final
@cython.auto_pickle(False)
cdef class Heap:
    """Ranks of the keys 0 to `size` - 1, least first; for tests."""

    def __cinit__(self, size_t size):
        self._size = size
        self._table = <node_t*>pk_alloc(size, sizeof(node_t))
        if self._table == NULL:
            raise MemoryError(f"no memory for {size} nodes")

    def __dealloc__(self):
        heap_free(&self._heap)
        pk_free(self._table)

    cdef node_t* _at(self, size_t key) except NULL:
        if key >= self._size:
            raise IndexError(key)
        return &self._table[key]

    cdef node_t* _ranked(self, size_t key) except NULL:
        if self._at(key).place == 0:
            raise KeyError(key)
        return &self._table[key]

    def push(self, size_t key, uint64_t tag, int64_t order) -> None:
        """Rank `key`; of equals, the lower key comes first. IndexError; ValueError if it is in already; MemoryError."""
        cdef node_t* node = self._at(key)
        if node.place:
            raise ValueError(f"{key} is in the heap already")
        if heap_reserve(&self._heap, <size_t>self._heap.count + 1) != PK_OK:
            raise MemoryError("no memory for a further node")
        node.rank.tag, node.rank.order, node.rank.turn = tag, order, key
        heap_push(&self._heap, node)

    def move(self, size_t key, uint64_t tag, int64_t order) -> None:
        """Give it another rank. IndexError; KeyError if it is not in."""
        cdef node_t* node = self._ranked(key)
        node.rank.tag, node.rank.order = tag, order
        heap_move(&self._heap, node)

    def drop(self, size_t key) -> None:
        """Take `key` out. IndexError; KeyError if it is not in."""
        heap_drop(&self._heap, self._ranked(key))

    def first(self) -> int | None:
        """The key that comes first, or None."""
        cdef node_t* node = heap_first(&self._heap)
        return None if node == NULL else node - self._table

    def __len__(self) -> int:
        return self._heap.count

    def _check(self) -> None:
        """Assert the invariants."""
        heap_check(&self._heap)
        assert sum([self._table[i].place > 0 for i in range(self._size)]) == self._heap.count
