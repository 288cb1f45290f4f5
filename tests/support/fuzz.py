"""Seeded mutational fuzzing: the same seed gives the same cases, so a failing case number can be replayed."""

import os
import random
from collections.abc import Iterator, Sequence
from pathlib import Path

KEPT = Path(__file__).resolve().parents[1] / "fuzz" / "corpus"
CASES = int(os.environ.get("PICKER_FUZZ_CASES", "20000"))


def mutants(
    corpus: Sequence[bytes], tokens: Sequence[bytes], *, seed: int = 1, cases: int = CASES, steps: int = 4
) -> Iterator[tuple[int, bytes]]:
    """(case number, mutated member of `corpus`), `cases` of them; `tokens` are bytes that mean something there."""
    rng = random.Random(seed)
    for case in range(cases):
        text = bytearray(rng.choice(corpus))
        for _ in range(rng.randint(1, steps)):
            mutate(rng, text, corpus, tokens)
        yield case, bytes(text)


def kept(parser: str) -> list[Path]:
    """Cases kept in `tests/fuzz/corpus`, to be replayed as plain tests."""
    return sorted(path for path in (KEPT / parser).iterdir() if path.is_file())


def cuts(rng: random.Random, text: bytes, most: int = 6) -> list[bytes]:
    """`text` in up to `most` + 1 pieces, some of them perhaps empty."""
    at = sorted(rng.randint(0, len(text)) for _ in range(rng.randint(0, most)))
    return [text[start:end] for start, end in zip([0, *at], [*at, len(text)], strict=True)]


def mutate(rng: random.Random, text: bytearray, corpus: Sequence[bytes], tokens: Sequence[bytes]) -> None:
    """One random edit in place."""
    start = rng.randint(0, len(text))
    end = min(len(text), start + rng.choice((1, 1, 2, 4, 16, 64)))
    action = rng.randrange(6)
    if action == 0:
        text[start:end] = b""
    elif action == 1:
        text[start:start] = rng.choice(tokens)
    elif action == 2:
        text[start:end] = rng.choice(tokens)
    elif action == 3:
        text[start:start] = text[start:end]
    elif action == 4 and start < len(text):
        text[start] ^= 1 << rng.randrange(8)
    else:
        other = rng.choice(corpus)
        text[start:] = other[rng.randint(0, len(other)) :]
