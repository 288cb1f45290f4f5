"""What each endpoint holds of the nodes of the prefix index (`radix`), in order of use; it knows nothing of prefixes.

Invariants: every live entry is in the list of its slot, once; `held` of a slot is the sum over its entries, `total`
that over all slots.   Cost: O(1); reserving may grow the pool, which doubles and never shrinks.
Memory: one pool of entries, one array of slots; indexes, not pointers.   Threads: one caller at a time; GIL not needed.
"""
cimport cython
from libc.stddef cimport size_t
from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memset

from picker._core.alloc cimport PK_E_NOMEM, PK_OK, pk_free, pk_grow, pk_resize

# --- C kernel ---


cdef void _link(lru_t* lru, uint32_t entry, uint32_t newer) noexcept nogil:
    cdef slot_t* slot = &lru.slots[lru.entries[entry].slot]
    cdef uint32_t older = lru.entries[newer].older if newer else slot.newest
    lru.entries[entry].newer = newer
    lru.entries[entry].older = older
    if newer:
        lru.entries[newer].older = entry
    else:
        slot.newest = entry
    if older:
        lru.entries[older].newer = entry
    else:
        slot.oldest = entry


cdef void _unlink(lru_t* lru, uint32_t entry) noexcept nogil:
    cdef slot_t* slot = &lru.slots[lru.entries[entry].slot]
    cdef uint32_t newer = lru.entries[entry].newer, older = lru.entries[entry].older
    if newer:
        lru.entries[newer].older = older
    else:
        slot.newest = older
    if older:
        lru.entries[older].newer = newer
    else:
        slot.oldest = newer


cdef void lru_move(lru_t* lru, uint32_t entry, uint32_t newer) noexcept nogil:
    """Put an entry directly behind `newer`, another one of its slot, or first when that is 0."""
    if lru.entries[entry].newer != newer:
        _unlink(lru, entry)
        _link(lru, entry, newer)


cdef void lru_hold(lru_t* lru, uint32_t entry, uint32_t held) noexcept nogil:
    """The entry now holds so many blocks."""
    cdef uint32_t before = lru.entries[entry].held
    lru.entries[entry].held = held
    lru.slots[lru.entries[entry].slot].held += held - before  # unsigned: right when it shrinks, too
    lru.total += held
    lru.total -= before


cdef int lru_reserve(lru_t* lru, uint32_t entries) noexcept nogil:
    """Room for so many more entries."""
    return pk_grow(<void**>&lru.entries, &lru.room, <size_t>lru.live + entries + 1, sizeof(entry_t))


cdef uint32_t lru_add(lru_t* lru, uint32_t node, uint32_t slot, uint32_t held, uint32_t newer) noexcept nogil:
    """A new entry directly behind `newer`, or the newest when that is 0; lru_reserve made room."""
    cdef uint32_t entry = lru.free
    if entry:
        lru.free = lru.entries[entry].newer
    else:
        entry = lru.top
        lru.top += 1
    lru.live += 1
    lru.entries[entry].node = node
    lru.entries[entry].slot = slot
    lru.entries[entry].held = 0
    _link(lru, entry, newer)
    lru_hold(lru, entry, held)
    return entry


cdef void lru_drop(lru_t* lru, uint32_t entry) noexcept nogil:
    """Remove an entry and what it holds."""
    lru_hold(lru, entry, 0)
    _unlink(lru, entry)
    lru.entries[entry].node = 0
    lru.entries[entry].newer = lru.free
    lru.free = entry
    lru.live -= 1


cdef int lru_widen(lru_t* lru, uint32_t width) noexcept nogil:
    """Slots 0..width-1; never shrinks."""
    cdef slot_t* slots
    if width <= lru.width:
        return PK_OK
    slots = <slot_t*>pk_resize(lru.slots, width, sizeof(slot_t))
    if slots == NULL:
        return PK_E_NOMEM
    lru.slots = slots
    while lru.width < width:
        memset(&slots[lru.width], 0, sizeof(slot_t))
        slots[lru.width].capacity = lru.capacity
        lru.width += 1
    return PK_OK


cdef int lru_init(lru_t* lru, uint32_t width, uint32_t capacity) noexcept nogil:
    """Slots that hold nothing and have room for `capacity` blocks each."""
    memset(lru, 0, sizeof(lru_t))
    lru.capacity = capacity
    lru.top = 1
    if lru_reserve(lru, 0) != PK_OK or lru_widen(lru, width) != PK_OK:
        lru_free(lru)
        return PK_E_NOMEM
    return PK_OK


cdef void lru_free(lru_t* lru) noexcept nogil:
    pk_free(lru.entries)
    pk_free(lru.slots)
    memset(lru, 0, sizeof(lru_t))


cdef uint64_t lru_bytes(const lru_t* lru) noexcept nogil:
    return lru.room * sizeof(entry_t) + lru.width * sizeof(slot_t)


# --- Python face ---


cdef list lru_order(const lru_t* lru, uint32_t slot):
    """The entries of a slot, newest first."""
    cdef uint32_t entry = lru.slots[slot].newest
    order = []
    while entry:
        order.append(entry)
        entry = lru.entries[entry].older
    return order


cdef object _check_slot(const lru_t* lru, uint32_t slot):
    cdef uint32_t entry = lru.slots[slot].newest, newer = 0, held = 0
    while entry:
        assert lru.entries[entry].slot == slot and lru.entries[entry].node, (slot, entry)
        assert lru.entries[entry].newer == newer, (slot, entry)
        held += lru.entries[entry].held
        newer = entry
        entry = lru.entries[entry].older
    assert lru.slots[slot].oldest == newer and lru.slots[slot].held == held, (slot, newer, held)


cdef object lru_check(const lru_t* lru):
    """Assert all invariants."""
    cdef uint32_t slot, entry = lru.free
    cdef uint64_t total = 0
    seen = []
    while entry:
        seen.append(entry)
        entry = lru.entries[entry].newer
    assert len(seen) + lru.live + 1 == lru.top, (seen, lru.live, lru.top)
    for slot in range(lru.width):
        _check_slot(lru, slot)
        seen += lru_order(lru, slot)
        total += lru.slots[slot].held
    assert sorted(seen) == list(range(1, lru.top)), seen
    assert lru.total == total, (lru.total, total)


@cython.final
@cython.auto_pickle(False)
cdef class Lru:
    """Entries of slots 0..width-1; for tests. Raises KeyError for an entry or slot that does not exist."""

    def __cinit__(self, uint32_t width):
        self._answer(lru_init(&self.lru, width, 0))

    def __dealloc__(self):
        lru_free(&self.lru)

    cdef int _answer(self, int code) except -1:
        if code != PK_OK:
            raise MemoryError(f"no memory for {self.lru.live + 1} entries")
        return 0

    cdef int _entry(self, uint32_t entry) except -1:
        if not 0 < entry < self.lru.top or not self.lru.entries[entry].node:
            raise KeyError(entry)
        return 0

    cdef int _neighbour(self, uint32_t slot, uint32_t newer) except -1:
        if newer:
            self._entry(newer)
            if self.lru.entries[newer].slot != slot:
                raise ValueError(f"entry {newer} is not one of slot {slot}")
        return 0

    def add(self, uint32_t node, uint32_t slot, uint32_t held, uint32_t newer=0) -> int:
        """A new entry behind `newer`, or the newest. Raises ValueError for node 0, or if `newer` is another slot's."""
        if slot >= self.lru.width:
            raise KeyError(slot)
        self._neighbour(slot, newer)
        if not node:
            raise ValueError("node 0 is none")
        self._answer(lru_reserve(&self.lru, 1))
        return lru_add(&self.lru, node, slot, held, newer)

    def move(self, uint32_t entry, uint32_t newer=0) -> None:
        """Put an entry directly behind `newer`, or first. Raises ValueError if `newer` is itself or another slot's."""
        self._entry(entry)
        self._neighbour(self.lru.entries[entry].slot, newer)
        if entry == newer:
            raise ValueError(f"entry {entry} cannot be behind itself")
        lru_move(&self.lru, entry, newer)

    def hold(self, uint32_t entry, uint32_t held) -> None:
        """The entry now holds so many blocks."""
        self._entry(entry)
        lru_hold(&self.lru, entry, held)

    def drop(self, uint32_t entry) -> None:
        """Remove an entry and what it holds."""
        self._entry(entry)
        lru_drop(&self.lru, entry)

    def widen(self, uint32_t width) -> None:
        """Slots 0..width-1; never shrinks."""
        self._answer(lru_widen(&self.lru, width))

    def order(self, uint32_t slot) -> list:
        """The (node, blocks held) of a slot's entries, newest first."""
        cdef uint32_t entry
        if slot >= self.lru.width:
            raise KeyError(slot)
        return [(self.lru.entries[entry].node, self.lru.entries[entry].held) for entry in lru_order(&self.lru, slot)]

    def held(self, uint32_t slot) -> int:
        """Blocks a slot holds."""
        if slot >= self.lru.width:
            raise KeyError(slot)
        return self.lru.slots[slot].held

    def __len__(self) -> int:
        return self.lru.total

    @property
    def memory_bytes(self) -> int:
        """Bytes allocated."""
        return lru_bytes(&self.lru)

    def _check(self) -> None:
        lru_check(&self.lru)
