"""Slow model of `picker._core.sse`: takes the whole body apart at once, events by splitting lines."""

import re
from typing import Any

from tests.model import usage

START = {
    "prompt_tokens": None,
    "completion_tokens": None,
    "total_tokens": None,
    "cached_tokens": None,
    "events": 0,
    "malformed": 0,
    "tokens": 0,
    "done": False,
    "saw_error": False,
    "end": "complete",
}


def events(body: bytes) -> list[bytes]:
    """The data of each event, the unfinished one at the end of the body included; empty if it has none."""
    found: list[bytes] = []
    data: list[bytes] = []
    *lines, rest = re.split(rb"\r\n|\n|\r", body)
    for line in [*lines, rest] if rest else lines:
        name, _, value = line.partition(b":")
        if line == b"":
            found.append(b"\n".join(data))
            data = []
        elif name == b"data":
            data.append(value.removeprefix(b" "))
    return [*found, b"\n".join(data)]


def take(state: dict[str, Any], figures: dict[str, Any], text: bytes) -> bool:
    """Books one document; False if it is none."""
    try:
        found = usage.read(usage.parse(text))
    except ValueError:
        state["malformed"] += 1
        state["tokens"] += 1
        return False
    kind = found.pop("kind", "")
    failed = found.pop("saw_error", False)
    state["events"] += 1
    state["saw_error"] |= failed or kind in usage.ERRORS
    state["done"] |= kind in usage.LAST
    state["tokens"] += not failed and kind not in usage.ERRORS | usage.LAST | usage.EMPTY
    figures.update(found)
    return True


def scan(body: bytes, *, event_stream: bool) -> dict[str, Any]:
    """What a scanner knows after the whole body and `finish`."""
    state: dict[str, Any] = dict(START)
    figures: dict[str, Any] = {}
    good = True
    if not event_stream:
        begun = bool(body.strip(b" \t\r\n"))
        good = begun and take(state, figures, body)
        state["tokens"] = int(begun)
    else:
        for event in events(body):
            text = event.strip(b" \t\n")
            state["done"] |= text.startswith(b"[DONE]")
            good = text == b"" or text.startswith(b"[DONE]") or take(state, figures, text)
    state["end"] = "complete" if good else "cut"
    state["prompt_tokens"] = usage.prompt_tokens(figures)
    state["cached_tokens"] = usage.cached_tokens(figures)
    state["completion_tokens"] = figures.get("completion_tokens")
    state["total_tokens"] = figures.get("total_tokens")
    return state
