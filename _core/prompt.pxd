# What a request body asks for: model, prompt, length; read from the JSON tape.
from libc.stddef cimport size_t
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from picker._core.codec cimport slice_t
from picker._core.hashing cimport chain_t
from picker._core.scan cimport scan_t

cdef enum:
    PK_BYTES_PER_TOKEN = 4     # of prompt text, on average; a token id counts as one token
    PK_BLOCK_TOKENS = 64       # of an index block: PK_BLOCK_BYTES / PK_BYTES_PER_TOKEN
    PK_MOST_DEPTH = 1024       # of the scanned JSON: digests are made by recursion

# What a path asks for
cdef enum:
    PK_API_OTHER = 0           # body not read
    PK_API_CHAT = 1            # .../chat/completions
    PK_API_COMPLETIONS = 2     # .../completions

# Why a body is refused
cdef enum:
    PK_BODY_OK = 0
    PK_BODY_NOT_JSON = 1
    PK_BODY_TOO_COMPLEX = 2
    PK_BODY_NOT_OBJECT = 3
    PK_BODY_NO_MODEL = 4
    PK_BODY_NO_MESSAGES = 5
    PK_BODY_NO_PROMPT = 6
    PK_BODY_PROBLEMS = 7

ctypedef struct prompt_t:
    int api
    uint32_t model             # tape index of the model's string
    uint32_t content           # tape index of messages or prompt
    bint stream
    int64_t max_tokens         # -1 = not said

cdef int prompt_api(slice_t path) noexcept nogil
cdef int prompt_read(prompt_t* prompt, const scan_t* scan, int api) noexcept nogil
cdef uint64_t prompt_root(const scan_t* scan, uint64_t root) noexcept nogil
cdef void prompt_hash(const prompt_t* prompt, const scan_t* scan, chain_t* chain) noexcept nogil
cdef int64_t prompt_tokens(const chain_t* chain) noexcept nogil
