"""ext_proc messages for tests: recorded from a real Envoy, and what `xds-protos` reads in any of them."""

import base64
import json
from dataclasses import dataclass

from envoy.service.ext_proc.v3 import external_processor_pb2 as ext_proc
from google.protobuf.message import DecodeError

from tests.model.codec import Request
from tests.support.shared import SHARED


@dataclass(frozen=True)
class Recorded:
    exchange: str  # "1KB" or "100KB"
    order: int
    data: bytes


def recorded() -> list[Recorded]:
    """The ProcessingRequests of two exchanges, in order; empty where the reference data is not at hand."""
    path = SHARED / "reference" / "envoy_messages.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    rows = [json.loads(line) for line in lines]
    return [Recorded(row["exchange"], row["order"], base64.b64decode(row["processing_request_b64"])) for row in rows]


def parse(data: bytes) -> ext_proc.ProcessingRequest | None:
    """As `xds-protos` reads it; None if it does not."""
    try:
        return ext_proc.ProcessingRequest.FromString(data)
    except DecodeError:
        return None


def as_request(message: ext_proc.ProcessingRequest) -> Request:
    """The fields that picker reads, as `xds-protos` shows them (the metadata is left out)."""
    kind = message.WhichOneof("request")
    part = getattr(message, kind)
    is_body, is_trailers = kind.endswith("body"), kind.endswith("trailers")
    header_map = part.trailers if is_trailers else None if is_body else part.headers
    protocol = message.protocol_config if message.HasField("protocol_config") else None
    return Request(
        kind=message.DESCRIPTOR.fields_by_name[kind].number,
        headers=[(h.key.encode(), h.raw_value or h.value.encode()) for h in header_map.headers] if header_map else [],
        body=part.body if is_body else b"",
        end_of_stream=not is_trailers and part.end_of_stream,
        modes=(protocol.request_body_mode, protocol.response_body_mode) if protocol else None,
        metadata=b"",
        observed=message.observability_mode,
    )


def metadata_of(message: ext_proc.ProcessingRequest, namespace: str, key: str) -> bytes | list[bytes | None] | None:
    """`Message.metadata` as `xds-protos` would answer it."""
    structs = message.metadata_context.filter_metadata
    value = structs[namespace].fields[key] if namespace in structs and key in structs[namespace].fields else None
    kind = value.WhichOneof("kind") if value is not None else None
    if value is None or kind not in ("string_value", "list_value"):
        return None
    if kind == "string_value":
        return value.string_value.encode()
    texts = value.list_value.values
    return [item.string_value.encode() if item.WhichOneof("kind") == "string_value" else None for item in texts]
