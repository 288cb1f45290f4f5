"""The gateway's subset hint: which endpoints a request may go to.

Entries are "ip:port" (IPv6 in brackets), which means that endpoint, or "ip" (IPv6 in brackets or bare), which means
every port of it. They come as a list of strings, each of which may be a comma list, or as one comma string.
Invariants: no hint allows everything; a hint allows what it names, and nothing if it names nothing; once pinned, no
    further hint counts.
Cost: O(bytes of the hint), next to nothing for a hint equal to the last one; a question is O(1).
Memory: owns its table of at most 2 * PK_SUBSET_ENDPOINTS slots.   Threads: one at a time.
Source: Gateway API Inference Extension, endpoint picker protocol (proposal 004), "endpoint subset".
"""
cimport cython
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memchr, memset

from picker._core.alloc cimport PK_E_FORMAT, PK_E_NOMEM, PK_OK, pk_alloc, pk_free
from picker._core.codec cimport (
    codec_find_metadata,
    codec_next_item,
    codec_value_list,
    codec_value_string,
    slice_t,
)
from picker._core.hashing cimport hash_xxh64

cdef enum:
    LEAST_SLOTS = 16

# --- C kernel ---


cdef void subset_init(subset_t* subset) noexcept nogil:
    memset(subset, 0, sizeof(subset_t))
    subset.count = -1


cdef void subset_free(subset_t* subset) noexcept nogil:
    pk_free(subset.table)
    subset_init(subset)


cdef inline uint64_t _key(uint64_t hashed) noexcept nogil:
    # Nought is kept for empty slots.
    return hashed if hashed else 1


cdef uint32_t _place(const subset_t* subset, uint64_t key) noexcept nogil:
    """Where in the table the key is, or would be."""
    cdef uint32_t at = <uint32_t>key & (subset.slots - 1)
    while subset.table[at] and subset.table[at] != key:
        at = (at + 1) & (subset.slots - 1)
    return at


cdef int _widen(subset_t* subset) noexcept nogil:
    """Twice the slots."""
    cdef subset_t wide = subset[0]
    cdef uint32_t i
    wide.slots = subset.slots * 2 if subset.slots else LEAST_SLOTS
    wide.table = <uint64_t*>pk_alloc(wide.slots, sizeof(uint64_t))
    if wide.table == NULL:
        return PK_E_NOMEM
    for i in range(subset.slots):
        if subset.table[i]:
            wide.table[_place(&wide, subset.table[i])] = subset.table[i]
    pk_free(subset.table)
    subset[0] = wide
    return PK_OK


cdef slice_t _trimmed(slice_t text) noexcept nogil:
    while text.size and (text.data[0] == c" " or text.data[0] == c"\t"):
        text.data += 1
        text.size -= 1
    while text.size and (text.data[text.size - 1] == c" " or text.data[text.size - 1] == c"\t"):
        text.size -= 1
    return text


cdef int _add(subset_t* subset, slice_t entry) noexcept nogil:
    cdef uint64_t key
    cdef uint32_t at
    entry = _trimmed(entry)
    if entry.size > 2 and entry.data[0] == c"[" and entry.data[entry.size - 1] == c"]":
        entry.data += 1
        entry.size -= 2
    if entry.size == 0 or subset.count >= PK_SUBSET_ENDPOINTS:
        return PK_OK
    if subset.count * 2 >= subset.slots and _widen(subset) != PK_OK:
        return PK_E_NOMEM
    key = _key(hash_xxh64(entry.data, entry.size, 0))
    at = _place(subset, key)
    if subset.table[at] == 0:
        subset.table[at] = key
        subset.count += 1
    return PK_OK


cdef int _add_list(subset_t* subset, slice_t text) noexcept nogil:
    """A comma list."""
    cdef slice_t entry
    cdef const void* comma
    while text.size:
        comma = memchr(text.data, c",", text.size)
        entry = text
        if comma != NULL:
            entry.size = <const uint8_t*>comma - text.data
        if _add(subset, entry) != PK_OK:
            return PK_E_NOMEM
        text.data += entry.size
        text.size -= entry.size
        if text.size:                      # the comma
            text.data += 1
            text.size -= 1
    return PK_OK


cdef int _fill(subset_t* subset, slice_t value) noexcept nogil:
    """Take the hint's value; what is no string names nothing."""
    cdef slice_t items, text
    if codec_value_string(value, &text):
        return _add_list(subset, text)
    if not codec_value_list(value, &items):
        return PK_OK
    while codec_next_item(&items, &value):
        if codec_value_string(value, &text) and _add_list(subset, text) != PK_OK:
            return PK_E_NOMEM
    return PK_OK


cdef void _begin(subset_t* subset) noexcept nogil:
    """A hint that names nothing, so far."""
    if subset.slots:
        memset(subset.table, 0, subset.slots * sizeof(uint64_t))
    subset.count = 0


cdef int subset_pin(subset_t* subset, slice_t text) noexcept nogil:
    """Allow what a comma list names, whatever hints say, before and after. PK_OK or PK_E_NOMEM."""
    _begin(subset)
    subset.is_pinned = True
    return _add_list(subset, text)


cdef int subset_read(subset_t* subset, slice_t metadata) noexcept nogil:
    """Read a serialised config.core.v3.Metadata; without the hint nothing changes.

    PK_OK, PK_E_FORMAT if the hint cannot be read, or PK_E_NOMEM: the request must not go on then.
    """
    cdef slice_t namespace, key, value
    cdef uint64_t seen
    cdef int got
    if metadata.size == 0 or subset.is_pinned:
        return PK_OK
    seen = _key(hash_xxh64(metadata.data, metadata.size, 0))
    if seen == subset.seen:
        return PK_OK                       # gateways repeat it with each message
    namespace.data, namespace.size = <const uint8_t*>b"envoy.lb.subset_hint", 20
    key.data, key.size = <const uint8_t*>b"x-gateway-destination-endpoint-subset", 37
    got = codec_find_metadata(metadata, namespace, key, &value)
    if got < 0:
        return PK_E_FORMAT
    if got == 0:
        subset.seen = seen
        return PK_OK
    _begin(subset)
    if _fill(subset, value) != PK_OK:
        return PK_E_NOMEM
    subset.seen = seen
    return PK_OK


cdef bint subset_allows(const subset_t* subset, uint64_t target_hash, uint64_t address_hash) noexcept nogil:
    """May an endpoint with these hashes of "ip:port" and "ip" be picked?"""
    if subset.count <= 0:
        return subset.count < 0
    target_hash = _key(target_hash)
    address_hash = _key(address_hash)
    return (
        subset.table[_place(subset, target_hash)] == target_hash
        or subset.table[_place(subset, address_hash)] == address_hash
    )


# --- Python face ---


@cython.final
@cython.auto_pickle(False)
cdef class Subset:
    """The hint alone, for tests and tools; sessions hold their own."""

    def __cinit__(self):
        subset_init(&self._subset)

    def __dealloc__(self):
        subset_free(&self._subset)

    def read(self, bytes metadata not None) -> None:
        """Take the hint out of a serialised Metadata, in place of the last one. ValueError if it cannot be read."""
        cdef slice_t slice
        cdef int code
        slice.data, slice.size = <const uint8_t*>metadata, len(metadata)
        code = subset_read(&self._subset, slice)
        if code == PK_E_FORMAT:
            raise ValueError(f"malformed metadata ({len(metadata)} bytes)")
        if code != PK_OK:
            raise MemoryError("no memory for a subset hint")

    def pin(self, bytes text not None) -> None:
        """Allow what a comma list names, whatever hints say, before and after."""
        cdef slice_t slice
        slice.data, slice.size = <const uint8_t*>text, len(text)
        if subset_pin(&self._subset, slice) != PK_OK:
            raise MemoryError("no memory for a subset")

    def __len__(self):
        """Endpoints and addresses named; 0 without a hint."""
        return max(self._subset.count, 0)

    def allows(self, bytes target not None, bytes address not None) -> bool:
        """May the endpoint at `target` ("ip:port") of `address` ("ip", IPv6 bare) be picked?"""
        return bool(subset_allows(
            &self._subset,
            hash_xxh64(<const uint8_t*>target, len(target), 0),
            hash_xxh64(<const uint8_t*>address, len(address), 0),
        ))

    def _check(self) -> None:
        """Assert the invariants."""
        cdef uint32_t i, used = 0
        cdef const subset_t* subset = &self._subset
        assert (subset.slots == 0) == (subset.table == NULL) and subset.slots & (subset.slots - 1) == 0
        for i in range(subset.slots):
            if subset.table[i]:
                used += 1
                assert _place(subset, subset.table[i]) == i
        assert subset.count >= 0 or not subset.is_pinned
        assert used == max(subset.count, 0) <= PK_SUBSET_ENDPOINTS and used <= subset.slots // 2
