"""Records of one size that never move, a list they may be in, a hash table by a parent and a number.

Invariants: a record is handed out or spare; one in a table stands in the bucket of its hash; a table has at least as
    many buckets as records.
Cost: O(1) to take, give and find; what is to be added is reserved first, which alone allocates, and alone can fail. A
    table that is full is doubled: O(records), seldom.
Memory: blocks of 64 records, given back all together; a record stays where it is.   Threads: one at a time.

Numbers are hashes made with a secret seed, or come from people who may be trusted not to choose them for their bucket.
"""
from libc.stddef cimport size_t
from libc.stdint cimport uint64_t
from libc.string cimport memset

from picker._core.alloc cimport PK_E_NOMEM, PK_OK, pk_alloc, pk_free, pk_resize

# --- C kernel ---

cdef enum:
    CHUNK = 64                 # records in a block
    LEAST_PLACES = 64
    LINE = 64                  # bytes of a cache line


cdef void slab_init(slab_t* slab, size_t size) noexcept nogil:
    """No records yet, of `size` bytes; each has its cache lines to itself."""
    memset(slab, 0, sizeof(slab_t))
    slab.size = (size + LINE - 1) // LINE * LINE


cdef void slab_give(slab_t* slab, void* record) noexcept nogil:
    """It is no longer needed."""
    (<void**>record)[0] = slab.spare
    slab.spare = record
    slab.spares += 1
    slab.count -= 1


cdef int slab_reserve(slab_t* slab, size_t count) noexcept nogil:
    """Let the next `count` be there to be taken. PK_OK or PK_E_NOMEM."""
    cdef void* chunk
    cdef char* first
    cdef size_t i
    while slab.spares < count:
        chunk = pk_resize(NULL, LINE + CHUNK * slab.size, 1)
        if chunk == NULL:
            return PK_E_NOMEM
        (<void**>chunk)[0] = slab.chunks
        slab.chunks = chunk
        slab.count += CHUNK
        first = <char*>chunk + LINE - <size_t>chunk % LINE
        for i in range(CHUNK):
            slab_give(slab, first + (CHUNK - 1 - i) * slab.size)
    return PK_OK


cdef void* slab_take(slab_t* slab) noexcept nogil:
    """A zeroed record; it was reserved."""
    cdef void* record = slab.spare
    slab.spare = (<void**>record)[0]
    slab.spares -= 1
    slab.count += 1
    memset(record, 0, slab.size)
    return record


cdef void slab_free(slab_t* slab) noexcept nogil:
    """All of them, those handed out too."""
    cdef void* chunk
    while slab.chunks != NULL:
        chunk = slab.chunks
        slab.chunks = (<void**>chunk)[0]
        pk_free(chunk)
    slab_init(slab, slab.size)  # which is whole lines already


cdef void list_add(list_t* list, record_t* record) noexcept nogil:
    """One that is in no list."""
    record.is_listed = True
    record.previous = NULL
    record.next = list.first
    if record.next != NULL:
        record.next.previous = record
    list.first = record


cdef void list_drop(list_t* list, record_t* record) noexcept nogil:
    """One that is in this list."""
    if record.next != NULL:
        record.next.previous = record.previous
    if record.previous != NULL:
        record.previous.next = record.next
    else:
        list.first = record.next
    record.is_listed = False


cdef inline size_t _bucket(const index_t* index, const void* parent, uint64_t id) noexcept nogil:
    # The finaliser of MurmurHash3: every bit of both changes every bit of the bucket.
    cdef uint64_t hash = id ^ (<uint64_t><size_t>parent * 0x9E3779B97F4A7C15ULL)
    hash = (hash ^ (hash >> 33)) * 0xFF51AFD7ED558CCDULL
    hash = (hash ^ (hash >> 33)) * 0xC4CEB9FE1A85EC53ULL
    return <size_t>(hash ^ (hash >> 33)) & (index.places - 1)


cdef record_t* index_find(const index_t* index, const void* parent, uint64_t id) noexcept nogil:
    """The record, or NULL."""
    cdef record_t* record
    if index.count == 0:
        return NULL
    record = index.buckets[_bucket(index, parent, id)]
    while record != NULL and (record.id != id or record.parent != parent):
        record = record.chain
    return record


cdef inline void _chain(index_t* index, record_t* record) noexcept nogil:
    cdef size_t bucket = _bucket(index, record.parent, record.id)
    record.chain = index.buckets[bucket]
    index.buckets[bucket] = record


cdef int index_reserve(index_t* index) noexcept nogil:
    """Room for one more. PK_OK or PK_E_NOMEM."""
    cdef index_t old = index[0]
    cdef record_t* record
    cdef size_t i
    if index.count < index.places:
        return PK_OK
    index.places = 2 * old.places if old.places else LEAST_PLACES
    index.buckets = <record_t**>pk_alloc(index.places, sizeof(record_t*))
    if index.buckets == NULL:
        index[0] = old
        return PK_E_NOMEM
    for i in range(old.places):
        while old.buckets[i] != NULL:
            record = old.buckets[i]
            old.buckets[i] = record.chain
            _chain(index, record)
    pk_free(old.buckets)
    return PK_OK


cdef void index_add(index_t* index, record_t* record, void* parent, uint64_t id) noexcept nogil:
    """One that is not there; its room was reserved."""
    record.parent = parent
    record.id = id
    index.count += 1
    _chain(index, record)


cdef void index_drop(index_t* index, record_t* record) noexcept nogil:
    """One that is there."""
    cdef record_t** link = &index.buckets[_bucket(index, record.parent, record.id)]
    while link[0] != record:
        link = &link[0].chain
    link[0] = record.chain
    index.count -= 1


cdef void index_free(index_t* index) noexcept nogil:
    """The table, not the records."""
    pk_free(index.buckets)
    memset(index, 0, sizeof(index_t))
