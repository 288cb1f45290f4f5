"""ProcessingResponses written, against `xds-protos`."""

from collections.abc import Callable, Iterator
from functools import partial

import pytest
from envoy.config.core.v3 import base_pb2 as base
from envoy.service.ext_proc.v3 import external_processor_pb2 as ext_proc
from envoy.type.v3 import http_status_pb2 as http_status
from hypothesis import given
from hypothesis import strategies as st

from picker._core import alloc, codec
from tests.support.builds import debug_build_only
from tests.support.leaks import assert_flat, failing_allocations

DESTINATION = "x-gateway-destination-endpoint"
OVERWRITE = base.HeaderValueOption.HeaderAppendAction.OVERWRITE_IF_EXISTS_OR_ADD
BORDERS = [*range(140), *range(220, 270), *range(16_240, 16_400), 65_536, 2_097_140, 2_097_152]
BAD = b"\xff"  # no UTF-8

octets = st.binary(max_size=6) | st.sampled_from([b"\x00", b"x" * 127, b"x" * 128, b"\xff\xfe"])


def written(write: Callable[[codec.Writer], None]) -> bytes:
    writer = codec.Writer()
    write(writer)
    writer._check()
    return writer.take()


def read(data: bytes) -> ext_proc.ProcessingResponse:
    return ext_proc.ProcessingResponse.FromString(data)


def set_header(key: str, value: bytes) -> base.HeaderValueOption:
    return base.HeaderValueOption(header=base.HeaderValue(key=key, raw_value=value), append_action=OVERWRITE)


def common_response(
    reply: int,
    destination: str = "",
    removed: list[str] | None = None,
    headers: list[tuple[str, bytes]] | None = None,
    body: bytes | None = None,
    mode: tuple[int, int, int] | None = None,
    clear: bool = False,
) -> ext_proc.ProcessingResponse:
    """The message that `Writer.common` shall write."""
    name = ext_proc.ProcessingResponse.DESCRIPTOR.fields_by_number[reply].name
    options = [set_header(DESTINATION, destination.encode())] if destination else []
    options += [set_header(*header) for header in headers or []]
    mutation = ext_proc.HeaderMutation(set_headers=options, remove_headers=removed or [])
    response = ext_proc.CommonResponse(
        header_mutation=mutation if options or removed else None,
        body_mutation=None if body is None else ext_proc.BodyMutation(body=body),
        clear_route_cache=clear,
    )
    whole = ext_proc.HeadersResponse if reply < 3 else ext_proc.BodyResponse
    message = ext_proc.ProcessingResponse(**{name: whole(response=response)})
    if destination:
        message.dynamic_metadata.update({"envoy.lb": {DESTINATION: destination}})
    if mode is not None:
        message.mode_override.SetInParent()
        override = message.mode_override
        override.request_body_mode, override.response_body_mode, override.response_trailer_mode = mode  # type: ignore[assignment]
    return message


def streamed_response(reply: int, body: bytes, end_of_stream: bool) -> ext_proc.ProcessingResponse:
    streamed = ext_proc.StreamedBodyResponse(body=body, end_of_stream=end_of_stream)
    mutation = ext_proc.BodyMutation(streamed_response=streamed)
    response = ext_proc.BodyResponse(response=ext_proc.CommonResponse(body_mutation=mutation))
    return ext_proc.ProcessingResponse(**{{3: "request_body", 4: "response_body"}[reply]: response})


def immediate_response(
    status: int, headers: list[tuple[str, bytes]], body: bytes, details: str
) -> ext_proc.ProcessingResponse:
    mutation = ext_proc.HeaderMutation(set_headers=[set_header(*header) for header in headers])
    return ext_proc.ProcessingResponse(
        immediate_response=ext_proc.ImmediateResponse(
            status=http_status.HttpStatus(code=status),  # type: ignore[arg-type]
            headers=mutation if headers else None,
            body=body,
            details=details,
        )
    )


names = st.text(min_size=1, max_size=5) | st.sampled_from(["x-a", "x" * 127, "x" * 130])


@given(
    st.integers(1, 4),
    st.just("") | names,
    st.lists(names, max_size=16),
    st.lists(st.tuples(names, octets), max_size=16),
    st.none() | octets,
    st.none() | st.tuples(st.integers(0, 5), st.integers(0, 5), st.integers(0, 2)),
    st.booleans(),
)
def test_common_response(
    reply: int,
    destination: str,
    removed: list[str],
    headers: list[tuple[str, bytes]],
    body: bytes | None,
    mode: tuple[int, int, int] | None,
    clear: bool,
) -> None:
    data = written(
        lambda writer: writer.common(
            reply,
            destination.encode(),
            removed=[name.encode() for name in removed],
            headers=[(key.encode(), value) for key, value in headers],
            body=body,
            mode=mode,
            clear_route_cache=clear,
        )
    )
    assert read(data) == common_response(reply, destination, removed, headers, body, mode, clear)


@pytest.mark.parametrize("reply", [1, 2, 3, 4])
def test_a_response_that_changes_nothing(reply: int) -> None:
    name = ext_proc.ProcessingResponse.DESCRIPTOR.fields_by_number[reply].name
    assert written(lambda writer: writer.unchanged(reply)) == bytes([reply << 3 | 2, 0])
    assert read(written(lambda writer: writer.unchanged(reply))).WhichOneof("response") == name
    assert read(written(lambda writer: writer.common(reply))) == common_response(reply)


@given(st.sampled_from([3, 4]), octets, st.booleans())
def test_streamed_chunk(reply: int, body: bytes, end_of_stream: bool) -> None:
    data = written(lambda writer: writer.streamed(reply, body, end_of_stream))
    assert read(data) == streamed_response(reply, body, end_of_stream)


def test_trailers() -> None:
    empty = ext_proc.TrailersResponse()
    assert read(written(lambda w: w.trailers(5))) == ext_proc.ProcessingResponse(request_trailers=empty)
    assert read(written(lambda w: w.trailers(6))) == ext_proc.ProcessingResponse(response_trailers=empty)


@given(st.integers(200, 599), st.lists(st.tuples(names, octets), max_size=16), octets, st.just("") | names)
def test_immediate_response(status: int, headers: list[tuple[str, bytes]], body: bytes, details: str) -> None:
    pairs = [(key.encode(), value) for key, value in headers]
    data = written(lambda writer: writer.immediate(status, pairs, body, details.encode()))
    assert read(data) == immediate_response(status, headers, body, details)


@pytest.mark.parametrize("size", BORDERS)
def test_lengths_of_one_two_three_and_four_bytes(size: int) -> None:
    """Every nesting level crosses 127/128, 16383/16384 and 2097151/2097152 at some size."""
    body, text = b"x" * size, "x" * size
    assert read(written(lambda w: w.streamed(3, body, True))) == streamed_response(3, body, True)
    assert read(written(lambda w: w.common(1, text.encode()))) == common_response(1, text)
    header = written(lambda w: w.common(2, headers=[(b"k", body)], clear_route_cache=True))
    assert read(header) == common_response(2, headers=[("k", body)], clear=True)
    assert read(written(lambda w: w.common(3, body=body))) == common_response(3, body=body)
    answer = written(lambda w: w.immediate(429, [(b"k", body)], body, text.encode()))
    assert read(answer) == immediate_response(429, [("k", body)], body, text)


def test_messages_follow_one_another_in_one_buffer() -> None:
    writer = codec.Writer()
    ends = []
    for write in every_write():
        write(writer)
        writer._check()
        ends.append(len(writer))
    together = writer.take()
    starts = [0, *ends[:-1]]
    assert [together[a:b] for a, b in zip(starts, ends, strict=True)] == [written(write) for write in every_write()]
    assert len(writer) == 0
    writer.trailers(5)
    writer.clear()
    assert writer.take() == b""


def every_write() -> Iterator[Callable[[codec.Writer], None]]:
    yield lambda w: w.trailers(5)
    yield lambda w: w.common(1, b"10.0.0.1:8000", removed=[b"x-a"], headers=[(b"x-b", b"1"), (b"x-c", b"2")])
    yield lambda w: w.common(3, clear_route_cache=True, body=b"instead", mode=(2, 1, 2))
    yield lambda w: w.streamed(3, b"x" * 300, False)
    yield lambda w: w.immediate(503, [(b"retry-after", b"1")], b"{}", b"no_endpoint")
    yield lambda w: w.unchanged(4)
    yield lambda w: w.trailers(6)


@pytest.mark.parametrize(
    ("error", "write"),
    [
        (codec.CodecError, lambda w: w.common(1, BAD)),
        (codec.CodecError, lambda w: w.common(1, headers=[(BAD, b"")])),
        (codec.CodecError, lambda w: w.common(1, b"ok", removed=[b"ok", BAD])),
        (codec.CodecError, lambda w: w.immediate(500, [(BAD, b"")], b"")),
        (codec.CodecError, lambda w: w.immediate(500, [], b"", BAD)),
        (ValueError, lambda w: w.common(0)),
        (ValueError, lambda w: w.common(5)),
        (ValueError, lambda w: w.unchanged(5)),
        (ValueError, lambda w: w.streamed(2, b"", True)),
        (ValueError, lambda w: w.streamed(5, b"", True)),
        (ValueError, lambda w: w.trailers(4)),
        (ValueError, lambda w: w.trailers(7)),
        (ValueError, lambda w: w.immediate(199, [], b"")),
        (ValueError, lambda w: w.immediate(600, [], b"")),
        (OverflowError, lambda w: w.immediate(-1, [], b"")),
        (OverflowError, lambda w: w.immediate(500, [(b"a", b"")] * 17, b"")),
        (OverflowError, lambda w: w.common(1, removed=[b"a"] * 17)),
        (OverflowError, lambda w: w.common(1, headers=[(b"a", b"")] * 17)),
        (OverflowError, lambda w: w.common(1, mode=(-1, 0, 0))),
        (ValueError, lambda w: w.common(1, mode=(0, 0))),
        (ValueError, lambda w: w.common(1, headers=[(b"",)])),
        (ValueError, lambda w: w.immediate(500, [(b"a",)], b"")),
        (TypeError, lambda w: w.common(1, removed=["text"])),
        (TypeError, lambda w: w.common(1, removed=[None])),
        (TypeError, lambda w: w.common(1, headers=[("a", b"")])),
        (TypeError, lambda w: w.common(1, None)),
        (TypeError, lambda w: w.immediate(500, [(b"a", None)], b"")),
        (TypeError, lambda w: w.immediate(500, None, b"")),
        (TypeError, lambda w: w.streamed(3, "text", True)),
    ],
)
def test_a_refused_write_writes_nothing(error: type[Exception], write: Callable[[codec.Writer], None]) -> None:
    writer = codec.Writer()
    writer.trailers(5)
    with pytest.raises(error) as caught:
        write(writer)
    assert caught.type is error
    writer._check()
    assert writer.take() == b"\x2a\x00"


def test_header_values_and_bodies_need_not_be_text() -> None:
    assert read(written(lambda w: w.common(1, headers=[(b"k", BAD)]))) == common_response(1, headers=[("k", BAD)])
    assert read(written(lambda w: w.common(3, body=BAD))) == common_response(3, body=BAD)
    assert read(written(lambda w: w.immediate(500, [(b"k", BAD)], BAD))).immediate_response.body == BAD


# --- memory ---


def write_and_refuse() -> None:
    writer = codec.Writer()
    for write in every_write():
        write(writer)
        written(write)
    with pytest.raises(codec.CodecError):
        writer.common(1, BAD)


def test_leaks_nothing() -> None:
    assert_flat(write_and_refuse, calls=50)


@debug_build_only
def test_survives_failing_allocations() -> None:
    for write in every_write():
        assert failing_allocations(partial(written, write)) >= 1


@debug_build_only
@pytest.mark.parametrize("filled", range(40))
def test_a_write_that_finds_no_room_can_be_repeated(filled: int) -> None:
    """The buffer is filled to any degree, so that the room runs out at every place of a message."""
    for write in every_write():
        expected = written(lambda w: w.streamed(3, b"x" * filled, True)) + written(write)
        failed = True
        after = 0
        while failed:
            writer = codec.Writer()
            writer.streamed(3, b"x" * filled, True)
            failed = fails_without_room(writer, write, after)
            assert writer.take() == expected
            after += 1


def fails_without_room(writer: codec.Writer, write: Callable[[codec.Writer], None], after: int) -> bool:
    """Write, with the allocation after `after` others failing; once more if it did, which leaves the same bytes."""
    before = len(writer)
    alloc.fail_allocation(after)
    try:
        write(writer)
    except MemoryError:
        writer._check()
        assert len(writer) == before
        write(writer)
        return True
    finally:
        alloc.fail_allocation(-1)
    return False
