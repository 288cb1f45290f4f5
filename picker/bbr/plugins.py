"""The plugin API: what a plugin sees of a request or a response, and what it may do (docs/body-based-router.md).

A plugin is a class made with its parameters, found by entry point (group `picker.bbr_plugins`) or by its dotted path.
It has `on_request`, `on_response` or both. Calls are synchronous and on the data plane's thread: they compute, they do
not wait. What a plugin did counts only if it returns in time; else it is as if it had not been asked.
"""

import json
import re
from collections.abc import Mapping
from typing import Any, ClassVar, Literal, Protocol, TypeAlias, runtime_checkable

import msgspec

from picker._core.view import PART_BODY, PART_EVENT, PART_HEADERS, View

__all__ = ["Message", "Part", "Path", "Plugin", "RequestPlugin", "ResponsePlugin", "error_body"]

Part: TypeAlias = Literal["headers", "body", "event"]
Path: TypeAlias = str | tuple[str | int, ...]
"""Where a field stands: a top-level name, or names and indexes from the top."""

_PARTS: dict[int, Part] = {PART_HEADERS: "headers", PART_BODY: "body", PART_EVENT: "event"}
_NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9a-z]+\Z")
_VALUE = re.compile(r"[^\x00-\x1f\x7f\ud800-\udfff]*\Z")
_NOT_PLUGINS = frozenset(["host", "content-length", "transfer-encoding", "connection"])


class Message:
    """A request or a response, as one plugin sees it in its turn; of no use afterwards.

    Header names are taken in any case. A header sent more than once has its values joined by commas; bytes that are not
    UTF-8 show as surrogates. Changes of earlier plugins are seen.
    """

    __slots__ = ("_view",)

    def __init__(self, view: View) -> None:
        self._view = view

    @property
    def part(self) -> Part:
        """What is here: `headers` (there is no body, or the gateway shows none), the whole `body`, or one `event` of a
        response that is a stream."""
        return _PARTS[self._view.part]

    @property
    def headers(self) -> Mapping[str, str]:
        """All headers, `:path`, `:status` and their like among them."""
        return _joined(self._view, of_request=False)

    @property
    def request_headers(self) -> Mapping[str, str]:
        """Those of the request, as plugins left them; also while a response is looked at."""
        return _joined(self._view, of_request=True)

    def header(self, name: str) -> str | None:
        """The header's value; None if there is none."""
        return self.headers.get(name.lower())

    def set_header(self, name: str, value: str) -> None:
        """Set or overwrite a header. ValueError for what cannot be one; OverflowError for too many or too long ones."""
        if not _VALUE.match(value):
            raise ValueError(f"a header's value has no control characters: {value!r}")
        self._view.edit(_header_name(name), value.encode())

    def remove_header(self, name: str) -> None:
        """Remove a header, if it is there. ValueError and OverflowError as `set_header`."""
        self._view.edit(_header_name(name), None)

    @property
    def body(self) -> bytes:
        """The body, or the event with its empty line; empty where there is none. A copy."""
        return self._view.body

    def field(self, path: Path) -> Any:
        """What stands there in the body's JSON; None also where nothing does, or where there is no JSON.

        In an event, the JSON is that of its `data`. Items of a list of plain numbers are read with the list.
        """
        found = self._view.member(_steps(path))
        return None if found is None else json.loads(found)

    def has_field(self, path: Path) -> bool:
        """Whether something stands there, be it null."""
        return self._view.member(_steps(path)) is not None

    def set_field(self, path: Path, value: Any) -> None:
        """Let `value` stand there, in the body's own bytes; all others stay as they are.

        A member that is not there is added. LookupError if there is no object or list for it; TypeError or ValueError
        if JSON has no such value.
        """
        *parent, last = _steps(path)
        quoted = json.dumps(last.decode()).encode() if isinstance(last, bytes) else b""
        self._view.set_member(tuple(parent), last, quoted, _dumped(value))

    def remove_field(self, path: Path) -> None:
        """Let no such member be there; the path ends with a name. LookupError if there is no object to hold it."""
        *parent, last = _steps(path)
        if not isinstance(last, bytes):
            raise LookupError("a path to be removed ends with a name")
        self._view.remove_member(tuple(parent), last)

    @property
    def may_reject(self) -> bool:
        """Whether the client can still be given an error: nothing of the response has gone to it."""
        return self._view.may_reject

    def reject(self, status: int, message: str, *, code: str = "rejected") -> None:
        """Answer the client with an OpenAI-shaped error; plugins behind this one are not asked.

        Where `may_reject` no longer holds the response breaks off instead. ValueError for a status that is not 400-599.
        """
        self._view.reject(status, error_body(status, message, code=code))


@runtime_checkable
class RequestPlugin(Protocol):
    """Looks at requests."""

    def on_request(self, message: Message) -> None:
        """A request: its body whole, or its headers where no body comes or none is shown."""


@runtime_checkable
class ResponsePlugin(Protocol):
    """Looks at responses: at the headers, as they come; or, with `sees_bodies`, at the body."""

    def on_response(self, message: Message) -> None:
        """A response: its headers (`sees_bodies` False); else its whole body, or one event of a stream at a time."""


class Plugin:
    """What plugins may derive from; a class that has the same attributes will do."""

    parameters: ClassVar[type[msgspec.Struct] | None] = None
    """What the JSON of `--plugin` decodes to; None: any mapping."""

    headers: ClassVar[tuple[str, ...]] = ()
    """Request headers that only picker may set: copies that clients send are removed."""

    sees_bodies: ClassVar[bool] = False
    """Whether it is of no use without bodies. Responses are held for `on_response`: JSON whole, of a stream each event.
    Where the gateway does not show a body that there is, it is not asked."""

    def __init__(self, parameters: Any) -> None:
        """`parameters`: an instance of the struct, or the mapping."""


def error_body(status: int, message: str, *, code: str, param: str | None = None) -> bytes:
    """An error as the OpenAI API has it."""
    kind = "invalid_request_error" if status < 500 else "internal_error"
    return json.dumps({"error": {"message": message, "type": kind, "param": param, "code": code}}).encode()


def _joined(view: View, *, of_request: bool) -> dict[str, str]:
    found: dict[str, str] = {}
    for key, raw in view.pairs(of_request):
        name, value = key.decode(), raw.decode("utf-8", "surrogateescape")
        found[name] = f"{found[name]}, {value}" if name in found else value
    for key, edit in view.edits(of_request):
        if edit is None:
            found.pop(key.decode(), None)
        else:
            found[key.decode()] = edit.decode()
    return found


def _header_name(name: str) -> bytes:
    lower = name.lower()
    if not _NAME.match(lower) or lower in _NOT_PLUGINS:
        raise ValueError(f"not a header that a plugin may set or remove: {name!r}")
    return lower.encode()


def _steps(path: Path) -> tuple[bytes | int, ...]:
    steps = (path,) if isinstance(path, str) else tuple(path)
    if not steps:
        raise LookupError("a path names something")
    return tuple(step.encode("utf-8", "surrogatepass") if isinstance(step, str) else step for step in steps)


def _dumped(value: Any) -> bytes:
    """As JSON, in ASCII: whatever reads the body reads that."""
    return json.dumps(value, allow_nan=False).encode()
