# What a response body says about its own cost: usage, first token, error, end; out of chunks cut anywhere.
from libc.stddef cimport size_t
from libc.stdint cimport int64_t, uint8_t, uint64_t

from picker._core.codec cimport slice_t
from picker._core.restore cimport restore_t
from picker._core.usage cimport PK_USAGE_FIELDS, usage_t

cdef enum:                       # sse_t.end
    PK_SSE_OPEN = 0              # sse_finish was not called yet
    PK_SSE_COMPLETE = 1          # the body ended where it may
    PK_SSE_CUT = 2               # the body ended inside an event, or is no JSON

ctypedef struct sse_t:
    int64_t fields[PK_USAGE_FIELDS]     # each -1 until known; the last usage seen wins, field by field
    uint64_t events              # whole JSON events, `[DONE]` not counted; a unary body is one
    uint64_t malformed           # events lost because their data is no JSON
    uint64_t tokens              # events that hold a token, or none that says it holds none; a unary body: 1 once begun
    bint done                    # `[DONE]` or an event that says it is the last was seen
    bint saw_error               # an event held an `error` object, or said it was one
    uint8_t end                  # PK_SSE_*
    bint is_stream
    uint8_t line                 # what the current line is
    uint8_t line_at              # bytes of its field name read so far
    uint8_t mark                 # bytes of `[DONE]` the event's data has begun with
    bint second                  # the event has a data line already
    bint after_return            # the last byte was a CR: a LF now belongs to it
    usage_t usage                # the event, or unary body, being read

cdef void sse_init(sse_t* sse, bint is_event_stream) noexcept nogil
cdef void sse_feed(sse_t* sse, const uint8_t* data, size_t size) noexcept nogil
# The same, names of the model restored; `is_last`: no chunk follows. `result` as in `restore_finish`
cdef int sse_restore(sse_t* sse, restore_t* restore, slice_t chunk, bint is_last, slice_t* result) noexcept nogil
# The end of the body: takes an event that lacks only its blank line. What is fed later is not looked at.
cdef void sse_finish(sse_t* sse) noexcept nogil

# What the figures come to; -1: not known
cdef int64_t sse_prompt_tokens(const sse_t* sse) noexcept nogil
cdef int64_t sse_completion_tokens(const sse_t* sse) noexcept nogil
cdef int64_t sse_cached_tokens(const sse_t* sse) noexcept nogil
