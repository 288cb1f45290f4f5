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


def renamed(body: bytes, name: bytes) -> bytes:
    """The body with the model `name`: of all strings, the one whose change changes the model and nothing else."""
    was = parse(body)
    if was is None or was.get("model") in (None, name.decode()):
        return body
    wanted = {**was, "model": name.decode()}
    quoted = json.dumps(name.decode(), ensure_ascii=False).encode()
    for found in reversed([*STRING.finditer(body)]):
        changed = body[: found.start()] + quoted + body[found.end() :]
        if parse(changed) == wanted:
            return changed
    raise AssertionError("no string is the model")
