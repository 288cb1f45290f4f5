"""Mutated authorities and names: never a crash, always what the model says; and what is said of them is one line."""

import json

from picker._core.pools import PoolNames
from picker._core.replies import no_pool
from tests.model import pools as model
from tests.support import messages
from tests.support.fuzz import mutants

POOLS = (("ml/a", ("picker-a.ml",)), ("web/a", ("picker-a.web", "x.y")), ("b", ("plain",)))
CORPUS = [
    b"outbound|9002||picker-a.ml.svc.cluster.local",
    b"picker-a.web:9002",
    b"PLAIN.:80",
    b"x.y.",
    b"x",
    b"ml/a",
    b"[2001:db8::1]:9002",
    b"picker-a." + b"m" * 310,
]
TOKENS = [
    b".",
    b":",
    b"|",
    b":9002",
    b"picker-a",
    b"ml",
    b"web",
    b"X",
    b"\0",
    b"\xff",
    b"=",
    b"@",
    b'"',
    b"\\",
    b"%s",
    b"\n",
]


def test_mutated_authorities_are_found_as_the_model_finds_them() -> None:
    names, wanted = PoolNames(POOLS), model.PoolNames(POOLS)
    for case, text in mutants(CORPUS, TOKENS):
        for pool, authority in ((b"", text), (text, b"picker-a.ml")):
            assert names.find(pool, authority) == wanted.find(pool, authority), f"case {case}: {text!r}"


def test_what_is_said_of_them_can_be_read() -> None:
    for case, text in mutants(CORPUS, TOKENS, cases=2000):
        reply = messages.parse(no_pool(text, is_name=bool(case & 1), is_many=bool(case & 2))).immediate_response
        message = json.loads(reply.body)["error"]["message"]
        assert message.isascii() and message.isprintable(), f"case {case}: {text!r}"
        assert len(message) < 320
