"""The body-based router with `json` and `dict`: what a body does to headers, what plugins do to a body."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

LONGEST = 4096


class Refused(Exception):
    """The client is answered 400."""


def text_of(value: Any, written: str) -> str | None:
    """A field as a header's value; None if it is not there for that. Raises Refused for what no header can hold."""
    if value is None or value == "" or isinstance(value, list | dict):
        return None
    text = value if isinstance(value, str) else written
    bad = any(ord(each) < 0x20 or ord(each) == 0x7F or 0xD800 <= ord(each) <= 0xDFFF for each in text)
    if bad or len(text.encode()) > LONGEST:
        raise Refused
    return text


class _Written(float):
    """A number that remembers how it was written."""

    text: str


def _number(text: str) -> _Written:
    made = _Written(0)
    made.text = text
    return made


def headers_of(body: bytes, steps: Sequence[tuple[str, str, bool]], names: Mapping[str, str]) -> dict[str, str]:
    """The headers that a body makes. `steps`: field, header, and whether the text is looked up in `names`.

    Raises Refused, for a body that is no JSON object too.
    """
    try:
        document = json.loads(body, parse_int=_number, parse_float=_number, parse_constant=_number)
    except ValueError:
        raise Refused from None
    if not isinstance(document, dict):
        raise Refused
    made: dict[str, str] = {}
    for field, header, looks_up in steps:
        value = document.get(field)
        written = value.text if isinstance(value, _Written) else json.dumps(value)
        text = text_of(value, written)
        if text is not None:
            made[header] = names.get(text, "") if looks_up else text
    return made


def events(stream: bytes) -> list[bytes]:
    """A stream cut behind each empty line; what follows the last one is an event too."""
    found, line, start, at = [], 0, 0, 0
    while at < len(stream):
        end = 2 if stream[at : at + 2] == b"\r\n" else 1 if stream[at : at + 1] in (b"\r", b"\n") else 0
        if not end:
            at += 1
            continue
        if at == line:
            found.append(stream[start : at + end])
            start = at + end
        at += end
        line = at
    return found + ([stream[start:]] if start < len(stream) else [])
