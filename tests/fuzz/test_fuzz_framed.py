"""Mutated gRPC bodies in random chunks: never a crash, always what the model says."""

import random

from tests.core.test_framed import FLOATS, STREAM, read
from tests.model import framed as model
from tests.support.fuzz import CASES, cuts, mutants
from tests.support.protobuf import complete, embedding, frame

CORPUS = [STREAM, frame(embedding(FLOATS[:60], 9)), frame(complete([1, 2], prompt=3, completion=2)) * 2]
TOKENS = [b"\x00" * 4, b"\x01", b"\x0a", b"\x12", b"\x10\x05", b"\x08\x01", b"\xff", b"\x80", b"\xff" * 9, b"\x0d"]


def test_mutated_bodies_read_as_the_model_reads_them() -> None:
    rng = random.Random(11)
    for case, body in mutants(CORPUS, TOKENS, cases=CASES):
        assert read(*cuts(rng, body)) == model.scan(body), f"case {case}: {body!r}"
