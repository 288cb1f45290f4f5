"""`proto/` and the constants of `codec.pxd` against the published messages (`xds-protos`)."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from envoy.service.ext_proc.v3 import external_processor_pb2 as ext_proc
from google.protobuf import descriptor_pool, struct_pb2
from google.protobuf.message import Message as ProtobufMessage
from google.protobuf.message_factory import GetMessageClass
from google.protobuf.unknown_fields import UnknownFieldSet

from picker._core import codec
from tests.support.protofile import ProtoFile, load_protos
from tests.support.shared import ROOT

OURS = load_protos(ROOT / "proto", [struct_pb2.DESCRIPTOR.serialized_pb])
THEIRS = descriptor_pool.Default()
SERVICE = "envoy.service.ext_proc.v3.ExternalProcessor"
FILES = sorted(str(path.relative_to(ROOT / "proto")) for path in (ROOT / "proto").rglob("*.proto"))


def enums_and_messages(holder: Any) -> Iterator[Any]:
    """Descriptors of everything declared in a file or message, nested ones too."""
    yield from getattr(holder, "enum_types_by_name", {}).values()
    nested = holder.message_types_by_name if hasattr(holder, "message_types_by_name") else holder.nested_types_by_name
    for message in nested.values():
        yield message
        yield from enums_and_messages(message)


DECLARED = {kind.full_name: kind for name in FILES for kind in enums_and_messages(OURS.FindFileByName(name))}
MESSAGES = {name: kind for name, kind in DECLARED.items() if hasattr(kind, "fields")}
ENUMS = {name: kind for name, kind in DECLARED.items() if hasattr(kind, "values")}


def field_facts(field: Any) -> dict[str, object]:
    of = field.message_type or field.enum_type
    return {
        "name": field.name,
        "number": field.number,
        "type": field.type,
        "of": of and of.full_name,
        "repeated": field.is_repeated,
        "oneof": field.containing_oneof and field.containing_oneof.name,
        "presence": field.has_presence,
    }


def test_every_file_is_where_the_published_one_is() -> None:
    for name in FILES:
        assert OURS.FindFileByName(name).package == THEIRS.FindFileByName(name).package


@pytest.mark.parametrize("name", MESSAGES)
def test_message_is_a_part_of_the_published_one(name: str) -> None:
    published = THEIRS.FindMessageTypeByName(name)
    assert published.file.name == MESSAGES[name].file.name
    assert published.GetOptions().map_entry == MESSAGES[name].GetOptions().map_entry
    for field in MESSAGES[name].fields:
        assert field_facts(field) == field_facts(published.fields_by_number[field.number])


@pytest.mark.parametrize("name", ENUMS)
def test_enum_is_a_part_of_the_published_one(name: str) -> None:
    published = THEIRS.FindEnumTypeByName(name)
    assert {value.name: value.number for value in ENUMS[name].values}.items() <= {
        value.name: value.number for value in published.values
    }.items()


def test_every_message_declared_is_reached_from_the_service() -> None:
    reached: set[str] = set()
    waiting = [
        OURS.FindMessageTypeByName(f"envoy.service.ext_proc.v3.Processing{end}") for end in ("Request", "Response")
    ]
    while waiting:
        kind = waiting.pop()
        if kind is None or kind.full_name in reached:
            continue
        reached.add(kind.full_name)
        for field in getattr(kind, "fields", []):
            waiting += [field.message_type, field.enum_type]
    assert reached == DECLARED.keys() | {name for name in reached if name.startswith("google.protobuf.")}


def test_service_is_the_published_one() -> None:
    (ours,) = OURS.FindServiceByName(SERVICE).methods
    (theirs,) = THEIRS.FindServiceByName(SERVICE).methods
    for fact in ("full_name", "client_streaming", "server_streaming"):
        assert getattr(ours, fact) == getattr(theirs, fact)
    assert ours.input_type.full_name == theirs.input_type.full_name
    assert ours.output_type.full_name == theirs.output_type.full_name


def constants(prefix: str) -> dict[str, int]:
    """The constants of codec.pxd that begin so, without the prefix."""
    source = Path(codec.__file__).with_name("codec.pxd").read_text()
    found = re.findall(rf"^    PK_{prefix}([A-Z_]+) = (\d+)$", source, re.MULTILINE)
    return {name: int(number) for name, number in found}


def oneof_numbers(message: Any, oneof: str) -> dict[str, int]:
    return {field.name.upper(): field.number for field in message.DESCRIPTOR.oneofs_by_name[oneof].fields}


def test_constants_of_the_core_are_the_published_numbers() -> None:
    requests = {f"REQUEST_{name}": number for name, number in constants("REQUEST_").items()}
    requests |= {f"RESPONSE_{name}": number for name, number in constants("RESPONSE_").items()}
    assert requests == oneof_numbers(ext_proc.ProcessingRequest, "request")
    replies = oneof_numbers(ext_proc.ProcessingResponse, "response")
    assert replies.pop("IMMEDIATE_RESPONSE") == 7  # has a function of its own
    assert constants("REPLY_") == replies
    modes = ext_proc.ProtocolConfiguration.DESCRIPTOR.fields_by_name["request_body_mode"].enum_type
    assert constants("BODY_") == {value.name: value.number for value in modes.values}
    sends = modes.containing_type.fields_by_name["response_trailer_mode"].enum_type
    assert constants("SEND_") == {value.name: value.number for value in sends.values}


def all_replies() -> Iterator[bytes]:
    """Together these hold every field that the writer can write."""
    writer = codec.Writer()
    for reply in range(1, 5):
        writer.common(
            reply,
            b"10.0.0.1:8000",
            removed=[b"x-a"],
            headers=[(b"x-b", b"1")],
            body=b"{}",
            mode=(2, 1, 2),
            clear_route_cache=True,
        )
        yield writer.take()
    for reply in (3, 4):
        writer.streamed(reply, b"chunk", True)
        yield writer.take()
    for reply in (5, 6):
        writer.trailers(reply)
        yield writer.take()
    writer.immediate(503, [(b"retry-after", b"1")], b"{}", b"no_endpoint")
    yield writer.take()


def written_fields(message: ProtobufMessage) -> Iterator[str]:
    """Full names of the fields that are set, at any depth; fails on one that is not declared."""
    assert len(UnknownFieldSet(message)) == 0, (
        f"{message.DESCRIPTOR.full_name} with a field that proto/ does not declare"
    )
    for field, value in message.ListFields():
        yield field.full_name
        if field.message_type and field.message_type.GetOptions().map_entry:
            for entry in value.values():
                yield from written_fields(entry)
        elif field.message_type:
            for part in value if field.is_repeated else [value]:
                yield from written_fields(part)


def declared_for_writing() -> set[str]:
    """Full names of the fields of ProcessingResponse and all that is in it, as far as proto/ declares them."""
    names: set[str] = set()
    waiting = [OURS.FindMessageTypeByName("envoy.service.ext_proc.v3.ProcessingResponse")]
    while waiting:
        fields = [field for field in waiting.pop().fields if field.full_name not in names]
        names |= {field.full_name for field in fields}
        waiting += [field.message_type for field in fields if field.message_type]
    return {name for name in names if name.startswith("envoy.")}


def test_the_writer_writes_what_is_declared_and_nothing_else() -> None:
    response = GetMessageClass(OURS.FindMessageTypeByName("envoy.service.ext_proc.v3.ProcessingResponse"))
    written = {name for reply in all_replies() for name in written_fields(response.FromString(reply))}
    declared = declared_for_writing() - {"envoy.config.core.v3.HeaderValue.value"}  # only read
    assert {name for name in written if name.startswith("envoy.")} == declared


@pytest.mark.parametrize(
    "text",
    [
        "extend Foo {}",
        "message A { extensions.B c = 1; }",
        "message A { int32 b = 1; }",
        "message A { string b 1; }",
        "message A {",
        "mess@ge",
    ],
)
def test_the_reader_refuses_what_it_does_not_know(text: str, tmp_path: Path) -> None:
    (tmp_path / "bad.proto").write_text('syntax = "proto3";\n' + text)
    with pytest.raises((ValueError, TypeError)):
        load_protos(tmp_path)


def test_the_reader_names_what_it_reads() -> None:
    file = ProtoFile(
        "a.proto", 'syntax = "proto3"; package p; message A { repeated string b = 7; map<string, A> c_d = 8; }'
    )
    message = file.file.message_type[0]
    assert (message.name, message.field[0].name, message.field[0].number) == ("A", "b", 7)
    assert (message.field[1].type_name, message.nested_type[0].name) == ("CDEntry", "CDEntry")
