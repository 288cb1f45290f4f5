"""The trie of the prefix index (`radix`): nodes are non-empty runs of chained block hashes; it knows of no endpoints.

Invariants: no two children of a node begin with the same hash; each node but the root is in the table once.
Equal chained hash means equal prefix, so equal last hashes prove equal runs, and where two runs part
can be found by bisection. Hashes that are not chained give wrong answers, never a broken trie.
Cost: find O(1); common O(log run), O(1) for whole runs; add, extend, cut and split O(run). Add and split may grow the
pool or the table (at most three quarters full, linear probing, backward-shift deletion), which never shrink.
Memory: each node owns its hashes. `nodes` moves when a node is added or split: keep indexes, not pointers.
Threads: one caller at a time; any thread, GIL not needed.
"""
cimport cython
from libc.stddef cimport size_t
from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memcpy, memmove, memset

from picker._core.alloc cimport PK_E_NOMEM, PK_OK, pk_alloc, pk_free, pk_grow, pk_resize

cdef enum:
    FIRST_CELLS = 16

# --- C kernel: the table ---


cdef uint32_t runs_find(const runs_t* runs, uint64_t hash, uint32_t parent) noexcept nogil:
    """The child of `parent` whose run begins with `hash`, or 0."""
    cdef size_t at = <uint32_t>hash & runs.mask
    cdef const node_t* node
    while runs.cells[at].node:
        if runs.cells[at].tag == <uint32_t>hash:
            node = &runs.nodes[runs.cells[at].node]
            if node.first == hash and node.parent == parent:
                return runs.cells[at].node
        at = (at + 1) & runs.mask
    return 0


cdef inline void _put_cell(cell_t* cells, size_t mask, cell_t cell) noexcept nogil:
    cdef size_t at = cell.tag & mask
    while cells[at].node:
        at = (at + 1) & mask
    cells[at] = cell


cdef void _put(runs_t* runs, uint32_t index) noexcept nogil:
    cdef cell_t cell
    cell.tag = <uint32_t>runs.nodes[index].first
    cell.node = index
    _put_cell(runs.cells, runs.mask, cell)


cdef size_t _cell_of(const runs_t* runs, uint32_t index) noexcept nogil:
    cdef size_t at = <uint32_t>runs.nodes[index].first & runs.mask
    while runs.cells[at].node != index:
        at = (at + 1) & runs.mask
    return at


cdef void _clear_cell(runs_t* runs, size_t hole) noexcept nogil:
    """Empty a cell, and pull back the cells behind it that it had pushed away from their home."""
    cdef size_t mask = runs.mask, at = hole, home
    while True:
        at = (at + 1) & mask
        if not runs.cells[at].node:
            break
        home = runs.cells[at].tag & mask
        if ((at - home) & mask) >= ((at - hole) & mask):
            runs.cells[hole] = runs.cells[at]
            hole = at
    runs.cells[hole].node = 0


cdef int _reserve_cells(runs_t* runs, size_t nodes) noexcept nogil:
    cdef size_t size = runs.mask + 1, at
    cdef cell_t* cells
    while nodes > size // 4 * 3:
        size *= 2
    if size == runs.mask + 1:
        return PK_OK
    cells = <cell_t*>pk_alloc(size, sizeof(cell_t))
    if cells == NULL:
        return PK_E_NOMEM
    for at in range(runs.mask + 1):
        if runs.cells[at].node:
            _put_cell(cells, size - 1, runs.cells[at])
    pk_free(runs.cells)
    runs.cells = cells
    runs.mask = size - 1
    return PK_OK


# --- C kernel: nodes ---


cdef int _reserve_node(runs_t* runs) noexcept nogil:
    if pk_grow(<void**>&runs.nodes, &runs.room, <size_t>runs.live + 2, sizeof(node_t)) != PK_OK:
        return PK_E_NOMEM
    return _reserve_cells(runs, <size_t>runs.live + 1)


cdef uint32_t _take_node(runs_t* runs) noexcept nogil:
    """A zeroed node; _reserve_node made room for it."""
    cdef uint32_t index = runs.free
    if index:
        runs.free = runs.nodes[index].parent
    else:
        index = runs.top
        runs.top += 1
    runs.live += 1
    memset(&runs.nodes[index], 0, sizeof(node_t))
    return index


cdef int _resize(runs_t* runs, node_t* node, uint32_t room) noexcept nogil:
    cdef void* fresh = pk_resize(node.hashes, room, sizeof(uint64_t))
    if fresh == NULL:
        return PK_E_NOMEM
    runs.heap += sizeof(uint64_t) * <uint64_t>room
    runs.heap -= sizeof(uint64_t) * <uint64_t>node.room
    node.hashes = <uint64_t*>fresh
    node.room = room
    return PK_OK


cdef void _fill(node_t* node, const uint64_t* hashes, uint32_t count) noexcept nogil:
    """Append hashes for which there is room."""
    memcpy(node.hashes + node.length, hashes, sizeof(uint64_t) * count)
    node.length += count
    node.first = node.hashes[0]
    node.last = node.hashes[node.length - 1]


cdef uint32_t runs_common(const node_t* node, const uint64_t* hashes, uint32_t count) noexcept nogil:
    """Leading hashes the node shares with these (at least one), of which the first is known to be equal."""
    cdef uint32_t low = 1, middle, high = (node.length if node.length < count else count) - 1
    if hashes[high] == (node.last if high + 1 == node.length else node.hashes[high]):
        return high + 1
    while low < high:  # equal before `low`, different at `high`
        middle = (low + high) // 2
        if hashes[middle] == node.hashes[middle]:
            low = middle + 1
        else:
            high = middle
    return low


cdef int runs_add(runs_t* runs, uint32_t parent, const uint64_t* hashes, uint32_t count,
                  uint32_t* index) noexcept nogil:
    """A new child of `parent`, which has none that begins with the same hash."""
    cdef node_t fresh
    memset(&fresh, 0, sizeof(fresh))
    if _reserve_node(runs) != PK_OK or _resize(runs, &fresh, count) != PK_OK:
        return PK_E_NOMEM
    _fill(&fresh, hashes, count)
    fresh.parent = parent
    index[0] = _take_node(runs)
    runs.nodes[index[0]] = fresh
    runs.nodes[parent].kids += 1
    _put(runs, index[0])
    return PK_OK


cdef int runs_extend(runs_t* runs, uint32_t index, const uint64_t* hashes, uint32_t count) noexcept nogil:
    """Add hashes to a run. Its room grows by an eighth more than that, for runs that grow block by block."""
    cdef node_t* node = &runs.nodes[index]
    cdef uint32_t length = node.length + count
    if length > node.room and _resize(runs, node, length + length // 8) != PK_OK:
        return PK_E_NOMEM
    _fill(node, hashes, count)
    return PK_OK


cdef void runs_cut(runs_t* runs, uint32_t index, uint32_t length) noexcept nogil:
    """Keep the first `length` hashes of a run."""
    cdef node_t* node = &runs.nodes[index]
    node.length = length
    node.last = node.hashes[length - 1]
    if length <= node.room // 2:
        _resize(runs, node, length)  # for want of memory a run may stay too large


cdef int runs_split(runs_t* runs, uint32_t index, uint32_t at, uint32_t* upper) noexcept nogil:
    """Cut a run in two. The lower half keeps the node, so that its children need not be told."""
    cdef node_t fresh
    cdef node_t* node
    memset(&fresh, 0, sizeof(fresh))
    if _reserve_node(runs) != PK_OK or _resize(runs, &fresh, at) != PK_OK:
        return PK_E_NOMEM
    node = &runs.nodes[index]
    _fill(&fresh, node.hashes, at)
    fresh.parent = node.parent
    fresh.kids = 1
    upper[0] = _take_node(runs)
    runs.nodes[upper[0]] = fresh
    runs.cells[_cell_of(runs, index)].node = upper[0]
    memmove(node.hashes, node.hashes + at, sizeof(uint64_t) * (node.length - at))
    node.first = node.hashes[0]
    node.parent = upper[0]
    _put(runs, index)
    runs_cut(runs, index, node.length - at)
    return PK_OK


cdef void runs_drop(runs_t* runs, uint32_t index) noexcept nogil:
    """Remove a node without children."""
    cdef node_t* node = &runs.nodes[index]
    _clear_cell(runs, _cell_of(runs, index))
    runs.nodes[node.parent].kids -= 1
    runs.heap -= sizeof(uint64_t) * <uint64_t>node.room
    pk_free(node.hashes)
    memset(node, 0, sizeof(node_t))
    node.parent = runs.free
    runs.free = index
    runs.live -= 1


cdef int runs_init(runs_t* runs) noexcept nogil:
    """An empty trie."""
    memset(runs, 0, sizeof(runs_t))
    runs.top = 1
    runs.mask = FIRST_CELLS - 1
    runs.cells = <cell_t*>pk_alloc(FIRST_CELLS, sizeof(cell_t))
    if runs.cells == NULL or _reserve_node(runs) != PK_OK:
        runs_free(runs)
        return PK_E_NOMEM
    memset(&runs.nodes[0], 0, sizeof(node_t))
    return PK_OK


cdef void runs_free(runs_t* runs) noexcept nogil:
    """Free everything but what the holders of the nodes own."""
    cdef uint32_t index
    if runs.nodes != NULL:
        for index in range(1, runs.top):
            pk_free(runs.nodes[index].hashes)
    pk_free(runs.nodes)
    pk_free(runs.cells)
    memset(runs, 0, sizeof(runs_t))


cdef uint64_t runs_bytes(const runs_t* runs) noexcept nogil:
    return runs.heap + runs.room * sizeof(node_t) + (runs.mask + 1) * sizeof(cell_t)


# --- Python face ---


cdef object _check_node(const runs_t* runs, uint32_t index):
    cdef const node_t* node = &runs.nodes[index]
    assert 1 <= node.length <= node.room, (index, node.length, node.room)
    assert node.first == node.hashes[0] and node.last == node.hashes[node.length - 1], index
    assert node.parent < runs.top and (node.parent == 0 or runs.nodes[node.parent].hashes != NULL), index
    assert runs_find(runs, node.first, node.parent) == index, index


cdef object runs_check(const runs_t* runs):
    """Assert all invariants."""
    cdef uint32_t index
    cdef uint64_t heap = 0
    cdef size_t at
    free = []
    index = runs.free
    while index:
        free.append(index)
        index = runs.nodes[index].parent
    live = [index for index in range(1, runs.top) if runs.nodes[index].hashes != NULL]
    assert sorted(live + free) == list(range(1, runs.top)) and len(live) == runs.live, (live, free)
    assert sorted([runs.cells[at].node for at in range(runs.mask + 1) if runs.cells[at].node]) == live
    parents = [runs.nodes[index].parent for index in live]
    for index in live:
        _check_node(runs, index)
        heap += sizeof(uint64_t) * runs.nodes[index].room
    for index in [0, *live]:
        assert runs.nodes[index].kids == parents.count(index), (index, parents)
    assert runs.heap == heap, (runs.heap, heap)


@cython.final
@cython.auto_pickle(False)
cdef class Runs:
    """A trie of runs; for tests. Nodes are numbers, the root is 0. Raises KeyError for a node that does not exist."""

    def __cinit__(self):
        self._answer(runs_init(&self.runs))

    def __dealloc__(self):
        runs_free(&self.runs)

    cdef int _answer(self, int code) except -1:
        if code != PK_OK:
            raise MemoryError(f"no memory for {self.runs.live + 1} nodes")
        return 0

    cdef int _node(self, uint32_t index) except -1:
        if not 0 < index < self.runs.top or self.runs.nodes[index].hashes == NULL:
            raise KeyError(index)
        return 0

    def add(self, uint32_t parent, const uint64_t[::1] hashes not None) -> int:
        """A new child of `parent`. Raises ValueError for no hashes, or if a child begins with the same one."""
        cdef uint32_t index = 0
        if parent:
            self._node(parent)
        if hashes.shape[0] == 0 or runs_find(&self.runs, hashes[0], parent):
            raise ValueError(f"no hashes, or node {parent} has such a child")
        self._answer(runs_add(&self.runs, parent, &hashes[0], hashes.shape[0], &index))
        return index

    def find(self, uint64_t hash, uint32_t parent) -> int:
        """The child of `parent` whose run begins with `hash`, or 0."""
        return runs_find(&self.runs, hash, parent)

    def common(self, uint32_t index, const uint64_t[::1] hashes not None) -> int:
        """Leading hashes the node shares with `hashes`. Raises ValueError unless the first one is equal."""
        self._node(index)
        if hashes.shape[0] == 0 or hashes[0] != self.runs.nodes[index].first:
            raise ValueError(f"node {index} begins with another hash")
        return runs_common(&self.runs.nodes[index], &hashes[0], hashes.shape[0])

    def extend(self, uint32_t index, const uint64_t[::1] hashes not None) -> None:
        """Add hashes to a run."""
        self._node(index)
        if hashes.shape[0]:
            self._answer(runs_extend(&self.runs, index, &hashes[0], hashes.shape[0]))

    def cut(self, uint32_t index, uint32_t length) -> None:
        """Keep the first `length` hashes of a run, at least one. Raises ValueError if it has fewer."""
        self._node(index)
        if not 0 < length <= self.runs.nodes[index].length:
            raise ValueError(f"cannot keep {length} of {self.runs.nodes[index].length} hashes")
        runs_cut(&self.runs, index, length)

    def split(self, uint32_t index, uint32_t at) -> int:
        """Cut a run in two: the new node, which is returned, has the hashes before `at`. ValueError if one is empty."""
        cdef uint32_t upper = 0
        self._node(index)
        if not 0 < at < self.runs.nodes[index].length:
            raise ValueError(f"cannot cut {self.runs.nodes[index].length} hashes at {at}")
        self._answer(runs_split(&self.runs, index, at, &upper))
        return upper

    def drop(self, uint32_t index) -> None:
        """Remove a node. Raises ValueError if it has children."""
        self._node(index)
        if self.runs.nodes[index].kids:
            raise ValueError(f"node {index} has {self.runs.nodes[index].kids} children")
        runs_drop(&self.runs, index)

    def hashes(self, uint32_t index) -> list:
        """The run of a node."""
        cdef uint32_t i
        self._node(index)
        return [self.runs.nodes[index].hashes[i] for i in range(self.runs.nodes[index].length)]

    def parent(self, uint32_t index) -> int:
        """The parent of a node."""
        self._node(index)
        return self.runs.nodes[index].parent

    def __len__(self) -> int:
        return self.runs.live

    @property
    def memory_bytes(self) -> int:
        """Bytes allocated."""
        return runs_bytes(&self.runs)

    def _check(self) -> None:
        runs_check(&self.runs)
