"""Whole lives of requests in the core, from the first message of the gateway to the last reply."""

from typing import Any

from benchmarks.cases.case import Action, Case, Growth
from benchmarks.cases.data import MODEL, agent, chat
from benchmarks.cases.exchanges import DEFAULT, cold_life, engine_with, life, request, small_exchange, streamed
from picker._core.engine import Engine
from picker._core.quotas import Quota
from picker._core.session import Session
from tests.support import messages

QUOTA = {
    "name": "keys",
    "source": ("header", "x-api-key"),
    "tiers": [[("minute", 1 << 40, (1, 0, 0, 0)), ("day", 1 << 40, (0, 1, 1, 1))]],
    "default": 0,
    "per_model": True,
}


def small(endpoints: int) -> Action:
    return life(engine_with(endpoints), small_exchange())


def large(endpoints: int) -> Action:
    return life(engine_with(endpoints), request(chat(400_000)))


def warm(tokens: int, endpoints: int = 256) -> Action:
    return life(engine_with(endpoints), request(agent(tokens)))


def cold(tokens: int, endpoints: int = 256) -> Action:
    return cold_life(engine_with(endpoints), agent(tokens))


def answered(chunks: int, **policy: Any) -> Action:
    engine = engine_with(8)
    if policy:
        engine.set_policy(DEFAULT, **policy)
    return life(engine, [*small_exchange()[:3], *streamed(chunks)])


def restored() -> Action:
    headers = {"x-gateway-model-name-rewrite": MODEL}
    body = chat(900).replace(MODEL.encode(), b"llama")
    sent = [messages.request_headers(headers=headers), messages.request_body(body), *streamed(1000)]
    return life(engine_with(8), sent)


def rewritten() -> Action:
    """A model that a rule renames, in a body of 400 KB."""
    engine = engine_with(8)
    rules = [("rule", f"model-{number}", ((f"v1-{number}", 90), (f"v2-{number}", 10))) for number in range(100)]
    engine.set_rewrites([*rules, ("rule", MODEL, (("tuned", 100),))])
    return life(engine, request(chat(400_000)))


def limited() -> Action:
    engine, quota = engine_with(8), Quota(seed=1)
    quota.set_rules([QUOTA])
    engine.set_quota(quota)
    sent = small_exchange()
    return life(engine, [messages.request_headers(headers={"x-api-key": "sk-secret"}), *sent[1:]])


def refused() -> Action:
    """A body that is no JSON: 400."""
    return life(engine_with(8), [messages.request_headers(), messages.request_body(b'{"model": nonsense}')])


def with_subset(named: int) -> Action:
    """The gateway allows some endpoints of 256."""
    subset = [f"10.0.0.{number}:8000" for number in range(named)]
    return life(engine_with(256), [messages.request_headers(subset=subset), *small_exchange()[1:]])


def by_grpc() -> Action:
    """A Generate call of a vLLM engine, its prompt as token ids, and an answer of 100 messages."""
    from tests.support.protobuf import chunk, field, frame, packed

    tokenized = field(2, field(1, b"") + field(2, packed([*range(100_000, 110_000)])))
    sent = [
        messages.request_headers("/vllm.grpc.engine.VllmEngine/Generate", headers={"content-type": "application/grpc"}),
        messages.request_body(frame(tokenized)),
        messages.response_headers(200, "application/grpc"),
        *[messages.response_body(frame(chunk([128000], prompt=10_000, completion=1, cached=1024)))] * 100,
        messages.response_trailers(grpc_status="0"),
    ]
    return life(engine_with(8), sent)


def flowing(endpoints: int) -> Engine:
    """A pool under flow control of which each endpoint takes one request."""
    engine = engine_with(endpoints)
    engine.set_flow({"detector": ("concurrency", "requests", 1, 1e12, 0.0)})
    return engine


def waiting(requests: int) -> Action:
    """So many come at once where one is served at a time; each waits, has its turn, is answered."""
    engine, sent = flowing(1), small_exchange()

    def run() -> None:
        sessions = [Session(engine, 1) for _ in range(requests)]
        running: list[Session] = []
        for session in sessions:
            for message in sent[:3]:
                session.feed(message, 2)
        running = [session for session in sessions if not session.is_waiting]
        served = 0
        while running:
            for session in running:
                for message in sent[3:]:
                    session.feed(message, 3)
                session.close(4)
                served += 1
            running = engine.dispatch(5)
            for session in running:
                session.resume(5)
        assert served == requests

    return run


def unhindered() -> Action:
    """Flow control as `picker serve` has it, and nobody waits."""
    engine = engine_with(8)
    engine.set_flow({})
    return life(engine, small_exchange())


CASES = [
    Case("session: 1 KB request, whole life, 8 endpoints", lambda: small(8), limit=15),
    Case("session: 1 KB request, whole life, 256 endpoints", lambda: small(256), limit=15),
    Case("session: 1 KB request, whole life, 4,096 endpoints", lambda: small(4096)),
    Case("session: 400 KB prompt, picked and echoed, 8 endpoints", lambda: large(8), "ms", 1),
    Case("session: 400 KB prompt, picked and echoed, 256 endpoints", lambda: large(256), "ms", 1),
    Case("session: an agent's 60,000 tokens, warm", lambda: warm(60_000), "ms"),
    Case("session: an agent's 60,000 tokens, cold", lambda: cold(60_000), "ms"),
    Case("session: an agent's 240,000 tokens, warm", lambda: warm(240_000), "ms"),
    Case("session: an agent's 240,000 tokens, cold", lambda: cold(240_000), "ms"),
    Case("session: response of 1,000 chunks, whole life", lambda: answered(1000), limit=2000),
    Case("session: the same, the model's name restored in each", restored, limit=2000),
    Case(
        "session: the same, responseTracking: headers", lambda: answered(1000, response_tracking="headers"), limit=2000
    ),
    Case("session: 400 KB prompt, its model renamed", rewritten, "ms"),
    Case("session: 1 KB request under rate limits", limited),
    Case("session: 1 KB request under flow control, nobody waits", unhindered, limit=15),
    Case("session: 1 KB request that waits for its turn, 100 at once", lambda: waiting(100), per=100),
    Case("session: 1 KB request, 16 of 256 endpoints allowed", lambda: with_subset(16)),
    Case("session: a body that is refused", refused),
    Case("session: vLLM's gRPC, 10,000 token ids, 100 messages", by_grpc),
]
GROWTHS = [
    Growth("session: a prompt of n tokens, cold", lambda n: cold(n), 24_000, "n"),
    Growth("session: n endpoints", small, 128, "n"),
    Growth("session: n chunks of a response", answered, 100, "n"),
    Growth("session: n requests wait", waiting, 32, "n log n"),
]
