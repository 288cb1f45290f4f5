import random

from benchmarks.cases.case import Action, Case, Growth
from picker._core import hashing


def chained(size: int) -> Action:
    body = random.Random(1).randbytes(size)
    return lambda: hashing.block_hashes([body], 1)


def spans() -> Action:
    """A conversation of 60,000 tokens in 200 spans, as messages lie in a body."""
    pieces = [random.Random(number).randbytes(1200) for number in range(200)]
    return lambda: hashing.block_hashes(pieces, 1)


CASES = [
    Case("hashing: chained 256-byte blocks of 400 KB", lambda: chained(400_000), "GB/s", 4.0, per=400_000),
    Case("hashing: the same in 200 spans of 1,200 bytes", spans, "GB/s", per=240_000),
]
GROWTHS = [Growth("hashing: n bytes", chained, 1 << 15, "n")]
