"""Mutated ProcessingRequests: never a crash, never anything but CodecError, and the answer protobuf would give.

"Walked" is what `codec_decode` looks into: the whole message but `metadata_context`, `attributes` and the `attributes`
of HttpHeaders. (`Message.metadata` looks into the metadata on the way to its key.) Of every case hold:

1. the core and the model accept the same bytes and read the same fields, metadata too;
2. what the core accepts, `xds-protos` accepts once the unwalked parts are cut out, and reads the same fields;
3. what `xds-protos` accepts, the core accepts, unless it is `Refused`: a group, a sub-message or the oneof `request`
   given twice, or no request at all (in metadata: a group, a map value or a oneof given twice); and if `xds-protos`
   accepts all of it, the metadata reads the same, unless an entry of a map on the way holds an unknown field: the
   library behind `xds-protos` (upb) hides such an entry, the core drops the field as Envoy's own C++ protobuf does.

So the core is laxer than `xds-protos` in the unwalked parts only, and stricter only in the ways listed.
"""

from array import array
from random import Random

from envoy.config.core.v3 import base_pb2 as base
from envoy.service.ext_proc.v3 import external_processor_pb2 as ext_proc
from google.protobuf import struct_pb2
from google.protobuf.unknown_fields import UnknownFieldSet

from picker._core import codec
from tests.model import codec as model
from tests.support.envoy import as_request, metadata_of, parse, recorded
from tests.support.fuzz import CASES, mutate

LONGEST_SEED_MESSAGE = 2_000  # a longer body exercises nothing more and costs time
KEYS = [("envoy.lb.subset_hint", "x-gateway-destination-endpoint-subset"), ("n", "k"), ("", "")]
VARINTS = [0, 1, 4, 2**31, 2**32 + 4, 2**63, 2**64 - 1, 2**69]
TOKENS = [bytes([byte]) for byte in (0, 1, 2, 8, 10, 18, 26, 34, 0x7F, 0x80, 0x81, 0xC0, 0xED, 0xF4, 0xFE, 0xFF)]
WIRES = [0, 0, 0, 1, 1, 2, 2, 2, 2, 2, 5, 5, 3, 4, 6, 7]


def samples() -> list[bytes]:
    """Messages with every part that a recorded one may lack."""
    subset = struct_pb2.Struct()
    subset.update({KEYS[0][1]: ["10.0.0.1:8000", "10.0.0.2", 7, None, ["x"]], "k": "10.0.0.1", "": {"a": True}})
    metadata = base.Metadata(filter_metadata={"n": subset, KEYS[0][0]: subset, "": subset})
    headers = [base.HeaderValue(key="a", value="1", raw_value=b"2"), base.HeaderValue(key="ä", value="€😀")]
    header_map = base.HeaderMap(headers=headers)
    protocol = ext_proc.ProtocolConfiguration(request_body_mode=4, response_body_mode=2)
    rest = {"metadata_context": metadata, "attributes": {"x": subset}, "observability_mode": True}
    head = ext_proc.HttpHeaders(headers=header_map, end_of_stream=True)
    messages = [
        ext_proc.ProcessingRequest(request_headers=head, protocol_config=protocol, **rest),
        ext_proc.ProcessingRequest(response_headers=head, metadata_context=metadata),
        ext_proc.ProcessingRequest(request_body=ext_proc.HttpBody(body=b"{}", end_of_stream=True), **rest),
        ext_proc.ProcessingRequest(request_trailers=ext_proc.HttpTrailers(trailers=header_map)),
    ]
    return [message.SerializeToString() for message in messages]


SEEDS = samples() + [message.data for message in recorded() if len(message.data) <= LONGEST_SEED_MESSAGE]


class Mutant:
    """Mutates bytes, and messages as trees of fields: lengths are put right, so that changes reach every depth."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)

    def case(self) -> bytes:
        data = self.random.choice(SEEDS)
        for _ in range(self.random.choice([1, 1, 2, 3])):
            data = self.tree(data)
        for _ in range(self.random.choice([0, 0, 0, 0, 0, 1, 2])):
            data = self.edit(data)
        return data

    def edit(self, data: bytes) -> bytes:
        text = bytearray(data)
        mutate(self.random, text, SEEDS, TOKENS)
        return bytes(text)

    def varint(self, value: int) -> bytes:
        """A varint that may be longer than it need be, now and then longer than is allowed."""
        plain = model.varint(value)
        size = self.random.choice([len(plain)] * 12 + [len(plain) + 1, 5, 6, 10, 11])
        if size <= len(plain):
            return plain
        return plain[:-1] + bytes([plain[-1] | 0x80]) + b"\x80" * (size - len(plain) - 1) + b"\x00"

    def field(self) -> bytes:
        """A field of any number and wire type, its content sound or not."""
        wire = self.random.choice(WIRES)
        number = self.random.choice([self.random.randint(0, 12), self.random.randint(0, 2**29)])
        tag = self.varint(number << 3 | wire)
        if wire == model.VARINT:
            return tag + self.varint(self.random.choice(VARINTS))
        if wire == model.BYTES:
            content = self.random.randbytes(self.random.randint(0, 8))
            return tag + self.varint(len(content)) + content
        return tag + self.random.randbytes({model.FIXED64: 8, model.FIXED32: 4}.get(wire, 0))

    def changed(self, field: model.Field) -> bytes:
        """The field with another number, value or content."""
        choice = self.random.randrange(4)
        if choice == 0:
            return self.varint(self.random.randint(0, 12) << 3 | field.wire) + field.raw[1:]
        if field.wire == model.VARINT:
            return model.varint(field.number << 3) + self.varint(self.random.choice(VARINTS))
        if field.wire == model.BYTES:
            content = self.edit(field.content) if choice == 1 else self.tree(field.content)
            return self.varint(field.number << 3 | model.BYTES) + self.varint(len(content)) + content
        return field.raw

    def tree(self, data: bytes) -> bytes:
        """One change at any depth: a field more, less, twice, elsewhere or changed. Of bytes if there are no fields."""
        try:
            parts = list(model.fields(data))
        except model.Malformed:
            return self.edit(data)
        raw = [part.raw for part in parts]
        if not parts or self.random.random() < 0.1:
            raw.insert(self.random.randint(0, len(raw)), self.field())
            return b"".join(raw)
        at = self.random.randrange(len(parts))
        choice = self.random.randrange(8)
        if choice == 0:
            del raw[at]
        elif choice == 1:
            raw.insert(self.random.randint(0, len(raw)), raw[at])
        elif choice == 2:
            self.random.shuffle(raw)
        else:
            raw[at] = self.changed(parts[at])
        return b"".join(raw)


def decoded(data: bytes) -> tuple[codec.Message | None, model.Request | type[model.Malformed]]:
    """The core's answer and the model's; fails unless they agree."""
    exact = array("B", data)  # a block without the zero behind it that `bytes` has: the sanitizer sees every overrun
    try:
        expected = model.decode(data)
    except model.Malformed as error:
        try:
            codec.Message(exact)
        except codec.CodecError:
            return None, type(error)
        raise AssertionError(f"accepted what is malformed: {error}") from error
    message = codec.Message(exact)
    message._check()
    read = (message.kind, message.headers(), message.body, message.end_of_stream, message.modes, message.is_observed)
    assert read == (
        expected.kind,
        expected.headers,
        expected.body,
        expected.end_of_stream,
        expected.modes,
        expected.observed,
    )
    return message, expected


def sets_entries_aside(theirs: ext_proc.ProcessingRequest, namespace: str) -> bool:
    """Does an entry of one of the two maps hold an unknown field? upb then hides the entry (see above)."""
    metadata = theirs.metadata_context
    maps = [metadata, metadata.filter_metadata[namespace]] if namespace in metadata.filter_metadata else [metadata]
    return any(field.field_number == 1 for each in maps for field in UnknownFieldSet(each))


def check_metadata(message: codec.Message, metadata: bytes, theirs: ext_proc.ProcessingRequest | None) -> None:
    for namespace, key in KEYS:
        try:
            expected = model.find_metadata(metadata, namespace.encode(), key.encode())
        except model.Malformed as error:
            try:
                found = message.metadata(namespace.encode(), key.encode())
            except codec.CodecError:
                assert theirs is None or isinstance(error, model.Refused)
                continue
            raise AssertionError(f"read {found} from malformed metadata: {error}") from error
        assert message.metadata(namespace.encode(), key.encode()) == expected
        if theirs is not None and not sets_entries_aside(theirs, namespace):
            assert expected == metadata_of(theirs, namespace, key)


def check(data: bytes) -> str:
    """Rules 1 to 3 of the module docstring; says which way the case went."""
    message, expected = decoded(data)
    theirs = parse(data)
    if message is None:
        assert theirs is None or expected is model.Refused
        return "refused" if expected is model.Refused else "malformed"
    assert isinstance(expected, model.Request)
    walked = parse(model.walked(data))
    assert walked is not None
    shown = as_request(walked)
    assert shown == model.Request(**{**vars(expected), "metadata": b""})
    check_metadata(message, expected.metadata, theirs)
    return "accepted" if theirs is not None else "laxer"


def test_mutated_messages() -> None:
    for seed in range(CASES):
        data = Mutant(seed).case()
        try:
            check(data)
        except BaseException as error:
            error.add_note(f"case {seed}, {len(data)} bytes: {data.hex()}")
            raise


def test_the_seed_messages_are_accepted() -> None:
    assert {check(data) for data in SEEDS} == {"accepted"}


def test_mutations_go_every_way() -> None:
    """A fuzzer that only makes rubbish, or no rubbish, tests nothing."""
    ways = [check(Mutant(seed).case()) for seed in range(2_000)]
    assert all(ways.count(way) >= 50 for way in ("accepted", "refused", "malformed", "laxer"))
