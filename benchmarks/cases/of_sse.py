import json

from benchmarks.cases.case import Action, Case, Growth
from benchmarks.cases.data import CHUNK
from picker._core.framed import FrameScanner
from picker._core.sse import Restorer, UsageScanner
from tests.support.protobuf import chunk, frame

MODEL = b"meta-llama/Llama-3.1-8B-Instruct"
MESSAGE = frame(chunk([128000], prompt=2000, completion=1, cached=1024))
UNARY = json.dumps({"choices": [{"message": {"content": "word " * 20_000}}], "usage": {"prompt_tokens": 5}}).encode()


def feeding(scanner: UsageScanner | Restorer | FrameScanner, piece: bytes, times: int) -> Action:
    many = [piece] * times

    def feed() -> None:
        for each in many:
            scanner.feed(each)

    return feed


def whole() -> Action:
    def read() -> None:
        scanner = UsageScanner(False)
        scanner.feed(UNARY)
        scanner.finish()

    return read


def cut() -> Action:
    """An event that comes in pieces of 16 bytes."""
    scanner, pieces = UsageScanner(True), [CHUNK[at : at + 16] for at in range(0, len(CHUNK), 16)]

    def feed() -> None:
        for piece in pieces:
            scanner.feed(piece)

    return feed


def restoring() -> Action:
    return feeding(Restorer(MODEL, b"llama", event_stream=True), CHUNK, 100)


SIZE = len(CHUNK)
CASES = [
    Case(f"sse: {SIZE}-byte chunk, with the call", lambda: feeding(UsageScanner(True), CHUNK, 100), limit=0.5, per=100),
    Case(f"sse: {SIZE}-byte event among many", lambda: feeding(UsageScanner(True), CHUNK * 100, 1), limit=0.5, per=100),
    Case("sse: an event in pieces of 16 bytes", cut),
    Case("sse: 100 KB unary body", whole, "GB/s", 2.0, per=len(UNARY)),
    # No target of the design: reading, as above, one more copy, and a bytes object for the face.
    Case(f"restore: {SIZE}-byte chunk with the model's name", restoring, limit=1.0, per=100),
    Case(
        f"framed: {len(MESSAGE)}-byte message of a token",
        lambda: feeding(FrameScanner(), MESSAGE, 100),
        limit=0.5,
        per=100,
    ),
]
GROWTHS = [Growth("sse: n events in one read", lambda n: feeding(UsageScanner(True), CHUNK * n, 1), 20, "n")]
