"""Mutated bodies in random chunks: never a crash, always what the model says."""

import random

from tests.core.test_sse import ANTHROPIC, CHAT, RESPONSES, UNARY, read
from tests.model import sse as model
from tests.support.fuzz import cuts, mutants

CORPUS = [CHAT[-600:], RESPONSES, ANTHROPIC, UNARY, b"data: [DONE]\n\n"]
TOKENS = [
    b"\n",
    b"\r",
    b"\r\n\r\n",
    b"data:",
    b"[DONE]",
    b"{",
    b"}",
    b"[",
    b"]",
    b'"',
    b"\\",
    b"\\u00",
    b",",
    b":",
    b"\x00",
]
TOKENS += [b"1", b"-", b"0", b".", b"e5", b"null", b"tru", b'"usage":{', b'"prompt_tokens":3', b"\xff", b" ", b"[" * 70]


def test_mutated_bodies_read_as_the_model_reads_them() -> None:
    rng = random.Random(7)
    for case, body in mutants(CORPUS, TOKENS):
        event_stream = rng.random() < 0.7
        found = read(*cuts(rng, body), event_stream=event_stream)
        assert found == model.scan(body, event_stream=event_stream), f"case {case}: {body!r}"
