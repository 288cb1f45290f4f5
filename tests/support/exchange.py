"""What tests of sessions share: engines, exchanges through them, and what they leave behind."""

import json
from collections import defaultdict
from typing import Any

from picker._core.engine import Engine
from tests.support import messages
from tests.support.gateway import DESTINATION, Gateway

DUPLEX, BUFFERED, PARTIAL = messages.FULL_DUPLEX, messages.BUFFERED, messages.BUFFERED_PARTIAL
STREAMED, NONE = messages.STREAMED, messages.NONE
MODES = [DUPLEX, BUFFERED, PARTIAL, STREAMED, NONE]
BODY = json.dumps(
    {"model": "llama", "messages": [{"role": "user", "content": "hello " * 100}], "stream": True}
).encode()
USAGE = {
    "prompt_tokens": 150,
    "completion_tokens": 3,
    "total_tokens": 153,
    "prompt_tokens_details": {"cached_tokens": 64},
}
SSE = [b'data: {"choices":[]}\n\n', b"data: " + json.dumps({"usage": USAGE}).encode() + b"\n\n", b"data: [DONE]\n\n"]
MS = 1_000_000


def engine_with(count: int = 2, **limits: int) -> Engine:
    engine = Engine(hash_seed=1, limits=limits)
    for number in range(1, count + 1):
        engine.add_endpoint(f"10.0.0.{number}:8000", f"10.0.0.{number}")
    return engine


def whole_exchange(engine: Engine, **options: Any) -> Gateway:
    gateway = Gateway(engine, **options)
    gateway.send_headers()
    gateway.send_body([BODY])
    gateway.answer_headers()
    gateway.answer_body(SSE)
    gateway.complete()
    gateway.close()
    return gateway


def only_series(engine: Engine) -> dict[str, Any]:
    (series,) = engine.stats()["series"]
    return dict(series)


def failures(engine: Engine) -> dict[str, int]:
    found: dict[str, int] = defaultdict(int)
    for series in engine.stats()["series"]:
        for code, count in series["failures"].items():
            found[code] += count
    return dict(found)


def assert_idle(engine: Engine) -> None:
    """Nothing is held for any session."""
    engine._check()
    assert (engine.sessions, engine.in_flight, engine.buffered_bytes) == (0, 0, 0)
    for endpoint in engine.endpoints(0):
        assert (endpoint["requests"], endpoint["prefill_tokens"], endpoint["resident_tokens"]) == (0, 0, 0)


def error_of(gateway: Gateway) -> dict[str, Any]:
    """The OpenAI-shaped error of an immediate response."""
    response = gateway.immediate
    headers = {option.header.key: option.header.raw_value for option in response.headers.set_headers}
    assert headers["content-type"] == b"application/json"
    assert (b"retry-after" in {key.encode() for key in headers}) == (response.status.code in (429, 503))
    error = json.loads(response.body)["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    return {"status": response.status.code, **error}


# Headers by which a client could steer picker.
STEERING = {
    DESTINATION: "6.6.6.6:80",
    "x-gateway-destination-endpoint-subset": "6.6.6.6",
    "x-gateway-destination-endpoint-served": "6.6.6.6:80",
    "x-gateway-inference-objective": "high",
    "x-llm-d-inference-objective": "high",
    "x-gateway-inference-fairness-id": "me",
    "x-llm-d-inference-fairness-id": "me",
    "x-gateway-model-name-rewrite": "other",
    "x-llm-d-model-name-rewrite": "ano\\ther",
    "x-slo-ttft-ms": "1",
    "x-llm-d-slo-ttft-ms": "1",
    "x-slo-tpot-ms": "1",
    "x-llm-d-slo-tpot-ms": "1",
    "x-llm-d-video-fps": "1",
    "x-llm-d-video-duration-seconds": "1",
    "x-llm-d-video-resolution": "1x1",
    "x-llm-d-request-dropped-reason": "none",
    "epp-profile": "mine",
    "x-prefiller-host-port": "6.6.6.6:80",
    "x-encoder-hosts-ports": "6.6.6.6:80",
    "x-data-parallel-host-port": "6.6.6.6:80",
    "x-kv-cache-source-host-port": "6.6.6.6:80",
}
