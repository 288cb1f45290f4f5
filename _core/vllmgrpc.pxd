# Requests of vLLM's gRPC service: token ids or text, and what bounds the answer.
from libc.stddef cimport size_t
from libc.stdint cimport int64_t, uint8_t

from picker._core.codec cimport slice_t
from picker._core.hashing cimport chain_t

ctypedef struct vllm_t:
    slice_t frames             # borrowed: gRPC messages with their prefixes
    int64_t max_tokens         # -1 = not said

# PK_OK; PK_E_FORMAT: it cannot be read: compressed, cut, not what it should be
cdef int vllm_read(vllm_t* request, const uint8_t* data, size_t size) noexcept nogil
cdef void vllm_hash(const vllm_t* request, chain_t* chain) noexcept nogil
