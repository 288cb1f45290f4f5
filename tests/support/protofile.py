"""Reads the few constructs that `proto/` uses into protobuf descriptors, so that no compiler is needed to test it.

Understood: syntax, package, import, message, enum, oneof, map<string, message>, repeated, service and rpc. Anything
else is an error. Type names are resolved by protobuf's own descriptor pool, which also refuses what makes no sense.
"""

import re
from collections.abc import Iterable
from pathlib import Path

from google.protobuf import descriptor_pb2 as pb
from google.protobuf.descriptor_pool import DescriptorPool

TOKEN = re.compile(r'//[^\n]*|\s+|([A-Za-z_][\w.]*|\d+|"[^"\n]*"|[{}<>=;,()])|(.)')
SCALARS = {"string": pb.FieldDescriptorProto.TYPE_STRING, "bytes": pb.FieldDescriptorProto.TYPE_BYTES}
SCALARS |= {"bool": pb.FieldDescriptorProto.TYPE_BOOL}
NOT_TYPES = {"extend", "extensions", "group", "option", "optional", "required", "reserved"}


def tokens(text: str) -> list[str]:
    found = []
    for match in TOKEN.finditer(text):
        if match[2]:
            raise ValueError(f"unexpected {match[2]!r} at offset {match.start()}")
        if match[1]:
            found.append(match[1])
    return found


class ProtoFile:
    """One file, parsed into `self.file`."""

    def __init__(self, name: str, text: str) -> None:
        self.file = pb.FileDescriptorProto(name=name)
        self._rest = tokens(text)[::-1]
        while self._rest:
            self._top_level(self._take())

    def _take(self, wanted: str | None = None) -> str:
        token = self._rest.pop() if self._rest else "the end of the file"
        if wanted not in (None, token):
            raise ValueError(f"{self.file.name}: {token!r} where {wanted!r} is due")
        return token

    def _number(self) -> int:
        self._take("=")
        number = int(self._take())
        self._take(";")
        return number

    def _top_level(self, word: str) -> None:
        if word == "message":
            self._message(self.file.message_type.add())
        elif word == "enum":
            self._enum(self.file.enum_type.add())
        elif word == "service":
            self._service(self.file.service.add())
        elif word == "syntax":
            self._take("=")
            self.file.syntax = self._take().strip('"')
            self._take(";")
        elif word == "package":
            self.file.package = self._take()
            self._take(";")
        elif word == "import":
            self.file.dependency.append(self._take().strip('"'))
            self._take(";")
        else:
            raise ValueError(f"{self.file.name}: {word!r} at top level")

    def _message(self, message: pb.DescriptorProto) -> None:
        message.name = self._take()
        self._take("{")
        while (word := self._take()) != "}":
            if word == "enum":
                self._enum(message.enum_type.add())
            elif word == "oneof":
                self._oneof(message)
            elif word == "map":
                self._map(message)
            else:
                self._field(message, word)

    def _oneof(self, message: pb.DescriptorProto) -> None:
        message.oneof_decl.add(name=self._take())
        self._take("{")
        while (word := self._take()) != "}":
            self._field(message, word).oneof_index = len(message.oneof_decl) - 1

    def _field(self, message: pb.DescriptorProto, word: str) -> pb.FieldDescriptorProto:
        field = message.field.add(label=pb.FieldDescriptorProto.LABEL_OPTIONAL)
        if word == "repeated":
            field.label = pb.FieldDescriptorProto.LABEL_REPEATED
            word = self._take()
        if word.split(".")[0] in NOT_TYPES:
            raise ValueError(f"{self.file.name}: {word!r} where a type is due")
        if word in SCALARS:
            field.type = SCALARS[word]
        else:
            field.type_name = word
        field.name = self._take()
        field.number = self._number()
        return field

    def _map(self, message: pb.DescriptorProto) -> None:
        for token in ("<", "string", ","):
            self._take(token)
        of = self._take()
        self._take(">")
        field = self._field(message, "string")  # the name and number; the type follows
        field.ClearField("type")
        field.label = pb.FieldDescriptorProto.LABEL_REPEATED
        field.type_name = field.name.title().replace("_", "") + "Entry"
        entry = message.nested_type.add(name=field.type_name)
        entry.options.map_entry = True
        optional = pb.FieldDescriptorProto.LABEL_OPTIONAL
        entry.field.add(name="key", number=1, label=optional, type=SCALARS["string"])
        entry.field.add(name="value", number=2, label=optional, type_name=of)

    def _enum(self, enum: pb.EnumDescriptorProto) -> None:
        enum.name = self._take()
        self._take("{")
        while (word := self._take()) != "}":
            enum.value.add(name=word, number=self._number())

    def _service(self, service: pb.ServiceDescriptorProto) -> None:
        service.name = self._take()
        self._take("{")
        while self._take() != "}":  # "rpc"
            method = service.method.add(name=self._take())
            method.client_streaming, method.input_type = self._stream()
            self._take("returns")
            method.server_streaming, method.output_type = self._stream()
            self._take(";")

    def _stream(self) -> tuple[bool, str]:
        self._take("(")
        word = self._take()
        of = self._take() if word == "stream" else word
        self._take(")")
        return word == "stream", of


def load_protos(folder: Path, known: Iterable[bytes] = ()) -> DescriptorPool:
    """A pool of every .proto under `folder`; `known` are serialised descriptors of files they import."""
    pool = DescriptorPool()
    for serialized in known:
        pool.AddSerializedFile(serialized)
    parsed = [ProtoFile(str(path.relative_to(folder)), path.read_text()).file for path in folder.rglob("*.proto")]
    waiting = {file.name: file for file in parsed}
    while waiting:
        ready = [file for file in waiting.values() if not any(name in waiting for name in file.dependency)]
        if not ready:
            raise ValueError(f"imports in a circle: {sorted(waiting)}")
        for file in ready:
            pool.AddSerializedFile(file.SerializeToString())
            del waiting[file.name]
    return pool
