"""Slow model of `picker._core.usage`: the `json` module and a walk over its result."""

import json
from typing import Any, NoReturn

DEPTH = 64
SPACES = " \t\r\n"
FIELDS = {
    "prompt_tokens": "prompt_tokens",
    "input_tokens": "prompt_tokens",
    "completion_tokens": "completion_tokens",
    "output_tokens": "completion_tokens",
    "total_tokens": "total_tokens",
}


class Members(list[tuple[str, Any]]):
    """A JSON object, members in order and duplicates kept."""


def refuse(constant: str) -> NoReturn:
    raise ValueError(constant)


def depth(value: Any) -> int:
    if isinstance(value, Members):
        return 1 + max((depth(member) for _, member in value), default=0)
    if isinstance(value, list):
        return 1 + max((depth(item) for item in value), default=0)
    return 0


def parse(text: bytes) -> Any:
    """The document, or ValueError."""
    value = json.loads(text.decode("utf-8", "replace"), object_pairs_hook=Members, parse_constant=refuse)
    if depth(value) > DEPTH:
        raise ValueError("too deep")
    return value


def is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**63


def read_usage(usage: Members, found: dict[str, Any]) -> None:
    for name, value in usage:
        if name in FIELDS and is_count(value):
            found[FIELDS[name]] = value
        if name in ("prompt_tokens_details", "input_tokens_details") and isinstance(value, Members):
            for detail, count in value:
                if detail == "cached_tokens" and is_count(count):
                    found["cached_tokens"] = count


def read(document: Any, *, wrapped: bool = False) -> dict[str, Any]:
    """Figures in the order of the document, the last one wins; `saw_error` if there is an error object."""
    found: dict[str, Any] = {}
    for name, value in document if isinstance(document, Members) else ():
        if not isinstance(value, Members):
            continue
        if name == "usage":
            read_usage(value, found)
        elif name == "error":
            found["saw_error"] = True
        elif name in ("response", "message") and not wrapped:
            found |= read(value, wrapped=True)
    return found
