"""ext_proc exchanges as a gateway sends them, engines that answer them, and whole lives of requests."""

import base64
import itertools
import json
from collections.abc import Callable
from typing import Any

from benchmarks.cases.case import Action
from benchmarks.cases.data import CHUNK, chat
from picker._core.engine import Engine
from picker._core.session import Session
from picker.config.model import DEFAULT_CONFIG
from picker.policy.compile import compile_policy
from tests.support import messages
from tests.support.shared import SHARED

DEFAULT = compile_policy(DEFAULT_CONFIG).steps
"""The policy of `picker serve` without a configuration, as the tree that is measured has it."""
PIECE_BYTES = 65_536  # of a body, as Envoy sends it
Feedable = bytes | bytearray


def engine_with(endpoints: int, **limits: int) -> Engine:
    """A pool under the default policy."""
    engine = Engine(hash_seed=1, limits=limits)
    engine.set_policy(DEFAULT)
    for number in range(endpoints):
        slot = engine.add_endpoint(f"10.0.{number // 250}.{number % 250}:8000", f"10.0.{number // 250}.{number % 250}")
        engine.observe(*slot, now_ns=1, waiting=number % 3, running=number % 7, kv_usage=0.5)
    return engine


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


def request(body: bytes, **headers: Any) -> list[bytes]:
    """A request in the pieces in which it comes."""
    pieces = [body[at : at + PIECE_BYTES] for at in range(0, len(body), PIECE_BYTES)]
    return [
        messages.request_headers(**headers),
        *(messages.request_body(piece, end_of_stream=False) for piece in pieces),
        messages.request_body(b""),
    ]


def streamed(chunks: int) -> list[bytes]:
    """An answer in so many chunks."""
    return [
        messages.response_headers(),
        *[messages.response_body(CHUNK)] * chunks,
        messages.response_body(b"data: [DONE]\n\n", end_of_stream=True),
    ]


def life(engine: Engine, exchange: list[bytes]) -> Action:
    """A request from its first message to its last; the same prompt each time, so that it is warm."""

    def run() -> None:
        session = Session(engine, 1)
        for message in exchange:
            session.feed(message, 2)
        session.close(3)

    return run


def cold_life(engine: Engine, body: bytes) -> Action:
    """The life of a request that is another one each time: it has a `cache_salt`, which counts up."""
    exchange: list[Feedable] = [bytearray(message) for message in request(body)]
    salted = exchange[1]
    assert isinstance(salted, bytearray)
    at = salted.index(b'"cache_salt": "') + len(b'"cache_salt": "')
    numbers = itertools.count(1)

    def run() -> None:
        salted[at : at + 8] = b"%08d" % next(numbers)
        session = Session(engine, 1)
        for message in exchange:
            session.feed(message, 2)
        session.close(3)

    return run


Make = Callable[[], Action]
