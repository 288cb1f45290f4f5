"""Mutated bodies in random chunks: what goes on is what came, names restored where the slow model finds them."""

import random

from tests.core.test_restore import restored
from tests.fuzz.test_fuzz_sse import CORPUS, TOKENS
from tests.model import restore as model
from tests.support.fuzz import CASES, cuts, mutants

NAMED = [body.replace(b"{", b'{"model":"me/\\u0031",') for body in CORPUS]
NAMED += [b'{"model": "me\\/1"}', b'data:{"model":"me/1"}']
MORE = [b'"model":', b'"me/1"', b"me/1", b"\\/", b"\\u0031", b"\\ud83d", b'","model":"me/1"']


def test_mutated_bodies_are_restored_as_the_model_restores_them() -> None:
    rng = random.Random(9)
    for case, body in mutants(NAMED, TOKENS + MORE, cases=CASES // 2):
        event_stream = rng.random() < 0.7
        target, client = rng.choice([(b"me/1", b"you"), (b"me\\/1", b""), (b"me", b"a\\n")])
        wanted = model.restore(body, target, client, event_stream=event_stream)
        found = restored(*cuts(rng, body), target=target, client=client, event_stream=event_stream)
        assert found == wanted, f"case {case}: {target!r} {body!r}"
