"""Slow model of `picker._core.restore`: reads each document value by value, and puts the whole body together anew."""

import json
import re
from collections.abc import Iterator

from tests.model.usage import DEPTH

LITERALS = (b"null", b"true", b"false")
NUMBER = re.compile(rb"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")
STRING = re.compile(rb'"((?:[^"\\\x00-\x1f]|\\["\\/bfnrt]|\\u[0-9a-fA-F]{4})*)"')
SPACE = re.compile(rb"[ \t\r\n]*")


class EndOfSense(Exception):
    """Here the document ends, or is no JSON any more."""


class Reader:
    """One document; `found` are the places of the values of `model` that count, up to where it makes no sense."""

    def __init__(self, text: bytes) -> None:
        self.text, self.at = text, 0
        self.found: list[tuple[int, int]] = []

    def spans(self) -> list[tuple[int, int]]:
        try:
            self.value("root", 0)
        except EndOfSense:
            pass
        return self.found

    def skip(self) -> bytes:
        """The next byte that means something."""
        self.at = SPACE.match(self.text, self.at).end()  # type: ignore[union-attr]
        return self.text[self.at : self.at + 1]

    def take(self, wanted: bytes) -> None:
        if self.skip() != wanted:
            raise EndOfSense
        self.at += 1

    def match(self, pattern: re.Pattern[bytes]) -> re.Match[bytes]:
        self.skip()
        found = pattern.match(self.text, self.at)
        if found is None:
            raise EndOfSense
        self.at = found.end()
        return found

    def value(self, place: str, depth: int) -> None:
        byte = self.skip()
        if byte in (b"{", b"["):
            if depth == DEPTH:
                raise EndOfSense
            self.at += 1
            self.items(place, depth + 1) if byte == b"[" else self.members(place, depth + 1)
        elif byte == b'"':
            found = self.match(STRING)
            if place == "model":
                self.found.append(found.span(1))
        elif not self.text.startswith(LITERALS, self.at):
            self.match(NUMBER)
        else:
            self.at += len(next(word for word in LITERALS if self.text.startswith(word, self.at)))

    def items(self, place: str, depth: int) -> None:
        if self.skip() == b"]":
            self.at += 1
            return
        while True:
            self.value("", depth)
            if self.skip() != b",":
                break
            self.at += 1
        self.take(b"]")

    def members(self, place: str, depth: int) -> None:
        if self.skip() == b"}":
            self.at += 1
            return
        while True:
            name = plain(self.match(STRING)[1])
            self.take(b":")
            self.value(meaning(place, name), depth)
            if self.skip() != b",":
                break
            self.at += 1
        self.take(b"}")


def meaning(place: str, name: str) -> str:
    """What a member of an object that is `place` is itself."""
    if name == "model" and place in ("root", "wrapper"):
        return "model"
    return "wrapper" if place == "root" and name in ("response", "message") else ""


def plain(raw: bytes) -> str:
    """What stands for `raw` between quotes."""
    text: str = json.loads('"' + raw.decode("utf-8", "surrogateescape") + '"')
    return text


def documents(body: bytes, *, event_stream: bool) -> Iterator[tuple[bytes, list[int]]]:
    """Each document, and where in the body its bytes stand."""
    if not event_stream:
        yield body, list(range(len(body)))
        return
    text, places = b"", list[int]()
    lines = 0
    for found in re.finditer(rb"([^\r\n]*)(?:\r\n|\r|\n|$)", body):
        line, start = found[1], found.start()
        name, colon, value = line.partition(b":")
        if line == b"":
            yield text, places
            text, places, lines = b"", [], 0
        elif name == b"data":
            skipped = len(name) + len(colon) + value.startswith(b" ")
            text += (b"\n" if lines else b"") + line[skipped:]
            places += ([-1] if lines else []) + list(range(start + skipped, start + len(line)))
            lines += 1
    yield text, places


def restore(body: bytes, target: bytes, client: bytes, *, event_stream: bool) -> bytes:
    """The body as the client gets it."""
    out, done = b"", 0
    for text, places in documents(body, event_stream=event_stream):
        for start, end in Reader(text).spans():
            if plain(text[start:end]) == plain(target):
                first = places[start] if start < end else places[start - 1] + 1
                out += body[done:first] + client
                done = first + end - start
    return out + body[done:]
