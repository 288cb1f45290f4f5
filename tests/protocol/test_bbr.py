"""The body-based router: routing headers from the body, the route chosen anew, the body as it was."""

import itertools
import json

import pytest

from tests.protocol.play import CHAT
from tests.protocol.player import Player, chat, error_of, played

MODEL, BASE = "x-gateway-model-name", "x-gateway-base-model-name"
SPOOFED = {MODEL: "spoofed", BASE: "spoofed"}
BASES = {"qwen": "qwen", "travel": "qwen", "世界": "qwen", "unknown": ""}
WHOLE = ("duplex", "buffered", "partial")
ENDINGS = ("chunk", "empty", "trailers")


@pytest.mark.parametrize("name", BASES)
@pytest.mark.parametrize("mode", WHOLE)
@played
async def test_headers_of_the_model(play: Player, mode: str, name: str) -> None:
    for ending in ENDINGS:
        body = chat(name=name)
        exchange = play.routed(mode)
        await exchange.headers(more=SPOOFED)
        await exchange.body([body[:5], body[5:30], body[30:]], ending=ending)
        assert exchange.request.headers[MODEL] == name
        assert exchange.request.headers[BASE] == BASES[name]
        assert exchange.request.clears_route
        assert (exchange.request.is_complete, exchange.request.forwarded) == (True, body)


@pytest.mark.parametrize("mode", WHOLE)
@played
async def test_a_body_without_a_model_passes(play: Player, mode: str) -> None:
    """And a client's own word for it does not count."""
    for body in (b"{}", b'{"messages": []}', b'{"model": ""}', b'{"model": null}'):
        exchange = play.routed(mode)
        await exchange.headers(more=SPOOFED)
        await exchange.body([body])
        assert exchange.request.forwarded == body
        assert "spoofed" not in exchange.request.headers.values()


@pytest.mark.parametrize("mode", WHOLE)
@played
async def test_what_is_no_json_is_400(play: Player, mode: str) -> None:
    for body in (b"{", b"[]", b"x" * 100_000):
        exchange = play.routed(mode)
        await exchange.headers()
        await exchange.body([body])
        assert error_of(exchange)[0] == 400


@pytest.mark.parametrize("mode", ["duplex", "buffered", "streamed", "none"])
@played
async def test_header_only_requests_pass(play: Player, mode: str) -> None:
    exchange = play.routed(mode)
    await exchange.headers("/v1/models", method="GET", more=SPOOFED, end=True)
    assert exchange.request.is_complete
    assert "spoofed" not in exchange.request.headers.values()


@pytest.mark.parametrize("mode", ["streamed", "none"])
@played
async def test_where_the_body_does_not_come_first_it_passes(play: Player, mode: str) -> None:
    exchange = play.routed(mode)
    await exchange.headers(more=SPOOFED)
    await exchange.body([chat()[:9], chat()[9:]])
    assert "spoofed" not in exchange.request.headers.values()
    assert exchange.request.forwarded == (chat() if mode == "streamed" else b"")


@played
async def test_a_number_is_written_as_it_stands(play: Player) -> None:
    exchange = play.routed()
    await exchange.headers()
    await exchange.body([b'{"model": 7.50}'])
    assert exchange.request.headers[MODEL] == "7.50"


@pytest.mark.parametrize(
    ("request_mode", "response"), list(itertools.product(WHOLE, ("duplex", "buffered", "streamed")))
)
@played
async def test_responses_are_not_held(play: Player, request_mode: str, response: str) -> None:
    """Each chunk goes back as it comes, or the stream is ended behind the request: both leave them as they are."""
    exchange = play.routed(request_mode, response)
    await exchange.headers(CHAT)
    await exchange.body([chat()])
    await exchange.answer_headers(200, kind="text/event-stream")
    for number in range(5):
        if not exchange.stopped:
            await exchange.answer_chunk(b"data: %d\n\n" % number)
    assert exchange.immediate is None
    assert exchange.response.forwarded == exchange.response.sent or exchange.is_over


@played
async def test_large_bodies(play: Player) -> None:
    body = json.dumps({"prompt": "x" * 500_000, "model": "travel"}).encode()
    exchange = play.routed()
    await exchange.headers()
    await exchange.body([body[at : at + 65_536] for at in range(0, len(body), 65_536)], ending="empty")
    assert (exchange.request.headers[BASE], exchange.request.forwarded) == ("qwen", body)
