# The trie of the prefix index: nodes are runs of chained block hashes, found by parent and first hash.
from libc.stddef cimport size_t
from libc.stdint cimport uint32_t, uint64_t

from picker._core.holders cimport holders_t

ctypedef struct node_t:
    uint64_t first          # hashes[0] and hashes[length - 1]: most matches read no more than these
    uint64_t last
    uint64_t* hashes        # owned, `room` of them; NULL in a free node and in the root
    holders_t holders       # the index's: `runs` leaves it alone
    uint32_t length
    uint32_t room
    uint32_t parent         # in a free node: the next free one
    uint32_t kids           # how many nodes have this one as parent

ctypedef struct cell_t:     # of the open-addressing table (first hash, parent) -> node
    uint32_t tag            # low half of the hash: masked, it is the cell's home
    uint32_t node           # 0 = empty

ctypedef struct runs_t:
    node_t* nodes           # node 0 is the root, an empty run
    cell_t* cells
    size_t room             # nodes allocated
    size_t mask             # cells - 1
    uint32_t top            # nodes ever used
    uint32_t live           # nodes in use, without the root
    uint32_t free           # list of free nodes
    uint64_t heap           # bytes of hashes

# Where a node index is wanted it must be that of a live node; no call but runs_find takes the root as the node itself.
# The number of nodes must stay below 2**31. PK_OK or PK_E_NOMEM, the trie unchanged.
cdef int runs_init(runs_t* runs) noexcept nogil
cdef void runs_free(runs_t* runs) noexcept nogil
# The child of `parent` whose run begins with `hash`, or 0
cdef uint32_t runs_find(const runs_t* runs, uint64_t hash, uint32_t parent) noexcept nogil
# Leading hashes the node shares with these (at least one), of which the first is known to be equal
cdef uint32_t runs_common(const node_t* node, const uint64_t* hashes, uint32_t count) noexcept nogil
# A new child of `parent`, which has none that begins with the same hash
cdef int runs_add(runs_t* runs, uint32_t parent, const uint64_t* hashes, uint32_t count, uint32_t* index) noexcept nogil
# Add hashes to a run (whose node has no children, or they would be cut off)
cdef int runs_extend(runs_t* runs, uint32_t index, const uint64_t* hashes, uint32_t count) noexcept nogil
# Keep the first `length` (at least one) hashes of a run
cdef void runs_cut(runs_t* runs, uint32_t index, uint32_t length) noexcept nogil
# Cut a run in two: `upper` is a new node without holders; the node keeps the hashes from `at` on, and its children
cdef int runs_split(runs_t* runs, uint32_t index, uint32_t at, uint32_t* upper) noexcept nogil
# Remove a node without children
cdef void runs_drop(runs_t* runs, uint32_t index) noexcept nogil
cdef uint64_t runs_bytes(const runs_t* runs) noexcept nogil
cdef object runs_check(const runs_t* runs)


cdef class Runs:
    cdef runs_t runs
    cdef int _answer(self, int code) except -1
    cdef int _node(self, uint32_t index) except -1
