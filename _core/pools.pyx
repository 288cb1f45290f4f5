"""Which of several pools a stream is for: the one it names, or whose endpoint picker the gateway calls so.

A name is compared as it is. Of an authority count, without case: what follows the last `|` (Istio puts its cluster's
name there, `outbound|9002||picker.ns.svc.cluster.local`), no port, no dot at the end; of that the first two labels, a
service and its namespace. Without a namespace it is the service that is called so, whatever its namespace.
Invariants: what several pools are called by is found as such, never as one of them.
Cost: two copies and hashes of at most PK_POOL_BYTES; memory is taken when the table is made.
Memory: owned by its `PoolNames`.   Threads: any may find.
"""
cimport cython
from libc.stddef cimport size_t
from libc.stdint cimport int64_t, uint8_t, uint32_t
from libc.string cimport memcpy

from picker._core.codec cimport slice_t
from picker._core.names cimport Names, names_find, names_t

cdef enum:
    KEY_BYTES = PK_POOL_BYTES + 1
    MOST_AUTHORITIES = 64      # of a pool

# --- C kernel ---


cdef void said_set(said_t* said, const uint8_t* text, size_t size) noexcept nogil:
    """Keep what is said, as far as it is looked at."""
    said.size = <uint32_t>size
    memcpy(said.text, text, size if size < PK_POOL_BYTES else PK_POOL_BYTES)


cdef slice_t _host(const uint8_t* text, size_t size) noexcept nogil:
    """The name in an authority: without what stands before `|`, port, and the dot at its end."""
    cdef slice_t host
    cdef size_t i, end = size
    host.data = text
    for i in range(size):
        if text[i] == c"|":
            host.data = text + i + 1
    host.size = size - <size_t>(host.data - text)
    end = host.size
    while end and c"0" <= host.data[end - 1] <= c"9":
        end -= 1
    if end and host.data[end - 1] == c":":
        host.size = end - 1
    if host.size and host.data[host.size - 1] == c".":
        host.size -= 1
    return host


cdef size_t _label(slice_t host, size_t start) noexcept nogil:
    """Where the label that begins at `start` ends."""
    while start < host.size and host.data[start] != c".":
        start += 1
    return start


cdef size_t _name_key(const uint8_t* name, size_t size, uint8_t* room) noexcept nogil:
    room[0] = c"="
    memcpy(room + 1, name, size)
    return size + 1


cdef size_t _authority_key(const uint8_t* text, size_t size, uint8_t* room, size_t* service) noexcept nogil:
    """`@service.namespace`, or `@service` where there is no more; the size of it, and of the latter alone.

    0: it names nothing.
    """
    cdef slice_t host = _host(text, size)
    cdef size_t i, first = _label(host, 0)
    cdef size_t both = _label(host, first + 1) if first < host.size else first
    if first == 0:
        return 0
    room[0] = c"@"
    for i in range(both):
        room[i + 1] = host.data[i] | 0x20 if c"A" <= host.data[i] <= c"Z" else host.data[i]
    service[0] = first + 1
    return both + 1


cdef int64_t _found(const names_t* names, const uint8_t* key, size_t size) noexcept nogil:
    cdef slice_t wanted, value
    cdef uint32_t index
    wanted.data, wanted.size = key, size
    if not names_find(names, wanted, &value):
        return PK_POOL_UNKNOWN
    if value.size != sizeof(index):
        return PK_POOL_MANY
    memcpy(&index, value.data, sizeof(index))
    return index


cdef int64_t pools_find(const names_t* names, const asked_t* asked) noexcept nogil:
    """Index of the pool, PK_POOL_UNKNOWN, or PK_POOL_MANY: more than one is called so."""
    cdef uint8_t key[KEY_BYTES]
    cdef size_t service = 0, size = 0
    if asked.pool.size > PK_POOL_BYTES or asked.authority.size > PK_POOL_BYTES:
        return PK_POOL_UNKNOWN
    if asked.pool.size:
        size = _name_key(asked.pool.text, asked.pool.size, key)
    else:
        size = _authority_key(asked.authority.text, asked.authority.size, key, &service)
    return _found(names, key, size) if size else PK_POOL_UNKNOWN


# --- Python face ---


cdef bytes _text(object given, str what):
    cdef bytes text = given.encode()
    if len(text) > PK_POOL_BYTES:
        raise ValueError(f"{what} {given!r} has more than {PK_POOL_BYTES} bytes")
    return text


cdef list _keys(object name, object authorities):
    """All that a pool is found by."""
    cdef uint8_t key[KEY_BYTES]
    cdef bytes text = _text(name, "pool")
    cdef size_t size, service = 0
    cdef list keys = []
    cdef tuple given = tuple(authorities)
    if len(given) > MOST_AUTHORITIES:
        raise OverflowError(f"pool {name!r} goes by more than {MOST_AUTHORITIES} authorities")
    if text:
        size = _name_key(text, len(text), key)
        keys.append(key[:size])
    for authority in given:
        text = _text(authority, "authority")
        size = _authority_key(text, len(text), key, &service)
        if size == 0:
            raise ValueError(f"authority {authority!r} of pool {name!r} names no service")
        keys.append(key[:size])
        keys.append(key[:service])
    return keys


@cython.final
@cython.auto_pickle(False)
cdef class PoolNames:
    """What each pool is found by: (name, (authority, ...)) each, found by its place among them.

    An authority is a service and its namespace, `picker.ns`, or a service alone; more of it does not count. Two pools
    may share one: then neither is found by it. ValueError for a name that is there twice, for what is longer than 320
    bytes, and for an authority that names no service; OverflowError for more than 64 of them; MemoryError.
    """

    def __cinit__(self, pools):
        cdef dict found = {}
        cdef set names = set()
        cdef uint32_t index = 0
        cdef bytes place
        for name, authorities in pools:
            if name in names:
                raise ValueError(f"there are two pools {name!r}")
            names.add(name)
            place = (<const char*>&index)[:sizeof(index)]
            for key in _keys(name, authorities):
                found[key] = place if found.get(key, place) == place else b""
            index += 1
        self._names = Names(found)
        self._count = index

    cdef const names_t* table(self) noexcept:
        return &self._names.names

    def find(self, const unsigned char[::1] pool not None, const unsigned char[::1] authority not None) -> int:
        """Place of the pool that a stream is for, UNKNOWN, or MANY: more than one is called so.

        `pool`: its name, which counts alone unless it is empty. `authority`: else, that of the stream.
        """
        cdef asked_t asked
        said_set(&asked.pool, &pool[0] if pool.shape[0] else <const uint8_t*>b"", pool.shape[0])
        said_set(&asked.authority, &authority[0] if authority.shape[0] else <const uint8_t*>b"", authority.shape[0])
        return pools_find(&self._names.names, &asked)

    def __len__(self) -> int:
        return self._count

    def _check(self) -> None:
        """Assert the invariants."""
        cdef const names_t* names = &self._names.names
        cdef uint32_t index
        cdef size_t i
        self._names._check()
        for i in range(names.places):
            if names.table[i].is_used and names.table[i].value_size:
                assert names.table[i].value_size == sizeof(index)
                memcpy(&index, names.text.data + names.table[i].value, sizeof(index))
                assert index < self._count


UNKNOWN = PK_POOL_UNKNOWN
MANY = PK_POOL_MANY
