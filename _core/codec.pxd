# ext_proc messages: ProcessingRequest in, ProcessingResponse out, only the fields picker uses.
from libc.stddef cimport size_t
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport strlen

# envoy.service.ext_proc.v3.ProcessingRequest.request, by field number
cdef enum:
    PK_REQUEST_HEADERS = 2
    PK_RESPONSE_HEADERS = 3
    PK_REQUEST_BODY = 4
    PK_RESPONSE_BODY = 5
    PK_REQUEST_TRAILERS = 6
    PK_RESPONSE_TRAILERS = 7

# envoy.service.ext_proc.v3.ProcessingResponse.response, by field number
cdef enum:
    PK_REPLY_REQUEST_HEADERS = 1
    PK_REPLY_RESPONSE_HEADERS = 2
    PK_REPLY_REQUEST_BODY = 3
    PK_REPLY_RESPONSE_BODY = 4
    PK_REPLY_REQUEST_TRAILERS = 5
    PK_REPLY_RESPONSE_TRAILERS = 6

# envoy.extensions.filters.http.ext_proc.v3.ProcessingMode.BodySendMode
cdef enum:
    PK_BODY_NONE = 0
    PK_BODY_STREAMED = 1
    PK_BODY_BUFFERED = 2
    PK_BODY_BUFFERED_PARTIAL = 3
    PK_BODY_FULL_DUPLEX_STREAMED = 4
    PK_BODY_GRPC = 5

# envoy.extensions.filters.http.ext_proc.v3.ProcessingMode.HeaderSendMode
cdef enum:
    PK_SEND_DEFAULT = 0
    PK_SEND_SEND = 1
    PK_SEND_SKIP = 2

ctypedef struct slice_t:
    const uint8_t* data     # borrowed from the message
    size_t size

ctypedef struct buffer_t:
    uint8_t* data           # owned
    size_t size
    size_t capacity

ctypedef struct message_t:
    int kind                # PK_REQUEST_HEADERS ...
    slice_t headers         # a serialised HeaderMap (headers and trailers messages)
    slice_t body
    bint end_of_stream
    slice_t metadata        # a serialised config.core.v3.Metadata
    bint has_protocol       # protocol_config is there: the first message of a stream
    uint32_t request_mode   # PK_BODY_*
    uint32_t response_mode
    bint is_observed        # observability_mode: the gateway takes no answer

ctypedef struct header_t:
    slice_t key
    slice_t value           # raw_value, else value

ctypedef struct field_t:
    uint32_t tag            # field number << 3 | wire type
    uint64_t number         # a varint's value
    slice_t bytes           # a length-delimited field's content

ctypedef struct mutation_t:
    # What a reply changes. Slices are borrowed; empty means absent.
    slice_t destination             # "ip:port[,ip:port...]": header and dynamic metadata
    const header_t* set             # further headers to set
    uint32_t set_count
    const slice_t* removed          # header names to remove
    uint32_t removed_count
    slice_t body                    # instead of the body; not for FULL_DUPLEX_STREAMED
    bint has_body                   # `body` counts, though it may be empty
    bint clear_route_cache
    bint has_mode                   # mode_override; the gateway may take none
    uint32_t request_mode           # PK_BODY_*, from here on
    uint32_t response_mode
    uint32_t response_trailers      # PK_SEND_*

cdef int buffer_reserve(buffer_t* buffer, size_t extra) noexcept nogil
cdef int buffer_append(buffer_t* buffer, const void* data, size_t size) noexcept nogil
cdef void buffer_free(buffer_t* buffer) noexcept nogil

cdef bint slice_is(slice_t text, const char* other, size_t size) noexcept nogil


cdef inline slice_t slice_text(const char* text) noexcept nogil:
    cdef slice_t slice
    slice.data = <const uint8_t*>text
    slice.size = strlen(text)
    return slice


cdef inline slice_t slice_bytes(const buffer_t* buffer) noexcept nogil:
    cdef slice_t slice
    slice.data = buffer.data
    slice.size = buffer.size
    return slice


cdef inline bint slice_equals(slice_t text, const char* other) noexcept nogil:
    return slice_is(text, other, strlen(other))


cdef inline bint slice_starts(slice_t text, const char* start) noexcept nogil:
    cdef slice_t head = text
    head.size = strlen(start)
    return text.size >= head.size and slice_equals(head, start)


cdef inline int64_t slice_number(slice_t text, size_t most) noexcept nogil:
    """The number that at most so many digits (18 at most) say; -1 if they are none."""
    cdef int64_t value = 0
    cdef size_t i
    if not 0 < text.size <= most:
        return -1
    for i in range(text.size):
        if not c"0" <= text.data[i] <= c"9":
            return -1
        value = value * 10 + text.data[i] - c"0"
    return value


# For other messages than ext_proc's: 1 and the next field of `rest`, 0 at its end, or PK_E_FORMAT
cdef int codec_field(slice_t* rest, field_t* field) noexcept nogil
cdef bint codec_varint(slice_t* rest, uint64_t* value) noexcept nogil
cdef bint codec_utf8(slice_t text) noexcept nogil

cdef int codec_decode(message_t* message, const uint8_t* data, size_t size) noexcept nogil
cdef bint codec_next_header(slice_t* rest, header_t* header) noexcept nogil
cdef bint codec_has_metadata(slice_t metadata, slice_t namespace) noexcept nogil
cdef int codec_find_metadata(
    slice_t metadata, slice_t namespace, slice_t key, slice_t* value
) noexcept nogil
cdef bint codec_value_string(slice_t value, slice_t* text) noexcept nogil
cdef bint codec_value_list(slice_t value, slice_t* items) noexcept nogil
cdef int codec_value_member(slice_t value, slice_t name, slice_t* member) noexcept nogil
cdef bint codec_next_item(slice_t* items, slice_t* value) noexcept nogil

cdef int codec_write_common(buffer_t* out, int reply, const mutation_t* mutation) noexcept nogil
cdef int codec_write_streamed(
    buffer_t* out, int reply, const uint8_t* data, size_t size, bint end_of_stream
) noexcept nogil
cdef int codec_begin_streamed(buffer_t* out, int reply, size_t size, bint end_of_stream) noexcept nogil
cdef int codec_end_streamed(buffer_t* out, bint end_of_stream) noexcept nogil
cdef int codec_write_trailers(buffer_t* out, int reply) noexcept nogil
cdef int codec_write_immediate(
    buffer_t* out, uint32_t status, const header_t* headers, uint32_t header_count, slice_t body, slice_t details
) noexcept nogil


cdef class Message:
    cdef const unsigned char[::1] _data
    cdef message_t _message


cdef class Writer:
    cdef buffer_t _out
