"""Prefix index: which endpoint holds how long a prefix. A path-compressed radix tree over chained block hashes.

Invariants: a node is a run of blocks (`runs`) that at least one endpoint holds whole (`holders`); an endpoint that
holds a block holds all blocks before it; in an endpoint's list (`lru`) a node comes before its descendants, so the
oldest entry never has a held child. Eviction therefore takes, block by block, what was touched longest ago, the
deepest first.
Cost: match O(nodes on the path + log run + endpoints), without allocating. Insert the same, plus O(holders) for a
node it splits and O(1) for an entry it evicts. Even a path of one-block nodes is matched in less time than hashing
its blocks took, so no prompt can make the index the slow part.
Memory: bounded by `max_blocks`; pools and table keep their largest size.
Threads: one caller at a time; any thread, GIL not needed.
"""
cimport cython
from libc.stdint cimport UINT32_MAX, uint32_t, uint64_t
from libc.string cimport memset

from picker._core.alloc cimport PK_E_NOMEM, PK_E_RANGE, PK_OK, pk_alloc, pk_free
from picker._core.holders cimport (
    holder_set_t, holders_bits, holders_bytes, holders_check, holders_copy, holders_find, holders_free, holders_ids,
    holders_items, holders_join, holders_leave, holders_mark, holders_part, holders_reserve, holders_t, holders_whole,
)
from picker._core.lru cimport (
    entry_t, lru_add, lru_bytes, lru_check, lru_drop, lru_free, lru_hold, lru_init, lru_move, lru_order, lru_reserve,
    lru_widen, slot_t,
)
from picker._core.runs cimport (
    node_t, runs_add, runs_bytes, runs_check, runs_common, runs_cut, runs_drop, runs_extend, runs_find, runs_free,
    runs_init, runs_split,
)

cdef enum:
    DENSE_BITS = 12      # from so many on, the endpoints of a word are written by vectors, not one by one

cdef extern from *:
    """
    static const uint32_t PK_LANES[32] = {
        1u << 0, 1u << 1, 1u << 2, 1u << 3, 1u << 4, 1u << 5, 1u << 6, 1u << 7, 1u << 8, 1u << 9, 1u << 10,
        1u << 11, 1u << 12, 1u << 13, 1u << 14, 1u << 15, 1u << 16, 1u << 17, 1u << 18, 1u << 19, 1u << 20,
        1u << 21, 1u << 22, 1u << 23, 1u << 24, 1u << 25, 1u << 26, 1u << 27, 1u << 28, 1u << 29, 1u << 30, 1u << 31};
    """
    const uint32_t PK_LANES[32]
    uint32_t __builtin_ctzll(uint64_t word) noexcept nogil

ctypedef struct walk_t:      # an insert under way
    const uint64_t* hashes
    uint32_t count           # blocks to hold in the end
    uint32_t at              # leading ones held so far
    uint32_t slot
    uint32_t node            # deepest node on the path that the endpoint holds some of, or the root
    uint32_t entry           # its entry there
    uint32_t base            # where the node's run begins

# --- C kernel: match ---


cdef inline void _write_lanes(uint32_t* out, uint32_t lanes, uint32_t bits, uint32_t value) noexcept nogil:
    """out[i] = value for every bit i, without branches, so that the compiler can use vectors."""
    cdef uint32_t lane
    if bits == <uint32_t>0xFFFFFFFF:
        for lane in range(32):
            out[lane] = value
        return
    for lane in range(lanes):
        out[lane] = value if bits & PK_LANES[lane] else out[lane]


cdef inline void _write_word(uint32_t* out, uint32_t lanes, uint64_t word, uint32_t value) noexcept nogil:
    """out[i] = value for every bit i."""
    if holders_bits(word) < DENSE_BITS:
        while word:
            out[__builtin_ctzll(word)] = value
            word &= word - 1
        return
    _write_lanes(out, lanes if lanes < 32 else 32, <uint32_t>word, value)
    if lanes > 32:
        _write_lanes(out + 32, lanes - 32, <uint32_t>(word >> 32), value)


cdef void _write_whole(const radix_t* radix, const holders_t* holders, const holder_set_t* below, uint32_t value,
                       uint32_t* out) noexcept nogil:
    """`value` for those that hold a whole node, less those that hold `below` whole (NULL: nobody known)."""
    cdef uint32_t index, lanes
    cdef uint64_t word
    if holders.set == NULL:
        out[holders.slot] = value
        return
    for index in range(holders.set.words):
        word = holders_whole(holders.set)[index]
        if below != NULL and index < below.words:
            word &= ~holders_whole(below)[index]
        if word:
            lanes = radix.lru.width - 64 * index
            _write_word(out + 64 * index, lanes if lanes < 64 else 64, word, value)


cdef void _write_part(const radix_t* radix, const holders_t* holders, uint32_t base, uint32_t common,
                      uint32_t* out) noexcept nogil:
    """The values of those that hold a part of a node; it begins at `base` and has `common` of the blocks asked for."""
    cdef const uint32_t* ids = holders_ids(holders)
    cdef uint32_t index, held
    cdef uint64_t word, every
    for index in range(holders.set.words):
        word = holders_part(holders.set)[index]
        every = word | holders_whole(holders.set)[index]
        while word:
            held = radix.lru.entries[ids[holders_bits(every & ((word & -word) - 1))]].held
            out[64 * index + __builtin_ctzll(word)] = base + (held if held < common else common)
            word &= word - 1
        ids += holders_bits(every)


cdef uint32_t radix_match(const radix_t* radix, const uint64_t* hashes, uint32_t count, uint32_t* out) noexcept nogil:
    """out[slot] = leading blocks of `hashes` that each endpoint holds; returns the largest.

    Who holds some of a node holds all of its parent, so each step down writes only those that are lost there.
    """
    cdef uint32_t at = 0, common, index = 0
    cdef const node_t* above = &radix.runs.nodes[0]
    cdef const node_t* node
    if radix.lru.width:
        memset(out, 0, sizeof(uint32_t) * radix.lru.width)
    while at < count and above.kids:
        index = runs_find(&radix.runs, hashes[at], index)
        if not index:
            break
        node = &radix.runs.nodes[index]
        common = runs_common(node, hashes + at, count - at)
        if above.holders.count > node.holders.count:
            _write_whole(radix, &above.holders, node.holders.set, at, out)
        if node.holders.partial:
            _write_part(radix, &node.holders, at, common, out)
        at += common
        above = node
        if common < node.length:
            break
    if at:
        _write_whole(radix, &above.holders, NULL, at, out)
    return at


# --- C kernel: eviction ---


cdef uint32_t _longest(const radix_t* radix, const node_t* node) noexcept nogil:
    """Blocks of the node's run that somebody still holds."""
    cdef uint32_t index, held, longest = 0
    if node.holders.partial < node.holders.count:
        return node.length
    for index in range(node.holders.count):
        held = radix.lru.entries[holders_ids(&node.holders)[index]].held
        longest = held if held > longest else longest
    return longest


cdef void _settle(radix_t* radix, uint32_t index) noexcept nogil:
    """Give up the blocks of a node that nobody holds any more. It has no children then: they would be held too."""
    cdef node_t* node = &radix.runs.nodes[index]
    cdef const entry_t* entry
    cdef uint32_t length, i
    if node.holders.count == 0:
        runs_drop(&radix.runs, index)
        return
    length = _longest(radix, node)
    if length == node.length:
        return
    runs_cut(&radix.runs, index, length)
    for i in range(node.holders.count):
        entry = &radix.lru.entries[holders_ids(&node.holders)[i]]
        holders_mark(&node.holders, entry.slot, entry.held == length)


cdef void _trim(radix_t* radix, uint32_t id, uint32_t blocks) noexcept nogil:
    """The endpoint no longer holds the last `blocks` of what it holds of this entry's node."""
    cdef const entry_t* entry = &radix.lru.entries[id]
    cdef uint32_t index = entry.node
    if entry.held == blocks:
        holders_leave(&radix.runs.nodes[index].holders, entry.slot, &radix.heap)
        lru_drop(&radix.lru, id)
    else:
        lru_hold(&radix.lru, id, entry.held - blocks)
        holders_mark(&radix.runs.nodes[index].holders, entry.slot, False)
    _settle(radix, index)


cdef void _evict(radix_t* radix, uint32_t slot, uint32_t blocks) noexcept nogil:
    """Take the endpoint's oldest blocks away; it holds at least so many."""
    cdef uint32_t oldest, held
    while blocks:
        oldest = radix.lru.slots[slot].oldest
        held = radix.lru.entries[oldest].held
        held = held if held < blocks else blocks
        _trim(radix, oldest, held)
        blocks -= held


# --- C kernel: insert ---


cdef void _split_holders(radix_t* radix, uint32_t upper, uint32_t lower) noexcept nogil:
    """Hand the holders of a node that was just cut to its halves; both have all of them now."""
    cdef holders_t* above = &radix.runs.nodes[upper].holders
    cdef uint32_t at = radix.runs.nodes[upper].length, i, held
    cdef uint32_t* id
    cdef entry_t* entry
    for i in range(above.count):
        id = &holders_ids(above)[i]
        entry = &radix.lru.entries[id[0]]
        held = entry.held
        if held > at:
            lru_hold(&radix.lru, id[0], held - at)
            id[0] = lru_add(&radix.lru, upper, entry.slot, at, entry.newer)
        else:
            entry.node = upper
            holders_leave(&radix.runs.nodes[lower].holders, entry.slot, &radix.heap)
        holders_mark(above, entry.slot, held >= at)


cdef int _split(radix_t* radix, uint32_t lower, uint32_t at, uint32_t* upper) noexcept nogil:
    """Cut a node in two, with the entries of its holders. The lower half keeps its index."""
    cdef holders_t copy
    if lru_reserve(&radix.lru, radix.runs.nodes[lower].holders.count) != PK_OK:
        return PK_E_NOMEM
    if holders_copy(&copy, &radix.runs.nodes[lower].holders, &radix.heap) != PK_OK:
        return PK_E_NOMEM
    if runs_split(&radix.runs, lower, at, upper) != PK_OK:
        holders_free(&copy, &radix.heap)
        return PK_E_NOMEM
    radix.runs.nodes[upper[0]].holders = copy
    _split_holders(radix, upper[0], lower)
    return PK_OK


cdef int _join(radix_t* radix, walk_t* walk, uint32_t index, uint32_t held) noexcept nogil:
    """The endpoint, which held nothing of this node, now holds its first `held` blocks."""
    cdef node_t* node = &radix.runs.nodes[index]
    if lru_reserve(&radix.lru, 1) != PK_OK:
        return PK_E_NOMEM
    if holders_reserve(&node.holders, walk.slot, radix.lru.width, &radix.heap) != PK_OK:
        return PK_E_NOMEM
    walk.entry = lru_add(&radix.lru, index, walk.slot, held, walk.entry)
    holders_join(&node.holders, walk.slot, walk.entry, held == node.length)
    return PK_OK


cdef int _touch(radix_t* radix, walk_t* walk) noexcept nogil:
    """Make newest what the endpoint already holds of the path, root first."""
    cdef uint32_t index, id, common, held
    while walk.at < walk.count:
        index = runs_find(&radix.runs, walk.hashes[walk.at], walk.node)
        id = holders_find(&radix.runs.nodes[index].holders, walk.slot)
        if not id:
            break
        common = runs_common(&radix.runs.nodes[index], walk.hashes + walk.at, walk.count - walk.at)
        # What lies behind the query keeps its age, in a node of its own, unless it stays next in age anyway.
        if common < radix.lru.entries[id].held and radix.lru.entries[id].newer != walk.entry:
            if _split(radix, index, common, &index) != PK_OK:
                return PK_E_NOMEM
            id = holders_find(&radix.runs.nodes[index].holders, walk.slot)
        lru_move(&radix.lru, id, walk.entry)
        walk.node = index
        walk.entry = id
        walk.base = walk.at
        held = radix.lru.entries[id].held
        held = held if held < common else common
        walk.at += held
        if held < radix.runs.nodes[index].length:
            break
    return PK_OK


cdef void _make_room(radix_t* radix, walk_t* walk) noexcept nogil:
    """Evict what the new blocks displace; want fewer of them when all else that the endpoint held is gone."""
    cdef const slot_t* slot = &radix.lru.slots[walk.slot]
    cdef uint64_t fresh = walk.count - walk.at, spare = slot.held - walk.at, over = 0
    if slot.held + fresh > slot.capacity:
        over = slot.held + fresh - slot.capacity
    if radix.lru.total + fresh > radix.max_blocks + over:
        over = radix.lru.total + fresh - radix.max_blocks
    if over > spare:
        walk.count -= <uint32_t>(over - spare)
        over = spare
    _evict(radix, walk.slot, <uint32_t>over)


cdef int _hold(radix_t* radix, walk_t* walk, uint32_t index, uint32_t base) noexcept nogil:
    """Hold what this node, which begins at `base`, shares with the query; cut it where they part."""
    cdef uint32_t common = runs_common(&radix.runs.nodes[index], walk.hashes + base, walk.count - base), id
    if common < radix.runs.nodes[index].length and base + common < walk.count:
        if _split(radix, index, common, &index) != PK_OK:
            return PK_E_NOMEM
    id = holders_find(&radix.runs.nodes[index].holders, walk.slot)
    if not id:
        if _join(radix, walk, index, common) != PK_OK:
            return PK_E_NOMEM
    else:
        walk.entry = id
        if radix.lru.entries[id].held < common:
            lru_hold(&radix.lru, id, common)
            holders_mark(&radix.runs.nodes[index].holders, walk.slot, common == radix.runs.nodes[index].length)
    walk.node = index
    walk.base = base
    walk.at = base + common
    return PK_OK


cdef int _append(radix_t* radix, walk_t* walk) noexcept nogil:
    """Hold the rest of the query, which is in no node: in a longer run if that concerns nobody else, else in a leaf."""
    cdef const node_t* node = &radix.runs.nodes[walk.node]
    cdef uint32_t fresh = walk.count - walk.at
    if lru_reserve(&radix.lru, 1) != PK_OK:
        return PK_E_NOMEM
    if walk.node and node.holders.count == 1 and node.kids == 0:
        if runs_extend(&radix.runs, walk.node, walk.hashes + walk.at, fresh) != PK_OK:
            return PK_E_NOMEM
        lru_hold(&radix.lru, walk.entry, node.length)
    else:
        if runs_add(&radix.runs, walk.node, walk.hashes + walk.at, fresh, &walk.node) != PK_OK:
            return PK_E_NOMEM
        walk.entry = lru_add(&radix.lru, walk.node, walk.slot, fresh, walk.entry)
        holders_join(&radix.runs.nodes[walk.node].holders, walk.slot, walk.entry, True)
    walk.at = walk.count
    return PK_OK


cdef int radix_insert(radix_t* radix, const uint64_t* hashes, uint32_t count, uint32_t slot) noexcept nogil:
    """Endpoint `slot` now holds these blocks, the first ones it has room for; they are its newest."""
    cdef walk_t walk
    cdef uint32_t index
    cdef int code
    if slot >= radix.lru.width:
        return PK_E_RANGE
    memset(&walk, 0, sizeof(walk))
    walk.hashes = hashes
    walk.slot = slot
    walk.count = count if count < radix.lru.slots[slot].capacity else radix.lru.slots[slot].capacity
    code = _touch(radix, &walk)
    if code == PK_OK and walk.at < walk.count:
        _make_room(radix, &walk)
        if walk.node and walk.at < walk.count:
            code = _hold(radix, &walk, walk.node, walk.base)
    while code == PK_OK and walk.at < walk.count:
        index = runs_find(&radix.runs, hashes[walk.at], walk.node)
        code = _hold(radix, &walk, index, walk.at) if index else _append(radix, &walk)
    return code


# --- C kernel: the rest ---


cdef int radix_init(radix_t* radix, uint32_t width, uint32_t capacity, uint64_t max_blocks) noexcept nogil:
    """An empty index. PK_E_RANGE when max_blocks is 2**31 or more: nodes and entries have 32-bit numbers."""
    memset(radix, 0, sizeof(radix_t))
    if max_blocks >= <uint64_t>1 << 31:
        return PK_E_RANGE
    radix.max_blocks = max_blocks
    if runs_init(&radix.runs) != PK_OK:
        return PK_E_NOMEM
    if lru_init(&radix.lru, width, capacity) != PK_OK:
        runs_free(&radix.runs)
        return PK_E_NOMEM
    return PK_OK


cdef void radix_free(radix_t* radix) noexcept nogil:
    cdef uint32_t index
    for index in range(1, radix.runs.top):
        holders_free(&radix.runs.nodes[index].holders, &radix.heap)
    runs_free(&radix.runs)
    lru_free(&radix.lru)


cdef int radix_widen(radix_t* radix, uint32_t width) noexcept nogil:
    """Room for endpoint slots 0..width-1; never shrinks. Holder sets widen one by one, when a new slot joins them."""
    return lru_widen(&radix.lru, width)


cdef void radix_forget(radix_t* radix, uint32_t slot) noexcept nogil:
    """Endpoint `slot` holds nothing any more. O(its entries)."""
    _evict(radix, slot, radix_held(radix, slot))


cdef int radix_set_capacity(radix_t* radix, uint32_t slot, uint32_t blocks) noexcept nogil:
    """Blocks endpoint `slot` may hold; evicts at once if it holds more. PK_OK or PK_E_RANGE."""
    if slot >= radix.lru.width:
        return PK_E_RANGE
    radix.lru.slots[slot].capacity = blocks
    if radix.lru.slots[slot].held > blocks:
        _evict(radix, slot, radix.lru.slots[slot].held - blocks)
    return PK_OK


cdef uint32_t radix_held(const radix_t* radix, uint32_t slot) noexcept nogil:
    """Blocks endpoint `slot` holds."""
    return radix.lru.slots[slot].held if slot < radix.lru.width else 0


cdef uint64_t radix_total(const radix_t* radix) noexcept nogil:
    """(Block, endpoint) pairs held."""
    return radix.lru.total


cdef uint64_t radix_bytes(const radix_t* radix) noexcept nogil:
    """Bytes allocated, without the allocator's own overhead."""
    return radix.heap + runs_bytes(&radix.runs) + lru_bytes(&radix.lru)


# --- Python face ---


cdef const uint64_t* _start(const uint64_t[::1] hashes) noexcept:
    if hashes.shape[0] == 0:
        return NULL
    return &hashes[0]


cdef uint32_t _count(const uint64_t[::1] hashes) noexcept:
    return <uint32_t>min(hashes.shape[0], <Py_ssize_t>UINT32_MAX)


cdef object _check_holder(const radix_t* radix, uint32_t index, uint32_t slot, uint32_t id, bint whole):
    cdef const entry_t* entry = &radix.lru.entries[id]
    cdef uint32_t length = radix.runs.nodes[index].length, parent = radix.runs.nodes[index].parent, above
    assert entry.node == index and entry.slot == slot and 0 < entry.held <= length, (index, slot, id)
    assert whole == (entry.held == length), (index, slot, id)
    if parent:
        above = holders_find(&radix.runs.nodes[parent].holders, slot)
        assert above and radix.lru.entries[above].held == radix.runs.nodes[parent].length, (index, slot, id)


cdef object _check_order(const radix_t* radix, uint32_t slot):
    """An ancestor is newer than its descendants."""
    cdef uint32_t id
    newer = {0}
    for id in lru_order(&radix.lru, slot):
        assert radix.runs.nodes[radix.lru.entries[id].node].parent in newer, (slot, id)
        newer.add(radix.lru.entries[id].node)
    assert radix.lru.slots[slot].held <= radix.lru.slots[slot].capacity, slot


@cython.final
@cython.auto_pickle(False)
cdef class Radix:
    """Which endpoint holds how long a prefix.

    `width` endpoints, numbered from 0, each with room for `capacity` blocks; `max_blocks`, below 2**31, limits the
    (block, endpoint) pairs. Blocks are given by their chained hashes, an array of 64-bit unsigned integers
    (`array("Q")`). Raises ValueError for an endpoint that is not below the width.
    """

    def __cinit__(self, uint32_t width, *, uint32_t capacity, uint64_t max_blocks):
        cdef int code = radix_init(&self.radix, width, capacity, max_blocks)
        if code == PK_E_RANGE:
            raise ValueError(f"max_blocks must be below 2**31: {max_blocks}")
        if code != PK_OK:
            raise MemoryError(f"no memory for an index of {width} endpoints")

    def __dealloc__(self):
        radix_free(&self.radix)

    cdef int _slot(self, uint32_t slot) except -1:
        if slot >= self.radix.lru.width:
            raise ValueError(f"endpoint {slot} is not below the width, {self.radix.lru.width}")
        return 0

    def match(self, const uint64_t[::1] hashes not None) -> list:
        """How many leading blocks of `hashes` each endpoint holds."""
        cdef uint32_t* out = <uint32_t*>pk_alloc(self.radix.lru.width, sizeof(uint32_t))
        cdef uint32_t slot
        if out == NULL:
            raise MemoryError(f"no memory for {self.radix.lru.width} answers")
        try:
            radix_match(&self.radix, _start(hashes), _count(hashes), out)
            return [out[slot] for slot in range(self.radix.lru.width)]
        finally:
            pk_free(out)

    def match_into(self, const uint64_t[::1] hashes not None, uint32_t[::1] out not None) -> int:
        """The same, written to `out` (`array("I")`); returns the largest. Raises ValueError if `out` is too short."""
        if out.shape[0] == 0 or out.shape[0] < self.radix.lru.width:
            raise ValueError(f"room for {out.shape[0]} of {self.radix.lru.width} answers")
        return radix_match(&self.radix, _start(hashes), _count(hashes), &out[0])

    def insert(self, const uint64_t[::1] hashes not None, uint32_t slot) -> None:
        """An endpoint now holds these blocks, and they are its newest.

        To stay within its capacity and the index within `max_blocks`, the endpoint's own oldest blocks are evicted,
        the deepest first. What still has no room is left out at the end. Raises MemoryError; the endpoint then holds
        fewer of the blocks, and may have lost older ones.
        """
        self._slot(slot)
        if radix_insert(&self.radix, _start(hashes), _count(hashes), slot) != PK_OK:
            raise MemoryError(f"no memory for {hashes.shape[0]} blocks")

    def forget(self, uint32_t slot) -> None:
        """An endpoint holds nothing any more. Its capacity stays."""
        self._slot(slot)
        radix_forget(&self.radix, slot)

    def set_capacity(self, uint32_t slot, uint32_t blocks) -> None:
        """Blocks an endpoint may hold. Evicts at once if it holds more."""
        self._slot(slot)
        radix_set_capacity(&self.radix, slot, blocks)

    def held(self, uint32_t slot) -> int:
        """Blocks an endpoint holds."""
        self._slot(slot)
        return radix_held(&self.radix, slot)

    def widen(self, uint32_t width) -> None:
        """Room for endpoints 0..width-1; never shrinks."""
        if radix_widen(&self.radix, width) != PK_OK:
            raise MemoryError(f"no memory for {width} endpoints")

    def __len__(self) -> int:
        """(Block, endpoint) pairs held."""
        return radix_total(&self.radix)

    @property
    def width(self) -> int:
        """Endpoints there is room for."""
        return self.radix.lru.width

    @property
    def memory_bytes(self) -> int:
        """Bytes allocated, without the allocator's own overhead."""
        return radix_bytes(&self.radix)

    @property
    def nodes(self) -> int:
        """Runs of blocks in the tree."""
        return self.radix.runs.live

    def _check(self) -> None:
        cdef uint32_t index, slot
        cdef uint64_t heap = 0, holders = 0
        runs_check(&self.radix.runs)
        lru_check(&self.radix.lru)
        for index in range(1, self.radix.runs.top):
            if self.radix.runs.nodes[index].hashes == NULL:
                continue
            items = holders_items(&self.radix.runs.nodes[index].holders)
            holders_check(&self.radix.runs.nodes[index].holders)
            assert True in [whole for _, _, whole in items], (index, items)
            for slot, id, whole in items:
                _check_holder(&self.radix, index, slot, id, whole)
            heap += holders_bytes(&self.radix.runs.nodes[index].holders)
            holders += len(items)
        for slot in range(self.radix.lru.width):
            _check_order(&self.radix, slot)
        assert heap == self.radix.heap and holders == self.radix.lru.live, (heap, holders)
        assert self.radix.lru.total <= self.radix.max_blocks, self.radix.lru.total
