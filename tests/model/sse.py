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
    "first_token": False,
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


def take(state: dict[str, Any], text: bytes) -> bool:
    """Books one document; False if it is none."""
    try:
        document = usage.parse(text)
    except ValueError:
        state["malformed"] += 1
        return False
    state["events"] += 1
    state.update(usage.read(document))
    return True


def scan(body: bytes, *, event_stream: bool) -> dict[str, Any]:
    """What a scanner knows after the whole body and `finish`."""
    state: dict[str, Any] = dict(START)
    if not event_stream:
        state["first_token"] = bool(body.strip(b" \t\r\n"))
        if not state["first_token"] or not take(state, body):
            state["end"] = "cut"
        return state
    good = True
    for event in events(body):
        text = event.strip(b" \t\n")
        state["first_token"] |= text != b""
        state["done"] |= text.startswith(b"[DONE]")
        good = text == b"" or text.startswith(b"[DONE]") or take(state, text)
    state["end"] = "complete" if good else "cut"
    return state
