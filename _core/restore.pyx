"""Puts the name that the client asked for back into responses, in place of the one that the model server answers to.

The reader of the response (`usage`) says where names of the model stand; each that equals the target is replaced,
whatever its escapes; every other byte goes on as it is. A name that reaches beyond its chunk is held back only while it
may still become the target.
Invariants: what went on, then what is held, is what came, names replaced. Nothing is held but the beginning of a name,
    at most six bytes for each of the target's.
Cost: a chunk without the target is neither copied nor looked at; any other is copied once.
Memory: owns its buffers, borrows the client's name.   Threads: any; one `restore_t` belongs to one response.
Face: `sse.Restorer`.
"""
from libc.stddef cimport size_t
from libc.stdint cimport int64_t, uint8_t
from libc.string cimport memcmp, memset

from picker._core.alloc cimport PK_E_NOMEM, PK_OK
from picker._core.codec cimport buffer_append, buffer_free, buffer_reserve, buffer_t, slice_bytes, slice_t
from picker._core.jsonstring cimport json_equals, json_unescape

# --- C kernel ---


cdef int restore_init(restore_t* restore, slice_t target, slice_t client) noexcept nogil:
    """PK_OK or PK_E_NOMEM; `restore_free` is due either way."""
    memset(restore, 0, sizeof(restore_t))
    restore.client = client
    if buffer_reserve(&restore.target, target.size) != PK_OK:
        return PK_E_NOMEM
    restore.target.size = <size_t>json_unescape(
        target.data, target.data + target.size, restore.target.data, target.size
    )
    return PK_OK


cdef void restore_free(restore_t* restore) noexcept nogil:
    buffer_free(&restore.target)
    buffer_free(&restore.out)
    buffer_free(&restore.held)


cdef void _put(restore_t* restore, const uint8_t* data, size_t size) noexcept nogil:
    if buffer_append(&restore.out, data, size) != PK_OK:
        restore.failed = True


cdef void _hold(restore_t* restore, const uint8_t* end) noexcept nogil:
    """Keep the bytes of the name up to `end`; those of the chunk before it go on."""
    _put(restore, restore.copied, restore.begun - restore.copied)
    if buffer_append(&restore.held, restore.begun, end - restore.begun) != PK_OK:
        restore.failed = True
    restore.copied = restore.begun = end
    restore.changed = True


cdef void _let_go(restore_t* restore) noexcept nogil:
    """It is not the target: what is held goes on, and comes before all that is left of the chunk."""
    restore.is_open = False
    if restore.held.size:
        _put(restore, restore.held.data, restore.held.size)
        restore.held.size = 0
        restore.changed = True


cdef bint _may_become(slice_t name, const buffer_t* target) noexcept nogil:
    """Can a name that begins so be the target?"""
    cdef const uint8_t* p = name.data
    cdef const uint8_t* end = p + name.size
    cdef const uint8_t* q
    cdef uint8_t piece[12]
    cdef size_t done = 0
    cdef int64_t size
    while p < end:
        q = p + 1
        if p[0] == c"\\":
            q = p + (2 if end - p < 2 or p[1] != c"u" else 6)
            if q <= end and p[1] == c"u" and p[2] | 0x20 == c"d" and p[3] | 0x20 in b"89ab":
                if (q == end or q[0] == c"\\") and (end - q < 2 or q[1] == c"u"):
                    q += 6                      # a surrogate, which wants another
            if q > end:
                return done < target.size       # the escape is not whole
        size = json_unescape(p, q, piece, sizeof(piece))
        if size < 0 or done + <size_t>size > target.size or memcmp(target.data + done, piece, <size_t>size) != 0:
            return False
        done += <size_t>size
        p = q
    return True


cdef void restore_start(restore_t* restore, const uint8_t* chunk) noexcept nogil:
    """A chunk begins; what the last one came to is no longer needed."""
    restore.copied = restore.begun = chunk
    restore.out.size = 0
    restore.changed = False


cdef void restore_begin(restore_t* restore, const uint8_t* at) noexcept nogil:
    """A name begins at `at`. One that did not end never will."""
    _let_go(restore)
    restore.begun = at
    restore.is_open = True


cdef void restore_end(restore_t* restore, const uint8_t* at) noexcept nogil:
    """The closing quote of the name is at `at`."""
    cdef const uint8_t* name = restore.begun
    cdef size_t size = at - name
    if not restore.is_open:
        return
    if restore.held.size:
        _hold(restore, at)
        name = restore.held.data
        size = restore.held.size
    if not json_equals(name, name + size, restore.target.data, restore.target.size):
        _let_go(restore)
        return
    _put(restore, restore.copied, restore.begun - restore.copied)
    _put(restore, restore.client.data, restore.client.size)
    restore.copied = at
    restore.changed = True
    restore.held.size = 0
    restore.is_open = False


cdef int restore_finish(restore_t* restore, slice_t chunk, bint goes_on, slice_t* result) noexcept nogil:
    """The chunk ends. `goes_on`: so does the name begun last. What goes on is in `result`, until the next chunk."""
    cdef const uint8_t* end = chunk.data + chunk.size
    cdef slice_t name
    result[0] = chunk
    name.data, name.size = restore.begun, end - restore.begun
    if restore.is_open and restore.held.size == 0 and not _may_become(name, &restore.target):
        restore.is_open = False                 # it goes on where it stands
    if restore.is_open and goes_on and restore.begun < end:
        _hold(restore, end)
    if restore.is_open and not (goes_on and _may_become(slice_bytes(&restore.held), &restore.target)):
        _let_go(restore)
    if restore.changed:
        _put(restore, restore.copied, end - restore.copied)
        result.data = restore.out.data
        result.size = restore.out.size
    return PK_E_NOMEM if restore.failed else PK_OK
