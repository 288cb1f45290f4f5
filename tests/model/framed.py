"""Slow model of `picker._core.framed`: takes the whole body apart frame by frame, and each message field by field."""

from typing import Any

Fields = list[tuple[int, int | bytes]]
CHUNK, COMPLETE = 1, 2
LARGEST = 2**32 - 1


def varint(data: bytes, at: int) -> tuple[int, int]:
    """A number and where it ends; ValueError if there is none."""
    value = 0
    for index in range(10):
        if at + index >= len(data):
            break
        value |= (data[at + index] & 0x7F) << 7 * index
        if data[at + index] < 0x80:
            return value % 2**64, at + index + 1
    raise ValueError("no number")


def fields(data: bytes) -> Fields:
    """Of one message, in order; ValueError if it is none."""
    found: Fields = []
    at = 0
    while at < len(data):
        tag, at = varint(data, at)
        number, wire = tag >> 3, tag & 7
        if tag > LARGEST or number == 0 or wire not in (0, 1, 2, 5):
            raise ValueError("no tag")
        if wire == 0:
            value, at = varint(data, at)
            found.append((number, value))
            continue
        size, at = varint(data, at) if wire == 2 else ({1: 8, 5: 4}[wire], at)
        if size > len(data) - at:
            raise ValueError("cut")
        found.append((number if wire == 2 else 0, data[at : at + size]))
        at += size
    return found


def count_ids(value: int | bytes) -> int:
    return 1 if isinstance(value, int) else sum(byte < 0x80 for byte in value)


def inner(kind: int, content: bytes) -> dict[str, int]:
    """What a stream chunk or a complete answer says."""
    first = 2 if kind == CHUNK else 3
    names = {first: "prompt", first + 1: "completion", first + 2: "cached"}
    said: dict[str, int] = {}
    ids = 0
    for number, value in fields(content):
        if number == 1:
            ids += count_ids(value)
        elif number in names and isinstance(value, int):
            said[names[number]] = value
    return {**said, "ids": ids}


def read_message(data: bytes) -> dict[str, Any]:
    """What a message says; ValueError if it is none, {} if it is lost or says nothing."""
    said: dict[str, Any] = {}
    for number, value in fields(data):
        if number == 2 and isinstance(value, int):
            said["embedded"] = value
        elif number in (CHUNK, COMPLETE) and isinstance(value, bytes):
            try:
                more = inner(number, value)
            except ValueError:
                said["lost"] = True
                continue
            said |= {**more, "ids": said.get("ids", 0) + more["ids"], "kind": number}
    if "embedded" in said:
        return {"embedded": said["embedded"]}
    return {} if "lost" in said or "kind" not in said else said


def most(known: int, told: int) -> int:
    return told if known < told <= LARGEST else known


class Totals:
    def __init__(self) -> None:
        self.messages = self.tokens = 0
        self.prompt = self.cached = self.streamed = self.counted = self.completed = 0
        self.knows_prompt = self.knows_answer = False

    def take(self, said: dict[str, Any]) -> None:
        if "embedded" in said:
            self.prompt, self.knows_prompt = most(self.prompt, said["embedded"]), True
            self.tokens += 1
        elif said.get("kind") == COMPLETE:
            self.completed += most(said["ids"], said.get("completion", 0))
            self.tokens += self.tokens == 0
        elif said:
            self.streamed += said["ids"]
            self.counted = most(self.counted, said.get("completion", 0))
            self.tokens += said["ids"] > 0
        if 0 < said.get("prompt", 0) <= LARGEST:
            self.prompt, self.knows_prompt = most(self.prompt, said["prompt"]), True
            self.cached, self.knows_answer = most(self.cached, said.get("cached", 0)), True


def scan(body: bytes) -> dict[str, Any]:
    """What a scanner knows after the whole body."""
    totals = Totals()
    at = 0
    while len(body) - at >= 5 and len(body) - at - 5 >= int.from_bytes(body[at + 1 : at + 5]):
        size = int.from_bytes(body[at + 1 : at + 5])
        totals.messages += 1
        if body[at]:
            totals.tokens += 1
        else:
            try:
                totals.take(read_message(body[at + 5 : at + 5 + size]))
            except ValueError:
                pass
        at += 5 + size
    generated = max(totals.streamed, totals.counted, totals.completed)
    return {
        "messages": totals.messages,
        "tokens": totals.tokens,
        "is_whole": at == len(body),
        "prompt_tokens": totals.prompt if totals.knows_prompt else None,
        "cached_tokens": totals.cached if totals.knows_answer else None,
        "completion_tokens": generated if totals.knows_answer else None,
    }
