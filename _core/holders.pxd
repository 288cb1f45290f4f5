# Who holds a node of the prefix index: endpoint slots, each with the id of its LRU entry, holding all of it or a part.
from libc.stdint cimport uint32_t, uint64_t

# Behind it lie, in one block and in this order:
# uint64_t whole[words]   bit `slot`: holds all of the node
# uint64_t part[words]    bit `slot`: holds a leading part of it
# uint32_t ids[room]      by slot
ctypedef struct holder_set_t:
    uint32_t words
    uint32_t room

ctypedef struct holders_t:       # all zero: nobody
    holder_set_t* set            # owned; NULL for fewer than two
    uint32_t slot                # the only holder, without a set
    uint32_t id
    uint32_t count
    uint32_t partial             # how many of them hold a part only

cdef inline uint64_t* holders_whole(const holder_set_t* held) noexcept nogil:
    return <uint64_t*>(held + 1)

cdef inline uint64_t* holders_part(const holder_set_t* held) noexcept nogil:
    return holders_whole(held) + held.words

# The ids of all holders, by slot: `count` of them
cdef inline uint32_t* holders_ids(const holders_t* holders) noexcept nogil:
    if holders.set == NULL:
        return <uint32_t*>&holders.id
    return <uint32_t*>(holders_part(holders.set) + holders.set.words)

cdef inline uint32_t holders_bits(uint64_t word) noexcept nogil:
    word -= (word >> 1) & <uint64_t>0x5555555555555555
    word = (word & <uint64_t>0x3333333333333333) + ((word >> 2) & <uint64_t>0x3333333333333333)
    word = (word + (word >> 4)) & <uint64_t>0x0F0F0F0F0F0F0F0F
    return <uint32_t>(word * <uint64_t>0x0101010101010101 >> 56)

# `heap` counts the bytes of all sets. Id of `slot`, or 0 (which is nobody's id)
cdef uint32_t holders_find(const holders_t* holders, uint32_t slot) noexcept nogil
# Room for `slot` to join; sets are made for `width` slots. PK_OK or PK_E_NOMEM
cdef int holders_reserve(holders_t* holders, uint32_t slot, uint32_t width, uint64_t* heap) noexcept nogil
cdef void holders_join(holders_t* holders, uint32_t slot, uint32_t id, bint whole) noexcept nogil
cdef void holders_leave(holders_t* holders, uint32_t slot, uint64_t* heap) noexcept nogil
# `slot`, a holder, now holds all of the node, or a part
cdef void holders_mark(holders_t* holders, uint32_t slot, bint whole) noexcept nogil
cdef int holders_copy(holders_t* copy, const holders_t* holders, uint64_t* heap) noexcept nogil
cdef void holders_free(holders_t* holders, uint64_t* heap) noexcept nogil
cdef uint64_t holders_bytes(const holders_t* holders) noexcept nogil
cdef list holders_items(const holders_t* holders)
cdef object holders_check(const holders_t* holders)


cdef class Holders:
    cdef holders_t holders
    cdef uint64_t heap
    cdef uint32_t width
