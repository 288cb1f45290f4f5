"""What is to become of a message's headers: set and removed by name, the latest edit of a name counts.

Invariants: `text` ends with the value of the last edit, so that edits can be taken back from the end.
Cost: O(edits) to find one, O(edits^2) to write them; both are few.
Memory: `edits_t` owns its text; a mutation made of it borrows.   Threads: one at a time.
"""
from libc.string cimport memset

from picker._core.alloc cimport PK_E_LIMIT, PK_E_NOMEM, PK_OK, pk_free, pk_grow
from picker._core.codec cimport buffer_append, buffer_free, slice_is

# --- C kernel ---


cdef slice_t _at(const edits_t* edits, uint32_t start, uint32_t size) noexcept nogil:
    cdef slice_t text
    text.data = edits.text.data + start
    text.size = size
    return text


cdef bint _names(const edits_t* edits, uint32_t i, slice_t name) noexcept nogil:
    """Is edit `i` one of the header `name`?"""
    cdef const edit_t* edit = &edits.items[i]
    return slice_is(_at(edits, edit.name, edit.name_size), <const char*>name.data, name.size)


cdef int edits_add(edits_t* edits, slice_t name, slice_t value, bint removed) noexcept nogil:
    """One more. PK_OK, PK_E_LIMIT (too many, or too long) or PK_E_NOMEM; then nothing has changed."""
    cdef size_t start = edits.text.size
    cdef edit_t* edit
    if edits.count >= PK_MOST_EDITS or name.size > PK_EDIT_BYTES or value.size > PK_EDIT_BYTES:
        return PK_E_LIMIT
    if start + name.size + value.size > PK_EDIT_BYTES:
        return PK_E_LIMIT
    if pk_grow(<void**>&edits.items, &edits.capacity, edits.count + 1, sizeof(edit_t)) != PK_OK:
        return PK_E_NOMEM
    if (
        buffer_append(&edits.text, name.data, name.size) != PK_OK
        or buffer_append(&edits.text, value.data, value.size) != PK_OK
    ):
        edits.text.size = start
        return PK_E_NOMEM
    edit = &edits.items[edits.count]
    edit.name, edit.name_size = <uint32_t>start, <uint32_t>name.size
    edit.value, edit.value_size = <uint32_t>(start + name.size), <uint32_t>value.size
    edit.removed = removed
    edits.count += 1
    return PK_OK


cdef int edits_find(const edits_t* edits, slice_t name, slice_t* value) noexcept nogil:
    """What the edits say of a header: 1 it is set, to `value`; -1 it is removed; 0 nothing."""
    cdef uint32_t i = edits.count
    while i:
        i -= 1
        if _names(edits, i, name):
            if edits.items[i].removed:
                return -1
            value[0] = _at(edits, edits.items[i].value, edits.items[i].value_size)
            return 1
    return 0


cdef void edits_rewind(edits_t* edits, uint32_t count) noexcept nogil:
    """Take back all but the first `count`."""
    if count < edits.count:
        edits.text.size = edits.items[count].name
        edits.count = count


cdef void edits_free(edits_t* edits) noexcept nogil:
    buffer_free(&edits.text)
    pk_free(edits.items)
    memset(edits, 0, sizeof(edits_t))


cdef bint _is_latest(const edits_t* edits, uint32_t i) noexcept nogil:
    cdef uint32_t later
    for later in range(i + 1, edits.count):
        if _names(edits, later, _at(edits, edits.items[i].name, edits.items[i].name_size)):
            return False
    return True


cdef void edits_mutation(const edits_t* edits, edited_t* edited, mutation_t* mutation) noexcept nogil:
    """Let a mutation, empty so far, say the edits. `edited` is where it finds them."""
    cdef const edit_t* edit
    cdef uint32_t i
    mutation.set = edited.set
    mutation.removed = edited.removed
    for i in range(edits.count):
        edit = &edits.items[i]
        if not _is_latest(edits, i):
            continue
        if edit.removed:
            edited_remove(edited, mutation, _at(edits, edit.name, edit.name_size))
        else:
            edited.set[mutation.set_count].key = _at(edits, edit.name, edit.name_size)
            edited.set[mutation.set_count].value = _at(edits, edit.value, edit.value_size)
            mutation.set_count += 1


cdef void edited_remove(edited_t* edited, mutation_t* mutation, slice_t name) noexcept nogil:
    """One more header to remove, beyond what the edits say: at most PK_MOST_EDITS of these."""
    edited.removed[mutation.removed_count] = name
    mutation.removed_count += 1
