"""Slow model of `picker._core.codec`: reads a ProcessingRequest with a plain protobuf reader.

`Refused` marks what protobuf accepts and picker does not; every other fault is plain `Malformed`.
"""

from collections.abc import Iterator
from dataclasses import dataclass

VARINT, FIXED64, BYTES, START_GROUP, END_GROUP, FIXED32 = range(6)
UNWALKED_REQUEST_FIELDS = {8, 9}  # metadata_context, attributes
UNWALKED_HEADERS_FIELDS = {2}  # the attributes of HttpHeaders
VALUE_KINDS = {(1, VARINT), (2, FIXED64), (3, BYTES), (4, VARINT), (5, BYTES), (6, BYTES)}


class Malformed(ValueError):
    """No protobuf parser accepts this."""


class Refused(Malformed):
    """Protobuf accepts this, picker does not: something given twice, a group, or no request at all."""


@dataclass(frozen=True)
class Field:
    number: int
    wire: int
    value: int  # of a varint
    content: bytes  # of a length-delimited field
    raw: bytes  # the whole field as it stood

    @property
    def key(self) -> tuple[int, int]:
        return self.number, self.wire


@dataclass(frozen=True)
class Request:
    kind: int
    headers: list[tuple[bytes, bytes]]
    body: bytes
    end_of_stream: bool
    modes: tuple[int, int] | None
    metadata: bytes
    observed: bool = False


def read_varint(data: bytes, at: int, longest: int) -> tuple[int, int]:
    value = 0
    for index in range(longest):
        if at + index >= len(data):
            raise Malformed("cut off in a varint")
        byte = data[at + index]
        value |= (byte & 0x7F) << 7 * index
        if byte < 0x80:
            return value % 2**64, at + index + 1
    raise Malformed("a varint is too long")


def fields(data: bytes) -> Iterator[Field]:
    at = 0
    while at < len(data):
        start = at
        tag, at = read_varint(data, at, 5)
        number, wire = tag >> 3, tag & 7
        if number == 0 or tag >= 2**32:
            raise Malformed("no such field number")
        value, size = 0, {FIXED64: 8, FIXED32: 4}.get(wire, 0)
        if wire == VARINT:
            value, at = read_varint(data, at, 10)
        elif wire == BYTES:
            size, at = read_varint(data, at, 5)
        elif wire == START_GROUP:
            raise Refused("a group")
        elif wire not in (FIXED64, FIXED32):
            raise Malformed("no such wire type here")
        if at + size > len(data):
            raise Malformed("cut off in a field")
        content, at = data[at : at + size], at + size
        yield Field(number, wire, value, content if wire == BYTES else b"", data[start:at])


def text(content: bytes) -> bytes:
    try:
        content.decode()
    except UnicodeDecodeError as error:
        raise Malformed("a string is not UTF-8") from error
    return content


def once(found: list[Field]) -> Field | None:
    """The field, if there is one; a sub-message or a oneof must not be given twice."""
    if len(found) > 1:
        raise Refused("given twice")
    return found[0] if found else None


def scalar(found: list[Field]) -> Field | None:
    return found[-1] if found else None


def header(data: bytes) -> tuple[bytes, bytes]:
    seen = {1: b"", 2: b"", 3: b""}
    for field in fields(data):
        if field.wire == BYTES and field.number in seen:
            seen[field.number] = field.content if field.number == 3 else text(field.content)
    return seen[1], seen[3] or seen[2]


def header_map(data: bytes) -> list[tuple[bytes, bytes]]:
    return [header(field.content) for field in fields(data) if field.key == (1, BYTES)]


def signed32(value: int) -> int:
    low = value % 2**32
    return low - 2**32 if low >= 2**31 else low


def modes(data: bytes) -> tuple[int, int]:
    numbers = {field.number: signed32(field.value) for field in fields(data) if field.wire == VARINT}
    return numbers.get(1, 0), numbers.get(2, 0)


def decode(data: bytes) -> Request:
    """What `codec.Message(data)` shall show; raises Malformed where that raises CodecError."""
    seen = list(fields(data))
    request = once([field for field in seen if field.wire == BYTES and 2 <= field.number <= 7])
    metadata = once([field for field in seen if field.key == (8, BYTES)])
    protocol = once([field for field in seen if field.key == (11, BYTES)])
    observed = scalar([field for field in seen if field.key == (10, VARINT)])
    both_modes = modes(protocol.content) if protocol else None
    if request is None:
        raise Refused("no request")
    parts = list(fields(request.content))
    is_body, is_trailers = request.number in (4, 5), request.number in (6, 7)
    end = scalar([field for field in parts if field.key == (2 if is_body else 3, VARINT)])
    first = [field for field in parts if field.key == (1, BYTES)]
    inner = scalar(first) if is_body else once(first)
    content = inner.content if inner else b""
    return Request(
        kind=request.number,
        headers=[] if is_body else header_map(content),
        body=content if is_body else b"",
        end_of_stream=bool(end and end.value) and not is_trailers,
        modes=both_modes,
        metadata=metadata.content if metadata else b"",
        observed=bool(observed and observed.value),
    )


def map_entry(data: bytes, key: bytes) -> bytes | None:
    """The last entry of a map<string, message> under `key`."""
    found = None
    for entry in fields(data):
        if entry.key == (1, BYTES):
            parts = list(fields(entry.content))
            name = scalar([part for part in parts if part.key == (1, BYTES)])
            value = once([part for part in parts if part.key == (2, BYTES)])
            if (name.content if name else b"") == key:
                found = value.content if value else b""
    return found


def value_kind(data: bytes) -> Field | None:
    kind = once([field for field in fields(data) if field.key in VALUE_KINDS])
    if kind and kind.number == 3:
        text(kind.content)
    return kind


def find_metadata(metadata: bytes, namespace: bytes, key: bytes) -> bytes | list[bytes | None] | None:
    """What `Message.metadata(namespace, key)` shall return; raises Malformed where that raises CodecError."""
    struct = map_entry(metadata, namespace)
    value = None if struct is None else map_entry(struct, key)
    kind = None if value is None else value_kind(value)
    if kind is None or kind.number not in (3, 6):
        return None
    if kind.number == 3:
        return kind.content
    items = [value_kind(item.content) for item in fields(kind.content) if item.key == (1, BYTES)]
    return [item.content if item and item.number == 3 else None for item in items]


def walked(data: bytes) -> bytes:
    """`data` without the parts that `codec_decode` does not look into: metadata_context and both kinds of attributes.

    Raises Malformed (or Refused) if it cannot even be taken apart.
    """
    kept = []
    for field in fields(data):
        if field.wire == BYTES and field.number in UNWALKED_REQUEST_FIELDS:
            continue
        if field.key in ((2, BYTES), (3, BYTES)):
            content = b"".join(
                part.raw
                for part in fields(field.content)
                if part.wire != BYTES or part.number not in UNWALKED_HEADERS_FIELDS
            )
            kept.append(message(field.number, content))
        else:
            kept.append(field.raw)
    return b"".join(kept)


def varint(value: int) -> bytes:
    low, rest = value & 0x7F, value >> 7
    return bytes([low | 0x80]) + varint(rest) if rest else bytes([low])


def message(number: int, content: bytes) -> bytes:
    """A length-delimited field."""
    return varint(number << 3 | BYTES) + varint(len(content)) + content
