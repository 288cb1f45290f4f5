"""ProcessingRequests decoded, against `xds-protos` and the model."""

import pytest
from envoy.config.core.v3 import base_pb2 as base
from envoy.service.ext_proc.v3 import external_processor_pb2 as ext_proc
from google.protobuf import struct_pb2
from hypothesis import given
from hypothesis import strategies as st

from picker._core import codec
from tests.model import codec as model
from tests.support.envoy import Recorded, as_request, metadata_of, parse, recorded
from tests.support.leaks import assert_flat
from tests.support.shared import needs_shared

HINT, SUBSET = "envoy.lb.subset_hint", "x-gateway-destination-endpoint-subset"
UNKNOWN = b"\xa0\x06\x96\x01" + b"\xa1\x06" + b"\xff" * 8 + b"\xa2\x06\x02\x0a\xff" + b"\xa5\x06" + b"\xff" * 4
WRONG_WIRE = b"".join(bytes([number << 3 | 5]) + b"\xff" * 4 for number in range(1, 13))  # no field is fixed32


# --- decoding: requests of every shape ---

words = st.sampled_from(["", "a", ":path", "envoy.lb", HINT, SUBSET, "ä€😀", "x" * 130])
octets = st.binary(max_size=6) | st.sampled_from([b"\x00", b"x" * 127, b"x" * 128, b"\xff\xfe"])
header_values = st.builds(base.HeaderValue, key=words, value=words, raw_value=octets)
header_maps = st.builds(base.HeaderMap, headers=st.lists(header_values, max_size=4))
modes = st.integers(0, 7) | st.sampled_from([-1, -(2**31), 2**31 - 1])
protocols = st.builds(
    ext_proc.ProtocolConfiguration,
    request_body_mode=modes,
    response_body_mode=modes,
    send_body_without_waiting_for_header_response=st.booleans(),
)
values = st.recursive(
    st.none() | st.booleans() | st.floats(allow_nan=False) | words,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3),
    max_leaves=6,
)


@st.composite
def structs(draw: st.DrawFn) -> struct_pb2.Struct:
    struct = struct_pb2.Struct()
    struct.update(draw(st.dictionaries(words, values, max_size=3)))
    return struct


metadatas = st.builds(base.Metadata, filter_metadata=st.dictionaries(words, structs(), max_size=3))
http_headers = st.builds(ext_proc.HttpHeaders, headers=st.none() | header_maps, end_of_stream=st.booleans())
http_bodies = st.builds(
    ext_proc.HttpBody, body=octets, end_of_stream=st.booleans(), grpc_message_compressed=st.booleans()
)
http_trailers = st.builds(ext_proc.HttpTrailers, trailers=st.none() | header_maps)
PARTS = {"headers": http_headers, "body": http_bodies, "trailers": http_trailers}


@st.composite
def requests(draw: st.DrawFn) -> ext_proc.ProcessingRequest:
    part = draw(st.sampled_from(sorted(PARTS)))
    return ext_proc.ProcessingRequest(
        **{f"{draw(st.sampled_from(['request', 'response']))}_{part}": draw(PARTS[part])},
        metadata_context=draw(st.none() | metadatas),
        attributes=draw(st.dictionaries(words, structs(), max_size=2)),
        protocol_config=draw(st.none() | protocols),
        observability_mode=draw(st.booleans()),
    )


def shown(message: codec.Message) -> model.Request:
    message._check()
    return model.Request(
        message.kind,
        message.headers(),
        message.body,
        message.end_of_stream,
        message.modes,
        metadata=b"",
        observed=message.is_observed,
    )


def assert_equal(request: ext_proc.ProcessingRequest, data: bytes) -> codec.Message:
    """The core reads `data` as `xds-protos` shows `request`."""
    message = codec.Message(data)
    assert shown(message) == as_request(request)
    return message


@given(requests())
def test_decodes_what_the_published_classes_wrote(request: ext_proc.ProcessingRequest) -> None:
    data = request.SerializeToString()
    message = assert_equal(request, data)
    expected = model.decode(data)
    assert model.Request(**{**vars(expected), "metadata": b""}) == as_request(request)
    for namespace in [*request.metadata_context.filter_metadata, "none"]:
        for key in [*request.metadata_context.filter_metadata[namespace].fields, "none"]:
            found = message.metadata(namespace.encode(), key.encode())
            assert found == metadata_of(request, namespace, key)
            assert found == model.find_metadata(expected.metadata, namespace.encode(), key.encode())


@given(requests(), st.data())
def test_a_cut_message_is_refused_or_is_what_is_left_of_it(
    request: ext_proc.ProcessingRequest, data: st.DataObject
) -> None:
    whole = request.SerializeToString()
    cut = whole[: data.draw(st.integers(0, len(whole)))]
    left = parse(cut)
    if left is None or left.WhichOneof("request") is None:
        with pytest.raises(codec.CodecError):
            codec.Message(cut)
    else:
        assert_equal(left, cut)


@needs_shared
@pytest.mark.parametrize("message", recorded(), ids=lambda message: f"{message.exchange}-{message.order}")
def test_decodes_what_a_real_envoy_sent(message: Recorded) -> None:
    request = parse(message.data)
    assert request is not None
    decoded = assert_equal(request, message.data)
    assert decoded.kind == [2, 4, 4, 3, 5, 5][message.order]
    assert decoded.modes == ((4, 4) if message.order == 0 else None)
    assert decoded.end_of_stream == (message.order in (2, 5))
    assert decoded.metadata(HINT.encode(), SUBSET.encode()) is None


# --- decoding: protobuf's finer points, bytes written by hand ---

field = model.message
BODY = field(4, b"\x10\x01")


def header_message(*headers: bytes) -> bytes:
    return field(2, field(1, b"".join(field(1, header) for header in headers)))


def with_metadata(value: bytes) -> codec.Message:
    """A message whose subset hint is the serialised Value `value`."""
    struct = field(1, field(1, SUBSET.encode()) + field(2, value))
    return codec.Message(BODY + field(8, field(1, field(1, HINT.encode()) + field(2, struct))))


def subset(message: codec.Message) -> object:
    return message.metadata(HINT.encode(), SUBSET.encode())


@pytest.mark.parametrize("unknown", [UNKNOWN, WRONG_WIRE], ids=["unknown number", "wrong wire type"])
def test_unknown_fields_are_skipped_at_every_level(unknown: bytes) -> None:
    def among(*parts: bytes) -> bytes:
        return unknown + b"".join(part + unknown for part in parts)

    head = among(field(1, among(field(1, among(field(1, b"k"), field(3, b"v"))))), b"\x18\x01")
    value = among(field(6, among(field(1, among(field(3, b"10.0.0.1"))))))
    struct = among(field(1, among(field(1, SUBSET.encode()), field(2, value))))
    metadata = among(field(1, among(field(1, HINT.encode()), field(2, struct))))
    data = among(field(2, head), field(11, among(b"\x08\x04", b"\x10\x02")), field(8, metadata))
    request, message = parse(data), codec.Message(data)
    assert request is not None
    assert shown(message) == as_request(request) == model.Request(2, [(b"k", b"v")], b"", True, (4, 2), b"")
    assert subset(message) == [b"10.0.0.1"]
    body = codec.Message(among(field(5, among(field(1, b"chunk"), b"\x10\x01"))))
    assert (body.kind, body.body, body.end_of_stream) == (5, b"chunk", True)
    trailers = codec.Message(among(field(7, among(field(1, among(field(1, among(field(1, b"k")))))))))
    assert (trailers.kind, trailers.headers()) == (7, [(b"k", b"")])


@pytest.mark.parametrize(
    ("header", "value"),
    [
        (field(1, b"k") + field(2, b"v") + field(3, b"raw"), b"raw"),
        (field(3, b"raw") + field(2, b"v") + field(1, b"k"), b"raw"),
        (field(1, b"k") + field(2, b"v"), b"v"),
        (field(1, b"k") + field(2, b"v") + field(3, b""), b"v"),
        (field(1, b"k") + field(3, b"\xff\x00"), b"\xff\x00"),
        (field(1, b"k"), b""),
        (field(1, b"x") + field(3, b"1") + field(1, b"k") + field(3, b"2"), b"2"),
        (field(1, b"k") + field(2, b"v") + field(3, b"1") + field(3, b""), b"v"),
    ],
)
def test_raw_value_wins_unless_it_is_empty(header: bytes, value: bytes) -> None:
    data = header_message(header)
    request = parse(data)
    assert request is not None
    assert assert_equal(request, data).headers() == [(b"k", value)]


def test_headers_keep_their_order_and_their_doubles() -> None:
    data = header_message(
        *(field(1, key) + field(3, value) for key, value in [(b"b", b"1"), (b"a", b"2"), (b"b", b"3")])
    )
    assert codec.Message(data).headers() == [(b"b", b"1"), (b"a", b"2"), (b"b", b"3")]


@given(header_maps)
def test_header_pairs_of_a_map_by_itself(headers: base.HeaderMap) -> None:
    data = headers.SerializeToString()
    assert codec.header_pairs(data) == model.header_map(data)
    with pytest.raises(codec.CodecError, match="HeaderMap"):
        codec.header_pairs(data + b"\x0a")


@pytest.mark.parametrize(
    ("value", "found"),
    [
        (field(3, b"10.0.0.1:8000, 10.0.0.2"), b"10.0.0.1:8000, 10.0.0.2"),
        (field(3, b""), b""),
        (field(6, field(1, field(3, b"a")) + field(1, field(3, b"b"))), [b"a", b"b"]),
        (field(6, b""), []),
        (field(6, field(1, b"") + field(1, b"\x20\x01") + field(1, field(3, b""))), [None, None, b""]),
        (field(6, field(1, field(6, field(1, field(3, b"deep"))))), [None]),
        (field(5, b""), None),
        (b"\x08\x00", None),
        (b"\x11" + b"\x00" * 8, None),
        (b"", None),
    ],
)
def test_subset_hint_as_string_list_or_neither(value: bytes, found: object) -> None:
    message = with_metadata(value)
    assert subset(message) == found


def test_absent_metadata() -> None:
    struct = field(1, field(1, b"other") + field(2, field(3, b"x")))
    other_key = BODY + field(8, field(1, field(1, HINT.encode()) + field(2, struct)))
    other_namespace = BODY + field(8, field(1, field(1, b"other") + field(2, struct)))
    entry_without_value = BODY + field(8, field(1, field(1, HINT.encode())))
    for data in (BODY, BODY + field(8, b""), other_key, other_namespace, entry_without_value):
        assert subset(codec.Message(data)) is None


def test_the_last_of_equal_map_keys_counts() -> None:
    def entry(key: str, value: bytes) -> bytes:
        return field(1, field(1, key.encode()) + field(2, value))

    first, second = entry(SUBSET, field(3, b"1")), entry(SUBSET, field(3, b"2"))
    data = BODY + field(8, entry(HINT, second) + entry(HINT, second + first))
    request = parse(data)
    assert request is not None
    assert subset(codec.Message(data)) == b"1" == metadata_of(request, HINT, SUBSET)


@pytest.mark.parametrize(
    "value",
    [
        b"\x1a\x05abc",  # cut off
        field(3, b"\xff"),
        field(3, b"a") + field(3, b"b"),  # a oneof set twice
        field(6, b"") + field(3, b"b"),
        field(5, b"") + field(3, b"b"),
        b"\x08\x00" + field(3, b"b"),
        b"\x11" + b"\x00" * 8 + field(3, b"b"),
        b"\x20\x01" + field(3, b"b"),
        field(6, b"\x0a\x05a"),
        field(6, field(1, field(3, b"\xc0\x80"))),
        field(6, field(1, b"\x1a\x05abc")),
        field(6, field(1, field(3, b"a") + field(3, b"b"))),
        b"\x0b\x0c",  # a group
    ],
)
def test_malformed_metadata_is_found_when_it_is_asked_for(value: bytes) -> None:
    message = with_metadata(value)
    with pytest.raises(codec.CodecError, match="malformed metadata"):
        subset(message)


@pytest.mark.parametrize("broken", [b"\x0a\x05", field(1, b"\x0a\x05"), field(1, field(2, b"") + field(2, b""))])
def test_malformed_maps_are_found_when_they_are_walked(broken: bytes) -> None:
    inner = field(1, field(1, HINT.encode()) + field(2, broken))
    for metadata in (broken, inner):
        with pytest.raises(codec.CodecError, match="malformed metadata"):
            subset(codec.Message(BODY + field(8, metadata)))


@pytest.mark.parametrize(
    ("varint", "end_of_stream", "mode"),
    [
        (b"\x00", False, 0),
        (b"\x84\x00", True, 4),
        (b"\x84\x80\x80\x80\x10", True, 4),  # 2**32 + 4: a bool is any of 64 bits, an enum the low 32
        (b"\x80\x80\x80\x80\x10", True, 0),
        (b"\xff" * 9 + b"\x01", True, -1),
        (b"\x80\x80\x80\x80\xf8\xff\xff\xff\xff\x01", True, -(2**31)),
        (b"\x80" * 9 + b"\x01", True, 0),
        (b"\x80" * 9 + b"\x02", False, 0),  # the 65th bit is dropped
        (b"\x81" + b"\x80" * 8 + b"\x7e", True, 1),
    ],
)
def test_varints_are_cut_as_protobuf_cuts_them(varint: bytes, end_of_stream: bool, mode: int) -> None:
    data = field(4, b"\x10" + varint) + field(11, b"\x08" + varint) + b"\x50" + varint
    request = parse(data)
    assert request is not None
    message = assert_equal(request, data)
    assert (message.end_of_stream, message.is_observed, message.modes) == (end_of_stream, end_of_stream, (mode, 0))


def test_tags_and_lengths_have_five_bytes_at_most() -> None:
    assert codec.Message(b"\xa2\x80\x80\x80\x00\x82\x80\x80\x80\x00\x10\x01").end_of_stream
    for data in (b"\xa2\x80\x80\x80\x80\x00\x02\x10\x01", b"\x22\x82\x80\x80\x80\x80\x00\x10\x01"):
        assert parse(data) is None
        with pytest.raises(codec.CodecError):
            codec.Message(data)


@pytest.mark.parametrize(
    "data",
    [
        BODY + b"\x00\x01",  # field number 0
        BODY + b"\x80\x00\x01",
        BODY + b"\xf8\xff\xff\xff\x1f\x01",  # a field number over 2**29
        BODY + b"\x66\x00",  # wire types 6 and 7
        BODY + b"\x67\x00",
        BODY + b"\x64",  # the end of no group
        BODY + b"\x60" + b"\x80" * 10 + b"\x00",
        BODY + b"\x61\x00",
        BODY + b"\x65\x00",
        BODY + b"\x62\xff\xff\xff\xff\x0f",
        BODY + b"\x62\xff\xff\xff\xff\x07",
        b"\x22\x01\x10",
        b"\x12\x02\x0a\x01",
        header_message(b"\x0a\x02k"),
        header_message(field(1, b"\xed\xa0\x80")),  # a surrogate
        header_message(field(2, b"\xf4\x90\x80\x80")),
        header_message(field(1, b"\xff") + field(1, b"k")),
        BODY + field(11, b"\x08"),
    ],
)
def test_what_no_protobuf_parser_accepts_is_refused(data: bytes) -> None:
    assert parse(data) is None
    with pytest.raises(codec.CodecError, match=f"{len(data)} bytes"):
        codec.Message(data)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        field(8, b""),
        BODY + BODY,
        BODY + field(2, b""),  # the oneof, set twice
        BODY + field(8, b"") + field(8, b""),
        BODY + field(11, b"") + field(11, b""),
        field(2, field(1, b"") + field(1, b"")),
        field(6, field(1, b"") + field(1, b"")),
        BODY + b"\x63\x64",
    ],
)
def test_what_no_gateway_sends_is_refused_though_protobuf_accepts_it(data: bytes) -> None:
    assert parse(data) is not None
    with pytest.raises(codec.CodecError):
        codec.Message(data)


def test_malformed_attributes_are_not_looked_into() -> None:
    for data in (BODY + field(9, b"\x0a\x05"), field(2, field(2, b"\xff"))):
        assert parse(data) is None
        assert codec.Message(data).kind in (2, 4)


@given(st.binary(max_size=5) | st.text(max_size=3).map(str.encode), st.binary(max_size=2))
def test_strings_are_utf_8(text: bytes, more: bytes) -> None:
    try:
        (text + more).decode()
    except UnicodeDecodeError:
        with pytest.raises(codec.CodecError):
            codec.Message(header_message(field(1, text + more)))
    else:
        assert codec.Message(header_message(field(1, text + more))).headers() == [(text + more, b"")]


def test_every_two_byte_start_of_utf_8() -> None:
    for lead in range(0x80, 0x100):
        for second in range(0x100):
            text = bytes([lead, second, 0x80, 0x80])[: 2 + (lead >= 0xE0) + (lead >= 0xF0)]
            is_valid = text.decode(errors="ignore").encode() == text
            try:
                codec.Message(header_message(field(1, text)))
            except codec.CodecError:
                assert not is_valid, text
            else:
                assert is_valid, text


def test_takes_any_contiguous_bytes_and_keeps_them() -> None:
    data = bytearray(field(4, field(1, b"chunk")))
    message = codec.Message(memoryview(data))
    with pytest.raises(BufferError):
        data.clear()
    del data
    assert message.body == b"chunk"
    with pytest.raises(BufferError):
        codec.Message(memoryview(b"\x22\x22\x00\x00")[::2])
    for wrong in ("text", None, 7):
        with pytest.raises(TypeError):
            codec.Message(wrong)  # type: ignore[arg-type]


def test_bytes_changed_behind_its_back_are_read_safely() -> None:
    data = bytearray(header_message(field(1, b"key") + field(3, b"value")))
    message = codec.Message(data)
    for at in range(len(data)):
        was, data[at] = data[at], 0xFF
        for _, value in message.headers():
            assert len(value) <= len(data)
        data[at] = was
    assert message.headers() == [(b"key", b"value")]


# --- memory ---


def read_and_refuse() -> None:
    subset(with_metadata(field(6, field(1, field(3, b"a")))))
    codec.Message(header_message(field(1, b"k") + field(3, b"v"))).headers()
    with pytest.raises(codec.CodecError):
        codec.Message(b"\x00")
    with pytest.raises(codec.CodecError):
        subset(with_metadata(b"\xff"))


def test_leaks_nothing() -> None:
    assert_flat(read_and_refuse, calls=50)
