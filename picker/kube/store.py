"""What a list and the watch after it come to: objects by name, and the mark to go on from. Pure: bytes in, changes out.

Invariants: the objects are those of the server at the mark. Whatever breaks the order of a watch, a line that is no
event, one that cannot have come now, is an exception and leaves objects and mark as they were, so that the watch can be
taken up again from there.
"""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeAlias, TypeVar

import msgspec

from picker.errors import printable

__all__ = ["Change", "Expired", "Garbage", "Key", "ServerTrouble", "Store", "WentBack"]

MOST_OBJECTS = 1_000_000
_LONGEST_NUMBER = 20
_WRONG = (ValueError, RecursionError)  # of msgspec: what it cannot read, and what is too deep for it

_LOG = logging.getLogger("picker.kube")
T = TypeVar("T")

Key: TypeAlias = tuple[str, str]
"""Namespace and name."""


class Garbage(ValueError):
    """This is nothing that a Kubernetes API says; what it should have been is not known."""


class Expired(ValueError):
    """The server no longer has what came after the mark: list again."""


class WentBack(ValueError):
    """The server's time runs backwards, as after a restored backup: what is known is of no time of its. List again."""


class ServerTrouble(ValueError):
    """The server says in the stream that something is wrong on its side."""


class Change(NamedTuple, Generic[T]):
    """One object that is other than before; `before` None: new, `after` None: gone."""

    before: T | None
    after: T | None


class _Metadata(msgspec.Struct, gc=False):
    name: str = ""
    namespace: str = ""
    uid: str = ""
    resourceVersion: str = ""


class _Object(msgspec.Struct, gc=False):
    metadata: _Metadata


class _ListMetadata(msgspec.Struct, rename={"mark": "resourceVersion", "rest": "continue"}):
    mark: str = ""
    rest: str | None = None


class _List(msgspec.Struct):
    metadata: _ListMetadata
    items: list[msgspec.Raw] | None = None  # Go writes an empty list as null


class _Event(msgspec.Struct):
    type: str
    object: msgspec.Raw


class _Trouble(msgspec.Struct):
    code: int = 0
    reason: str = ""
    message: str = ""


_list = msgspec.json.Decoder(_List).decode
_event = msgspec.json.Decoder(_Event).decode
_object = msgspec.json.Decoder(_Object).decode
_trouble = msgspec.json.Decoder(_Trouble).decode


@dataclass(slots=True)
class _Held(Generic[T]):
    """`value` None: an object that cannot be used."""

    version: str
    uid: str
    value: T | None


class Store(Generic[T]):
    """Objects of one kind. `decode` makes a value of an object's JSON, and raises ValueError for one that cannot be
    used; that one is left out, and the others go on. `kind` is for the log."""

    def __init__(self, kind: str, decode: Callable[[bytes], T]) -> None:
        self.mark = ""
        """The version all objects are of. Empty: nothing is known, list first."""
        self.events = 0
        """Events taken in, bookmarks included."""
        self.stale = 0
        """Events that told nothing new."""
        self.unusable = 0
        """Objects left out so far, each version once."""
        self._kind, self._decode = kind, decode
        self._held: dict[Key, _Held[T]] = {}
        self._coming: dict[Key, _Held[T]] = {}
        self._coming_mark = ""
        self._left_out: dict[Key, str] = {}  # the version that was logged

    @property
    def objects(self) -> Mapping[Key, T]:
        """Those that can be used."""
        return {key: held.value for key, held in self._held.items() if held.value is not None}

    def __len__(self) -> int:
        return len(self._held)

    # A list.

    def begin(self) -> None:
        """The next page is the first. Until the list is whole, everything stays as it is."""
        self._coming, self._coming_mark = {}, ""

    def page(self, body: bytes) -> str:
        """Takes a page of a list in. The token to ask the next one with, empty after the last. Raises Garbage."""
        try:
            found = _list(body)
        except _WRONG as problem:
            raise Garbage(f"not a list: {problem}") from None
        self._coming_mark = self._coming_mark or found.metadata.mark  # all pages are of the first one's time
        if not self._coming_mark:
            raise Garbage("a list without a resourceVersion")
        for raw in found.items or ():
            self._admit(bytes(raw))
        if len(self._coming) > MOST_OBJECTS:
            raise Garbage(f"a list of more than {MOST_OBJECTS} objects")
        return found.metadata.rest or ""

    def finish(self) -> None:
        """The list is whole: it takes the place of what was known, at once."""
        self._held, self.mark = self._coming, self._coming_mark
        self._left_out = {key: version for key, version in self._left_out.items() if key in self._held}
        self.begin()

    def _admit(self, raw: bytes) -> None:
        try:
            key, metadata = _identify(raw)
        except Garbage as problem:  # there is no going back to before it, as there is in a watch
            self._leave_out(("", "?"), "?", problem)
            return
        known = self._held.get(key)
        if known is not None and (known.version, known.uid) == (metadata.resourceVersion, metadata.uid):
            self._coming[key] = known
        else:
            self._coming[key] = self._make(key, metadata, raw)

    # A watch.

    def take(self, line: bytes) -> tuple[Key, Change[T]] | None:
        """Takes an event in; None if it changes nothing. Raises Garbage, Expired, WentBack or ServerTrouble."""
        try:
            event = _event(line)
        except _WRONG as problem:
            raise Garbage(f"not an event: {problem}") from None
        raw = bytes(event.object)
        change: tuple[Key, Change[T]] | None = None
        match event.type:
            case "ADDED" | "MODIFIED":
                change = self._put(raw)
            case "DELETED":
                change = self._drop(raw)
            case "BOOKMARK":
                self._move(raw)
            case "ERROR":
                raise _complaint(raw)
            case other:
                raise Garbage(f"an event of type {other[:40]!r}")
        self.events += 1
        return change

    def forget(self) -> None:
        """The mark is of no use any more. The objects stay until the next list is whole."""
        self.mark = ""

    def clear(self) -> None:
        """There is no such kind: no objects."""
        self._held, self.mark = {}, ""

    def _put(self, raw: bytes) -> tuple[Key, Change[T]] | None:
        key, metadata = _identify(raw)
        version, held = metadata.resourceVersion, self._held.get(key)
        if _is_known(version, self.mark) or (held is not None and _is_known(version, held.version)):
            self.stale += 1
            return None
        made = self._held[key] = self._make(key, metadata, raw)
        self.mark = version
        if held is None or held.value is None:
            return None if made.value is None else (key, Change(None, made.value))
        return None if (held.uid, held.value) == (made.uid, made.value) else (key, Change(held.value, made.value))

    def _drop(self, raw: bytes) -> tuple[Key, Change[T]] | None:
        key, metadata = _identify(raw)
        version, held = metadata.resourceVersion, self._held.get(key)
        if held is not None and (held.uid != metadata.uid or _is_later(held.version, version)):
            self.stale += 1  # of one that has come again since
            return None
        if not _is_known(version, self.mark):
            self.mark = version
        self._left_out.pop(key, None)
        if held is None:
            return None
        del self._held[key]
        return None if held.value is None else (key, Change(held.value, None))

    def _move(self, raw: bytes) -> None:
        version = _versioned(raw).resourceVersion
        if _is_later(self.mark, version):
            raise WentBack(f"a bookmark at {version[:40]} after {self.mark[:40]}")
        self.mark = version

    def _make(self, key: Key, metadata: _Metadata, raw: bytes) -> _Held[T]:
        value: T | None = None
        try:
            value = self._decode(raw)
        except Exception as problem:  # a bug in it, too, costs this object and no other
            self._leave_out(key, metadata.resourceVersion, problem)
        return _Held(metadata.resourceVersion, metadata.uid, value)

    def _leave_out(self, key: Key, version: str, problem: Exception) -> None:
        if self._left_out.get(key) == version:
            return
        self._left_out[key] = version
        self.unusable += 1
        name, said = printable("/".join(filter(None, key))), printable(str(problem))
        bug = None if isinstance(problem, _WRONG) else problem
        _LOG.error("%s %s is left out: %s; resource version %s", self._kind, name, said, version, exc_info=bug)


def _identify(raw: bytes) -> tuple[Key, _Metadata]:
    metadata = _versioned(raw)
    if not metadata.name or not metadata.uid:
        raise Garbage(f"an object without {'a uid' if metadata.name else 'a name'}")
    return (metadata.namespace, metadata.name), metadata


def _versioned(raw: bytes) -> _Metadata:
    try:
        metadata = _object(raw).metadata
    except _WRONG as problem:
        raise Garbage(f"not an object: {problem}") from None
    if not metadata.resourceVersion:
        raise Garbage("an object without a resourceVersion")
    return metadata


def _complaint(raw: bytes) -> ValueError:
    try:
        said = _trouble(raw)
    except _WRONG as problem:
        return Garbage(f"not a status: {problem}")
    if said.code == 410 or said.reason in ("Expired", "Gone"):
        return Expired(f"{said.code} {said.reason}: {said.message}")
    return ServerTrouble(f"{said.code} {said.reason}: {said.message}")


def _is_later(version: str, other: str) -> bool:
    """Whether a version is known to be later than another: both are numbers. Of others nobody can say."""
    return _is_number(version) and _is_number(other) and int(version) > int(other)


def _is_known(version: str, known: str) -> bool:
    """Whether what is known as of one version holds another already."""
    return version == known or _is_later(known, version)


def _is_number(version: str) -> bool:
    return version.isascii() and version.isdigit() and len(version) <= _LONGEST_NUMBER
