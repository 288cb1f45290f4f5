"""The one allocator: PyMem_Raw with overflow checks; counts live blocks in the debug build.

Invariants: a failed call leaves the old block as it was. Zero bytes is one byte: NULL always means failure.
Cost: that of PyMem_Raw; debug builds add a plain counter, right as long as the GIL is held.
Memory: the caller owns what it gets and gives it back with pk_free.   Threads: any, GIL not needed.
"""
from cpython.mem cimport PyMem_RawCalloc, PyMem_RawFree, PyMem_RawRealloc
from libc.stddef cimport size_t
from libc.stdint cimport SIZE_MAX, int64_t

cdef extern from *:
    """
    #ifndef PICKER_DEBUG
    #define PICKER_DEBUG 0
    #endif
    """
    const int PICKER_DEBUG

# --- C kernel ---

cdef int64_t live = 0          # blocks handed out and not yet freed (debug build only)
cdef int64_t fail_after = -1   # allocations left before one fails; -1 = never (debug build only)


cdef bint _must_fail() noexcept nogil:
    global fail_after
    if not PICKER_DEBUG or fail_after < 0:
        return False
    if fail_after == 0:
        fail_after = -1
        return True
    fail_after -= 1
    return False


cdef void* pk_resize(void* block, size_t count, size_t size) noexcept nogil:
    """`block` (or NULL) with room for count * size bytes; NULL on failure, the old block untouched."""
    global live
    cdef void* fresh
    if (size != 0 and count > SIZE_MAX // size) or _must_fail():
        return NULL
    fresh = PyMem_RawRealloc(block, count * size if count * size > 0 else 1)
    if PICKER_DEBUG and fresh != NULL and block == NULL:
        live += 1
    return fresh


cdef void* pk_alloc(size_t count, size_t size) noexcept nogil:
    """A zeroed block of count * size bytes, or NULL. What is never written to of a large one takes no memory."""
    global live
    cdef void* fresh
    if (size != 0 and count > SIZE_MAX // size) or _must_fail():
        return NULL
    fresh = PyMem_RawCalloc(count * size if count * size > 0 else 1, 1)
    if PICKER_DEBUG and fresh != NULL:
        live += 1
    return fresh


cdef void pk_free(void* block) noexcept nogil:
    global live
    if PICKER_DEBUG and block != NULL:
        live -= 1
    PyMem_RawFree(block)


cdef int pk_grow(void** block, size_t* capacity, size_t needed, size_t size) noexcept nogil:
    """Make room for `needed` items of `size` bytes by doubling; new items are not zeroed. PK_OK or PK_E_NOMEM."""
    cdef size_t room = capacity[0]
    cdef void* fresh
    if needed <= room:
        return PK_OK
    room = room if room >= 8 else 8
    while room < needed:
        room = room * 2 if room <= SIZE_MAX // 2 else needed
    fresh = pk_resize(block[0], room, size)
    if fresh == NULL:
        return PK_E_NOMEM
    block[0] = fresh
    capacity[0] = room
    return PK_OK


# --- Python face ---

def is_debug_build() -> bool:
    """True when blocks are counted and allocations can be made to fail (PICKER_DEBUG=1)."""
    return bool(PICKER_DEBUG)


def live_blocks() -> int:
    """Blocks handed out and not freed; always 0 outside the debug build."""
    return live


def fail_allocation(int64_t after) -> bool:
    """Make the allocation after `after` further ones fail once; -1 switches it off. Debug build only.

    Whether one that was told to fail before has not come yet.
    """
    global fail_after
    waits = fail_after >= 0
    if not PICKER_DEBUG:
        raise RuntimeError("allocations fail on demand only in the debug build: build with PICKER_DEBUG=1")
    fail_after = after
    return waits
