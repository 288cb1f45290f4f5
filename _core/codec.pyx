"""ext_proc messages by hand: decodes ProcessingRequest, encodes ProcessingResponse, only the fields picker uses.

Invariants: decoding copies nothing and reads no byte outside the message; any malformed input is PK_E_FORMAT.
    A message that repeats a sub-message (protobuf would merge them) or holds a group is refused: gateways send neither.
Cost: O(bytes of headers) to decode (bodies are skipped over); encoding grows one buffer.
Memory: slices borrow from the message; a `buffer_t` belongs to whoever declared it.   Threads: any.
Source: envoy/service/ext_proc/v3/external_processor.proto, envoy/config/core/v3/base.proto, google/protobuf/struct.proto.
"""
cimport cython
from libc.stddef cimport size_t
from libc.stdint cimport UINT32_MAX, uint8_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy, memmove

from picker._core.alloc cimport PK_E_FORMAT, PK_E_NOMEM, PK_OK, pk_free, pk_grow

cdef enum:
    WIRE_VARINT = 0
    WIRE_FIXED64 = 1
    WIRE_BYTES = 2
    WIRE_FIXED32 = 5

ctypedef struct field_t:
    uint32_t tag            # field number << 3 | wire type
    uint64_t number         # a varint's value
    slice_t bytes           # a length-delimited field's content

# --- C kernel: buffers ---


cdef int buffer_reserve(buffer_t* buffer, size_t extra) noexcept nogil:
    """Room for `extra` further bytes."""
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
    return text.size == size and memcmp(text.data, other, size) == 0


# --- C kernel: reading protobuf ---


cdef inline bint _varint(slice_t* rest, uint64_t* value) noexcept nogil:
    cdef uint64_t result = 0
    cdef int shift = 0
    cdef uint8_t byte
    while rest.size and shift < 70:
        byte = rest.data[0]
        rest.data += 1
        rest.size -= 1
        if shift == 63 and byte > 1:
            return False
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
    """Read one field: 1, 0 at the end of `rest`, or PK_E_FORMAT."""
    cdef uint64_t tag
    cdef uint32_t wire
    if rest.size == 0:
        return 0
    if not _varint(rest, &tag) or tag > UINT32_MAX or tag < 8:
        return PK_E_FORMAT
    field.tag = <uint32_t>tag
    wire = field.tag & 7
    if wire == WIRE_VARINT:
        return 1 if _varint(rest, &field.number) else PK_E_FORMAT
    if wire == WIRE_BYTES:
        if not _varint(rest, &field.number) or field.number > rest.size:
            return PK_E_FORMAT
        field.bytes.data = rest.data
        field.bytes.size = <size_t>field.number
        return 1 if _skip(rest, field.bytes.size) else PK_E_FORMAT
    if wire == WIRE_FIXED64:
        return 1 if _skip(rest, 8) else PK_E_FORMAT
    if wire == WIRE_FIXED32:
        return 1 if _skip(rest, 4) else PK_E_FORMAT
    return PK_E_FORMAT


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


cdef int _header(slice_t rest, header_t* header) noexcept nogil:
    """config.core.v3.HeaderValue: raw_value wins over value (agentgateway sends pseudo-headers in value)."""
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
        elif field.tag == _tag(3, WIRE_BYTES):
            raw = field.bytes
        else:
            continue
        if field.tag != _tag(3, WIRE_BYTES) and not _utf8(field.bytes):
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
    """ProtocolConfiguration: how bodies are sent, per direction."""
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
    message.end_of_stream = message.has_protocol = False
    message.request_mode = message.response_mode = PK_BODY_NONE
    while True:
        got = _field(&rest, &field)
        if got != 1:
            break
        if field.tag & 7 != WIRE_BYTES:
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


cdef int _map_find(slice_t rest, slice_t key, slice_t* value) noexcept nogil:
    """map<string, V> in field 1: the last entry named `key`. 1 found, 0 not, PK_E_FORMAT."""
    cdef field_t entry, part
    cdef slice_t inner, name, content
    cdef int got, found = 0
    while True:
        got = _field(&rest, &entry)
        if got != 1:
            return PK_E_FORMAT if got < 0 else found
        if entry.tag != _tag(1, WIRE_BYTES):
            continue
        inner = entry.bytes
        name.data = content.data = NULL
        name.size = content.size = 0
        while True:
            got = _field(&inner, &part)
            if got != 1:
                break
            if part.tag == _tag(1, WIRE_BYTES):
                name = part.bytes
            elif part.tag == _tag(2, WIRE_BYTES):
                content = part.bytes
        if got < 0:
            return PK_E_FORMAT
        if slice_is(name, <const char*>key.data, key.size):
            value[0] = content
            found = 1


cdef int codec_find_metadata(
    slice_t metadata, slice_t namespace, slice_t key, slice_t* value
) noexcept nogil:
    """filter_metadata[namespace][key] as a serialised Value: 1 found, 0 not, PK_E_FORMAT."""
    cdef slice_t fields
    cdef int got = _map_find(metadata, namespace, &fields)
    return _map_find(fields, key, value) if got == 1 else got


cdef bint _value(slice_t rest, uint32_t tag, slice_t* content) noexcept nogil:
    cdef field_t field
    cdef bint found = False
    while _field(&rest, &field) == 1:
        if field.tag == tag:
            content[0] = field.bytes
            found = True
    return found


cdef bint codec_value_string(slice_t value, slice_t* text) noexcept nogil:
    """google.protobuf.Value.string_value."""
    return _value(value, _tag(3, WIRE_BYTES), text)


cdef bint codec_value_list(slice_t value, slice_t* items) noexcept nogil:
    """google.protobuf.Value.list_value, to be walked by `codec_next_item`."""
    return _value(value, _tag(6, WIRE_BYTES), items)


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
    if _put_head(out, number, text.size) != PK_OK:
        return PK_E_NOMEM
    return buffer_append(out, text.data, text.size)


cdef int _put_uint(buffer_t* out, uint32_t number, uint64_t value) noexcept nogil:
    if _put_varint(out, _tag(number, WIRE_VARINT)) != PK_OK:
        return PK_E_NOMEM
    return _put_varint(out, value)


cdef int _open(buffer_t* out, uint32_t number, size_t* mark) noexcept nogil:
    """Begin a nested message: one byte is kept for its length, `_close` makes room if that is not enough."""
    cdef int code = _put_head(out, number, 0)
    mark[0] = out.size
    return code


cdef int _close(buffer_t* out, size_t mark) noexcept nogil:
    cdef size_t size = out.size - mark
    cdef size_t width = _varint_size(size)
    cdef size_t end
    if buffer_reserve(out, 10) != PK_OK:
        return PK_E_NOMEM
    memmove(out.data + mark - 1 + width, out.data + mark, size)
    end = mark - 1 + width + size
    out.size = mark - 1
    _put_varint(out, size)          # cannot fail: the room was reserved
    out.size = end
    return PK_OK


cdef int _put_set_header(buffer_t* out, uint32_t number, const header_t* header) noexcept nogil:
    """HeaderValueOption with OVERWRITE_IF_EXISTS_OR_ADD, value in raw_value."""
    cdef size_t option = 0, value = 0
    cdef int bad = _open(out, number, &option)
    bad |= _open(out, 1, &value)
    bad |= _put_bytes(out, 1, header.key)
    bad |= _put_bytes(out, 3, header.value)
    if bad != PK_OK or _close(out, value) != PK_OK:
        return PK_E_NOMEM
    bad = _put_uint(out, 3, 2)
    return _close(out, option) if bad == PK_OK else PK_E_NOMEM


cdef slice_t _text(const char* text, size_t size) noexcept nogil:
    cdef slice_t slice
    slice.data = <const uint8_t*>text
    slice.size = size
    return slice


cdef slice_t _destination_key() noexcept nogil:
    return _text(b"x-gateway-destination-endpoint", 30)


cdef int _put_header_mutation(buffer_t* out, uint32_t number, const mutation_t* mutation) noexcept nogil:
    cdef size_t mark = 0
    cdef header_t destination
    cdef uint32_t i
    cdef int bad = _open(out, number, &mark)
    if mutation.destination.size:
        destination.key = _destination_key()
        destination.value = mutation.destination
        bad |= _put_set_header(out, 1, &destination)
    if mutation.extra.key.size:
        bad |= _put_set_header(out, 1, &mutation.extra)
    for i in range(mutation.removed_count):
        bad |= _put_bytes(out, 2, mutation.removed[i])
    return _close(out, mark) if bad == PK_OK else PK_E_NOMEM


cdef int _put_destination_metadata(buffer_t* out, slice_t destination) noexcept nogil:
    """dynamic_metadata {"envoy.lb": {"x-gateway-destination-endpoint": destination}}."""
    cdef size_t root = 0, entry = 0, value = 0, inner = 0, leaf_entry = 0, leaf = 0
    cdef int bad = _open(out, 8, &root)
    bad |= _open(out, 1, &entry)
    bad |= _put_bytes(out, 1, _text(b"envoy.lb", 8))
    bad |= _open(out, 2, &value)
    bad |= _open(out, 5, &inner)
    bad |= _open(out, 1, &leaf_entry)
    bad |= _put_bytes(out, 1, _destination_key())
    bad |= _open(out, 2, &leaf)
    bad |= _put_bytes(out, 3, destination)
    if bad != PK_OK:
        return PK_E_NOMEM
    bad = _close(out, leaf)
    bad |= _close(out, leaf_entry)
    bad |= _close(out, inner)
    bad |= _close(out, value)
    bad |= _close(out, entry)
    bad |= _close(out, root)
    return PK_OK if bad == PK_OK else PK_E_NOMEM


cdef int codec_write_common(buffer_t* out, int reply, const mutation_t* mutation) noexcept nogil:
    """A HeadersResponse or BodyResponse with a CommonResponse; `mutation` NULL or empty changes nothing."""
    cdef size_t root = 0, common = 0, start = out.size
    cdef int bad = _open(out, reply, &root)
    if mutation != NULL:
        bad |= _open(out, 1, &common)
        bad |= _put_header_mutation(out, 2, mutation)
        if mutation.clear_route_cache:
            bad |= _put_uint(out, 5, 1)
        bad = bad if bad != PK_OK else _close(out, common)
    if bad == PK_OK:
        bad = _close(out, root)
    if bad == PK_OK and mutation != NULL and mutation.destination.size:
        bad = _put_destination_metadata(out, mutation.destination)
    if bad != PK_OK:
        out.size = start
        return PK_E_NOMEM
    return PK_OK


cdef int codec_write_streamed(
    buffer_t* out, int reply, const uint8_t* data, size_t size, bint end_of_stream
) noexcept nogil:
    """BodyResponse.response.body_mutation.streamed_response: the only body answer FULL_DUPLEX_STREAMED allows."""
    cdef size_t streamed = (1 + _varint_size(size) + size if size else 0) + (2 if end_of_stream else 0)
    cdef size_t mutation = 1 + _varint_size(streamed) + streamed
    cdef size_t common = 1 + _varint_size(mutation) + mutation
    cdef size_t body = 1 + _varint_size(common) + common
    if buffer_reserve(out, body + 16) != PK_OK:
        return PK_E_NOMEM
    _put_head(out, reply, body)           # none of these can fail: the room was reserved
    _put_head(out, 1, common)
    _put_head(out, 3, mutation)
    _put_head(out, 3, streamed)
    if size:
        _put_bytes(out, 1, _text(<const char*>data, size))
    if end_of_stream:
        _put_uint(out, 2, 1)
    return PK_OK


cdef int codec_write_trailers(buffer_t* out, int reply) noexcept nogil:
    """A TrailersResponse that changes nothing."""
    return _put_head(out, reply, 0)


cdef int codec_write_immediate(
    buffer_t* out, uint32_t status, const header_t* headers, uint32_t header_count, slice_t body, slice_t details
) noexcept nogil:
    """ImmediateResponse: the gateway answers the client with this."""
    cdef size_t root = 0, mark = 0, start = out.size
    cdef uint32_t i
    cdef int bad = _open(out, 7, &root)
    bad |= _open(out, 1, &mark)
    bad |= _put_uint(out, 1, status)
    if bad == PK_OK:
        bad |= _close(out, mark)
    bad |= _open(out, 2, &mark)
    for i in range(header_count):
        bad |= _put_set_header(out, 1, &headers[i])
    if bad == PK_OK:
        bad |= _close(out, mark)
    bad |= _put_bytes(out, 3, body)
    bad |= _put_bytes(out, 5, details)
    if bad == PK_OK:
        bad = _close(out, root)
    if bad != PK_OK:
        out.size = start
        return PK_E_NOMEM
    return PK_OK


# --- Python face ---

class CodecError(ValueError):
    """The bytes are not a ProcessingRequest that picker can read."""


cdef bytes _bytes(slice_t text):
    return text.data[:text.size] if text.size else b""


cdef slice_t _borrow(const unsigned char[::1] data):
    cdef slice_t slice
    slice.data = &data[0] if data.shape[0] else <const uint8_t*>b""
    slice.size = data.shape[0]
    return slice


@cython.final
@cython.auto_pickle(False)
cdef class Message:
    """One decoded ProcessingRequest, for tests and tools; the data plane uses `message_t`."""

    def __cinit__(self, const unsigned char[::1] data not None):
        cdef slice_t slice = _borrow(data)
        self._data = data
        if codec_decode(&self._message, slice.data, slice.size) != PK_OK:
            raise CodecError(f"not a ProcessingRequest ({slice.size} bytes)")

    @property
    def kind(self) -> int:
        return self._message.kind

    @property
    def body(self) -> bytes:
        return _bytes(self._message.body)

    @property
    def end_of_stream(self) -> bool:
        return bool(self._message.end_of_stream)

    @property
    def modes(self):
        if not self._message.has_protocol:
            return None
        return self._message.request_mode, self._message.response_mode

    def headers(self) -> list:
        cdef slice_t rest = self._message.headers
        cdef header_t header
        pairs = []
        while codec_next_header(&rest, &header):
            pairs.append((_bytes(header.key), _bytes(header.value)))
        return pairs

    def metadata(self, bytes namespace not None, bytes key not None):
        cdef slice_t value, text, items
        cdef int got = codec_find_metadata(
            self._message.metadata, _text(namespace, len(namespace)), _text(key, len(key)), &value
        )
        if got < 0:
            raise CodecError("malformed metadata")
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


def header_pairs(bytes headers not None) -> list:
    """(name, value) pairs of a serialised HeaderMap. CodecError if it is none."""
    cdef slice_t rest = _text(headers, len(headers))
    cdef header_t header
    cdef list pairs = []
    if _header_map(rest) != 0:
        raise CodecError(f"not a HeaderMap ({len(headers)} bytes)")
    while codec_next_header(&rest, &header):
        pairs.append((_bytes(header.key), _bytes(header.value)))
    return pairs


cdef bytes _taken(buffer_t* out, int code):
    try:
        if code != PK_OK:
            raise MemoryError("no memory for a ProcessingResponse")
        return out.data[:out.size] if out.size else b""
    finally:
        buffer_free(out)


def encode_common(int reply, bytes destination=b"", list removed=[], tuple extra=(b"", b""), bint clear_route_cache=False):
    """A HeadersResponse or BodyResponse (`reply`: field number) that sets the destination and removes headers."""
    cdef buffer_t out
    cdef mutation_t mutation
    cdef slice_t names[16]
    cdef Py_ssize_t i
    if len(removed) > 16:
        raise OverflowError(f"at most 16 headers can be removed at once, not {len(removed)}")
    for i in range(len(removed)):
        names[i] = _text(removed[i], len(removed[i]))
    out.data, out.size, out.capacity = NULL, 0, 0
    mutation.destination = _text(destination, len(destination))
    mutation.extra.key = _text(extra[0], len(extra[0]))
    mutation.extra.value = _text(extra[1], len(extra[1]))
    mutation.removed = names
    mutation.removed_count = len(removed)
    mutation.clear_route_cache = clear_route_cache
    return _taken(&out, codec_write_common(&out, reply, &mutation))


def encode_streamed(int reply, const unsigned char[::1] body not None, bint end_of_stream) -> bytes:
    """A BodyResponse holding one streamed_response chunk."""
    cdef buffer_t out
    cdef slice_t slice = _borrow(body)
    out.data, out.size, out.capacity = NULL, 0, 0
    return _taken(&out, codec_write_streamed(&out, reply, slice.data, slice.size, end_of_stream))


def encode_trailers(int reply) -> bytes:
    """A TrailersResponse that changes nothing."""
    cdef buffer_t out
    out.data, out.size, out.capacity = NULL, 0, 0
    return _taken(&out, codec_write_trailers(&out, reply))


def encode_immediate(uint32_t status, list headers, bytes body, bytes details=b"") -> bytes:
    """An ImmediateResponse with `headers` (pairs of bytes, at most 16), body and details."""
    cdef buffer_t out
    cdef header_t made[16]
    cdef Py_ssize_t i
    if len(headers) > 16:
        raise OverflowError(f"at most 16 headers fit an immediate response, not {len(headers)}")
    for i in range(len(headers)):
        made[i].key = _text(headers[i][0], len(headers[i][0]))
        made[i].value = _text(headers[i][1], len(headers[i][1]))
    out.data, out.size, out.capacity = NULL, 0, 0
    return _taken(
        &out,
        codec_write_immediate(&out, status, made, len(headers), _text(body, len(body)), _text(details, len(details))),
    )
