"""The requests that are measured: ext_proc messages as Envoy sends them in full duplex, made into scripts."""

import json
import random
from collections.abc import Mapping

from benchmarks.load.script import End, Kind, Script, answered
from tests.support import messages

MODEL = "load"
PIECE = 64 << 10  # bytes of body in one message: what Envoy's buffer limit makes of large bodies
CHUNK = (
    b'data: {"id":"chatcmpl-123","object":"chat.completion.chunk","created":1694268190,"model":"load",'
    b'"system_fingerprint":"fp_44709d6fcb","choices":[{"index":0,"delta":{"content":" token"},"logprobs":null,'
    b'"finish_reason":null}]}\n\n'
)
LAST_CHUNK = (
    b'data: {"id":"chatcmpl-123","object":"chat.completion.chunk","model":"load","choices":[],'
    b'"usage":{"prompt_tokens":9,"completion_tokens":12,"total_tokens":21}}\n\ndata: [DONE]\n\n'
)
ANSWER = b'{"id":"c","object":"chat.completion","usage":{"prompt_tokens":9,"completion_tokens":12,"total_tokens":21}}'
_HEADERS = {
    ":scheme": "http",
    "accept": "*/*",
    "content-type": "application/json",
    "user-agent": "openai-python/1.2.3",
    "x-forwarded-proto": "http",
    "x-request-id": "2f7e4d0c-3f0e-4f5e-9d2c-0f6f0a1b2c3d",
}


def chat_body(size: int, seed: int = 0) -> bytes:
    """A chat request of `size` bytes; bodies of different seeds share no prompt."""
    words = random.Random(seed)
    head = json.dumps({"model": MODEL, "stream": True, "messages": [{"role": "user", "content": ""}]}).encode()
    text = bytearray()
    while len(text) < size:
        text += f"{words.getrandbits(32):08x} lorem ipsum dolor sit amet ".encode()
    return head[:-4] + bytes(text[: max(size - len(head), 0)]) + head[-4:]


def request(body: bytes, headers: Mapping[str, str] | None = None) -> list[bytes]:
    """Headers and `headers` besides, the body in pieces, and the empty one that ends it."""
    headers = {**_HEADERS, "content-length": str(len(body)), **(headers or {})}
    pieces = [body[at : at + PIECE] for at in range(0, len(body), PIECE)]
    bodies = [messages.request_body(piece, end_of_stream=False) for piece in pieces]
    return [messages.request_headers(headers=headers), *bodies, messages.request_body(b"")]


def small(seed: int = 0, *, end: End = Kind.RESET, size: int = 1024, hold: bool = False) -> Script:
    """The whole life of a small request: 1 KB in, a short JSON answer."""
    response = [messages.response_headers(content_type="application/json"), messages.response_body(ANSWER)]
    parts = [request(chat_body(size, seed)), response, [messages.response_body(b"", end_of_stream=True)]]
    return answered(parts, end=end, hold_after=1 if hold else None)


def streamed(body_bytes: int, chunks: int, seed: int = 0) -> Script:
    """A streamed answer: each chunk is a message of its own, sent when the one before has come back."""
    parts = [request(chat_body(body_bytes, seed)), [messages.response_headers()]]
    parts += [[messages.response_body(CHUNK)]] * (chunks - 1)
    parts += [[messages.response_body(LAST_CHUNK)], [messages.response_body(b"", end_of_stream=True)]]
    return answered(parts)


def request_only(body_bytes: int, seed: int = 0) -> Script:
    """A request alone: the server ends the stream when it has answered, and sees nothing of the response."""
    return answered([request(chat_body(body_bytes, seed))], end=Kind.CLOSE)
