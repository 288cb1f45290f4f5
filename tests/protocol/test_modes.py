"""Every body mode in each direction, every way a body ends: replies as the mode wants them, no byte lost."""

import itertools

import pytest

from tests.protocol.play import MODES
from tests.protocol.player import Player, chat, played

BODY = chat("hello " * 50, stream=True)
ANSWER = b'{"choices": [{"message": {"content": "hello"}}]}'
CUTS = {"one": [BODY], "three": [BODY[:7], BODY[7:90], BODY[90:]], "with empty ones": [b"", BODY[:50], b"", BODY[50:]]}
REQUEST_ENDINGS = ("headers", "chunk", "empty", "trailers")
RESPONSE_ENDINGS = ("headers", "chunk", "empty", "trailers")


@pytest.mark.parametrize("response", MODES)
@pytest.mark.parametrize("request_mode", MODES)
@played
async def test_every_ending(play: Player, request_mode: str, response: str) -> None:
    """Of requests and responses, each with each."""
    for ends, answers in itertools.product(REQUEST_ENDINGS, RESPONSE_ENDINGS):
        exchange = play.exchange(request_mode, response)
        await exchange.headers(end=ends == "headers")
        if ends != "headers":
            await exchange.body(CUTS["three"], ending=ends)
        await exchange.answer(200, [ANSWER[:9], ANSWER[9:]], ending=answers)
        exchange.complete()
        assert await exchange.finish() == "OK", (ends, answers)


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("mode", MODES)
@played
async def test_however_a_body_is_cut(play: Player, mode: str, cut: str) -> None:
    exchange = play.exchange(mode, "duplex")
    await exchange.headers()
    await exchange.body(CUTS[cut], ending="empty")
    await exchange.answer(200, [ANSWER])
    exchange.complete()
    assert await exchange.finish() == "OK"


@pytest.mark.parametrize("mode", MODES)
@played
async def test_the_reply_that_carries_the_pick(play: Player, mode: str) -> None:
    """The headers', but in the buffered modes the body's, for the body is read first."""
    exchange = play.exchange(mode)
    await exchange.headers()
    picked_early = bool(exchange.request.metadata)
    assert picked_early == (mode in ("streamed", "none"))
    await exchange.body([BODY])
    assert exchange.destination


@played
async def test_a_gateway_that_says_no_mode_is_in_full_duplex(play: Player) -> None:
    exchange = play.exchange()
    exchange._is_first = False  # so that no protocol_config is sent
    await exchange.headers()
    await exchange.body([BODY], ending="empty")
    await exchange.answer(200, [ANSWER])
    exchange.complete()


@pytest.mark.parametrize("mode", ["duplex", "streamed"])
@played
async def test_a_second_end_of_the_body_is_let_be(play: Player, mode: str) -> None:
    """As some Envoys send for bodies of a megabyte and more."""
    exchange = play.exchange(mode)
    await exchange.headers()
    await exchange.body([BODY], ending="chunk")
    exchange.request.sends(b"")
    await exchange.stream.send(exchange.first(request_body={"body": b"", "end_of_stream": True}))
    if mode == "streamed":
        await exchange.take()
    await exchange.answer(200, [ANSWER])
    assert (exchange.immediate, exchange.request.forwarded, exchange.destination != "") == (None, BODY, True)
    assert await exchange.finish() == "OK"


@played
async def test_a_body_of_no_bytes(play: Player) -> None:
    """By a path picker does not read; an OpenAI request without a body is refused."""
    for ending in ("chunk", "empty", "trailers"):
        exchange = play.exchange()
        await exchange.headers("/x")
        await exchange.body([b""], ending=ending)
        await exchange.answer(200, [ANSWER])
        exchange.complete()


@pytest.mark.parametrize("mode", MODES)
@played
async def test_chunks_of_a_stream_pass_one_by_one(play: Player, mode: str) -> None:
    """None waits for the next: a token that is held is latency."""
    events = [b'data: {"choices":[{"delta":{"content":"%d"}}]}\n\n' % number for number in range(10)]
    exchange = play.exchange("duplex", mode)
    await exchange.headers()
    await exchange.body([BODY])
    await exchange.answer_headers(200, kind="text/event-stream")
    if mode in ("duplex", "streamed"):
        for event in events:
            await exchange.answer_chunk(event)
        assert exchange.response.forwarded == b"".join(events)


@pytest.mark.parametrize("size", [61_999, 62_000, 62_001, 5 << 20], ids=str)
@pytest.mark.parametrize("mode", MODES)
@played
async def test_large_bodies(play: Player, mode: str, size: int) -> None:
    """Also above gRPC's default limit of 4 MiB in one message, where the mode sends it in one."""
    body = chat("x" * (size - len(chat(""))))
    assert len(body) == size
    exchange = play.exchange(mode, mode)
    await exchange.headers()
    await exchange.body([body[at : at + 65_536] for at in range(0, size, 65_536)], ending="empty")
    await exchange.answer(200, [body], ending="chunk")
    exchange.complete()
    assert await exchange.finish() == "OK"


@played
async def test_chunks_given_back_are_no_larger_than_gateways_take(play: Player) -> None:
    """62,000 bytes each: connection buffers hold 64 KiB."""
    exchange = play.exchange()
    await exchange.headers()
    await exchange.body([chat("x" * 300_000)])
    assert exchange.request.replies == 1 + -(-len(exchange.request.sent) // 62_000)


@played
async def test_nothing_is_answered_before_the_body_is_whole(play: Player) -> None:
    """Of an API that is read: the pick needs the prompt. So the first reply comes behind the last byte."""
    exchange = play.exchange()
    await exchange.headers()
    await exchange.body([bytes([byte]) for byte in BODY[:-1]], ending="open")
    assert exchange.request.replies == 0
    await exchange.body([BODY[-1:]])
    exchange.destination  # noqa: B018  header and metadata agree
    assert exchange.request.forwarded == BODY


@played
async def test_many_streams_do_not_mix(play: Player) -> None:
    """Interleaved message by message."""
    exchanges = [play.exchange() for _ in range(30)]
    bodies = [chat(f"prompt {number}", name=f"m{number}") for number in range(30)]
    for exchange in exchanges:
        await exchange.headers()
    for exchange, body in zip(exchanges, bodies, strict=True):
        await exchange.body([body[:20]], ending="open")
    for exchange, body in zip(reversed(exchanges), reversed(bodies), strict=True):
        await exchange.body([body[20:]], ending="empty")
        assert exchange.request.forwarded == body
    for exchange in exchanges:
        await exchange.answer(200, [ANSWER])
        exchange.complete()
        assert await exchange.finish() == "OK"
