"""Slow model of `picker._core.scan`: `json.loads` says what is JSON; a recursive reader of tokens lays the tape."""

import json
import re
from typing import Any

from picker._core.scan import Scanner
from tests.model.jsonnumber import integers

Value = tuple[int, int, int, int, int]  # start, end, next, kind, flags
NULL, FALSE, TRUE, NUMBER, STRING, ARRAY, OBJECT = range(7)
ESCAPED, INTS = 1, 2
LITERALS = {b"null": NULL, b"false": FALSE, b"true": TRUE}
TOKEN = re.compile(rb'[ \t\n\r]*("(?:[^"\\]|\\.)*"|[][{},:]|[^][{},:" \t\n\r]+)', re.S)
BOM = b"\xef\xbb\xbf"


def _number(text: str) -> tuple[str, str]:
    # As it is written: NaN then equals itself, and no limit on digits applies.
    return "number", text


def _pairs(pairs: list[tuple[str, Any]]) -> tuple[str, list[tuple[str, Any]]]:
    return "object", pairs


def loads(body: bytes) -> Any:
    """`json.loads`, but objects as ("object", pairs) and numbers as ("number", text). Raises ValueError; UTF-8 only."""
    if json.detect_encoding(body) not in ("utf-8", "utf-8-sig"):
        raise ValueError("UTF-16 and UTF-32 are not taken")
    return json.loads(body, object_pairs_hook=_pairs, parse_int=_number, parse_float=_number, parse_constant=_number)


def depth(body: bytes) -> int:
    """Containers around each other at most, in what may be no JSON; strings are left out as well as they can be."""
    deepest = now = 0
    for token in TOKEN.findall(body):
        now += (token in (b"{", b"[")) - (token in (b"}", b"]"))
        deepest = max(deepest, now)
    return deepest


def tape(body: bytes) -> list[Value]:
    """The tape of a body that `loads` takes."""
    tokens = [(m.start(1), m.end(1), m[1]) for m in TOKEN.finditer(body, len(BOM) if body.startswith(BOM) else 0)]
    values: list[Value] = []
    assert _value(tokens, 0, values) == len(tokens)
    return values


def _value(tokens: list[tuple[int, int, bytes]], at: int, values: list[Value]) -> int:
    """One value onto the tape; index of the token behind it."""
    start, end, text = tokens[at]
    if text in (b"{", b"["):
        return _container(tokens, at, values)
    kind, flags = LITERALS.get(text, NUMBER), 0
    if text.startswith(b'"'):
        kind, flags = STRING, ESCAPED if b"\\" in text else 0
    values.append((start, end, len(values) + 1, kind, flags))
    return at + 1


def _container(tokens: list[tuple[int, int, bytes]], at: int, values: list[Value]) -> int:
    first, index, kind = at, len(values), OBJECT if tokens[at][2] == b"{" else ARRAY
    values.append((0, 0, 0, 0, 0))
    at += 1
    while tokens[at][2] not in (b"}", b"]"):
        at += tokens[at][2] in (b",", b":")
        at = _value(tokens, at, values)
    flags = INTS if integers(b"".join(text for _, _, text in tokens[first : at + 1])) is not None else 0
    if flags:
        del values[index + 1 :]
    values[index] = (tokens[first][0], tokens[at][1], len(values), kind, flags)
    return at + 1


def splice(body: bytes, name: str, value: str) -> bytes:
    """Raises KeyError if the body is no object or has no such member."""
    values = tape(body)
    found = None
    at = 1
    while values[0][3] == OBJECT and at < values[0][2]:
        if json.loads(body[values[at][0] : values[at][1]]) == name:
            found = values[at + 1]
        at = values[at + 1][2]
    if found is None:
        raise KeyError(name)
    return body[: found[0]] + json.dumps(value, ensure_ascii=False).encode() + body[found[1] :]


def rebuild(scanner: Scanner, body: bytes) -> Any:
    """What `loads` gives for the scanned body, read back from the scanner's tape."""
    return _rebuild(scanner, body, scanner.values(), 0)


def _rebuild(scanner: Scanner, body: bytes, values: list[Value], index: int) -> Any:
    start, end, following, kind, flags = values[index]
    if kind == STRING:
        return scanner.text(index).decode("utf-8", "surrogatepass")
    if kind == NUMBER:
        return _number(body[start:end].decode())
    if kind < NUMBER:
        return (None, False, True)[kind]
    if flags == INTS:
        return [_number(str(item)) for item in scanner.ints(index)]
    items, at = [], index + 1
    while at < following:
        items.append(_rebuild(scanner, body, values, at))
        at = values[at][2]
    return items if kind == ARRAY else _pairs(list(zip(items[::2], items[1::2], strict=True)))
