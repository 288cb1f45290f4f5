"""What comes first: a leftist heap of nodes that are part of what they rank.

Invariants: no node is before its parent; on the left there is always at least as far to go to a free place as on the
    right, so that the way along the right sides is at most log2(n + 1) long; a node in no heap has distance 0.
Cost: O(log n) at worst to put a node in or to take any out; O(1) to look. Allocates nothing, so that nothing can fail.
Memory: none of its own; the owner keeps a node where it is until it is taken out.   Threads: one at a time.
Source: C. A. Crane, Linear Lists and Priority Queues as Balanced Binary Trees, 1972.
"""
cimport cython
from libc.stddef cimport size_t
from libc.stdint cimport int64_t, uint32_t, uint64_t

from picker._core.alloc cimport pk_alloc, pk_free

# --- C kernel ---


cdef inline uint32_t _distance(const node_t* node) noexcept nogil:
    return 0 if node == NULL else node.distance


cdef inline bint _settle(node_t* node, uint32_t left, uint32_t right) noexcept nogil:
    """The distances below it are these: let the farther way be on the left. Whether its own has changed."""
    cdef uint32_t before = node.distance
    if left < right:
        node.left, node.right = node.right, node.left
        left, right = right, left
    node.far = left
    node.distance = right + 1
    return node.distance != before


cdef inline void _hang(node_t* above, node_t* node) noexcept nogil:
    if node != NULL:
        node.parent = above
    if above != NULL:
        above.right = node


cdef node_t* _merge(node_t* a, node_t* b) noexcept nogil:
    """Two heaps, told by their roots, as one: down both right sides, always with what comes first, then up again."""
    cdef node_t* above = NULL
    cdef node_t* top = b if a == NULL else a
    while a != NULL and b != NULL:
        if rank_before(&b.rank, &a.rank):
            a, b = b, a
        _hang(above, a)
        above = a
        a = a.right
    _hang(above, b if a == NULL else a)
    while above != NULL:
        _settle(above, above.far, _distance(above.right))
        top = above
        above = above.parent
    return top


cdef void _climb(node_t* node) noexcept nogil:
    """Its distance has changed. Going up ends where one does not; those that do are one more each time."""
    cdef node_t* above = node.parent
    cdef bint is_changed = True
    while is_changed and above != NULL:
        if above.left == node:
            is_changed = _settle(above, node.distance, above.distance - 1)
        else:
            is_changed = _settle(above, above.far, node.distance)
        node = above
        above = above.parent


cdef void heap_push(node_t** root, node_t* node) noexcept nogil:
    """Put a node that is in no heap under `root`, by its rank: on the right side, above whatever it is before."""
    cdef node_t* above = NULL
    cdef node_t* below = root[0]
    while below != NULL and not rank_before(&node.rank, &below.rank):
        above = below
        below = below.right
    _hang(above, node)
    node.left = below
    node.right = NULL
    node.far = _distance(below)
    node.distance = 1
    if below != NULL:
        below.parent = node
    if above == NULL:
        root[0] = node
    else:
        _climb(node)


cdef void _replace(node_t** root, node_t* node, node_t* below) noexcept nogil:
    """Put another one, or none, where a node stands."""
    cdef node_t* above = node.parent
    cdef bint is_changed
    if below != NULL:
        below.parent = above
    if above == NULL:
        root[0] = below
        return
    if above.left == node:
        above.left = below
        is_changed = _settle(above, _distance(below), above.distance - 1)
    else:
        above.right = below
        is_changed = _settle(above, above.far, _distance(below))
    if is_changed:
        _climb(above)


cdef void heap_drop(node_t** root, node_t* node) noexcept nogil:
    """Take a node out of this heap, wherever it stands."""
    if node.left != NULL:
        node.left.parent = NULL
    if node.right != NULL:
        node.right.parent = NULL
    _replace(root, node, _merge(node.left, node.right))
    node.left = node.right = node.parent = NULL
    node.distance = node.far = 0


cdef bint _check_node(const node_t* node) noexcept:
    """Its own place; not those of the nodes below it."""
    if node.left != NULL and (node.left.parent != node or rank_before(&node.left.rank, &node.rank)):
        return False
    if node.right != NULL and (node.right.parent != node or rank_before(&node.right.rank, &node.rank)):
        return False
    return node.distance == _distance(node.right) + 1 and node.far == _distance(node.left) >= _distance(node.right)


cdef int64_t heap_check(const node_t* root) except -1:
    """How many there are, all invariants asserted; without recursion: the way along the left sides has no bound."""
    cdef int64_t count = 0
    cdef const node_t* node = root
    cdef const node_t* child
    assert root == NULL or root.parent == NULL
    while node != NULL:
        assert _check_node(node)
        count += 1
        if node.left != NULL:
            node = node.left
            continue
        while True:  # up to the next that has another side to go to; who has a right side has a left one
            child, node = node, node.parent
            if node == NULL or (node.right != NULL and node.right != child):
                break
        if node != NULL:
            node = node.right
    return count


# --- Python face ---


@cython.final
@cython.auto_pickle(False)
cdef class Heap:
    """Ranks of the keys 0 to `size` - 1, least first; for tests."""

    def __cinit__(self, size_t size):
        self._root = NULL
        self._size = size
        self._table = <node_t*>pk_alloc(size, sizeof(node_t))
        if self._table == NULL:
            raise MemoryError(f"no memory for {size} nodes")

    def __dealloc__(self):
        pk_free(self._table)

    cdef node_t* _at(self, size_t key) except NULL:
        if key >= self._size:
            raise IndexError(key)
        return &self._table[key]

    def push(self, size_t key, uint64_t tag, int64_t order) -> None:
        """Rank `key`; of equals, the lower key comes first. IndexError; ValueError if it is ranked already."""
        cdef node_t* node = self._at(key)
        if node.distance:
            raise ValueError(f"{key} is in the heap already")
        node.rank.tag, node.rank.order, node.rank.turn = tag, order, key
        heap_push(&self._root, node)
        self._count += 1

    def drop(self, size_t key) -> None:
        """Take `key` out. IndexError; KeyError if it is not in."""
        cdef node_t* node = self._at(key)
        if node.distance == 0:
            raise KeyError(key)
        heap_drop(&self._root, node)
        self._count -= 1

    def first(self) -> int | None:
        """The key that comes first, or None."""
        return None if self._root == NULL else self._root - self._table

    def __len__(self) -> int:
        return self._count

    def _check(self) -> None:
        """Assert the invariants."""
        assert heap_check(self._root) == self._count == sum([self._table[i].distance > 0 for i in range(self._size)])
