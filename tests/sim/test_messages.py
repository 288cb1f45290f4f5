"""The lab's hand-made messages are, byte for byte, what the reference classes make."""

import pytest

from picker.sim import messages
from tests.support import messages as reference


@pytest.mark.parametrize("headers", [{}, {"a": "b"}, {"x-fairness": "w" * 300, "é": "ü"}])
def test_request_headers(headers: dict[str, str]) -> None:
    assert messages.request_headers("/v1/completions", headers) == reference.request_headers(
        "/v1/completions", headers=headers
    )


@pytest.mark.parametrize("size", [0, 1, 127, 128, 16_384, 300_000])
def test_bodies(size: int) -> None:
    assert messages.request_body(b"x" * size) == reference.request_body(b"x" * size)
    assert messages.response_body(b"x" * size) == reference.response_body(b"x" * size)
    ended = messages.response_body(b"x" * size, end_of_stream=True)
    assert ended == reference.response_body(b"x" * size, end_of_stream=True)


def test_response_headers() -> None:
    assert messages.response_headers(200, "text/event-stream") == reference.response_headers()
    unavailable = messages.response_headers(503, "text/plain", end_of_stream=True)
    assert unavailable == reference.response_headers(503, "text/plain", end_of_stream=True)
