"""Slow model of `picker._core.vllmgrpc`: protobuf's own parser, on messages that have the same fields."""

import struct
from typing import Any

import xxhash
from google.protobuf import descriptor_pb2 as pb
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import DecodeError
from google.protobuf.message_factory import GetMessageClass

from tests.model import hashing
from tests.model.prompt import MEDIA_BYTES, fill, ids

TYPES = {"string": 9, "bytes": 12, "uint32": 13, "uint64": 4, "bool": 8}
FIELDS = {
    "Request": [
        ("request_id", 1, "string", False),
        ("tokenized", 2, "Tokenized", True),
        ("text", 3, "bytes", True),
        ("sampling_params", 4, "Sampling", True),
        ("stream", 5, "bool", False),
        ("mm_inputs", 7, "Media", True),
        ("media_refs", 10, "References", True),
        ("extra_mm_inputs", 11, "Media", True),
    ],
    "Tokenized": [("original_text", 1, "string", False), ("input_ids", 2, "uint32", True)],
    "Sampling": [("max_tokens", 8, "uint64", True), ("n", 15, "uint32", False)],
    "Media": [
        ("pixel_values", 2, "bytes", True),
        ("mm_placeholders", 5, "Range", True),
        ("mm_hashes", 6, "bytes", True),
    ],
    "Range": [("offset", 1, "uint64", False), ("length", 2, "uint32", False)],
    "References": [("items", 1, "bytes", True)],
}


def _messages() -> dict[str, Any]:
    """Singular sub-messages are declared repeated here: that keeps what a sender gives twice apart."""
    file = pb.FileDescriptorProto(name="model.proto", package="model", syntax="proto2")
    for message, fields in FIELDS.items():
        made = file.message_type.add(name=message)
        for name, number, kind, repeated in fields:
            field = made.field.add(name=name, number=number, label=3 if repeated else 1, type=TYPES.get(kind, 11))
            if kind not in TYPES:
                field.type_name = f".model.{kind}"
            elif repeated and kind == "uint32":
                field.options.packed = True
    pool = DescriptorPool()
    pool.Add(file)
    return {name: GetMessageClass(pool.FindMessageTypeByName(f"model.{name}")) for name in FIELDS}


MESSAGES = _messages()
Request = MESSAGES["Request"]


def frames(body: bytes) -> list[bytes]:
    """Raises DecodeError for what cannot be read."""
    found = []
    while body:
        if len(body) < 5 or body[0] or len(body) - 5 < int.from_bytes(body[1:5]):
            raise DecodeError
        size = int.from_bytes(body[1:5])
        found.append(body[5 : 5 + size])
        body = body[5 + size :]
    return found


def frame(message: bytes, flags: int = 0) -> bytes:
    return bytes((flags,)) + len(message).to_bytes(4) + message


def _text(request: Any) -> bytes:
    text = b""
    for reference in [item for references in request.media_refs for item in references.items]:
        text += b"\x1f" + fill(xxhash.xxh64_intdigest(reference), MEDIA_BYTES)
    places: list[tuple[int, int]] = []
    for media in [*request.mm_inputs, *request.extra_mm_inputs]:
        offset = 0
        for number, hashed in enumerate(media.mm_hashes):
            if number < len(media.mm_placeholders):
                offset = media.mm_placeholders[number].offset
            places.append((offset, xxhash.xxh64_intdigest(hashed)))
    places.sort(key=lambda place: place[0])
    text += b"".join(ids(list(each.input_ids), places) for each in request.tokenized)
    text += b"".join(request.text)
    return text + b"".join(struct.pack("<Q", hashed) for _, hashed in places)


def is_plain(body: bytes) -> bool:
    """Is it written as protobuf itself would, with nothing that the model does not declare?"""
    try:
        requests = [Request.FromString(each) for each in frames(body)]
    except DecodeError:
        return False
    for request in requests:
        request.DiscardUnknownFields()
    return b"".join(frame(request.SerializeToString()) for request in requests) == body


def read(body: bytes, seed: int = 0, blocks: int = 65536) -> dict[str, Any] | None:
    """Of bodies whose fields come in order of their numbers, with one of the inputs."""
    try:
        requests = [Request.FromString(each) for each in frames(body)]
    except DecodeError:
        return None
    limits = [limit for request in requests for each in request.sampling_params for limit in each.max_tokens]
    text = b"".join(map(_text, requests))
    return {
        "max_tokens": limits[-1] if limits and limits[-1] < 2**31 else -1,
        "tokens": min(-(-len(text) // 4), blocks * 64),
        "hashes": hashing.block_hashes([text], seed, blocks),
    }
