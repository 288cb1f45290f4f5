# Digests of JSON values, and media among token ids: what goes into the hash chain that is no text.
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from picker._core.codec cimport slice_t
from picker._core.hashing cimport chain_t
from picker._core.scan cimport PK_JSON_NULL, scan_t

cdef enum:
    PK_MEDIA_BYTES = 1024      # an image or a sound stands for 256 tokens, whatever its size in JSON
    PK_MOST_PLACES = 64        # media told apart by where they stand among token ids; further ones count together

ctypedef struct digest_t:
    uint64_t hash
    uint64_t size              # bytes of names, strings and literals in it

ctypedef struct place_t:
    uint64_t offset            # of the token id before which it stands
    uint64_t hash

ctypedef struct places_t:
    uint32_t count             # in order of their offsets
    uint32_t next              # the first that was not fed yet
    place_t items[PK_MOST_PLACES]


cdef inline bint json_is_there(const scan_t* scan, uint32_t index) noexcept nogil:
    """A value other than null."""
    return index != 0 and scan.tape[index].kind != PK_JSON_NULL


cdef slice_t json_content(const scan_t* scan, uint32_t index) noexcept nogil
cdef digest_t digest_value(const scan_t* scan, uint32_t index) noexcept nogil
cdef digest_t digest_members(const scan_t* scan, uint32_t index, uint32_t left_out, uint32_t also) noexcept nogil
cdef void feed_digest(digest_t digest, chain_t* chain) noexcept nogil
cdef void places_add(places_t* places, uint64_t offset, uint64_t hash) noexcept nogil
cdef void places_feed(places_t* places, uint64_t offset, chain_t* chain) noexcept nogil
