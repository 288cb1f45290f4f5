"""ext_proc messages as a gateway sends them, built with the reference message classes."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from envoy.extensions.filters.http.ext_proc.v3 import processing_mode_pb2
from envoy.service.ext_proc.v3 import external_processor_pb2 as ext_proc

Mode = processing_mode_pb2.ProcessingMode
FULL_DUPLEX = Mode.FULL_DUPLEX_STREAMED
BUFFERED = Mode.BUFFERED
BUFFERED_PARTIAL = Mode.BUFFERED_PARTIAL
STREAMED = Mode.STREAMED
NONE = Mode.NONE

HeaderPairs = Iterable[tuple[str, str]]


def _headers(pairs: HeaderPairs, end_of_stream: bool) -> ext_proc.HttpHeaders:
    message = ext_proc.HttpHeaders(end_of_stream=end_of_stream)
    for key, value in pairs:
        message.headers.headers.add(key=key, raw_value=value.encode())
    return message


def request_headers(
    path: str = "/v1/chat/completions",
    *,
    method: str = "POST",
    headers: Mapping[str, str] | None = None,
    end_of_stream: bool = False,
    modes: tuple[int, int] = (FULL_DUPLEX, FULL_DUPLEX),
    subset: Sequence[str] | str | None = None,
) -> bytes:
    """The first message of a stream. `subset` is the gateway's hint: a list, or a comma string."""
    pairs = [(":method", method), (":path", path), (":authority", "gateway"), *(headers or {}).items()]
    message = ext_proc.ProcessingRequest(request_headers=_headers(pairs, end_of_stream))
    message.protocol_config.request_body_mode, message.protocol_config.response_body_mode = modes
    if subset is not None:
        hint = message.metadata_context.filter_metadata["envoy.lb.subset_hint"]
        hint.update({"x-gateway-destination-endpoint-subset": subset if isinstance(subset, str) else list(subset)})
    return message.SerializeToString()


def request_body(body: bytes, *, end_of_stream: bool = True) -> bytes:
    return ext_proc.ProcessingRequest(
        request_body=ext_proc.HttpBody(body=body, end_of_stream=end_of_stream)
    ).SerializeToString()


def request_trailers() -> bytes:
    return ext_proc.ProcessingRequest(request_trailers=ext_proc.HttpTrailers()).SerializeToString()


def response_headers(
    status: int = 200,
    content_type: str = "text/event-stream",
    *,
    end_of_stream: bool = False,
    served: str = "",
    headers: Mapping[str, str] | None = None,
) -> bytes:
    """`served`: which endpoint the gateway says has answered."""
    pairs = [(":status", str(status)), ("content-type", content_type), *(headers or {}).items()]
    message = ext_proc.ProcessingRequest(response_headers=_headers(pairs, end_of_stream))
    if served:
        message.metadata_context.filter_metadata["envoy.lb"]["x-gateway-destination-endpoint-served"] = served
    return message.SerializeToString()


def response_body(body: bytes, *, end_of_stream: bool = False) -> bytes:
    return ext_proc.ProcessingRequest(
        response_body=ext_proc.HttpBody(body=body, end_of_stream=end_of_stream)
    ).SerializeToString()


def response_trailers(**trailers: str) -> bytes:
    """Underscores in names stand for hyphens."""
    message = ext_proc.HttpTrailers()
    for key, value in trailers.items():
        message.trailers.headers.add(key=key.replace("_", "-"), raw_value=value.encode())
    return ext_proc.ProcessingRequest(response_trailers=message).SerializeToString()


def parse(reply: bytes) -> Any:
    """A ProcessingResponse."""
    return ext_proc.ProcessingResponse.FromString(reply)


def with_modes(message: bytes, modes: tuple[int, int]) -> bytes:
    """The message as the first of its stream: it says how bodies are sent."""
    request = ext_proc.ProcessingRequest.FromString(message)
    request.protocol_config.request_body_mode, request.protocol_config.response_body_mode = modes
    return request.SerializeToString()


def without_modes(message: bytes) -> bytes:
    """The message as a gateway sends it that does not say how bodies are sent."""
    request = ext_proc.ProcessingRequest.FromString(message)
    request.ClearField("protocol_config")
    return request.SerializeToString()


def with_header(message: bytes, key: str, value: bytes) -> bytes:
    """The headers, of request or response, with a further one."""
    request = ext_proc.ProcessingRequest.FromString(message)
    getattr(request, str(request.WhichOneof("request"))).headers.headers.add(key=key, raw_value=value)
    return request.SerializeToString()


def observed(message: bytes) -> bytes:
    """The message of a gateway that only shows what passes."""
    request = ext_proc.ProcessingRequest.FromString(message)
    request.observability_mode = True
    return request.SerializeToString()


def with_subset(message: bytes, subset: Sequence[str]) -> bytes:
    """The message with the gateway's subset hint."""
    request = ext_proc.ProcessingRequest.FromString(message)
    hint = request.metadata_context.filter_metadata["envoy.lb.subset_hint"]
    hint.update({"x-gateway-destination-endpoint-subset": list(subset)})
    return request.SerializeToString()


def response_headers_of(headers: Mapping[str, str]) -> bytes:
    """Response headers that are these."""
    return ext_proc.ProcessingRequest(response_headers=_headers(headers.items(), False)).SerializeToString()


def response_headers_with(key: str, value: bytes) -> bytes:
    """Response headers that are nothing but this one."""
    message = ext_proc.HttpHeaders()
    message.headers.headers.add(key=key, raw_value=value)
    return ext_proc.ProcessingRequest(response_headers=message).SerializeToString()


def with_served(message: bytes, served: Any) -> bytes:
    """The message with whatever the gateway says of the endpoint that answered."""
    request = ext_proc.ProcessingRequest.FromString(message)
    request.metadata_context.filter_metadata["envoy.lb"]["x-gateway-destination-endpoint-served"] = served
    return request.SerializeToString()
