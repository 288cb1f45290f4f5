"""Kubernetes objects as people write them: YAML of several documents, each error with the line it stands on.

Strict, as `kubectl apply` is: a member that no object of the kind has is refused. Objects that come from an API server
are decoded without this module, and leniently, for a newer server may say more.
"""

from collections.abc import Generator, Iterator
from functools import cache
from typing import Any, TypeVar, cast

from msgspec import inspect

from picker.config.decode import Decoder
from picker.config.document import Document, MemberPath, compose_all, decode_text
from picker.config.suggest import one_of
from picker.errors import ConfigError

__all__ = ["Manifest", "read_manifests"]

T = TypeVar("T")

_OPEN = ("metadata", "status")
"""Members that hold whatever they like: picker reads a few members of the one, and none of the other."""


class Manifest:
    """One object in a text: its `kind` and `api_version`, both text, and `value`, the whole as plain values."""

    def __init__(self, value: dict[str, Any], path: MemberPath, decoder: Decoder) -> None:
        self.value = value
        self._path, self._decoder = path, decoder
        self.api_version = self._text("apiVersion")
        self.kind = self._text("kind")

    def decode(self, wanted: type[T]) -> T:
        """The object as a `wanted`, a msgspec struct. Raises the error of the text for what does not fit."""
        members = {key: member for key, member in self.value.items() if key not in ("apiVersion", "kind", "status")}
        for path, names in _unknown(members, _shape(cast(Any, wanted))):
            if path[0] not in _OPEN:
                raise self.failure("unknown field", path, hint=one_of(str(path[-1]), names))
        return self._decoder.convert(self._path, members, wanted)

    def failure(self, message: str, path: MemberPath = (), *, hint: str = "") -> ConfigError:
        """The error for the member at `path` of the object, for the caller to raise."""
        return self._decoder.failure(message, (*self._path, *path), hint=hint)

    def line(self, path: MemberPath = ()) -> int:
        """The line that the object, or the member at `path` of it, begins on."""
        return self._decoder.document.line((*self._path, *path))

    def _text(self, name: str) -> str:
        found = self.value.get(name)
        if not isinstance(found, str) or not found:
            raise self.failure(f"{name} is missing" if found is None else "expected text", (name,), hint=f"add {name}")
        return found


def read_manifests(
    data: bytes, *, source: str, error: type[ConfigError] = ConfigError
) -> Generator[None, None, tuple[Manifest, ...]]:
    """The objects in `data`, in slices: yields now and then, returns them all. Raises `error`, naming the line.

    A `List`, as `kubectl get -o yaml` writes it, stands for its items. No object at all is no error.
    """
    text = decode_text(data, source=source, error=error)
    documents = yield from compose_all(text, source=source, error=error)
    found: list[Manifest] = []
    for document in documents:
        found += _manifests(document, Decoder(document, source=source, error=error))
        yield
    return tuple(found)


def _manifests(document: Document, decoder: Decoder) -> Iterator[Manifest]:
    top = _manifest(document.value, (), decoder)
    if not top.kind.endswith("List") or "items" not in top.value:
        yield top
        return
    items = top.value["items"]
    if not isinstance(items, list):
        raise decoder.failure("expected a list", ("items",), hint="write [] if there are none")
    for index, item in enumerate(items):
        yield _manifest(item, ("items", index), decoder)


def _manifest(value: Any, path: MemberPath, decoder: Decoder) -> Manifest:
    if not isinstance(value, dict):
        what = "expected a Kubernetes object"
        raise decoder.failure(what, path, hint="begin with apiVersion and kind, and part objects with ---")
    return Manifest(value, path, decoder)


@cache
def _shape(wanted: type[Any]) -> inspect.Type:
    return inspect.type_info(wanted)


def _unknown(value: Any, wanted: inspect.Type) -> Iterator[tuple[MemberPath, list[str]]]:
    """Members that `wanted` has no place for, and those it has there."""
    if isinstance(wanted, inspect.Metadata):
        wanted = wanted.type
    if isinstance(wanted, inspect.UnionType):
        wanted = next((part for part in wanted.types if not isinstance(part, inspect.NoneType)), wanted)
    if isinstance(wanted, inspect.StructType) and isinstance(value, dict):
        fields = {field.encode_name: field.type for field in wanted.fields}
        for key, member in value.items():
            if key not in fields:
                yield (key,), list(fields)
            else:
                yield from (((key, *path), names) for path, names in _unknown(member, fields[key]))
    elif isinstance(wanted, inspect.VarTupleType | inspect.ListType) and isinstance(value, list):
        for index, item in enumerate(value):
            yield from (((index, *path), names) for path, names in _unknown(item, wanted.item_type))
