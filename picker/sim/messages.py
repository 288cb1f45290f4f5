"""The few ext_proc messages that a gateway sends about a request, as bytes: protobuf wire format, written by hand.

Field numbers are those of envoy.service.ext_proc.v3 (`ProcessingRequest`, `HttpHeaders`, `HttpBody`,
`ProtocolConfiguration`) and envoy.config.core.v3 (`HeaderMap`, `HeaderValue`); tests compare with the real classes.
"""

from collections.abc import Iterable, Mapping

REQUEST_HEADERS, RESPONSE_HEADERS, REQUEST_BODY, RESPONSE_BODY, PROTOCOL_CONFIG = 2, 3, 4, 5, 11
FULL_DUPLEX_STREAMED = 4


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _bytes(field: int, value: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(value)) + value


def _number(field: int, value: int) -> bytes:
    """Nothing for 0, as proto3 has it."""
    return _varint(field << 3) + _varint(value) if value else b""


def _headers(pairs: Iterable[tuple[str, str]], end_of_stream: bool) -> bytes:
    values = (_bytes(1, _bytes(1, key.encode()) + _bytes(3, value.encode())) for key, value in pairs)
    return _bytes(1, b"".join(values)) + _number(3, end_of_stream)


def request_headers(path: str, headers: Mapping[str, str]) -> bytes:
    """The first message of a stream whose bodies are sent in full duplex."""
    pairs = [(":method", "POST"), (":path", path), (":authority", "gateway"), *headers.items()]
    modes = _number(1, FULL_DUPLEX_STREAMED) + _number(2, FULL_DUPLEX_STREAMED)
    return _bytes(REQUEST_HEADERS, _headers(pairs, False)) + _bytes(PROTOCOL_CONFIG, modes)


def request_body(body: bytes) -> bytes:
    """The whole of it."""
    return _bytes(REQUEST_BODY, _body(body, True))


def response_headers(status: int, content_type: str, *, end_of_stream: bool = False) -> bytes:
    pairs = [(":status", str(status)), ("content-type", content_type)]
    return _bytes(RESPONSE_HEADERS, _headers(pairs, end_of_stream))


def response_body(body: bytes, *, end_of_stream: bool = False) -> bytes:
    return _bytes(RESPONSE_BODY, _body(body, end_of_stream))


def _body(body: bytes, end_of_stream: bool) -> bytes:
    return (_bytes(1, body) if body else b"") + _number(2, end_of_stream)
