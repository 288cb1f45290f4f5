# What each endpoint holds of the prefix index's nodes, in order of use.
from libc.stddef cimport size_t
from libc.stdint cimport uint32_t, uint64_t

ctypedef struct entry_t:     # endpoint `slot` holds the first `held` blocks of `node`
    uint32_t node            # 0 in a free entry
    uint32_t slot
    uint32_t held
    uint32_t newer           # neighbours in the endpoint's list, or 0; in a free entry: the next free one
    uint32_t older

ctypedef struct slot_t:
    uint32_t newest          # ends of the endpoint's list, or 0
    uint32_t oldest
    uint32_t held            # blocks
    uint32_t capacity

ctypedef struct lru_t:
    entry_t* entries         # entry 0 is none
    slot_t* slots
    size_t room              # entries allocated
    uint32_t top             # entries ever used
    uint32_t live            # entries in use
    uint32_t free            # list of free entries
    uint32_t width           # slots
    uint32_t capacity        # of a new slot
    uint64_t total           # blocks held by all

# The number of entries must stay below 2**31. PK_OK or PK_E_NOMEM, nothing changed.
cdef int lru_init(lru_t* lru, uint32_t width, uint32_t capacity) noexcept nogil
cdef void lru_free(lru_t* lru) noexcept nogil
# Slots 0..width-1; never shrinks
cdef int lru_widen(lru_t* lru, uint32_t width) noexcept nogil
# Room for so many more entries
cdef int lru_reserve(lru_t* lru, uint32_t entries) noexcept nogil
# A new entry directly behind `newer`, or the newest when that is 0; lru_reserve made room
cdef uint32_t lru_add(lru_t* lru, uint32_t node, uint32_t slot, uint32_t held, uint32_t newer) noexcept nogil
# Put an entry directly behind `newer`, another one of its slot, or first when that is 0
cdef void lru_move(lru_t* lru, uint32_t entry, uint32_t newer) noexcept nogil
# The entry now holds so many blocks
cdef void lru_hold(lru_t* lru, uint32_t entry, uint32_t held) noexcept nogil
cdef void lru_drop(lru_t* lru, uint32_t entry) noexcept nogil
cdef uint64_t lru_bytes(const lru_t* lru) noexcept nogil
cdef list lru_order(const lru_t* lru, uint32_t slot)
cdef object lru_check(const lru_t* lru)


cdef class Lru:
    cdef lru_t lru
    cdef int _answer(self, int code) except -1
    cdef int _entry(self, uint32_t entry) except -1
    cdef int _neighbour(self, uint32_t slot, uint32_t newer) except -1
