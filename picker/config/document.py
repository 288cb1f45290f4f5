"""YAML (and so JSON) text to plain values, remembering the line of every member.

Built on libyaml's event stream instead of `yaml.load`: no recursion, no object construction, and limits that hold
while reading. Aliases share what they name, so an alias bomb costs nothing here; what it would expand to is counted.
Scalars resolve as Kubernetes tooling resolves them (YAML 1.1 booleans), except that numbers are decimal, hex or 0o.
"""

import re
from collections.abc import Generator
from pathlib import Path
from typing import Any, NoReturn, TypeAlias, TypeVar

import yaml

from picker.errors import ConfigError

__all__ = ["Document", "MemberPath", "compose", "compose_all", "drain", "field_name", "read_text"]

MAX_BYTES = 1 << 20
MAX_NODES = 250_000  # after expanding aliases
MAX_DEPTH = 64
EVENTS_PER_STEP = 200  # about 0.5 ms of work between two yields of `compose`

MemberPath: TypeAlias = tuple[str | int, ...]
T = TypeVar("T")

_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # PyYAML built without libyaml: the same, slower
_TRUE = frozenset("true True TRUE yes Yes YES on On ON".split())
_FALSE = frozenset("false False FALSE no No NO off Off OFF".split())
_NULL = frozenset(["", "~", "null", "Null", "NULL"])
_INTEGER = re.compile(r"[-+]?(?:0|[1-9][0-9]{0,18})\Z")
_BASED = re.compile(r"0x[0-9a-fA-F]{1,15}\Z|0o[0-7]{1,20}\Z")
_REAL = re.compile(r"[-+]?(?:[0-9]{1,40}\.[0-9]{0,40}|\.[0-9]{1,40}|[0-9]{1,40}(?=[eE]))(?:[eE][-+]?[0-9]{1,4})?\Z")


class _Marks:
    """The line of a node and of what is in it, by key or index."""

    __slots__ = ("children", "line")

    def __init__(self, line: int, children: dict[str | int, "_Marks"]) -> None:
        self.line = line
        self.children = children


class _Node:
    """A finished value with its marks, its size with aliases expanded, and its height."""

    __slots__ = ("height", "marks", "size", "value")

    def __init__(self, value: Any, marks: _Marks, size: int = 1, height: int = 1) -> None:
        self.value, self.marks, self.size, self.height = value, marks, size, height


class _Open(_Node):
    """A collection still being read; `key` is the mapping key that waits for its value."""

    __slots__ = ("anchor", "key", "key_line")

    def __init__(self, value: dict[str, Any] | list[Any], line: int, anchor: str | None) -> None:
        super().__init__(value, _Marks(line, {}))
        self.anchor = anchor
        self.key: str | None = None
        self.key_line = line


class Document:
    """A composed text: `value` (dicts, lists, str, int, float, bool) and the way back from a path to its line."""

    __slots__ = ("_marks", "value")

    def __init__(self, node: _Node) -> None:
        self.value: Any = node.value
        self._marks = node.marks

    def line(self, path: MemberPath) -> int:
        """The line (from 1) of the member at `path`, or of its nearest ancestor that exists."""
        marks = self._marks
        for step in path:
            child = marks.children.get(step)
            if child is None:
                break
            marks = child
        return marks.line


def field_name(path: MemberPath) -> str:
    """`("plugins", 2, "name")` as people write it: `plugins[2].name`."""
    return "".join(f"[{step}]" if isinstance(step, int) else f".{step[:60]}" for step in path).removeprefix(".")


def drain(steps: Generator[None, None, T]) -> T:
    """Runs a sliced computation to its end and returns its result."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            result: T = end.value
            return result


def read_text(path: Path, *, error: type[ConfigError] = ConfigError) -> str:
    """The file's text, at most `MAX_BYTES` of UTF-8. Raises `error`."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as problem:
        reason = problem.strerror or str(problem)
        raise error(f"cannot be read: {reason}", source=str(path), hint="check the path and its permissions") from None
    return decode_text(data, source=str(path), error=error)


def decode_text(data: bytes, *, source: str, error: type[ConfigError] = ConfigError) -> str:
    """`data` as text, a byte order mark dropped. Raises `error` if it is too large or not UTF-8."""
    if len(data) > MAX_BYTES:
        raise error(f"is larger than {MAX_BYTES // 1024} KiB", source=source, hint="that is the limit")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as problem:
        line = data.count(b"\n", 0, problem.start) + 1
        raise error("is not UTF-8 text", source=source, line=line, hint="save it as UTF-8") from None


def compose(
    text: str, *, source: str, error: type[ConfigError] = ConfigError, keep_null: bool = False
) -> Generator[None, None, Document]:
    """Reads one document; yields now and then so that a caller on an event loop can let others run.

    A member whose value is null counts as absent (as in Kubernetes) unless `keep_null`. Raises `error`, with the
    line, for text that is not YAML, holds a second document, a repeated or non-text key, an unknown alias or a tag,
    or is beyond the limits of this module.
    """
    builder = _Builder(source, error, keep_null=keep_null, most_documents=1)
    yield from _build(builder, text, source, error)
    if not builder.roots or builder.roots[0].value is None:
        raise error("is empty", source=source, hint="write a mapping, or leave the file out")
    return Document(builder.roots[0])


def compose_all(
    text: str, *, source: str, error: type[ConfigError] = ConfigError
) -> Generator[None, None, tuple[Document, ...]]:
    """Reads the documents of a text, which `---` lines stand between; those that are empty are left out.

    In slices, and with the errors and limits of `compose`; the limits are those of all documents together.
    """
    builder = _Builder(source, error, keep_null=False, most_documents=MAX_NODES)
    yield from _build(builder, text, source, error)
    return tuple(Document(root) for root in builder.roots if root.value is not None)


def _build(builder: "_Builder", text: str, source: str, error: type[ConfigError]) -> Generator[None, None, None]:
    if len(text) > MAX_BYTES:
        raise error(f"is larger than {MAX_BYTES // 1024} KiB", source=source, hint="that is the limit")
    try:
        for count, event in enumerate(yaml.parse(text, Loader=_LOADER)):
            builder.feed(event)
            if count % EVENTS_PER_STEP == EVENTS_PER_STEP - 1:
                yield
    except yaml.YAMLError as problem:
        raise _syntax_error(problem, text, source, error) from None
    except UnicodeEncodeError:  # half of a surrogate pair: no UTF-8 file can hold it, an argument can
        raise error("is not Unicode text", source=source, hint="save it as UTF-8") from None


def _syntax_error(problem: yaml.YAMLError, text: str, source: str, error: type[ConfigError]) -> ConfigError:
    mark = getattr(problem, "problem_mark", None)
    what = getattr(problem, "problem", None) or getattr(problem, "reason", None) or "it cannot be parsed"
    hint = "check the indentation and quotes there"
    if what == "found character that cannot start any token":
        hint = "indent with spaces, not tabs, and quote values that begin with @, ` or %"
    line = None if mark is None else mark.line + 1
    offset = getattr(problem, "position", None)  # of a character YAML does not take, in bytes
    if isinstance(offset, int):
        line = text.encode("utf-8", "replace").count(b"\n", 0, offset) + 1
        hint = "remove it, or write it as an escape in double quotes"
    return error(f"is not valid YAML: {what}", source=source, line=line, hint=hint)


class _Builder:
    """Turns the event stream into values; `roots` are the documents that are complete."""

    def __init__(self, source: str, error: type[ConfigError], *, keep_null: bool, most_documents: int) -> None:
        self.roots: list[_Node] = []
        self._most = most_documents
        self._size = 0  # of all documents
        self._source, self._error, self._keep_null = source, error, keep_null
        self._open: list[_Open] = []
        self._anchors: dict[str, _Node] = {}
        self._documents = 0

    def feed(self, event: yaml.Event) -> None:
        if isinstance(event, yaml.ScalarEvent):
            self._scalar(event)
        elif isinstance(event, yaml.MappingStartEvent):
            self._begin(event, {})
        elif isinstance(event, yaml.SequenceStartEvent):
            self._begin(event, [])
        elif isinstance(event, yaml.CollectionEndEvent):
            self._end(event)
        elif isinstance(event, yaml.AliasEvent):
            self._alias(event)
        elif isinstance(event, yaml.DocumentStartEvent):
            self._documents += 1
            self._anchors = {}  # known within a document
            if self._documents > self._most:
                self._fail(event, "holds a second document", "keep one document per file; remove what follows '---'")

    def _fail(self, event: yaml.Event, message: str, hint: str) -> NoReturn:
        raise self._error(message, source=self._source, line=_line(event), field=self._field(), hint=hint)

    def _field(self) -> str:
        steps = (len(node.value) if isinstance(node.value, list) else node.key for node in self._open)
        return field_name(tuple(step for step in steps if step is not None))

    def _begin(self, event: yaml.MappingStartEvent | yaml.SequenceStartEvent, value: Any) -> None:
        self._check_tag(event)
        if self._awaits_key():
            self._fail(event, "a key is a mapping or a list", "keys must be text")
        if len(self._open) >= MAX_DEPTH:
            self._fail(event, f"is nested deeper than {MAX_DEPTH} levels", "that is the limit")
        self._open.append(_Open(value, _line(event), event.anchor))

    def _end(self, event: yaml.Event) -> None:
        node = self._open.pop()
        if node.anchor is not None:
            self._anchors[node.anchor] = node
        self._add(event, node)

    def _awaits_key(self) -> bool:
        return bool(self._open) and isinstance(self._open[-1].value, dict) and self._open[-1].key is None

    def _alias(self, event: Any) -> None:
        if self._awaits_key():
            self._fail(event, "a key is an alias", "keys must be text")
        target = self._anchors.get(event.anchor)
        if target is None:
            self._fail(event, f"alias *{event.anchor[:60]} names nothing before it", "define the anchor first")
        marks = _Marks(_line(event), target.marks.children)
        self._add(event, _Node(target.value, marks, target.size, target.height))

    def _scalar(self, event: yaml.ScalarEvent) -> None:
        self._check_tag(event)
        if self._awaits_key():
            self._key(event, self._open[-1])
            return
        plain = event.implicit[0] and event.tag is None
        value = self._resolve(event) if plain else event.value
        node = _Node(value, _Marks(_line(event), {}))
        if event.anchor is not None:
            self._anchors[event.anchor] = node
        self._add(event, node)

    def _key(self, event: yaml.ScalarEvent, parent: _Open) -> None:
        plain = event.implicit[0] and event.tag is None
        if plain and event.value == "<<":
            self._fail(event, "merge keys (<<) are not supported", "write the fields out")
        if plain and not isinstance(self._resolve(event), str):
            self._fail(event, f"key {event.value[:60]} is not text", f'quote it: "{event.value[:60]}"')
        if event.value in parent.marks.children:
            first = parent.marks.children[event.value].line
            self._fail(event, f"{event.value[:60]!r} is written twice", f"the first is on line {first}; remove one")
        parent.key, parent.key_line = event.value, _line(event)
        parent.marks.children[event.value] = _Marks(parent.key_line, {})

    def _resolve(self, event: yaml.ScalarEvent) -> Any:
        value = resolve(event.value)
        if isinstance(value, float) and value in (float("inf"), float("-inf")):
            self._fail(event, f"{event.value[:60]} is out of range", "write a smaller number")
        return value

    def _check_tag(self, event: Any) -> None:
        if event.tag not in (None, "!", "tag:yaml.org,2002:str"):
            self._fail(event, f"tag {event.tag[:60]} is not supported", "remove it; plain YAML values are enough")

    def _add(self, event: yaml.Event, node: _Node) -> None:
        if not self._open:
            self._size += node.size
            self._check_size(event, self._size, node.height)
            self.roots.append(node)
            return
        parent = self._open[-1]
        parent.size += node.size
        parent.height = max(parent.height, node.height + 1)
        self._check_size(event, parent.size, parent.height)
        if isinstance(parent.value, list):
            parent.marks.children[len(parent.value)] = node.marks
            parent.value.append(node.value)
            return
        key, parent.key = parent.key, None
        assert key is not None  # noqa: S101 - libyaml alternates key and value
        parent.marks.children[key] = _Marks(parent.key_line, node.marks.children)
        if node.value is not None or self._keep_null:
            parent.value[key] = node.value

    def _check_size(self, event: yaml.Event, size: int, height: int) -> None:
        if size > MAX_NODES or height > MAX_DEPTH:
            what = f"holds more than {MAX_NODES} values, or deeper ones than {MAX_DEPTH}"
            self._fail(event, what, "that is the limit")


def _line(event: Any) -> int:
    line: int = event.start_mark.line
    return line + 1


def resolve(text: str) -> Any:
    """The value of a plain scalar: null, boolean, number, or the text itself."""
    if text in _NULL:
        return None
    if text in _TRUE or text in _FALSE:
        return text in _TRUE
    if _INTEGER.match(text):
        return int(text)
    if _BASED.match(text):
        return int(text, 0)
    return float(text) if _REAL.match(text) else text
