# Records that are found by whom they belong to and a number, and never move.
from libc.stddef cimport size_t
from libc.stdint cimport uint64_t

from picker._core.heap cimport node_t

ctypedef struct record_t:
    # First in what is to be found.
    node_t node                # first: what is ranked is a record
    record_t* chain            # the next in its bucket
    void* parent
    uint64_t id
    record_t* next             # in a list that it may be in
    record_t* previous
    bint is_listed

ctypedef struct slab_t:
    # Records of one size.
    void* spare                # list of the free ones, through their first word
    void* chunks               # list of the blocks they lie in, through their first word
    size_t size
    size_t spares
    size_t count               # handed out

ctypedef struct index_t:
    # By parent and id; no two records have both the same.
    record_t** buckets
    size_t places              # a power of two, or 0
    size_t count

ctypedef struct list_t:
    record_t* first

cdef void slab_init(slab_t* slab, size_t size) noexcept nogil
cdef int slab_reserve(slab_t* slab, size_t count) noexcept nogil
cdef void* slab_take(slab_t* slab) noexcept nogil
cdef void slab_give(slab_t* slab, void* record) noexcept nogil
cdef void slab_free(slab_t* slab) noexcept nogil

cdef void list_add(list_t* list, record_t* record) noexcept nogil
cdef void list_drop(list_t* list, record_t* record) noexcept nogil

cdef int index_reserve(index_t* index) noexcept nogil
cdef record_t* index_find(const index_t* index, const void* parent, uint64_t id) noexcept nogil
cdef void index_add(index_t* index, record_t* record, void* parent, uint64_t id) noexcept nogil
cdef void index_drop(index_t* index, record_t* record) noexcept nogil
cdef void index_free(index_t* index) noexcept nogil
