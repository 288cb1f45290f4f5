"""Protobuf messages and gRPC frames by hand, and the answers of a vLLM engine as its service defines them."""


def varint(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def field(number: int, value: int | bytes) -> bytes:
    """A number, left out if it is 0 as protobuf does, or anything that has a length."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value) if value else b""
    return varint(number << 3 | 2) + varint(len(value)) + value


def packed(values: list[int]) -> bytes:
    return b"".join(map(varint, values))


def frame(message: bytes, *, compressed: bool = False) -> bytes:
    return bytes([compressed]) + len(message).to_bytes(4) + message


def chunk(ids: list[int], *, prompt: int = 0, completion: int = 0, cached: int = 0, index: int = 0) -> bytes:
    """GenerateResponse with a GenerateStreamChunk."""
    counts = field(2, prompt) + field(3, completion) + field(4, cached)
    return field(1, field(1, packed(ids)) + counts + field(5, b"\x0a\x04logp") + field(7, index))


def complete(ids: list[int], *, prompt: int = 0, completion: int = 0, cached: int = 0) -> bytes:
    """GenerateResponse with a GenerateComplete."""
    counts = field(3, prompt) + field(4, completion) + field(5, cached)
    return field(2, field(1, packed(ids)) + field(2, b"stop") + counts + field(10, 3))


def embedding(floats: bytes, prompt: int) -> bytes:
    """EmbedResponse."""
    return field(1, floats) + field(2, prompt) + field(3, len(floats) // 4)
