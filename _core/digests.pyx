"""Digests of JSON values, and media among token ids: what goes into the hash chain that is no text.

Invariants: a digest does not depend on the order of an object's members; a member that is null is as good as none.
    Places are kept in order of their offsets.
Cost: O(values); allocates nothing. Recursion is as deep as the scanner allowed.
Memory: borrows tape and body.   Threads: any.
"""
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from picker._core.codec cimport slice_t
from picker._core.hashing cimport chain_feed, chain_t, hash_xxh64
from picker._core.scan cimport (
    PK_JSON_ARRAY,
    PK_JSON_INTS,
    PK_JSON_NULL,
    PK_JSON_OBJECT,
    PK_JSON_STRING,
    scan_next_int,
    scan_t,
    value_t,
)

cdef enum:
    DIGEST_WORDS = 32

# --- C kernel: digests, for what has no order of its own ---


cdef slice_t json_content(const scan_t* scan, uint32_t index) noexcept nogil:
    """The value as it stands: a string without its quotes, anything else whole."""
    cdef const value_t* value = &scan.tape[index]
    cdef uint32_t quote = value.kind == PK_JSON_STRING
    cdef slice_t text
    text.data = scan.data + value.start + quote
    text.size = value.end - value.start - 2 * quote
    return text


cdef inline uint64_t _join(uint64_t one, uint64_t other) noexcept nogil:
    cdef uint64_t words[2]
    words[0] = one
    words[1] = other
    return hash_xxh64(<const uint8_t*>words, sizeof(words), 0)


cdef digest_t _digest_text(const scan_t* scan, uint32_t index) noexcept nogil:
    """A string, number or literal, as it stands. The kind is its seed: "1" is not 1."""
    cdef slice_t text = json_content(scan, index)
    cdef digest_t digest
    digest.hash = hash_xxh64(text.data, text.size, scan.tape[index].kind)
    digest.size = text.size
    return digest


cdef digest_t _digest_ints(const scan_t* scan, uint32_t index) noexcept nogil:
    cdef uint32_t at = scan.tape[index].start, value
    cdef digest_t digest
    digest.hash = PK_JSON_ARRAY
    digest.size = 0
    while scan_next_int(scan, &at, &value):
        digest.hash = _join(digest.hash, value)
        digest.size += sizeof(uint32_t)
    return digest


cdef digest_t digest_value(const scan_t* scan, uint32_t index) noexcept nogil:
    """Any value: the members of an object in any order."""
    cdef const value_t* value = &scan.tape[index]
    cdef uint32_t item = index + 1
    cdef digest_t digest, part
    if value.kind == PK_JSON_OBJECT:
        return digest_members(scan, index, 0, 0)
    if value.kind != PK_JSON_ARRAY:
        return _digest_text(scan, index)
    if value.flags & PK_JSON_INTS:
        return _digest_ints(scan, index)
    digest.hash = PK_JSON_ARRAY
    digest.size = 0
    while item < value.next:
        part = digest_value(scan, item)
        digest.hash = _join(digest.hash, part.hash)
        digest.size += part.size
        item = scan.tape[item].next
    return digest


cdef digest_t digest_members(const scan_t* scan, uint32_t index, uint32_t left_out, uint32_t also) noexcept nogil:
    """The members of an object but the two with these values, and those that are null."""
    cdef uint32_t key = index + 1
    cdef digest_t digest, name, part
    digest.hash = digest.size = 0
    while key < scan.tape[index].next:
        if key + 1 != left_out and key + 1 != also and scan.tape[key + 1].kind != PK_JSON_NULL:
            name = _digest_text(scan, key)
            part = digest_value(scan, key + 1)
            digest.hash += _join(name.hash, part.hash)
            digest.size += name.size + part.size
        key = scan.tape[key + 1].next
    digest.hash = _join(PK_JSON_OBJECT, digest.hash)
    return digest


cdef void feed_digest(digest_t digest, chain_t* chain) noexcept nogil:
    """The hash again and again, `digest.size` bytes in all."""
    cdef uint64_t words[DIGEST_WORDS]
    cdef uint32_t i
    for i in range(DIGEST_WORDS):
        words[i] = digest.hash
    while digest.size > sizeof(words):
        chain_feed(chain, <const uint8_t*>words, sizeof(words))
        digest.size -= sizeof(words)
    chain_feed(chain, <const uint8_t*>words, digest.size)


# --- C kernel: media among token ids ---


cdef void places_add(places_t* places, uint64_t offset, uint64_t hash) noexcept nogil:
    """One more; those of one offset stay as they came. What is beyond the room goes into the last."""
    cdef uint32_t i = places.count
    if i == PK_MOST_PLACES:
        places.items[i - 1].hash = _join(places.items[i - 1].hash, hash)
        return
    while i and places.items[i - 1].offset > offset:
        places.items[i] = places.items[i - 1]
        i -= 1
    places.items[i].offset = offset
    places.items[i].hash = hash
    places.count += 1


cdef void places_feed(places_t* places, uint64_t offset, chain_t* chain) noexcept nogil:
    """Those that stand before the token id at `offset` or earlier; UINT64_MAX: all that are left."""
    cdef place_t* place
    while places.next < places.count:
        place = &places.items[places.next]
        if place.offset > offset:
            return
        chain_feed(chain, <const uint8_t*>&place.hash, sizeof(uint64_t))
        places.next += 1
