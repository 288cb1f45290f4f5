"""Limits are answers: 413 over the body cap, 431 over that of headers, 408 for a body that does not come, 429 for a
stream too many, 400 for what cannot be read. Each in OpenAI's form, with what a client needs to know to try again."""

import pytest

from tests.protocol.play import CHAT, CLOSED
from tests.protocol.player import Player, chat, error_of, played

CAP = 8 << 20
STREAMS = 64
OPENAI = ("duplex", "buffered", "partial")
PIECE = b"x" * 65_536


@pytest.mark.parametrize("mode", ["duplex", "buffered"])
@played
async def test_a_body_over_the_cap_is_413(play: Player, mode: str) -> None:
    exchange = play.exchange(mode)
    await exchange.headers()
    await exchange.body([PIECE] * (CAP // len(PIECE)) + [b"x"])
    status, error, _ = error_of(exchange)
    assert (status, error["code"]) == (413, "request_too_large")
    assert await exchange.stream.ended() == "OK"
    await play.admin.idle()


@played
async def test_at_once(play: Player) -> None:
    """Not only when the rest has come."""
    exchange = play.exchange()
    await exchange.headers()
    await exchange.body([PIECE] * (CAP // len(PIECE)), ending="open")
    await exchange.body([b"x"], ending="open")
    while not exchange.stopped:
        await exchange.take()
    assert exchange.immediate.status.code == 413


@pytest.mark.parametrize("mode", ["duplex", "buffered"])
@played
async def test_a_body_of_just_the_cap_is_taken(play: Player, mode: str) -> None:
    body = chat("x" * (CAP - len(chat(""))))
    exchange = play.exchange(mode)
    await exchange.headers()
    await exchange.body([body[at : at + len(PIECE)] for at in range(0, CAP, len(PIECE))], ending="empty")
    assert (exchange.immediate, len(exchange.request.forwarded)) == (None, CAP)


@played
async def test_a_body_that_does_not_come_is_408(play: Player) -> None:
    exchange = play.exchange()
    await exchange.headers()
    await exchange.body([b'{"model"'], ending="open")
    await exchange.take()
    status, error, _ = error_of(exchange)
    assert (status, error["code"]) == (408, "request_timeout")
    assert await exchange.stream.ended() == "OK"
    await play.admin.idle()


@played
async def test_a_stream_too_many_is_429(play: Player) -> None:
    """In picker's own name, not a gRPC error, which would be the gateway's failure mode's."""
    exchanges = [play.exchange() for _ in range(STREAMS)]
    for exchange in exchanges:
        await exchange.headers()
        await exchange.body([chat()])
        assert exchange.destination
    one_more = play.exchange()
    await one_more.headers(end=True)
    status, error, headers = error_of(one_more)
    assert (status, error["type"]) == (429, "rate_limit_error")
    assert int(headers["retry-after"]) >= 1
    assert await one_more.stream.ended() == "OK"
    for exchange in exchanges:
        assert await exchange.finish() == "OK"
    await play.admin.idle()
    again = play.exchange()
    await again.headers(end=True)
    assert again.destination


BAD = {
    "not JSON": (b"{", None),
    "no object": (b"[]", None),
    "no bytes": (b"", None),
    "no model": (b'{"messages": [{"role": "user", "content": "x"}]}', "model"),
    "an empty model": (b'{"model": "", "messages": [{"role": "user", "content": "x"}]}', "model"),
    "a model that is a number": (b'{"model": 1, "messages": [{"role": "user", "content": "x"}]}', "model"),
    "no messages": (b'{"model": "m"}', "messages"),
    "messages of nothing": (b'{"model": "m", "messages": []}', "messages"),
    "deep nesting": (b'{"model": "m", "messages": ' + b"[" * 5000 + b"]" * 5000 + b"}", None),
    "no UTF-8": (b'{"model": "\xff", "messages": [1]}', None),
}


@pytest.mark.parametrize("name", BAD)
@pytest.mark.parametrize("mode", OPENAI)
@played
async def test_a_body_that_cannot_be_read_is_400(play: Player, mode: str, name: str) -> None:
    body, param = BAD[name]
    exchange = play.exchange(mode)
    await exchange.headers()
    await exchange.body([body])
    status, error, headers = error_of(exchange)
    assert (status, error["type"], error["param"]) == (400, "invalid_request_error", param)
    assert "retry-after" not in headers
    assert exchange.request.forwarded == b""
    assert await exchange.stream.ended() == "OK"


@pytest.mark.parametrize("mode", OPENAI)
@played
async def test_what_comes_behind_a_refusal_is_lost(play: Player, mode: str) -> None:
    """Envoy may have sent on before it saw the answer."""
    exchange = play.exchange(mode)
    await exchange.headers()
    await exchange.body([b"{"])
    await exchange.stream.send(exchange.first(request_body={"body": b"more", "end_of_stream": True}))
    await exchange.stream.send(exchange.first(response_headers={}))
    assert exchange.immediate.status.code == 400
    assert await exchange.stream.ended() in CLOSED


@played
async def test_refusals_are_text_a_client_can_read(play: Player) -> None:
    """agentgateway decodes the body as UTF-8."""
    exchange = play.exchange()
    await exchange.headers(hints=[])
    await exchange.body([chat()])
    _, error, headers = error_of(exchange)
    assert error["type"] == "service_unavailable"
    assert headers["x-llm-d-request-dropped-reason"] == "rejected-no-endpoints"


@pytest.mark.parametrize("count", [1, 400])
@played
async def test_many_headers(play: Player, count: int) -> None:
    """60 KB of them, which is what Envoy takes: as good as one."""
    more = {f"x-header-{number}": "v" * (150 if count > 1 else 1) for number in range(count)}
    exchange = play.exchange()
    await exchange.headers(CHAT, more=more)
    await exchange.body([chat()])
    assert exchange.destination
    assert {name: exchange.request.headers[name] for name in more} == more


TOO_MANY = {
    "headers": {f"x-{number}": "" for number in range(1001)},
    "bytes": {f"x-{number}": "v" * 64_000 for number in range(5)},
}


@pytest.mark.parametrize("mode", [*OPENAI, "streamed", "none"])
@pytest.mark.parametrize("what", TOO_MANY)
@played
async def test_too_many_headers_are_431(play: Player, what: str, mode: str) -> None:
    exchange = play.exchange(mode)
    await exchange.headers(more=TOO_MANY[what])
    if mode == "duplex":
        await exchange.take()
    assert error_of(exchange)[0] == 431
    assert await exchange.stream.ended() == "OK"


@played
async def test_resets_do_not_cost_the_connection(play: Player) -> None:
    """Envoy resets every stream; libnghttp2's own limit would say GOAWAY after a thousand."""
    for _ in range(30):
        exchanges = [play.exchange() for _ in range(50)]
        for exchange in exchanges:
            await exchange.headers(end=True)
            assert exchange.destination
        for exchange in exchanges:
            exchange.stream.cancel()
    exchange = play.exchange()
    await exchange.headers(end=True)
    assert exchange.destination
    await exchange.finish()
    await play.admin.idle()
