import base64
import json
import random
from collections.abc import Callable

import pytest

from benchmarks.test_scan import ENGLISH, text
from picker._core.engine import Engine
from picker._core.session import Session
from tests.support import messages
from tests.support.shared import SHARED

TTFT = (19, 1.0, (0.05, 1000.0), 0)
MAX = (30, 1.0, (), 0)
CHUNK = (
    b'data: {"id":"chatcmpl-4f3a5c1d2b7e4a90","object":"chat.completion.chunk","created":1694268190,'
    b'"model":"meta-llama/Llama-3.1-8B-Instruct","choices":[{"index":0,"delta":{"content":" token"},'
    b'"logprobs":null,"finish_reason":null,"token_ids":null}],"usage":null,"prompt_token_ids":null}\n\n'
)


def engine_with(endpoints: int) -> Engine:
    """A pool under the default policy."""
    engine = Engine(hash_seed=1)
    engine.set_policy([TTFT, MAX])
    for number in range(endpoints):
        slot = engine.add_endpoint(f"10.0.{number // 250}.{number % 250}:8000", f"10.0.{number // 250}.{number % 250}")
        engine.observe(*slot, now_ns=1, waiting=number % 3, running=number % 7, kv_usage=0.5)
    return engine


def chat(size: int) -> bytes:
    rng = random.Random(1)
    turns = max(2, size // 10_000)
    said = [
        {"role": ("user", "assistant")[turn % 2], "content": text(ENGLISH, size // turns, rng)} for turn in range(turns)
    ]
    return json.dumps({"model": "meta-llama/Llama-3.1-8B-Instruct", "messages": said, "stream": True}).encode()


def small_exchange() -> list[bytes]:
    """What a real Envoy sent for a body of 1 KB; a likeness where the reference data is not at hand."""
    path = SHARED / "reference" / "envoy_messages.jsonl"
    if path.is_file():
        records = [json.loads(line) for line in path.read_text().splitlines()]
        return [base64.b64decode(r["processing_request_b64"]) for r in records if r["exchange"] == "1KB"]
    return [
        messages.request_headers(headers={f"x-header-{number}": "some value" for number in range(8)}),
        messages.request_body(chat(900), end_of_stream=False),
        messages.request_body(b""),
        messages.response_headers(200, "application/json"),
        messages.response_body(b'{"usage":{"prompt_tokens":200}}'),
        messages.response_body(b"", end_of_stream=True),
    ]


def life(engine: Engine, exchange: list[bytes]) -> Callable[[], None]:
    def run() -> None:
        session = Session(engine, 1)
        for message in exchange:
            session.feed(message, 2)
        session.close(3)

    return run


@pytest.mark.parametrize("endpoints", [8, 256])
def test_small_request(seconds, target, endpoints: int) -> None:
    took = seconds(life(engine_with(endpoints), small_exchange()))
    target(f"session: 1 KB request, whole life, {endpoints} endpoints", took * 1e6, 15, "us")


@pytest.mark.parametrize("endpoints", [8, 256])
def test_large_prompt(seconds, target, endpoints: int) -> None:
    body = chat(400_000)
    pieces = [body[at : at + 65_536] for at in range(0, len(body), 65_536)]
    exchange = [
        messages.request_headers(),
        *(messages.request_body(piece, end_of_stream=False) for piece in pieces),
        messages.request_body(b""),
    ]
    took = seconds(life(engine_with(endpoints), exchange))
    target(f"session: 400 KB prompt, picked and echoed, {endpoints} endpoints", took * 1e3, 1, "ms")


def test_streamed_response(seconds, target) -> None:
    exchange = [*small_exchange()[:3], messages.response_headers()]
    exchange += [messages.response_body(CHUNK)] * 1000
    exchange += [messages.response_body(b"data: [DONE]\n\n", end_of_stream=True)]
    took = seconds(life(engine_with(8), exchange))
    target("session: response of 1,000 chunks, whole life", took * 1e6, 2000, "us")


def test_restored_response(seconds, target) -> None:
    headers = {"x-gateway-model-name-rewrite": "meta-llama/Llama-3.1-8B-Instruct"}
    body = chat(900).replace(b"meta-llama/Llama-3.1-8B-Instruct", b"llama")
    exchange = [messages.request_headers(headers=headers), messages.request_body(body), messages.response_headers()]
    exchange += [messages.response_body(CHUNK)] * 1000
    exchange += [messages.response_body(b"data: [DONE]\n\n", end_of_stream=True)]
    took = seconds(life(engine_with(8), exchange))
    target("session: the same, the model's name restored in each", took * 1e6, 2000, "us")


def test_unread_response(seconds, target) -> None:
    exchange = [*small_exchange()[:3], messages.response_headers()]
    exchange += [messages.response_body(CHUNK)] * 1000
    exchange += [messages.response_body(b"data: [DONE]\n\n", end_of_stream=True)]
    engine = engine_with(8)
    engine.set_policy([TTFT, MAX], response_tracking="headers")
    took = seconds(life(engine, exchange))
    target("session: the same, responseTracking: headers", took * 1e6, 2000, "us")
