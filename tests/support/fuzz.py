"""Seeded mutational fuzzing of parsers: documents cut, spliced, flipped and sprinkled with interesting tokens."""

import os
import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

CORPUS = Path(__file__).resolve().parents[1] / "fuzz" / "corpus"
MOST_EDITS = 4


def case_count(default: int = 20_000) -> int:
    """How many cases to run: `PICKER_FUZZ_CASES`, else `default`."""
    return int(os.environ.get("PICKER_FUZZ_CASES", default))


def corpus(name: str) -> list[Path]:
    """Kept cases of one parser, to be replayed as plain tests."""
    return sorted(path for path in (CORPUS / name).iterdir() if path.is_file())


class Mutator:
    """Changed copies of `documents`, the same ones for the same seed. `tokens` are what the format is made of."""

    def __init__(self, documents: Sequence[bytes], tokens: Sequence[bytes], seed: int) -> None:
        self.documents = documents
        self.tokens = tokens
        self.random = random.Random(seed)
        self.edits: list[Callable[[bytes], bytes]] = [
            self.flip,
            self.insert,
            self.replace,
            self.delete,
            self.repeat,
            self.truncate,
            self.graft,
        ]

    def cases(self, count: int) -> Iterator[bytes]:
        for _ in range(count):
            document = self.random.choice(self.documents)
            for _ in range(self.random.randint(0, MOST_EDITS)):
                document = self.random.choice(self.edits)(document)
            yield document

    def span(self, document: bytes) -> tuple[int, int]:
        """A piece of the document, mostly a short one."""
        start = self.random.randint(0, len(document))
        return start, min(len(document), start + self.random.choice((1, 1, 2, 3, 8, 40)))

    def flip(self, document: bytes) -> bytes:
        start, end = self.span(document)
        if start == end:
            return document
        return document[:start] + bytes((document[start] ^ 1 << self.random.randrange(8),)) + document[start + 1 :]

    def insert(self, document: bytes) -> bytes:
        start, _ = self.span(document)
        return document[:start] + self.random.choice(self.tokens) + document[start:]

    def replace(self, document: bytes) -> bytes:
        start, end = self.span(document)
        return document[:start] + self.random.choice(self.tokens) + document[end:]

    def delete(self, document: bytes) -> bytes:
        start, end = self.span(document)
        return document[:start] + document[end:]

    def repeat(self, document: bytes) -> bytes:
        start, end = self.span(document)
        return document[:end] + document[start:]

    def truncate(self, document: bytes) -> bytes:
        return document[: self.random.randint(0, len(document))]

    def graft(self, document: bytes) -> bytes:
        """A piece of another document in the place of one of this."""
        other = self.random.choice(self.documents)
        (start, end), (first, last) = self.span(document), self.span(other)
        return document[:start] + other[first:last] + document[end:]


def cuts(rng: random.Random, text: bytes, most: int = 6) -> list[bytes]:
    """`text` in up to `most` + 1 pieces, some of them perhaps empty."""
    at = sorted(rng.randint(0, len(text)) for _ in range(rng.randint(0, most)))
    return [text[start:end] for start, end in zip([0, *at], [*at, len(text)], strict=True)]
