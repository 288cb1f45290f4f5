# What a session answers: ProcessingResponses.
from libc.stddef cimport size_t
from libc.stdint cimport int64_t, uint32_t

from picker._core.codec cimport buffer_t, header_t, slice_t
from picker._core.outbox cimport out_t

cdef enum:
    PK_CONTROL_HEADERS = 22
    PK_DESTINATION_HEADER = 0  # the control header that is overwritten
    PK_REWRITE_HEADER = 1      # the model to go to, under its names
    PK_OLD_REWRITE_HEADER = 2
    PK_OBJECTIVE_HEADER = 5
    PK_OLD_OBJECTIVE_HEADER = 6
    PK_SLO_HEADER = 9          # milliseconds to the first token that the client wishes for
    PK_OLD_SLO_HEADER = 10
    PK_SHOWN_BYTES = 160       # of what a client says
    PK_REFUSAL_HEADERS = 8     # of a refusal, besides those every one has

ctypedef struct splice_t:
    # Other bytes in the place of some of a body's.
    size_t start
    size_t end
    slice_t text

ctypedef struct answer_reply_t:
    # What is changed in the headers of a response.
    header_t set[8]            # headers to set
    uint32_t set_count
    bint is_unsized            # the body's size may change: no content-length
    bint wants_no_body         # the gateway need not show the body
    uint32_t request_mode      # only then: PK_BODY_*, as it is

ctypedef struct refusal_t:
    # An answer in picker's own name.
    int failure                # PK_FAIL_*
    int problem                # of a 400: PK_BODY_*, and where
    uint32_t offset
    uint32_t retry_after_s     # of a 429 or 503: when to come again; 0 = in a second
    const header_t* headers    # further ones
    uint32_t header_count      # at most PK_REFUSAL_HEADERS
    const char* message        # instead of what is said of such; must stand in JSON as it is
    const char* type
    bint is_away               # of PK_FAIL_QUOTA: nobody can say what the limits are

cdef uint32_t out_control(slice_t key) noexcept nogil
cdef int out_plain(out_t* out, int reply) noexcept nogil
cdef int out_strip(out_t* out, uint32_t controls) noexcept nogil
cdef int out_pick(
    out_t* out, int reply, slice_t destination, uint32_t controls, const slice_t* body, int64_t content_length
) noexcept nogil
cdef int out_answer(out_t* out, const answer_reply_t* answer) noexcept nogil
cdef int out_changed(out_t* out, slice_t body, int64_t length) noexcept nogil
cdef int out_chunk(out_t* out, int reply, slice_t chunk, bint end_of_stream) noexcept nogil
cdef int out_body(
    out_t* out, int reply, buffer_t* body, const splice_t* splice, size_t chunk_bytes, bint end_of_stream
) noexcept nogil
cdef int out_trailers(out_t* out, int reply) noexcept nogil
cdef int out_refusal(out_t* out, const refusal_t* refusal) noexcept nogil
cdef int out_no_pool(out_t* out, slice_t said, bint is_name, bint is_many) noexcept nogil
