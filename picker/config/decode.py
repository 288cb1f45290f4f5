"""Plain values to typed structs, strictly; msgspec's verdict retold with the field, the line and what to do.

msgspec says ``Expected `int`, got `str` - at `$.plugins[2].name` ``; the path grammar is closed (struct members, list
indexes, and `[...]` for some member of a mapping), so it is parsed exactly and anything else is left as it stands.
"""

import re
from typing import Any, NamedTuple, TypeVar

import msgspec
from msgspec import inspect

from picker.config.document import Document, MemberPath, field_name
from picker.config.suggest import one_of, quoted
from picker.config.units import dec_hook
from picker.errors import ConfigError

__all__ = ["Decoder", "member"]

T = TypeVar("T")

_WHERE = re.compile(r" - at (?:`key` in )?`\$(?P<path>(?:\.\w+|\[\d+\]|\[\.\.\.\])*)`\Z")
_STEP = re.compile(r"\.(\w+)|\[(\d+)\]|\[(\.\.\.)\]")
_UNKNOWN = re.compile(r"Object contains unknown field `(.*)`\Z", re.DOTALL)
_MISSING = re.compile(r"Object missing required field `(.*)`\Z", re.DOTALL)
_ENUM = re.compile(r"Invalid enum value '?(.*?)'?\Z", re.DOTALL)
_WRONG_TYPE = re.compile(r"Expected `([^`]+)`, got `(\w+)`\Z")
_RANGE = re.compile(r"Expected `\w+` (>=|<=|>|<) (\S+)\Z")
_WORDS = {
    "int": "a whole number",
    "float": "a number",
    "str": "text",
    "bool": "true or false",
    "array": "a list",
    "object": "a mapping",
    "null": "nothing",
}
_AT_LEAST = {">=": "at least", ">": "more than", "<=": "at most", "<": "less than"}


class _Verdict(NamedTuple):
    """What is wrong, where relative to the decoded value, and what to do."""

    message: str
    path: MemberPath
    hint: str = ""


class Decoder:
    """Decodes parts of one document; every failure is an `error` that names source, line and field."""

    def __init__(self, document: Document, *, source: str, error: type[ConfigError] = ConfigError) -> None:
        self.document, self._source, self._error = document, source, error

    def convert(self, path: MemberPath, value: Any, wanted: type[T]) -> T:
        """`value`, which stands at `path` of the document, as a `wanted`."""
        try:
            return msgspec.convert(value, type=wanted, dec_hook=dec_hook)
        except msgspec.ValidationError as problem:
            verdict = _judge(str(problem), value, wanted)
        except (RecursionError, OverflowError):
            verdict = _Verdict("is too deep or too large", ())
        raise self.failure(verdict.message, path + verdict.path, hint=verdict.hint)

    def failure(self, message: str, path: MemberPath, *, hint: str = "") -> ConfigError:
        """The error for the member at `path`, for the caller to raise."""
        line = self.document.line(path)
        return self._error(message, source=self._source, line=line, field=field_name(path), hint=hint)

    def where(self, path: MemberPath) -> str:
        """`source:line: field`, the head of a warning."""
        return f"{self._source}:{self.document.line(path)}: {field_name(path)}"


def member(value: Any, path: MemberPath) -> Any:
    """What stands at `path` inside `value`; None if nothing does."""
    for step in path:
        try:
            value = value[step]
        except (LookupError, TypeError):
            return None
    return value


def _judge(text: str, value: Any, wanted: Any) -> _Verdict:
    found = _WHERE.search(text)
    what = text[: found.start()] if found else text
    path = _path(found["path"], value, what) if found else ()
    if unknown := _UNKNOWN.match(what):
        names = _members(_type_at(wanted, path))
        return _Verdict("unknown field", (*path, unknown[1]), one_of(unknown[1], names))
    if missing := _MISSING.match(what):
        return _Verdict(f"required field {quoted(missing[1])} is missing", path, f"add {missing[1]}")
    if _ENUM.match(what):
        choices = _choices(_type_at(wanted, path))
        given = str(member(value, path))
        return _Verdict(f"{quoted(given)} is not a valid value", path, one_of(given, choices))
    if wrong := _WRONG_TYPE.match(what):
        return _wrong_type(wrong[1], wrong[2], member(value, path), path)
    if limit := _RANGE.match(what):
        given = str(member(value, path))
        return _Verdict(f"{quoted(given)[1:-1]} is out of range", path, f"write {_AT_LEAST[limit[1]]} {limit[2]}")
    if what == "Expected `str` of length >= 1":
        return _Verdict("must not be empty", path)
    return _Verdict(what[:300], path)


def _wrong_type(wanted: str, got: str, given: Any, path: MemberPath) -> _Verdict:
    names = [_WORDS.get(name, name) for name in wanted.split(" | ") if name != "null"]
    hint = ""
    if wanted == "str" and got in ("int", "float", "bool"):
        hint = f"quote it: {quoted(str(given).lower() if got == 'bool' else str(given))}"
    return _Verdict(f"expected {' or '.join(names)}, got {_WORDS.get(got, got)}", path, hint)


def _path(text: str, value: Any, what: str) -> MemberPath:
    """The steps of msgspec's path; `[...]` becomes the first member of the mapping that has the type complained of."""
    path: MemberPath = ()
    for name, index, some in _STEP.findall(text):
        if not some:
            path += (name or int(index),)
            continue
        wrong = _WRONG_TYPE.match(what)
        mapping = member(value, path)
        members = mapping.items() if isinstance(mapping, dict) else ()
        guilty = [key for key, item in members if wrong and _type_name(item) == wrong[2]]
        if not guilty:
            break
        path += (guilty[0],)
    return path


def _type_name(value: Any) -> str:
    names = {bool: "bool", int: "int", float: "float", str: "str", list: "array", dict: "object", type(None): "null"}
    return names.get(type(value), "")


def _type_at(wanted: Any, path: MemberPath) -> inspect.Type:
    """The declared type at `path` inside `wanted`, optional and union types seen through."""
    found = inspect.type_info(wanted)
    for step in path:
        found = _concrete(found)
        if isinstance(found, inspect.StructType):
            found = next((field.type for field in found.fields if field.encode_name == step), inspect.AnyType())
        elif isinstance(found, inspect.ListType | inspect.VarTupleType):
            found = found.item_type
        elif isinstance(found, inspect.DictType):
            found = found.value_type
        else:
            return inspect.AnyType()
    return _concrete(found)


def _concrete(found: inspect.Type) -> inspect.Type:
    if isinstance(found, inspect.Metadata):
        return _concrete(found.type)
    if isinstance(found, inspect.UnionType):
        return _concrete(next(part for part in found.types if not isinstance(part, inspect.NoneType)))
    return found


def _members(found: inspect.Type) -> list[str]:
    return [field.encode_name for field in found.fields] if isinstance(found, inspect.StructType) else []


def _choices(found: inspect.Type) -> list[str]:
    return [str(value) for value in found.values] if isinstance(found, inspect.LiteralType) else []
