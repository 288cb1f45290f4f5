"""A map from names to names, made once and then only read: adapters and the base models they belong to.

Invariants: at least half of the table is free, so that every search ends; a key stands in it once.
Cost: one hash and one comparison to find; memory is taken when the map is made, never later.
Memory: owned by its `Names`; what is found is good as long as that lives.   Threads: any may read.
"""
cimport cython
from libc.stddef cimport size_t
from libc.stdint cimport UINT32_MAX, uint32_t
from libc.string cimport memset

from picker._core.alloc cimport PK_E_LIMIT, PK_E_NOMEM, PK_OK, pk_free, pk_resize
from picker._core.codec cimport buffer_append, buffer_free, slice_is
from picker._core.hashing cimport hash_xxh64

# --- C kernel ---


cdef slice_t _at(const names_t* names, size_t start, uint32_t size) noexcept nogil:
    cdef slice_t text
    text.data = names.text.data + start
    text.size = size
    return text


cdef name_t* _place(const names_t* names, slice_t key) noexcept nogil:
    """Where `key` stands, or would stand."""
    cdef size_t mask = names.places - 1
    cdef size_t at = <size_t>hash_xxh64(key.data, key.size, 0) & mask
    cdef name_t* entry = &names.table[at]
    while entry.is_used and not slice_is(_at(names, entry.key, entry.key_size), <const char*>key.data, key.size):
        at = (at + 1) & mask
        entry = &names.table[at]
    return entry


cdef bint names_find(const names_t* names, slice_t key, slice_t* value) noexcept nogil:
    """The value of `key`; False if there is none."""
    cdef const name_t* entry
    if names.count == 0:
        return False
    entry = _place(names, key)
    if not entry.is_used:
        return False
    value[0] = _at(names, entry.value, entry.value_size)
    return True


cdef int _reserve(names_t* names, size_t count) noexcept nogil:
    """An empty table with room for `count` names."""
    names.places = 2
    while names.places < 2 * count:
        names.places *= 2
    names.table = <name_t*>pk_resize(NULL, names.places, sizeof(name_t))
    if names.table == NULL:
        return PK_E_NOMEM
    memset(names.table, 0, names.places * sizeof(name_t))
    return PK_OK


cdef int _add(names_t* names, slice_t key, slice_t value) noexcept nogil:
    """A name that is not there yet."""
    cdef name_t* entry = _place(names, key)
    if key.size > UINT32_MAX or value.size > UINT32_MAX:
        return PK_E_LIMIT
    entry.key = names.text.size
    if buffer_append(&names.text, key.data, key.size) != PK_OK:
        return PK_E_NOMEM
    entry.value = names.text.size
    if buffer_append(&names.text, value.data, value.size) != PK_OK:
        return PK_E_NOMEM
    entry.key_size, entry.value_size = <uint32_t>key.size, <uint32_t>value.size
    entry.is_used = True
    names.count += 1
    return PK_OK


cdef void _free(names_t* names) noexcept nogil:
    buffer_free(&names.text)
    pk_free(names.table)
    memset(names, 0, sizeof(names_t))


# --- Python face ---


cdef slice_t _slice(bytes text):
    cdef slice_t slice
    slice.data = text
    slice.size = len(text)
    return slice


@cython.final
@cython.auto_pickle(False)
cdef class Names:
    """What `mapping` (bytes to bytes) says. TypeError for anything else in it; MemoryError."""

    def __cinit__(self, dict mapping not None):
        cdef bytes name, meant
        cdef int code
        memset(&self.names, 0, sizeof(names_t))
        if _reserve(&self.names, len(mapping)) != PK_OK:
            raise MemoryError(f"no memory for {len(mapping)} names")
        for key, value in mapping.items():
            if not isinstance(key, bytes) or not isinstance(value, bytes):
                raise TypeError(f"names are bytes, not {key!r}: {value!r}")
            name, meant = key, value
            code = _add(&self.names, _slice(name), _slice(meant))
            if code != PK_OK:
                raise MemoryError(f"no memory for {len(mapping)} names")

    def __dealloc__(self):
        _free(&self.names)

    def find(self, bytes key not None) -> bytes | None:
        """The value of `key`, or None."""
        cdef slice_t value
        if not names_find(&self.names, _slice(key), &value):
            return None
        return value.data[:value.size] if value.size else b""

    def __len__(self) -> int:
        return self.names.count

    def _check(self) -> None:
        """Assert the invariants."""
        cdef const names_t* names = &self.names
        cdef size_t i, used = 0
        assert 2 * names.count <= names.places and names.places & (names.places - 1) == 0
        for i in range(names.places):
            if names.table[i].is_used:
                used += 1
                assert _place(names, _at(names, names.table[i].key, names.table[i].key_size)) == &names.table[i]
                assert names.table[i].value + names.table[i].value_size <= names.text.size
        assert used == names.count
