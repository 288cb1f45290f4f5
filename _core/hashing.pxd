# XXH64 and chained block hashes.
from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint32_t, uint64_t

cdef enum:
    PK_BLOCK_BYTES = 256      # one index block: 64 tokens, as 4-byte ids or as about 4 bytes of text each

ctypedef struct chain_t:
    # Hash i covers blocks 0..i: block i is hashed with hash i-1 as its seed.
    uint64_t last             # hash of the last whole block, or the root
    uint64_t* out             # borrowed: where whole-block hashes go
    uint32_t room             # capacity of `out`
    uint32_t count            # hashes written
    uint32_t filled           # bytes waiting in `rest`
    uint64_t total            # bytes fed
    uint8_t rest[PK_BLOCK_BYTES]

cdef uint64_t hash_xxh64(const uint8_t* data, size_t size, uint64_t seed) noexcept nogil
cdef void chain_start(chain_t* chain, uint64_t root, uint64_t* out, uint32_t room) noexcept nogil
cdef void chain_feed(chain_t* chain, const uint8_t* data, size_t size) noexcept nogil
