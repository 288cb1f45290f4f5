"""Slow model of `picker._core.renaming`: another model in a body, all else as it was."""

import json
import re
from typing import Any

STRING = re.compile(rb'"((?:[^"\\]|\\.)*)"')


def parse(body: bytes) -> dict[str, Any] | None:
    try:
        value = json.loads(body.decode("utf-8", "surrogatepass"), parse_constant=str)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def change(body: bytes, name: bytes) -> tuple[bytes, bytes] | None:
    """The body with the model `name`, and what stood between the quotes; None if it has no other model.

    Of all strings it is the one whose change changes the model and nothing else.
    """
    was = parse(body)
    if was is None or was.get("model") in (None, name.decode()):
        return None
    wanted = {**was, "model": name.decode()}
    for found in reversed([*STRING.finditer(body)]):
        changed = body[: found.start()] + b'"' + escaped(name) + b'"' + body[found.end() :]
        if parse(changed) == wanted:
            return changed, found[1]
    raise AssertionError("no string is the model")


def change_cut(body: bytes, name: bytes) -> tuple[bytes, bytes] | None:
    """The same of a body that is cut somewhere: its whole members count."""
    for end in reversed(range(len(body))):
        if body[end : end + 1] == b"," and parse(body[:end] + b"}") is not None:
            changed = change(body[:end] + b"}", name)
            return None if changed is None else (changed[0][:-1] + body[end:], changed[1])
    return None


def escaped(name: bytes) -> bytes:
    """As it stands between the quotes."""
    return json.dumps(name.decode(), ensure_ascii=False).encode()[1:-1]


def renamed(body: bytes, name: bytes) -> bytes:
    """The body with the model `name`."""
    changed = change(body, name)
    return body if changed is None else changed[0]
