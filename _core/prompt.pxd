# What a JSON body asks for: model, prompt, length; read from the tape by the table of `apis`.
from libc.stdint cimport int64_t, uint32_t, uint64_t

from picker._core.apis cimport PK_API_FIELDS, pk_api_t
from picker._core.hashing cimport chain_t
from picker._core.scan cimport scan_t

cdef enum:
    PK_BYTES_PER_TOKEN = 4     # of prompt text, on average; a token id counts as one token
    PK_BLOCK_TOKENS = 64       # of an index block: PK_BLOCK_BYTES / PK_BYTES_PER_TOKEN
    PK_MOST_DEPTH = 1024       # of the scanned JSON: digests are made by recursion
    PK_MOST_TOKENS = 0x7FFFFFFF

ctypedef struct prompt_t:
    const pk_api_t* api
    uint32_t at[PK_API_FIELDS]  # tape index of each field's value; 0 = not there, or null
    uint32_t model             # of the model's string; 0 = none
    bint stream
    int64_t max_tokens         # of the answer; -1 = not said

cdef int prompt_read(prompt_t* prompt, const scan_t* scan, int api) noexcept nogil
cdef uint64_t prompt_root(const prompt_t* prompt, const scan_t* scan, uint64_t root) noexcept nogil
cdef void prompt_hash(const prompt_t* prompt, const scan_t* scan, chain_t* chain) noexcept nogil
cdef int64_t prompt_tokens(const chain_t* chain) noexcept nogil
