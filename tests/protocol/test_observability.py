"""`observability_mode`: the gateway only shows; nothing is answered, picked or booked."""

import pytest

from tests.protocol.play import CLOSED, headers_of
from tests.protocol.player import Player, chat, played

PATH = (":path", "/v1/chat/completions")


@pytest.mark.parametrize("mode", ["duplex", "buffered", "streamed", "none"])
@played
async def test_nothing_is_answered(play: Player, mode: str) -> None:
    before = await play.admin.total("inference_extension_scheduler_attempts_total")
    exchange = play.exchange(mode, mode)
    messages = [
        exchange.first(request_headers=headers_of([PATH])),
        exchange.first(request_body={"body": chat(), "end_of_stream": True}),
        exchange.first(response_headers=headers_of([(":status", "200")])),
        exchange.first(response_body={"body": b"{}", "end_of_stream": True}),
    ]
    for message in messages:
        message.observability_mode = True
        await exchange.stream.send(message)
    assert await exchange.finish() in CLOSED  # which demands that there was no reply
    await play.admin.idle()
    assert await play.admin.total("inference_extension_scheduler_attempts_total") == before


@played
async def test_not_even_what_would_be_refused(play: Player) -> None:
    exchange = play.exchange()
    for message in (
        exchange.first(request_headers=headers_of([PATH])),
        exchange.first(request_body={"body": b"{", "end_of_stream": True}),
    ):
        message.observability_mode = True
        await exchange.stream.send(message)
    assert await exchange.finish() in CLOSED


@played
async def test_the_stream_may_be_cut(play: Player) -> None:
    exchange = play.exchange()
    message = exchange.first(request_headers=headers_of([PATH]))
    message.observability_mode = True
    await exchange.stream.send(message)
    exchange.stream.cancel()
    assert await exchange.stream.ended() in ("CANCELLED", *CLOSED)
    await play.admin.idle()
