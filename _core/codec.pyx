"""ext_proc messages by hand: decodes ProcessingRequest, encodes ProcessingResponse, only the fields picker uses.

Invariants: decoding copies nothing and reads no byte outside the message; any malformed input is PK_E_FORMAT.
    What protobuf would accept and no gateway sends is refused too: a sub-message given twice (protobuf merges them),
    a oneof set twice, a group, and a request that is none of the six known ones.
    Metadata and attributes are skipped by `codec_decode`; `codec_find_metadata` checks what it walks.
    A failed write leaves the buffer's content as it was. Codes are joined by `|`: PK_E_NOMEM (all ones) wins.
Cost: O(bytes of headers) to decode (bodies are skipped over); encoding grows one buffer.
Memory: slices borrow from the message; a `buffer_t` belongs to whoever declared it.   Threads: any.
Source: envoy/service/ext_proc/v3/external_processor.proto, envoy/config/core/v3/base.proto,
    google/protobuf/struct.proto; `proto/` holds the part of them that is used.
"""
cimport cython
from libc.stddef cimport size_t
from libc.stdint cimport UINT32_MAX, int32_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy, memmove, memset

from picker._core.alloc cimport PK_E_FORMAT, PK_E_NOMEM, PK_OK, pk_free, pk_grow

cdef enum:
    WIRE_VARINT = 0
    WIRE_FIXED64 = 1
    WIRE_BYTES = 2
    WIRE_FIXED32 = 5

# --- C kernel: buffers ---


cdef int buffer_reserve(buffer_t* buffer, size_t extra) noexcept nogil:
    """Room for `extra` further bytes."""
    if extra <= buffer.capacity - buffer.size:
        return PK_OK
    if buffer.size + extra < extra:
        return PK_E_NOMEM
    return pk_grow(<void**>&buffer.data, &buffer.capacity, buffer.size + extra, 1)


cdef int buffer_append(buffer_t* buffer, const void* data, size_t size) noexcept nogil:
    if size == 0:
        return PK_OK
    if buffer_reserve(buffer, size) != PK_OK:
        return PK_E_NOMEM
    memcpy(buffer.data + buffer.size, data, size)
    buffer.size += size
    return PK_OK


cdef void buffer_free(buffer_t* buffer) noexcept nogil:
    pk_free(buffer.data)
    buffer.data = NULL
    buffer.size = 0
    buffer.capacity = 0


cdef bint slice_is(slice_t text, const char* other, size_t size) noexcept nogil:
    return text.size == size and (size == 0 or memcmp(text.data, other, size) == 0)


# --- C kernel: reading protobuf ---


cdef inline bint _varint(slice_t* rest, int longest, uint64_t* value) noexcept nogil:
    """A varint of at most `longest` bytes; bits past the 64th are dropped, as every protobuf parser does."""
    cdef uint64_t result = 0
    cdef int shift = 0
    cdef uint8_t byte
    while rest.size and shift < 7 * longest:
        byte = rest.data[0]
        rest.data += 1
        rest.size -= 1
        result |= <uint64_t>(byte & 0x7F) << shift
        if byte < 0x80:
            value[0] = result
            return True
        shift += 7
    return False


cdef inline bint _skip(slice_t* rest, size_t size) noexcept nogil:
    if rest.size < size:
        return False
    rest.data += size
    rest.size -= size
    return True


cdef int _field(slice_t* rest, field_t* field) noexcept nogil:
    """Read one field: 1, 0 at the end of `rest`, or PK_E_FORMAT. Tags and lengths are 32-bit: five bytes at most."""
    cdef uint64_t tag
    cdef uint32_t wire
    if rest.size == 0:
        return 0
    if not _varint(rest, 5, &tag) or tag > UINT32_MAX or tag < 8:
        return PK_E_FORMAT
    field.tag = <uint32_t>tag
    field.number = 0
    field.bytes.data = NULL
    field.bytes.size = 0
    wire = field.tag & 7
    if wire == WIRE_VARINT:
        return 1 if _varint(rest, 10, &field.number) else PK_E_FORMAT
    if wire == WIRE_BYTES:
        if not _varint(rest, 5, &field.number) or field.number > rest.size:
            return PK_E_FORMAT
        field.bytes.data = rest.data
        field.bytes.size = <size_t>field.number
        return 1 if _skip(rest, field.bytes.size) else PK_E_FORMAT
    if wire == WIRE_FIXED64:
        return 1 if _skip(rest, 8) else PK_E_FORMAT
    if wire == WIRE_FIXED32:
        return 1 if _skip(rest, 4) else PK_E_FORMAT
    return PK_E_FORMAT


cdef int codec_field(slice_t* rest, field_t* field) noexcept nogil:
    """The next field of another message than ext_proc's: 1, 0 at the end, or PK_E_FORMAT."""
    return _field(rest, field)


cdef bint codec_varint(slice_t* rest, uint64_t* value) noexcept nogil:
    """A varint of a packed field; False at the end, or where it stops too early."""
    return _varint(rest, 10, value)


cdef inline uint32_t _tag(uint32_t number, uint32_t wire) noexcept nogil:
    return number << 3 | wire


cdef bint _utf8(slice_t text) noexcept nogil:
    """Is this valid UTF-8, as protobuf requires of strings?"""
    cdef size_t i = 0, more
    cdef uint8_t lead, least, most
    while i < text.size:
        lead = text.data[i]
        i += 1
        if lead < 0x80:
            continue
        least, most = 0x80, 0xBF
        if 0xC2 <= lead <= 0xDF:
            more = 1
        elif 0xE0 <= lead <= 0xEF:
            more = 2
            least = 0xA0 if lead == 0xE0 else 0x80
            most = 0x9F if lead == 0xED else 0xBF
        elif 0xF0 <= lead <= 0xF4:
            more = 3
            least = 0x90 if lead == 0xF0 else 0x80
            most = 0x8F if lead == 0xF4 else 0xBF
        else:
            return False
        if text.size - i < more or text.data[i] < least or text.data[i] > most:
            return False
        i += 1
        more -= 1
        while more:
            if text.data[i] & 0xC0 != 0x80:
                return False
            i += 1
            more -= 1
    return True


cdef bint codec_utf8(slice_t text) noexcept nogil:
    """Is this valid UTF-8?"""
    return _utf8(text)


cdef int _header(slice_t rest, header_t* header) noexcept nogil:
    """config.core.v3.HeaderValue: raw_value wins over value (agentgateway sends pseudo-headers in value).

    0 or PK_E_FORMAT. A scalar given twice counts as last given, as in protobuf.
    """
    cdef field_t field
    cdef slice_t raw
    cdef int got
    header.key.data = header.value.data = raw.data = NULL
    header.key.size = header.value.size = raw.size = 0
    while True:
        got = _field(&rest, &field)
        if got != 1:
            break
        if field.tag == _tag(1, WIRE_BYTES):
            header.key = field.bytes
        elif field.tag == _tag(2, WIRE_BYTES):
            header.value = field.bytes
        else:
            if field.tag == _tag(3, WIRE_BYTES):
                raw = field.bytes
            continue
        if not _utf8(field.bytes):
            return PK_E_FORMAT
    if got == 0 and raw.size:
        header.value = raw
    return got


cdef bint codec_next_header(slice_t* rest, header_t* header) noexcept nogil:
    """Next header of a serialised HeaderMap that `codec_decode` has validated; False at the end."""
    cdef field_t field
    while _field(rest, &field) == 1:
        if field.tag == _tag(1, WIRE_BYTES):
            return _header(field.bytes, header) == 0
    return False


cdef int _header_map(slice_t rest) noexcept nogil:
    """Validate every header."""
    cdef field_t field
    cdef header_t header
    cdef int got = 1
    while got == 1:
        got = _field(&rest, &field)
        if got == 1 and field.tag == _tag(1, WIRE_BYTES) and _header(field.bytes, &header) != 0:
            return PK_E_FORMAT
    return got


cdef inline bint _once(slice_t* into, slice_t value) noexcept nogil:
    """Keep a sub-message; False if there was one already."""
    if into.data != NULL:
        return False
    into[0] = value
    return True


cdef int _content(message_t* message, slice_t rest) noexcept nogil:
    """HttpHeaders, HttpBody or HttpTrailers."""
    cdef bint is_body = message.kind == PK_REQUEST_BODY or message.kind == PK_RESPONSE_BODY
    cdef bint is_headers = message.kind == PK_REQUEST_HEADERS or message.kind == PK_RESPONSE_HEADERS
    cdef uint32_t end_tag = _tag(2 if is_body else 3, WIRE_VARINT)
    cdef field_t field
    cdef int got = 1
    while got == 1:
        got = _field(&rest, &field)
        if got != 1:
            break
        if field.tag == _tag(1, WIRE_BYTES):
            if is_body:
                message.body = field.bytes
            elif not _once(&message.headers, field.bytes) or _header_map(field.bytes) != 0:
                return PK_E_FORMAT
        elif field.tag == end_tag and (is_body or is_headers):
            message.end_of_stream = field.number != 0
    return got


cdef int _protocol(message_t* message, slice_t rest) noexcept nogil:
    """ProtocolConfiguration: how bodies are sent, per direction. Enums keep a varint's low 32 bits, as in protobuf."""
    cdef field_t field
    cdef int got = 1
    message.has_protocol = True
    while got == 1:
        got = _field(&rest, &field)
        if got == 1 and field.tag == _tag(1, WIRE_VARINT):
            message.request_mode = <uint32_t>field.number
        elif got == 1 and field.tag == _tag(2, WIRE_VARINT):
            message.response_mode = <uint32_t>field.number
    return got


cdef int codec_decode(message_t* message, const uint8_t* data, size_t size) noexcept nogil:
    """Decode one ProcessingRequest. PK_OK, or PK_E_FORMAT with `message` in no useful state."""
    cdef slice_t rest, content
    cdef field_t field
    cdef int got
    rest.data, rest.size = data, size
    content.data = message.headers.data = message.body.data = message.metadata.data = NULL
    content.size = message.headers.size = message.body.size = message.metadata.size = 0
    message.kind = 0
    message.end_of_stream = message.has_protocol = message.is_observed = False
    message.request_mode = message.response_mode = PK_BODY_NONE
    while True:
        got = _field(&rest, &field)
        if got != 1:
            break
        if field.tag & 7 != WIRE_BYTES:
            if field.tag == _tag(10, WIRE_VARINT):
                message.is_observed = field.number != 0
            continue
        if PK_REQUEST_HEADERS <= field.tag >> 3 <= PK_RESPONSE_TRAILERS:
            if not _once(&content, field.bytes):
                return PK_E_FORMAT
            message.kind = field.tag >> 3
        elif field.tag == _tag(8, WIRE_BYTES):
            if not _once(&message.metadata, field.bytes):
                return PK_E_FORMAT
        elif field.tag == _tag(11, WIRE_BYTES):
            if message.has_protocol or _protocol(message, field.bytes) != 0:
                return PK_E_FORMAT
    if got != 0 or message.kind == 0:
        return PK_E_FORMAT
    return PK_OK if _content(message, content) == 0 else PK_E_FORMAT


# --- C kernel: reading google.protobuf.Struct ---


cdef int _map_entry(slice_t rest, slice_t* name, slice_t* content) noexcept nogil:
    """One entry of a map<string, message>. 0 or PK_E_FORMAT."""
    cdef field_t part
    cdef int got
    name.data = content.data = NULL
    name.size = content.size = 0
    while True:
        got = _field(&rest, &part)
        if got != 1:
            return got
        if part.tag == _tag(1, WIRE_BYTES):
            name[0] = part.bytes
        elif part.tag == _tag(2, WIRE_BYTES) and not _once(content, part.bytes):
            return PK_E_FORMAT


cdef int _map_find(slice_t rest, slice_t key, slice_t* value) noexcept nogil:
    """map<string, message> in field 1: the last entry named `key`. 1 found, 0 not, PK_E_FORMAT."""
    cdef field_t entry
    cdef slice_t name, content
    cdef int got, found = 0
    while True:
        got = _field(&rest, &entry)
        if got != 1:
            return PK_E_FORMAT if got < 0 else found
        if entry.tag != _tag(1, WIRE_BYTES):
            continue
        if _map_entry(entry.bytes, &name, &content) != 0:
            return PK_E_FORMAT
        if slice_is(name, <const char*>key.data, key.size):
            value[0] = content
            found = 1


cdef inline bint _is_kind(uint32_t tag) noexcept nogil:
    """Is this a member of google.protobuf.Value's oneof `kind`?"""
    return (
        tag == _tag(1, WIRE_VARINT)         # null_value
        or tag == _tag(2, WIRE_FIXED64)     # number_value
        or tag == _tag(3, WIRE_BYTES)       # string_value
        or tag == _tag(4, WIRE_VARINT)      # bool_value
        or tag == _tag(5, WIRE_BYTES)       # struct_value
        or tag == _tag(6, WIRE_BYTES)       # list_value
    )


cdef int _check_value(slice_t rest) noexcept nogil:
    """A Value by itself: well formed, of one kind at most, its text in UTF-8. 0 or PK_E_FORMAT."""
    cdef field_t field
    cdef int got
    cdef bint has_kind = False
    while True:
        got = _field(&rest, &field)
        if got != 1:
            return got
        if not _is_kind(field.tag):
            continue
        if has_kind or (field.tag == _tag(3, WIRE_BYTES) and not _utf8(field.bytes)):
            return PK_E_FORMAT
        has_kind = True


cdef int _check_items(slice_t rest) noexcept nogil:
    """Every Value of a ListValue, by itself. 0 or PK_E_FORMAT."""
    cdef field_t field
    cdef int got
    while True:
        got = _field(&rest, &field)
        if got != 1:
            return got
        if field.tag == _tag(1, WIRE_BYTES) and _check_value(field.bytes) != 0:
            return PK_E_FORMAT


cdef bint codec_has_metadata(slice_t metadata, slice_t namespace) noexcept nogil:
    """Is there a filter_metadata[namespace]?"""
    cdef slice_t fields
    return metadata.size != 0 and _map_find(metadata, namespace, &fields) == 1


cdef int codec_find_metadata(
    slice_t metadata, slice_t namespace, slice_t key, slice_t* value
) noexcept nogil:
    """filter_metadata[namespace][key] as a serialised Value: 1 found, 0 not, PK_E_FORMAT.

    Checked are the entries of both maps, the Value and, of a list, its items; nothing nested deeper, no other key.
    """
    cdef slice_t fields, items
    cdef int got = _map_find(metadata, namespace, &fields)
    if got == 1:
        got = _map_find(fields, key, value)
    if got != 1:
        return got
    if _check_value(value[0]) != 0:
        return PK_E_FORMAT
    if codec_value_list(value[0], &items) and _check_items(items) != 0:
        return PK_E_FORMAT
    return 1


cdef bint _value(slice_t rest, uint32_t tag, slice_t* content) noexcept nogil:
    cdef field_t field
    while _field(&rest, &field) == 1:
        if field.tag == tag:
            content[0] = field.bytes
            return True
    return False


cdef bint codec_value_string(slice_t value, slice_t* text) noexcept nogil:
    """google.protobuf.Value.string_value of a checked Value."""
    return _value(value, _tag(3, WIRE_BYTES), text)


cdef bint codec_value_list(slice_t value, slice_t* items) noexcept nogil:
    """google.protobuf.Value.list_value of a checked Value, to be walked by `codec_next_item`."""
    return _value(value, _tag(6, WIRE_BYTES), items)


cdef int codec_value_member(slice_t value, slice_t name, slice_t* member) noexcept nogil:
    """google.protobuf.Value.struct_value[name] of a checked Value, checked itself: 1 found, 0 not, PK_E_FORMAT."""
    cdef slice_t fields, items
    cdef int got
    if not _value(value, _tag(5, WIRE_BYTES), &fields):
        return 0
    got = _map_find(fields, name, member)
    if got != 1:
        return got
    if _check_value(member[0]) != 0:
        return PK_E_FORMAT
    if codec_value_list(member[0], &items) and _check_items(items) != 0:
        return PK_E_FORMAT
    return 1


cdef bint codec_next_item(slice_t* items, slice_t* value) noexcept nogil:
    """Next Value of a ListValue; False at the end."""
    cdef field_t field
    while _field(items, &field) == 1:
        if field.tag == _tag(1, WIRE_BYTES):
            value[0] = field.bytes
            return True
    return False


# --- C kernel: writing protobuf ---


cdef inline size_t _varint_size(uint64_t value) noexcept nogil:
    cdef size_t size = 1
    while value >= 0x80:
        value >>= 7
        size += 1
    return size


cdef int _put_varint(buffer_t* out, uint64_t value) noexcept nogil:
    cdef uint8_t bytes[10]
    cdef size_t size = 0
    if value < 0x80 and out.size < out.capacity:      # nearly always
        out.data[out.size] = <uint8_t>value
        out.size += 1
        return PK_OK
    while value >= 0x80:
        bytes[size] = <uint8_t>(value | 0x80)
        value >>= 7
        size += 1
    bytes[size] = <uint8_t>value
    return buffer_append(out, bytes, size + 1)


cdef int _put_head(buffer_t* out, uint32_t number, size_t size) noexcept nogil:
    """Tag and length of a length-delimited field."""
    if _put_varint(out, _tag(number, WIRE_BYTES)) != PK_OK:
        return PK_E_NOMEM
    return _put_varint(out, size)


cdef int _put_bytes(buffer_t* out, uint32_t number, slice_t text) noexcept nogil:
    """A field of type bytes."""
    if _put_head(out, number, text.size) != PK_OK:
        return PK_E_NOMEM
    return buffer_append(out, text.data, text.size)


cdef int _put_string(buffer_t* out, uint32_t number, slice_t text) noexcept nogil:
    """A field of type string. Not UTF-8: PK_E_FORMAT, for the gateway would refuse the whole message."""
    return _put_bytes(out, number, text) if _utf8(text) else PK_E_FORMAT


cdef int _put_uint(buffer_t* out, uint32_t number, uint64_t value) noexcept nogil:
    if _put_varint(out, _tag(number, WIRE_VARINT)) != PK_OK:
        return PK_E_NOMEM
    return _put_varint(out, value)


cdef int _open(buffer_t* out, uint32_t number, size_t* mark) noexcept nogil:
    """Begin a nested message: one byte is kept for its length, `_close` makes room if that is not enough."""
    cdef int code = _put_head(out, number, 0)
    mark[0] = out.size
    return code


cdef int _close(buffer_t* out, size_t mark, int code) noexcept nogil:
    """End the message begun at `mark`, unless writing it failed with `code` already."""
    cdef size_t size = out.size - mark
    cdef size_t width = _varint_size(size)
    if code != PK_OK:
        return code
    if buffer_reserve(out, width) != PK_OK:
        return PK_E_NOMEM
    if width > 1:
        memmove(out.data + mark - 1 + width, out.data + mark, size)
    out.size = mark - 1
    _put_varint(out, size)          # cannot fail: the room was reserved
    out.size += size
    return PK_OK


cdef int _finish(buffer_t* out, size_t start, int code) noexcept nogil:
    """Take back what was written since `start` if writing failed."""
    if code != PK_OK:
        out.size = start
    return code


cdef slice_t _destination_key() noexcept nogil:
    return slice_text(b"x-gateway-destination-endpoint")


cdef int _put_set_header(buffer_t* out, slice_t key, slice_t value) noexcept nogil:
    """HeaderMutation.set_headers: HeaderValueOption with OVERWRITE_IF_EXISTS_OR_ADD, the value in raw_value."""
    cdef size_t option = 0, header = 0
    cdef int code = _open(out, 1, &option)
    code |= _open(out, 1, &header)
    code |= _put_string(out, 1, key)
    code |= _put_bytes(out, 3, value)
    code = _close(out, header, code)
    code |= _put_uint(out, 3, 2)
    return _close(out, option, code)


cdef int _put_header_mutation(buffer_t* out, const mutation_t* mutation) noexcept nogil:
    """CommonResponse.header_mutation, left out if it would be empty."""
    cdef size_t mark = 0
    cdef uint32_t i
    cdef int code
    if not (mutation.destination.size or mutation.set_count or mutation.removed_count):
        return PK_OK
    code = _open(out, 2, &mark)
    if mutation.destination.size:
        code |= _put_set_header(out, _destination_key(), mutation.destination)
    for i in range(mutation.set_count):
        code |= _put_set_header(out, mutation.set[i].key, mutation.set[i].value)
    for i in range(mutation.removed_count):
        code |= _put_string(out, 2, mutation.removed[i])
    return _close(out, mark, code)


cdef int _put_destination_metadata(buffer_t* out, slice_t destination) noexcept nogil:
    """dynamic_metadata {"envoy.lb": {"x-gateway-destination-endpoint": destination}}."""
    cdef size_t root = 0, entry = 0, value = 0, inner = 0, leaf_entry = 0, leaf = 0
    cdef int code = _open(out, 8, &root)
    code |= _open(out, 1, &entry)
    code |= _put_bytes(out, 1, slice_text(b"envoy.lb"))
    code |= _open(out, 2, &value)
    code |= _open(out, 5, &inner)
    code |= _open(out, 1, &leaf_entry)
    code |= _put_bytes(out, 1, _destination_key())
    code |= _open(out, 2, &leaf)
    code |= _put_string(out, 3, destination)
    code = _close(out, leaf, code)
    code = _close(out, leaf_entry, code)
    code = _close(out, inner, code)
    code = _close(out, value, code)
    code = _close(out, entry, code)
    return _close(out, root, code)


cdef int _put_body_mutation(buffer_t* out, slice_t body) noexcept nogil:
    """CommonResponse.body_mutation.body. A member of a oneof is written even if it is empty."""
    cdef size_t mark = 0
    cdef int code = _open(out, 3, &mark)
    code |= _put_bytes(out, 1, body)
    return _close(out, mark, code)


cdef int _put_mode(buffer_t* out, const mutation_t* mutation) noexcept nogil:
    """ProcessingResponse.mode_override: both body modes are said, for what is not said is NONE."""
    cdef size_t mark = 0
    cdef int code = _open(out, 9, &mark)
    if mutation.request_mode:
        code |= _put_uint(out, 3, mutation.request_mode)
    if mutation.response_mode:
        code |= _put_uint(out, 4, mutation.response_mode)
    if mutation.response_trailers:
        code |= _put_uint(out, 6, mutation.response_trailers)
    return _close(out, mark, code)


cdef int _put_common(buffer_t* out, const mutation_t* mutation) noexcept nogil:
    """The CommonResponse of a HeadersResponse or BodyResponse."""
    cdef size_t mark = 0
    cdef int code = _open(out, 1, &mark)
    code |= _put_header_mutation(out, mutation)
    if mutation.has_body:
        code |= _put_body_mutation(out, mutation.body)
    if mutation.clear_route_cache:
        code |= _put_uint(out, 5, 1)
    return _close(out, mark, code)


cdef int codec_write_common(buffer_t* out, int reply, const mutation_t* mutation) noexcept nogil:
    """A HeadersResponse or BodyResponse with a CommonResponse; `mutation` NULL or empty changes nothing.

    PK_OK, PK_E_NOMEM, or PK_E_FORMAT for a header name or destination that is not UTF-8.
    """
    cdef size_t root = 0, start = out.size
    cdef int code = _open(out, reply, &root)
    if mutation != NULL:
        code |= _put_common(out, mutation)
    code = _close(out, root, code)
    if mutation != NULL and mutation.destination.size:
        code |= _put_destination_metadata(out, mutation.destination)
    if mutation != NULL and mutation.has_mode:
        code |= _put_mode(out, mutation)
    return _finish(out, start, code)


cdef int codec_write_streamed(
    buffer_t* out, int reply, const uint8_t* data, size_t size, bint end_of_stream
) noexcept nogil:
    """BodyResponse.response.body_mutation.streamed_response: the only body answer FULL_DUPLEX_STREAMED allows.

    PK_OK or PK_E_NOMEM. Lengths are known beforehand here, so that a chunk is copied once.
    """
    cdef size_t start = out.size
    cdef int code = codec_begin_streamed(out, reply, size, end_of_stream)
    if code == PK_OK:
        code = buffer_append(out, data, size)
    if code == PK_OK:
        code = codec_end_streamed(out, end_of_stream)
    return _finish(out, start, code)


cdef int codec_begin_streamed(buffer_t* out, int reply, size_t size, bint end_of_stream) noexcept nogil:
    """The same as far as the `size` bytes of the chunk, which follow; then `codec_end_streamed`. Makes room for all but
    the chunk."""
    cdef size_t streamed = (1 + _varint_size(size) + size if size else 0) + (2 if end_of_stream else 0)
    cdef size_t mutation = 1 + _varint_size(streamed) + streamed
    cdef size_t common = 1 + _varint_size(mutation) + mutation
    cdef size_t body = 1 + _varint_size(common) + common
    if buffer_reserve(out, 1 + _varint_size(body) + body - size) != PK_OK:
        return PK_E_NOMEM
    _put_head(out, reply, body)           # none of these can fail: the room was reserved
    _put_head(out, 1, common)
    _put_head(out, 3, mutation)
    _put_head(out, 3, streamed)
    if size:
        _put_head(out, 1, size)
    return PK_OK


cdef int codec_end_streamed(buffer_t* out, bint end_of_stream) noexcept nogil:
    """What follows the chunk."""
    return _put_uint(out, 2, 1) if end_of_stream else PK_OK


cdef int codec_write_trailers(buffer_t* out, int reply) noexcept nogil:
    """A TrailersResponse that changes nothing. PK_OK or PK_E_NOMEM."""
    cdef size_t start = out.size
    cdef int code = _put_head(out, reply, 0)
    return _finish(out, start, code)


cdef int codec_write_immediate(
    buffer_t* out, uint32_t status, const header_t* headers, uint32_t header_count, slice_t body, slice_t details
) noexcept nogil:
    """ImmediateResponse: the gateway answers the client with this; an empty body or details is left out.

    PK_OK, PK_E_NOMEM, or PK_E_FORMAT for a header name or details that are not UTF-8.
    """
    cdef size_t root = 0, mark = 0, start = out.size
    cdef uint32_t i
    cdef int code = _open(out, 7, &root)
    code |= _open(out, 1, &mark)
    code |= _put_uint(out, 1, status)
    code = _close(out, mark, code)
    if header_count:
        code |= _open(out, 2, &mark)
        for i in range(header_count):
            code |= _put_set_header(out, headers[i].key, headers[i].value)
        code = _close(out, mark, code)
    if body.size:
        code |= _put_bytes(out, 3, body)
    if details.size:
        code |= _put_string(out, 5, details)
    return _finish(out, start, _close(out, root, code))


# --- Python face ---

class CodecError(ValueError):
    """The bytes are not a ProcessingRequest that picker can read."""


cdef bytes _bytes(slice_t text):
    return text.data[:text.size] if text.size else b""


cdef slice_t _slice(bytes text):
    cdef slice_t slice
    slice.data = text
    slice.size = len(text)
    return slice


cdef list _pairs(slice_t rest):
    """The headers of a validated HeaderMap."""
    cdef header_t header
    cdef list pairs = []
    while codec_next_header(&rest, &header):
        pairs.append((_bytes(header.key), _bytes(header.value)))
    return pairs


cdef slice_t _borrow(const unsigned char[::1] data):
    cdef slice_t slice
    slice.data = &data[0] if data.shape[0] else <const uint8_t*>b""
    slice.size = data.shape[0]
    return slice


cdef bint _inside(slice_t part, slice_t whole):
    """Does `part` lie in `whole` (or is it absent)? Compared as numbers: the pointers may be of different blocks."""
    cdef size_t start = <size_t>part.data, first = <size_t>whole.data
    if part.data == NULL:
        return part.size == 0
    return first <= start <= first + whole.size and part.size <= first + whole.size - start


@cython.final
@cython.auto_pickle(False)
cdef class Message:
    """One decoded ProcessingRequest, for tests and tools; the data plane uses `message_t`.

    Holds on to `data` (a contiguous bytes-like object) and copies nothing before it is asked for.
    Raises CodecError for bytes that are no ProcessingRequest of one of the six known kinds.
    """

    def __cinit__(self, const unsigned char[::1] data not None):
        cdef slice_t slice = _borrow(data)
        self._data = data
        if codec_decode(&self._message, slice.data, slice.size) != PK_OK:
            raise CodecError(f"not a ProcessingRequest ({slice.size} bytes)")

    @property
    def kind(self) -> int:
        """Field number of the request: 2 request headers, 3 response headers, 4, 5 bodies, 6, 7 trailers."""
        return self._message.kind

    @property
    def body(self) -> bytes:
        """The body of a body message; empty for the other kinds."""
        return _bytes(self._message.body)

    @property
    def end_of_stream(self) -> bool:
        """Whether a headers or body message is the last of its direction; False for trailers."""
        return bool(self._message.end_of_stream)

    @property
    def is_observed(self) -> bool:
        """Whether the gateway only shows what passes, and takes no answer (observability_mode)."""
        return bool(self._message.is_observed)

    @property
    def modes(self) -> tuple | None:
        """Request and response BodySendMode numbers of protocol_config, or None if that is absent."""
        if not self._message.has_protocol:
            return None
        return <int32_t>self._message.request_mode, <int32_t>self._message.response_mode

    def headers(self) -> list:
        """The headers or trailers as (key, value) pairs, in order."""
        return _pairs(self._message.headers)

    def metadata(self, bytes namespace not None, bytes key not None) -> bytes | list | None:
        """metadata_context.filter_metadata[namespace][key]: a string's bytes, a list's items (None for what is no
        string), or None for anything else and for what is absent.

        Raises CodecError where the way there is malformed: `Message` itself does not look into metadata.
        """
        cdef slice_t value, text, items
        cdef int got = codec_find_metadata(self._message.metadata, _slice(namespace), _slice(key), &value)
        if got < 0:
            raise CodecError(f"malformed metadata ({self._message.metadata.size} bytes)")
        if got == 0:
            return None
        if codec_value_string(value, &text):
            return _bytes(text)
        if not codec_value_list(value, &items):
            return None
        texts = []
        while codec_next_item(&items, &value):
            texts.append(_bytes(text) if codec_value_string(value, &text) else None)
        return texts

    def _check(self) -> None:
        """Assert the invariant: every slice lies inside the message."""
        cdef slice_t whole = _borrow(self._data), rest = self._message.headers
        cdef header_t header
        assert PK_REQUEST_HEADERS <= self._message.kind <= PK_RESPONSE_TRAILERS
        assert _inside(self._message.headers, whole) and _inside(self._message.body, whole)
        assert _inside(self._message.metadata, whole)
        while codec_next_header(&rest, &header):
            assert _inside(header.key, self._message.headers) and _inside(header.value, self._message.headers)


def header_pairs(bytes headers not None) -> list:
    """(name, value) pairs of a serialised HeaderMap. CodecError if it is none."""
    cdef slice_t rest = _slice(headers)
    if _header_map(rest) != 0:
        raise CodecError(f"not a HeaderMap ({rest.size} bytes)")
    return _pairs(rest)


cdef int _reply(int reply, int first, int last) except -1:
    if not first <= reply <= last:
        raise ValueError(f"reply must be a field number of {first} to {last}, not {reply}")
    return reply


cdef list _kept_pairs(headers):
    return [(key, value) for key, value in headers]


cdef uint32_t _headers(list pairs, header_t* made) except? 0:
    """Headers to set, at most 16; they point into `pairs`."""
    cdef Py_ssize_t i
    if len(pairs) > 16:
        raise OverflowError(f"at most 16 headers can be set at once, not {len(pairs)}")
    for i, (key, value) in enumerate(pairs):
        made[i].key, made[i].value = _slice(key), _slice(value)
    return <uint32_t>len(pairs)


cdef int _written(int code) except -1:
    if code == PK_E_FORMAT:
        raise CodecError("a header name, the destination or the details are not UTF-8")
    if code != PK_OK:
        raise MemoryError("no memory for a ProcessingResponse")
    return code


@cython.final
@cython.auto_pickle(False)
cdef class Writer:
    """Writes ProcessingResponses, one behind the other, for tests and tools; the data plane uses `buffer_t`.

    `reply` is a field number of ProcessingResponse's oneof; another one than is stated is a ValueError. A method that
    raises has written nothing.
    """

    def __dealloc__(self):
        buffer_free(&self._out)

    def common(
        self,
        int reply,
        bytes destination not None=b"",
        *,
        removed=(),
        headers=(),
        bytes body=None,
        tuple mode=None,
        bint clear_route_cache=False,
    ) -> None:
        """A HeadersResponse or BodyResponse (`reply` 1 to 4).

        Sets the destination (header and dynamic metadata) unless empty, and `headers` ((key, value) pairs); removes
        the headers named in `removed`; puts `body` in the body's place. At most 16 headers each, else OverflowError.
        `mode` overrides the body modes of request and response and the HeaderSendMode of response trailers from here
        on. Raises CodecError for names or a destination that are not UTF-8.
        """
        cdef mutation_t mutation
        cdef slice_t names[16]
        cdef header_t made[16]
        cdef list kept = list(removed), pairs = _kept_pairs(headers)     # hold the bytes that are pointed into
        cdef Py_ssize_t i
        _reply(reply, PK_REPLY_REQUEST_HEADERS, PK_REPLY_RESPONSE_BODY)
        if len(kept) > 16:
            raise OverflowError(f"at most 16 headers can be removed at once, not {len(kept)}")
        for i in range(len(kept)):
            names[i] = _slice(kept[i])
        memset(&mutation, 0, sizeof(mutation))
        mutation.destination = _slice(destination)
        mutation.set_count = _headers(pairs, made)
        mutation.set = made
        mutation.removed = names
        mutation.removed_count = <uint32_t>len(kept)
        mutation.has_body = body is not None
        if body is not None:
            mutation.body = _slice(body)
        mutation.has_mode = mode is not None
        if mode is not None:
            mutation.request_mode, mutation.response_mode, mutation.response_trailers = mode
        mutation.clear_route_cache = clear_route_cache
        _written(codec_write_common(&self._out, reply, &mutation))

    def unchanged(self, int reply) -> None:
        """A HeadersResponse or BodyResponse (`reply` 1 to 4) without a CommonResponse."""
        _reply(reply, PK_REPLY_REQUEST_HEADERS, PK_REPLY_RESPONSE_BODY)
        _written(codec_write_common(&self._out, reply, NULL))

    def streamed(self, int reply, const unsigned char[::1] body not None, bint end_of_stream) -> None:
        """A BodyResponse (`reply` 3 or 4) holding one streamed_response chunk."""
        cdef slice_t slice = _borrow(body)
        _reply(reply, PK_REPLY_REQUEST_BODY, PK_REPLY_RESPONSE_BODY)
        _written(codec_write_streamed(&self._out, reply, slice.data, slice.size, end_of_stream))

    def trailers(self, int reply) -> None:
        """A TrailersResponse (`reply` 5 or 6) that changes nothing."""
        _reply(reply, PK_REPLY_REQUEST_TRAILERS, PK_REPLY_RESPONSE_TRAILERS)
        _written(codec_write_trailers(&self._out, reply))

    def immediate(self, uint32_t status, headers, bytes body not None, bytes details not None=b"") -> None:
        """An ImmediateResponse with an HTTP status (200 to 599, else ValueError), (key, value) headers and so on.

        Raises OverflowError for more than 16 headers, CodecError for header names or details that are not UTF-8.
        """
        cdef header_t made[16]
        cdef list kept = _kept_pairs(headers)       # holds what `made` points into
        if not 200 <= status <= 599:
            raise ValueError(f"an immediate response has a status of 200 to 599, not {status}")
        _written(codec_write_immediate(
            &self._out, status, made, _headers(kept, made), _slice(body), _slice(details)
        ))

    def take(self) -> bytes:
        """All that was written since the last time; the room is kept for what follows."""
        taken = self._out.data[:self._out.size] if self._out.size else b""
        self._out.size = 0
        return taken

    def clear(self) -> None:
        """Forget what was written; the room is kept."""
        self._out.size = 0

    def __len__(self) -> int:
        return self._out.size

    def _check(self) -> None:
        """Assert the invariants of the buffer."""
        assert self._out.size <= self._out.capacity
        assert (self._out.data == NULL) == (self._out.capacity == 0)
