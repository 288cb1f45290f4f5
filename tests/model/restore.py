"""Slow model of `picker._core.restore`: reads each document value by value, and puts the whole body together anew."""

import json
import re
from collections.abc import Iterator

from tests.model.usage import DEPTH

LITERALS = (b"null", b"true", b"false")
NUMBER = re.compile(rb"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")
STRING = re.compile(rb'"((?:[^"\\\x00-\x1f]|\\["\\/bfnrt]|\\u[0-9a-fA-F]{4})*)"')
BEGUN = re.compile(rb'"((?:[^"\\\x00-\x1f]|\\["\\/bfnrt]|\\u[0-9a-fA-F]{4})*(?:\\(?:u[0-9a-fA-F]{0,3})?)?)\Z')
UNDECIDED = re.compile(rb"(?:\\u[dD][89abAB][0-9a-fA-F]{2})?(?:\\(?:u[0-9a-fA-F]{0,3})?)?\Z")
SPACE = re.compile(rb"[ \t\r\n]*")


class EndOfSense(Exception):
    """Here the document ends, or is no JSON any more."""


class Reader:
    """One document; `found` are the places of the values of `model` that count, up to where it makes no sense."""

    def __init__(self, text: bytes) -> None:
        self.text, self.at = text, 0
        self.found: list[tuple[int, int]] = []
        self.open: int | None = None  # where such a value begins that does not end

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
            if place == "model" and (begun := BEGUN.match(self.text, self.at)):
                self.open = begun.start(1)
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


class Restorer:
    """Takes the body chunk by chunk, and each time looks at all of it again."""

    def __init__(self, target: bytes, client: bytes, *, event_stream: bool) -> None:
        self.target, self.client, self.event_stream = target, client, event_stream
        self.body, self.done = b"", 0
        self.flushed: list[int] = []  # where nothing was held back: a name that reaches across stays as it is

    def feed(self, chunk: bytes, *, last: bool = False) -> bytes:
        """What goes on of it; nothing of it is held back if it is the last one."""
        self.body += chunk
        if last:
            self.flushed.append(len(self.body))
        out, at, held = b"", 0, 0
        for text, places in documents(self.body, event_stream=self.event_stream):
            reader = Reader(text)
            for start, end in reader.spans():
                first = places[start] if start < end else places[start - 1] + 1
                if plain(text[start:end]) == plain(self.target) and not self.crosses(first, first + end - start):
                    out += self.body[at:first] + self.client
                    at = first + end - start
            if reader.open is not None and places[-1] == len(self.body) - 1:
                held = self.holds(text[reader.open :])
        out += self.body[at : len(self.body) - held]
        fresh, self.done = out[self.done :], len(out)
        return fresh

    def holds(self, raw: bytes) -> int:
        """How many bytes of a name that has begun so."""
        size = len(raw)
        return size if not self.crosses(len(self.body) - size, len(self.body)) and self.may_become(raw) else 0

    def crosses(self, start: int, end: int) -> bool:
        return any(start <= place <= end for place in self.flushed)

    def may_become(self, raw: bytes) -> bool:
        """May a name that begins so be the target?"""
        undecided = UNDECIDED.search(raw)
        assert undecided is not None
        begun, target = plain(raw[: undecided.start()]).encode("utf-8", "surrogatepass"), plain(self.target).encode()
        return target.startswith(begun) and (not undecided[0] or begun != target)


def restore(body: bytes, target: bytes, client: bytes, *, event_stream: bool) -> bytes:
    """The whole body as the client gets it."""
    return Restorer(target, client, event_stream=event_stream).feed(body, last=True)
