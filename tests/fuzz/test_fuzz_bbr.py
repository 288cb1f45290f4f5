"""Mutated messages in any order through a router with plugins: replies or an error, and everything given back."""

import json
import random

from picker._core.bbr import Exchange, ExchangeError
from picker._core.view import View
from tests.support import messages
from tests.support.bodies import SPOOFED, router_with
from tests.support.fuzz import CASES, mutants

SEED = 20_261_122
LONGEST = 12  # messages of one stream

BODIES = [
    json.dumps({"model": "llama", "messages": [{"role": "user", "content": "x" * 200}], "n": [1, {"a": 2}]}).encode(),
    b'{"model":%s,"model":1e5,"a":{"b":[]}}' % json.dumps("é😀").encode(),
    b"{}",
    b"",
]
EVENTS = [b'data: {"a": 1}\n\n', b"data: {}\r\n\r", b"\nevent: x\ndata: [DONE]\n\n", b": ping\r\r"]
DOCUMENTS = [
    *(messages.request_headers(headers=SPOOFED, modes=modes) for modes in ((4, 4), (2, 2), (3, 4), (1, 1))),
    messages.request_headers(end_of_stream=True),
    messages.request_headers(headers={"content-type": "multipart/form-data; boundary=x"}),
    *(messages.request_body(body, end_of_stream=end) for body in BODIES for end in (True, False)),
    messages.request_trailers(),
    messages.response_headers(),
    messages.response_headers(200, "application/json"),
    messages.response_headers(204, end_of_stream=True),
    *(messages.response_body(event) for event in EVENTS),
    *(messages.response_body(body, end_of_stream=True) for body in BODIES),
    messages.response_trailers(),
]
TOKENS = [
    *(bytes((byte,)) for byte in b'\x00\x01\x08\x0a\x10\x12\x1a\x22\x2a\x50\x5a\x7f\x80\xff{}[]":,\r\n'),
    *(b"\x80\x80\x80\x80\x80\x80\x80\x80\x80\x01", b"\xff\xff\xff\xff\x0f", b"content-type", b"text/event-stream"),
    *(b'"model"', b'"a"', b"\\ud800", b"null", b"data: ", b"\n\n", b"gzip", b"content-encoding"),
]


def plugin(rng: random.Random, view: View) -> None:
    """Does anything."""
    for _ in range(rng.randrange(4)):
        action = rng.randrange(6)
        try:
            if action == 0:
                view.set_member((), b"a", b'"a"', rng.choice([b"1", b'"x"', b"[]"]))
            elif action == 1:
                view.remove_member(rng.choice([(), (b"a",), (b"n", 1)]), rng.choice([b"a", b"model"]))
            elif action == 2:
                view.edit(rng.choice([b"x-a", b"x-gateway-model-name"]), rng.choice([b"", b"1", None]))
            elif action == 3:
                view.undo()
            elif action == 4 and rng.random() < 0.2:
                view.reject(403, b"{}")
            else:
                assert isinstance(view.pairs() + view.edits(True), list)
                assert view.member((b"a",)) is None or view.body
        except LookupError:
            pass
    view._check()


def test_any_messages_in_any_order() -> None:
    rng = random.Random(SEED)
    limits = {"body_bytes": 600, "buffered_bytes": 2000, "event_bytes": 60}

    def host(view: View) -> None:
        plugin(rng, view)

    routers = [router_with([host], [host], sees=True, closed=closed, **limits) for closed in (False, True)] + [
        router_with(**limits)
    ]
    errors = replies = 0
    exchange = Exchange(routers[0])
    sent = 0
    for case, text in mutants(DOCUMENTS, TOKENS, seed=SEED, cases=CASES, steps=3):
        if sent == 0:
            exchange.close()
            exchange._check()
            exchange = Exchange(rng.choice(routers))
            sent = rng.randrange(LONGEST)
            text = rng.choice(DOCUMENTS[:6])  # else most streams die of their first message
        sent -= 1 if sent else 0
        try:
            answers = exchange.feed(text if rng.random() < 0.5 else rng.choice(DOCUMENTS))
        except ExchangeError:
            errors += 1
            sent = 0
            continue
        replies += len(answers)
        for answer in answers:
            messages.parse(answer)
        exchange._check()
        if case % 100 == 0:
            for router in routers:
                router._check()
    exchange.close()
    assert [(router.sessions, router.buffered_bytes) for router in routers] == [(0, 0)] * 3
    assert errors > CASES // 100
    assert replies > CASES // 10
