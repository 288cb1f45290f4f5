import json

from picker._core.framed import FrameScanner
from picker._core.sse import Restorer, UsageScanner
from tests.support.protobuf import chunk, frame

CHUNK = (
    b'data: {"id":"chatcmpl-4f3a5c1d2b7e4a90","object":"chat.completion.chunk","created":1694268190,'
    b'"model":"meta-llama/Llama-3.1-8B-Instruct","choices":[{"index":0,"delta":{"content":" token"},'
    b'"logprobs":null,"finish_reason":null,"token_ids":null}],"usage":null,"prompt_token_ids":null}\n\n'
)


def test_chat_chunk(seconds, target) -> None:
    scanner = UsageScanner(True)
    many = [CHUNK] * 100

    def feed() -> None:
        for piece in many:
            scanner.feed(piece)

    target(f"sse: {len(CHUNK)}-byte chunk, with the call", seconds(feed) / 100 * 1e6, 0.5, "us")


def test_chunks_in_one_read(seconds, target) -> None:
    scanner = UsageScanner(True)
    read = CHUNK * 100
    target(f"sse: {len(CHUNK)}-byte event among many", seconds(lambda: scanner.feed(read)) / 100 * 1e6, 0.5, "us")


def test_long_strings(seconds, target) -> None:
    body = json.dumps({"choices": [{"message": {"content": "word " * 20_000}}], "usage": {"prompt_tokens": 5}}).encode()

    def whole() -> None:
        scanner = UsageScanner(False)
        scanner.feed(body)
        scanner.finish()

    target("sse: 100 KB unary body", len(body) / seconds(whole) / 1e9, 2.0, "GB/s", higher_is_better=True)


def test_restored_chunk(seconds, target) -> None:
    restorer = Restorer(b"meta-llama/Llama-3.1-8B-Instruct", b"llama", event_stream=True)
    many = [CHUNK] * 100

    def feed() -> None:
        for piece in many:
            restorer.feed(piece)

    # No target of the design: reading, as above, one more copy, and a bytes object for the face.
    target(f"restore: {len(CHUNK)}-byte chunk with the model's name", seconds(feed) / 100 * 1e6, 1.0, "us")


def test_grpc_chunk(seconds, target) -> None:
    scanner = FrameScanner()
    message = frame(chunk([128000], prompt=2000, completion=1, cached=1024))
    many = [message] * 100

    def feed() -> None:
        for piece in many:
            scanner.feed(piece)

    target(f"framed: {len(message)}-byte message of a token", seconds(feed) / 100 * 1e6, 0.5, "us")
