"""Codec: whole exchanges as a real Envoy sent them, and the two replies that matter.

DESIGN.md states no figure for the codec alone; the limits are its share of the session's 15 µs for a small request.
"""

import pytest

from picker._core import codec
from tests.support.envoy import recorded
from tests.support.shared import needs_shared


def decode_all(messages: list[bytes]) -> None:
    for message in messages:
        codec.Message(message)


@needs_shared
@pytest.mark.parametrize("exchange", ["1KB", "100KB"])
def test_decode_an_exchange(seconds, target, exchange: str) -> None:
    """All six messages; bodies are not copied, so 100 KB must cost what 1 KB does."""
    messages = [message.data for message in recorded() if message.exchange == exchange]
    took = seconds(lambda: decode_all(messages))
    target(f"codec: decode the six messages of a {exchange} exchange", took * 1e6, 3.0, "us")


@needs_shared
def test_decode_request_headers(seconds, target) -> None:
    """A hundred times in a row: one alone is not much longer than the clock takes."""
    headers = [recorded()[0].data] * 100
    took = seconds(lambda: decode_all(headers)) / len(headers)
    target("codec: decode request headers", took * 1e6, 0.75, "us")


def test_write_a_pick(seconds, target) -> None:
    writer = codec.Writer()

    def pick() -> None:
        writer.clear()
        writer.common(1, b"10.0.0.1:8000", removed=(b"x-gateway-inference-objective",), clear_route_cache=True)

    target("codec: write a pick (header and metadata)", seconds(pick) * 1e6, 1.0, "us")


def test_write_a_streamed_chunk(seconds, target) -> None:
    writer, chunk = codec.Writer(), b"x" * 62_000

    def echo() -> None:
        writer.clear()
        writer.streamed(3, chunk, False)

    took = seconds(echo)
    target("codec: write a 62,000-byte streamed chunk", took * 1e6, 5.0, "us")
    target("codec: the same as a rate", len(chunk) / took / 1e9, 10.0, "GB/s", higher_is_better=True)
