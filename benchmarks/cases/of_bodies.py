"""Reading bodies: prompts into hashes by each API, and the small readers under it."""

import json
import random

from benchmarks.cases.case import Action, Case, Growth
from benchmarks.cases.data import agent, chat
from picker._core import apis, floats, form, jsonnumber, jsonstring, prompt, vllmgrpc
from tests.support.protobuf import field, frame, packed

CHAT = b"/v1/chat/completions"
IDS = [100_000 + number * 7919 % 28_000 for number in range(100_000)]
HEADERS = [(b":path", CHAT), (b"content-type", b"application/json"), *[(b"x-header-%d" % n, b"v") for n in range(8)]]


def chatting(body: bytes) -> Action:
    return lambda: prompt.read(CHAT, body)


def generating(ids: int) -> Action:
    body = json.dumps({"token_ids": IDS[:ids]}).encode()
    return lambda: prompt.read(b"/inference/v1/generate", body)


def anthropic() -> Action:
    body = chat(100_000)
    return lambda: prompt.read(b"/v1/messages", body)


def grpc() -> Action:
    body = frame(field(2, field(1, b"") + field(2, packed(IDS))))
    return lambda: vllmgrpc.read(body)


def sound() -> Action:
    """A form with a megabyte of sound."""
    parts = [
        b'Content-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\n'
        + random.Random(1).randbytes(1_000_000),
        b'Content-Disposition: form-data; name="model"\r\n\r\nwhisper',
    ]
    body = b"".join(b"--xyz\r\n%b\r\n" % part for part in parts) + b"--xyz--\r\n"
    return lambda: form.read(body, b"xyz")


def numbers() -> Action:
    texts = [repr(random.Random(number).uniform(0, 1e6)).encode() for number in range(1000)]
    return lambda: [floats.parse(text) for text in texts]


def integers() -> Action:
    token = json.dumps(IDS).encode()
    return lambda: jsonnumber.integers(token)


def unescaping() -> Action:
    token = json.dumps(json.loads(chat(100_000))["messages"][0]["content"] * 10).encode()
    return lambda: jsonstring.unescape(token)


CASES = [
    Case("prompt: read 1 KB of chat", lambda: chatting(chat(1000))),
    Case("prompt: read an agent's 240,000 tokens", lambda: chatting(agent(240_000)), "ms"),
    Case("prompt: read 100,000 token ids", lambda: generating(100_000), "ms"),
    Case("prompt: read 100 KB as Anthropic's", anthropic),
    Case("vllmgrpc: read 100,000 token ids", grpc, "ms"),
    Case("form: read a megabyte of sound", sound),
    Case("apis: choose by headers", lambda: lambda: apis.choose(HEADERS)),
    Case("floats: parse a number", numbers, "ns", per=1000),
    Case("jsonnumber: 100,000 integers", integers, "ms"),
    Case("jsonstring: unescape 100 KB", unescaping),
]
GROWTHS = [
    Growth("prompt: read chat of n bytes", lambda n: chatting(chat(n)), 1 << 14, "n"),
    Growth("prompt: read n messages", lambda n: chatting(chat(100 * n, turn_bytes=100)), 100, "n"),
    Growth("prompt: read n token ids", generating, 1000, "n"),
]
