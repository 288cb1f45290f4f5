# What a vLLM engine's gRPC answers say about their own cost: out of frames cut anywhere.
from libc.stddef cimport size_t
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

cdef enum:
    PK_FRAME_PREFIX = 5          # a flag and the size of the message

ctypedef struct frame_figures_t:
    # Of one message, until it is whole.
    uint64_t token_ids
    uint64_t prompt
    uint64_t completion
    uint64_t cached
    uint64_t embedded            # prompt tokens of an embedding
    bint is_embedding
    bint is_lost                 # what the message holds is none of the known ones

ctypedef struct framed_t:
    bint is_known                # an answer has told its prompt tokens
    bint is_embedding
    uint64_t prompt_tokens       # the highest of each that was told
    uint64_t cached_tokens
    uint64_t streamed            # token ids of stream chunks
    uint64_t counted             # the highest count a stream chunk told
    uint64_t completed           # counts of complete answers, together
    uint64_t messages            # whole ones
    uint64_t tokens              # messages that hold tokens
    uint32_t left                # bytes of the message that are still to come
    uint32_t inner_left          # likewise of the message in it
    uint32_t skipped             # bytes to pass over, or to count
    uint8_t prefix_at            # bytes of the prefix read so far
    bint is_compressed
    uint8_t state                # of the message
    uint8_t inner                # field number of the message in it; 0: outside
    uint8_t last                 # the last such field of the message
    uint8_t shift                # of the varint being read
    uint64_t number
    uint32_t tag
    frame_figures_t figures

cdef void framed_init(framed_t* framed) noexcept nogil
cdef void framed_feed(framed_t* framed, const uint8_t* data, size_t size) noexcept nogil
# Is the body whole frames so far?
cdef bint framed_is_whole(const framed_t* framed) noexcept nogil
# -1: not known
cdef int64_t framed_prompt_tokens(const framed_t* framed) noexcept nogil
cdef int64_t framed_cached_tokens(const framed_t* framed) noexcept nogil
cdef int64_t framed_completion_tokens(const framed_t* framed) noexcept nogil
