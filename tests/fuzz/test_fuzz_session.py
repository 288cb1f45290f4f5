"""Mutated messages in any order: replies or SessionError, nothing else, and everything given back in the end."""

import json
import random

from picker._core.engine import Engine
from picker._core.session import Session, SessionError
from tests.model.renaming import renamed
from tests.support import messages
from tests.support.exchange import SSE, STEERING, assert_idle
from tests.support.fuzz import CASES, mutants

SEED = 20_240_905
LONGEST = 12  # messages of one stream

CHAT = {
    "model": "llama",
    "messages": [
        {"role": "system", "content": "x" * 300},
        {
            "role": "user",
            "content": [{"type": "text", "text": "é😀"}, {"type": "image_url", "image_url": {"url": "u"}}],
        },
        {"role": "assistant", "content": None, "tool_calls": [{"id": "1", "function": {"arguments": "{}"}}]},
    ],
    "tools": [{"type": "function"}],
    "stream": True,
    "max_tokens": 16,
    "cache_salt": "s",
}
CLAUDE = {
    "model": "llama",
    "system": [{"type": "text", "text": "x" * 300, "cache_control": {"type": "ephemeral"}}],
    "messages": [
        {"role": "assistant", "content": [{"type": "tool_use", "id": "1", "input": {"a": 1}}, {"thinking": "hm"}]},
        {
            "role": "user",
            "content": [{"type": "tool_result", "content": [{"text": "y"}, {"type": "image", "source": 1}]}],
        },
    ],
    "max_tokens": 7,
}
FEATURES = {"mm_hashes": {"image": ["a", "b"]}, "mm_placeholders": {"image": [{"offset": 7}, {"offset": 3}]}}
PATHS = [
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/messages",
    "/v1/responses",
    "/inference/v1/generate",
    "/pooling",
]
BODIES = [
    json.dumps(CHAT).encode(),
    json.dumps({"model": "llama", "prompt": [[1, 2, 3] * 60, "text"]}, indent=1).encode(),
    json.dumps(CLAUDE).encode(),
    json.dumps({"token_ids": [1, 2, 3] * 60, "features": FEATURES, "sampling_params": {"max_tokens": 9}}).encode(),
    b"{}",
    b"",
]
DOCUMENTS = [
    *(
        messages.request_headers(headers=STEERING, subset=["10.0.0.1", "10.0.0.2:80"], modes=m)
        for m in ((4, 4), (2, 1))
    ),
    messages.request_headers("/v1/completions", modes=(1, 3)),
    messages.request_headers("/v1/models", end_of_stream=True, subset="10.0.0.1:80, [fd00::1]"),
    *(messages.request_body(body, end_of_stream=end) for body in BODIES for end in (True, False)),
    messages.request_trailers(),
    messages.response_headers(served="10.0.0.2:80"),
    messages.response_headers(503, "application/json", end_of_stream=True),
    *(messages.response_body(chunk) for chunk in SSE),
    messages.response_body(b'{"usage":{"completion_tokens":99999999999999999999}}', end_of_stream=True),
    messages.response_trailers(),
]
TOKENS = [
    *(
        bytes((byte,))
        for byte in b'\x00\x01\x02\x08\x0a\x10\x12\x18\x1a\x20\x22\x2a\x32\x3a\x42\x5a\x7f\x80\xff{}[]":,'
    ),
    *(b"\x80\x80\x80\x80\x80\x80\x80\x80\x80\x01", b"\xff\xff\xff\xff\x0f", b":path", b":status", b"200"),
    *(b"/v1/chat/completions", b"/v1/completions", b"x-gateway-destination-endpoint", b"text/event-stream"),
    *(b"envoy.lb", b"envoy.lb.subset_hint", b"10.0.0.1:80", b"x-session-token", b"[DONE]", b"\\u0000", b"\\ud800"),
    *(b'"content"', b'"text"', b'"input"', b'"mm_hashes"', b'"mm_placeholders"', b'"offset"', b'"token_ids"'),
    *(b'"model"', b'"messages"', b'"role":null', b"null", b"1e999", b"data: ", b"\n\n"),
]


def fuzzed_engine() -> Engine:
    limits = {"body_bytes": 2000, "buffered_bytes": 5000, "chunk_bytes": 100, "prompt_blocks": 4, "models": 4}
    engine = Engine(hash_seed=1, limits=limits)
    engine.set_policy([(18, 1.0, (), 0), (20, 1.0, (), 0), (30, 1.0, (), 0)], plugins=lambda *_: [0.5, 1.0], wanted=2)
    for number in (1, 2):
        engine.add_endpoint(f"10.0.0.{number}:80", f"10.0.0.{number}", token=f"token-{number}")
    return engine


def feed(session: Session, message: bytes, now_ns: int) -> bool:
    """Whether the stream may go on. Every reply is a ProcessingResponse."""
    try:
        replies = session.feed(message, now_ns)
    except SessionError:
        return False
    for reply in replies:
        assert messages.parse(reply).WhichOneof("response")
    session._check()
    return True


def begin(engine: Engine, rng: random.Random, now_ns: int) -> Session:
    """A stream, most often begun as it should be."""
    session = Session(engine, now_ns)
    if rng.random() < 0.8:
        feed(session, rng.choice(DOCUMENTS[:4]), now_ns)
    return session


def test_mutated_messages_in_any_order() -> None:
    """Every other message is as a gateway sends it, so that streams get somewhere."""
    engine = fuzzed_engine()
    rng = random.Random(SEED)
    streams: list[Session] = []
    answered = 0
    for number, mutant in mutants(DOCUMENTS, TOKENS, seed=SEED):
        if len(streams) < 8:
            streams.append(begin(engine, rng, number))
        session = rng.choice(streams)
        message = rng.choice((mutant, rng.choice(DOCUMENTS)))
        try:
            goes_on = feed(session, message, number)
        except BaseException:
            print(f"failing message {number}: {message!r}")
            raise
        answered += goes_on
        if not goes_on or rng.random() < 1 / LONGEST:
            session.close(number)
            streams.remove(session)
        if number % 1000 == 0:
            engine._check()
    for session in streams:
        session.close(0)
    assert answered > CASES // 4  # the messages are not all refused
    assert_idle(engine)


def test_mutated_bodies_behind_proper_headers() -> None:
    """Deeper than the above: only the JSON is changed, and the model in it."""
    engine = fuzzed_engine()
    headers = [messages.request_headers(path) for path in PATHS]
    names = [b"llama", b"a much longer name", b'"', None]
    for number, body in mutants(BODIES, TOKENS, seed=SEED + 1, cases=CASES // 4):
        session = Session(engine, number)
        name = names[number // len(PATHS) % 4]
        head = headers[number % len(PATHS)]
        session.feed(messages.with_header(head, "x-llm-d-model-name-rewrite", name) if name else head, number)
        replies = [messages.parse(reply) for reply in session.feed(messages.request_body(body), number)]
        if replies[0].HasField("immediate_response"):
            assert replies[0].immediate_response.status.code in (400, 413)
            json.loads(replies[0].immediate_response.body)
        else:
            chunks = [reply.request_body.response.body_mutation.streamed_response for reply in replies[1:]]
            assert b"".join(chunk.body for chunk in chunks) == (renamed(body, name) if name else body)
        session.close(number)
    assert_idle(engine)
