"""Slow model of `picker._core.usage`: the `json` module and a walk over its result."""

import json
from typing import Any, NoReturn

DEPTH = 64
SPACES = " \t\r\n"
FIELDS = {
    "prompt_tokens": "prompt",
    "input_tokens": "input",
    "completion_tokens": "completion_tokens",
    "output_tokens": "completion_tokens",
    "total_tokens": "total_tokens",
    "cache_read_input_tokens": "cache_read",
    "cache_creation_input_tokens": "cache_creation",
}
META = {"prompt_tokens": "prompt", "completion_tokens": "completion_tokens", "cached_tokens": "cached"}
LAST = {"message_stop", "response.completed", "response.incomplete", "response.failed"}
ERRORS = {"error", "response.failed"}
EMPTY = {"message_start", "message_delta", "ping", "content_block_start", "content_block_stop"}
EMPTY |= {"response.created", "response.queued", "response.in_progress"}
EMPTY |= {"response.output_item.added", "response.content_part.added"}


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
                    found["cached"] = count


def read(document: Any, *, wrapped: bool = False) -> dict[str, Any]:
    """Figures in the order of the document, the last one wins; `saw_error`, `last` and `kind` of its type."""
    found: dict[str, Any] = {}
    for name, value in document if isinstance(document, Members) else ():
        if name == "type" and not wrapped and isinstance(value, str):
            found["kind"] = value
        if not isinstance(value, Members):
            continue
        if name == "usage":
            read_usage(value, found)
        elif name == "error":
            found["saw_error"] = True
        elif name == "meta_info" and not wrapped:
            found |= {META[key]: count for key, count in value if key in META and is_count(count)}
        elif name in ("response", "message") and not wrapped:
            found |= read(value, wrapped=True)
    return found


def prompt_tokens(found: dict[str, Any]) -> int | None:
    """All of the prompt: Anthropic's input leaves out what is cached, rerank tells the total only."""
    if "prompt" in found:
        return int(found["prompt"])
    if "input" in found:
        total = found["input"] + found.get("cache_read", 0) + found.get("cache_creation", 0)
        return int(min(total, 2**63 - 1))
    return None if "completion_tokens" in found else found.get("total_tokens")


def cached_tokens(found: dict[str, Any]) -> int | None:
    count: int | None = found.get("cached", found.get("cache_read"))
    return count
