"""Who holds a node of the prefix index (`radix`): endpoint slots, each with an id, holding all of the node or a part.

Invariants: one holder lies in the struct itself. From two on there is a set: two disjoint bitsets (whole, part) and
the ids in order of slot, so the rank of a slot's bit finds its id.
Cost: find, join, leave and mark O(width / 64 + holders moved); only joining allocates. Most nodes have one holder.
Memory: `holders_t` owns its set. Sets are as wide as the index was when they were made, and widen on joining.
Threads: one caller at a time; any thread, GIL not needed.
"""
cimport cython
from libc.stddef cimport size_t
from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memcpy, memmove

from picker._core.alloc cimport PK_E_NOMEM, PK_OK, pk_alloc, pk_free

cdef enum:
    FIRST_ROOM = 4

# --- C kernel ---


cdef inline uint64_t _bit(uint32_t slot) noexcept nogil:
    return <uint64_t>1 << (slot & 63)


cdef inline uint64_t _word(const holder_set_t* held, uint32_t index) noexcept nogil:
    return holders_whole(held)[index] | holders_part(held)[index]


cdef inline size_t _bytes(uint32_t words, uint32_t room) noexcept nogil:
    return sizeof(holder_set_t) + 2 * sizeof(uint64_t) * <size_t>words + sizeof(uint32_t) * <size_t>room


cdef uint64_t holders_bytes(const holders_t* holders) noexcept nogil:
    return 0 if holders.set == NULL else _bytes(holders.set.words, holders.set.room)


cdef uint32_t _rank(const holder_set_t* held, uint32_t slot) noexcept nogil:
    """How many holders have a lower slot."""
    cdef uint32_t index, rank = 0
    for index in range(slot >> 6):
        rank += holders_bits(_word(held, index))
    return rank + holders_bits(_word(held, slot >> 6) & (_bit(slot) - 1))


cdef uint32_t _lowest(const holder_set_t* held) noexcept nogil:
    """The lowest slot in a set that is not empty."""
    cdef uint32_t index = 0
    cdef uint64_t word
    while not _word(held, index):
        index += 1
    word = _word(held, index)
    return 64 * index + holders_bits((word & -word) - 1)


cdef uint32_t holders_find(const holders_t* holders, uint32_t slot) noexcept nogil:
    """The id of `slot`, or 0."""
    if holders.set == NULL:
        return holders.id if holders.count and holders.slot == slot else 0
    if slot >> 6 >= holders.set.words or not _word(holders.set, slot >> 6) & _bit(slot):
        return 0
    return holders_ids(holders)[_rank(holders.set, slot)]


cdef void holders_mark(holders_t* holders, uint32_t slot, bint whole) noexcept nogil:
    """`slot`, one of the holders, now holds all of the node, or a part."""
    cdef uint64_t* part
    if holders.set == NULL:
        holders.partial = not whole
        return
    part = &holders_part(holders.set)[slot >> 6]
    holders.partial -= part[0] & _bit(slot) != 0
    part[0] &= ~_bit(slot)
    holders_whole(holders.set)[slot >> 6] &= ~_bit(slot)
    if whole:
        holders_whole(holders.set)[slot >> 6] |= _bit(slot)
    else:
        part[0] |= _bit(slot)
        holders.partial += 1


cdef holder_set_t* _set(uint32_t words, uint32_t room, uint64_t* heap) noexcept nogil:
    cdef holder_set_t* fresh = <holder_set_t*>pk_alloc(1, _bytes(words, room))
    if fresh != NULL:
        fresh.words = words
        fresh.room = room
        heap[0] += _bytes(words, room)
    return fresh


cdef void holders_free(holders_t* holders, uint64_t* heap) noexcept nogil:
    heap[0] -= holders_bytes(holders)
    pk_free(holders.set)
    holders.set = NULL


cdef int _larger(holders_t* holders, uint32_t words, uint32_t room, uint64_t* heap) noexcept nogil:
    """The same holders in a new set of this size."""
    cdef holders_t larger = holders[0]
    larger.set = _set(words, room, heap)
    if larger.set == NULL:
        return PK_E_NOMEM
    memcpy(holders_ids(&larger), holders_ids(holders), sizeof(uint32_t) * holders.count)
    if holders.set == NULL:
        larger.partial = 0
        holders_mark(&larger, holders.slot, not holders.partial)
    else:
        memcpy(holders_whole(larger.set), holders_whole(holders.set), sizeof(uint64_t) * holders.set.words)
        memcpy(holders_part(larger.set), holders_part(holders.set), sizeof(uint64_t) * holders.set.words)
    holders_free(holders, heap)
    holders[0] = larger
    return PK_OK


cdef int holders_reserve(holders_t* holders, uint32_t slot, uint32_t width, uint64_t* heap) noexcept nogil:
    """Room for `slot` (below `width`) to join. A set made in vain, for one holder, does no harm."""
    cdef uint32_t words = (width + 63) >> 6
    if holders.count == 0:
        return PK_OK
    if holders.set == NULL:
        return _larger(holders, words, FIRST_ROOM, heap)
    if holders.count == holders.set.room:
        return _larger(holders, words, 2 * holders.set.room, heap)
    if slot >> 6 >= holders.set.words:
        return _larger(holders, words, holders.set.room, heap)
    return PK_OK


cdef void holders_join(holders_t* holders, uint32_t slot, uint32_t id, bint whole) noexcept nogil:
    """Add `slot`, which is not among them; holders_reserve made room for it."""
    cdef uint32_t* ids
    if holders.count == 0:
        holders.slot = slot
        holders.id = id
    else:
        ids = holders_ids(holders) + _rank(holders.set, slot)
        memmove(ids + 1, ids, sizeof(uint32_t) * (holders.count - (ids - holders_ids(holders))))
        ids[0] = id
    holders.count += 1
    holders_mark(holders, slot, whole)


cdef void _unset(holders_t* holders, uint64_t* heap) noexcept nogil:
    """Do without the set, now that there is one holder."""
    holders.id = holders_ids(holders)[0]
    holders.slot = _lowest(holders.set)
    holders_free(holders, heap)


cdef void holders_leave(holders_t* holders, uint32_t slot, uint64_t* heap) noexcept nogil:
    """Remove `slot`, which is among them."""
    cdef uint32_t* ids
    holders_mark(holders, slot, True)
    holders.count -= 1
    if holders.set == NULL:
        return
    ids = holders_ids(holders) + _rank(holders.set, slot)
    memmove(ids, ids + 1, sizeof(uint32_t) * (holders.count - (ids - holders_ids(holders))))
    holders_whole(holders.set)[slot >> 6] &= ~_bit(slot)
    if holders.count == 1:
        _unset(holders, heap)
    elif holders.count == 0:
        holders_free(holders, heap)


cdef int holders_copy(holders_t* copy, const holders_t* holders, uint64_t* heap) noexcept nogil:
    """The same holders again, in `copy`. PK_OK or PK_E_NOMEM."""
    copy[0] = holders[0]
    if holders.set == NULL:
        return PK_OK
    copy.set = _set(holders.set.words, holders.set.room, heap)
    if copy.set == NULL:
        return PK_E_NOMEM
    memcpy(copy.set, holders.set, _bytes(holders.set.words, holders.set.room))
    return PK_OK


# --- Python face ---


cdef list holders_items(const holders_t* holders):
    """(slot, id, whole) of each, by slot."""
    cdef uint32_t index, slot
    if holders.set == NULL:
        return [(holders.slot, holders.id, not holders.partial)] * holders.count
    slots = [slot for slot in range(64 * holders.set.words) if _word(holders.set, slot >> 6) & _bit(slot)]
    ids = [holders_ids(holders)[index] for index in range(holders.count)]
    whole = [(holders_whole(holders.set)[slot >> 6] & _bit(slot)) != 0 for slot in slots]
    return list(zip(slots, ids, whole, strict=True))


cdef object holders_check(const holders_t* holders):
    """Assert all invariants."""
    cdef uint32_t index
    items = holders_items(holders)
    assert len(items) == holders.count, (items, holders.count)
    assert [whole for _, _, whole in items].count(False) == holders.partial, (items, holders.partial)
    for slot, id, _ in items:
        assert holders_find(holders, slot) == id, (items, slot)
    if holders.set == NULL:
        assert holders.count <= 1, holders.count
        return None
    assert 1 <= holders.count <= holders.set.room, (holders.count, holders.set.room)
    for index in range(holders.set.words):
        assert not holders_whole(holders.set)[index] & holders_part(holders.set)[index], items


@cython.final
@cython.auto_pickle(False)
cdef class Holders:
    """The holders of one node; for tests. Raises KeyError where a slot should be (or not be) among them."""

    def __cinit__(self, uint32_t width):
        self.width = width

    def __dealloc__(self):
        holders_free(&self.holders, &self.heap)

    def find(self, uint32_t slot) -> int:
        """The id of `slot`, or 0."""
        return holders_find(&self.holders, slot)

    def join(self, uint32_t slot, uint32_t id, bint whole) -> None:
        """Add a slot, with an id that is not 0. The width grows to have room for it."""
        if holders_find(&self.holders, slot):
            raise KeyError(slot)
        if id == 0:
            raise ValueError("0 is nobody's id")
        self.width = max(self.width, slot + 1)
        if holders_reserve(&self.holders, slot, self.width, &self.heap) != PK_OK:
            raise MemoryError(f"no memory for {self.holders.count + 1} holders")
        holders_join(&self.holders, slot, id, whole)

    def leave(self, uint32_t slot) -> None:
        """Remove a slot."""
        if not holders_find(&self.holders, slot):
            raise KeyError(slot)
        holders_leave(&self.holders, slot, &self.heap)

    def mark(self, uint32_t slot, bint whole) -> None:
        """A slot now holds the whole node, or a part."""
        if not holders_find(&self.holders, slot):
            raise KeyError(slot)
        holders_mark(&self.holders, slot, whole)

    def copied(self) -> list:
        """(slot, id, whole) of each holder of a copy, by slot."""
        cdef holders_t copy
        if holders_copy(&copy, &self.holders, &self.heap) != PK_OK:
            raise MemoryError(f"no memory for {self.holders.count} holders")
        items = holders_items(&copy)
        holders_free(&copy, &self.heap)
        return items

    def items(self) -> list:
        """(slot, id, whole) of each, by slot."""
        return holders_items(&self.holders)

    def __len__(self) -> int:
        return self.holders.count

    @property
    def memory_bytes(self) -> int:
        """Bytes of the set, 0 for fewer than two holders."""
        return self.heap

    def _check(self) -> None:
        holders_check(&self.holders)
        assert self.heap == holders_bytes(&self.holders), (self.heap, holders_bytes(&self.holders))
