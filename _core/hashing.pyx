"""XXH64, written from its specification, and chained block hashes over spans of bytes.

Invariants: equal chained hash at equal depth means equal bytes from the start (up to 64-bit collisions).
Cost: O(bytes); the kernel allocates nothing. A trailing partial block is not hashed: engines cache whole blocks.
Memory: `chain_t` borrows its output array.   Threads: any; one chain belongs to one caller.
Source: the xxHash fast digest algorithm specification, XXH64 section.
"""
from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_CheckExact, PyBytes_GET_SIZE
from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy

from picker._core.alloc cimport pk_free, pk_resize

# --- C kernel ---

cdef extern from *:
    """
    #define PK_P1 0x9E3779B185EBCA87ULL
    #define PK_P2 0xC2B2AE3D27D4EB4FULL
    #define PK_P3 0x165667B19E3779F9ULL
    #define PK_P4 0x85EBCA77C2B2AE63ULL
    #define PK_P5 0x27D4EB2F165667C5ULL
    """
    const uint64_t PK_P1, PK_P2, PK_P3, PK_P4, PK_P5


cdef inline uint64_t _rotate(uint64_t value, int bits) noexcept nogil:
    return (value << bits) | (value >> (64 - bits))


cdef inline uint64_t _read64(const uint8_t* at) noexcept nogil:
    # Little-endian hosts only, like every machine the wheels are built for.
    cdef uint64_t value
    memcpy(&value, at, 8)
    return value


cdef inline uint32_t _read32(const uint8_t* at) noexcept nogil:
    cdef uint32_t value
    memcpy(&value, at, 4)
    return value


cdef inline uint64_t _round(uint64_t lane, uint64_t word) noexcept nogil:
    return _rotate(lane + word * PK_P2, 31) * PK_P1


cdef inline uint64_t _merge(uint64_t state, uint64_t lane) noexcept nogil:
    return (state ^ _round(0, lane)) * PK_P1 + PK_P4


cdef inline uint64_t _stripes(const uint8_t** at, const uint8_t* end, uint64_t seed) noexcept nogil:
    """The four-lane loop over whole 32-byte stripes; moves `at` behind them."""
    cdef const uint8_t* p = at[0]
    cdef uint64_t a = seed + PK_P1 + PK_P2, b = seed + PK_P2, c = seed, d = seed - PK_P1
    while end - p >= 32:
        a = _round(a, _read64(p))
        b = _round(b, _read64(p + 8))
        c = _round(c, _read64(p + 16))
        d = _round(d, _read64(p + 24))
        p += 32
    at[0] = p
    a, b, c, d, seed = a, b, c, d, _rotate(a, 1) + _rotate(b, 7) + _rotate(c, 12) + _rotate(d, 18)
    return _merge(_merge(_merge(_merge(seed, a), b), c), d)


cdef uint64_t hash_xxh64(const uint8_t* data, size_t size, uint64_t seed) noexcept nogil:
    """XXH64 of `size` bytes."""
    cdef const uint8_t* p = data
    cdef const uint8_t* end = data + size
    cdef uint64_t h = seed + PK_P5 if size < 32 else _stripes(&p, end, seed)
    h += size
    while end - p >= 8:
        h = _rotate(h ^ _round(0, _read64(p)), 27) * PK_P1 + PK_P4
        p += 8
    if end - p >= 4:
        h = _rotate(h ^ (<uint64_t>_read32(p) * PK_P1), 23) * PK_P2 + PK_P3
        p += 4
    while p < end:
        h = _rotate(h ^ (p[0] * PK_P5), 11) * PK_P1
        p += 1
    h = (h ^ (h >> 33)) * PK_P2
    h = (h ^ (h >> 29)) * PK_P3
    return h ^ (h >> 32)


cdef void chain_start(chain_t* chain, uint64_t root, uint64_t* out, uint32_t room) noexcept nogil:
    """Begin a chain whose first block is hashed with seed `root`; at most `room` hashes are written to `out`."""
    chain.last = root
    chain.out = out
    chain.room = room
    chain.count = 0
    chain.filled = 0
    chain.total = 0


cdef inline void _block(chain_t* chain, const uint8_t* data) noexcept nogil:
    if chain.count < chain.room:
        chain.last = hash_xxh64(data, PK_BLOCK_BYTES, chain.last)
        chain.out[chain.count] = chain.last
        chain.count += 1


cdef void chain_feed(chain_t* chain, const uint8_t* data, size_t size) noexcept nogil:
    """Append bytes. Whole blocks inside `data` are hashed where they lie; only block seams are copied."""
    cdef size_t take
    chain.total += size
    if chain.filled:
        take = PK_BLOCK_BYTES - chain.filled
        take = take if take < size else size
        memcpy(chain.rest + chain.filled, data, take)
        chain.filled += <uint32_t>take
        data += take
        size -= take
        if chain.filled < PK_BLOCK_BYTES:
            return
        _block(chain, chain.rest)
        chain.filled = 0
    while size >= PK_BLOCK_BYTES:
        _block(chain, data)
        data += PK_BLOCK_BYTES
        size -= PK_BLOCK_BYTES
    if size:
        memcpy(chain.rest, data, size)
        chain.filled = <uint32_t>size


# --- Python face ---

cdef inline int _span(object data, Py_buffer* view, const uint8_t** start, size_t* size) except -1:
    """Where the bytes of `data` lie; true if `view` is to be released.

    Not a typed memoryview, which costs more than hashing 256 bytes does. Refuses what is not contiguous like one.
    """
    if PyBytes_CheckExact(data):
        start[0] = <const uint8_t*>PyBytes_AS_STRING(data)
        size[0] = PyBytes_GET_SIZE(data)
        return 0
    PyObject_GetBuffer(data, view, PyBUF_SIMPLE)
    start[0] = <const uint8_t*>view.buf
    size[0] = view.len
    return 1


def xxh64(data not None, uint64_t seed=0) -> int:
    """XXH64 of `data` as an unsigned 64-bit integer."""
    cdef Py_buffer view
    cdef const uint8_t* start
    cdef size_t size
    cdef uint64_t digest
    cdef bint lent = _span(data, &view, &start, &size)
    digest = hash_xxh64(start, size, seed)
    if lent:
        PyBuffer_Release(&view)
    return digest


def block_hashes(list spans not None, uint64_t root, uint32_t limit=1 << 20) -> list:
    """Chained hashes of the whole 256-byte blocks of the concatenated `spans` (a list of bytes-like objects).

    The first block's seed is `root`; at most `limit` hashes are returned. Raises TypeError for other spans.
    """
    cdef chain_t chain
    cdef Py_buffer view
    cdef const uint8_t* start
    cdef size_t size, total = 0
    cdef uint64_t* out
    cdef uint32_t i, room
    cdef bint lent
    for span in spans:
        if _span(span, &view, &start, &size):
            PyBuffer_Release(&view)
        total += size
    total = total // PK_BLOCK_BYTES
    room = limit if limit < total else <uint32_t>total
    out = <uint64_t*>pk_resize(NULL, room, sizeof(uint64_t))
    if out == NULL:
        raise MemoryError(f"no memory for {room} block hashes")
    try:
        chain_start(&chain, root, out, room)
        for span in spans:
            lent = _span(span, &view, &start, &size)
            chain_feed(&chain, start, size)
            if lent:
                PyBuffer_Release(&view)
        return [out[i] for i in range(chain.count)]
    finally:
        pk_free(out)
