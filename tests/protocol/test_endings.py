"""Streams that end, in any way, at any time: what was booked is released once, and every request is counted once."""

import pytest

from tests.protocol.play import DESTINATION, Exchange
from tests.protocol.player import Player, chat, model, played

ANSWER = b'{"usage": {"prompt_tokens": 7, "completion_tokens": 2}}'
PHASES = (
    "nothing",
    "request headers",
    "part of the body",
    "the request",
    "response headers",
    "part of it",
    "the whole",
)
ENDS = ("half-closed", "reset")
MODES = ("duplex", "buffered", "streamed", "none")
FAILED = "inference_objective_request_error_total"
COUNTED = "inference_objective_request_total"
PICKS = "picker_endpoint_picks_total"


async def _until(exchange: Exchange, phase: str, name: str) -> None:
    """An exchange as far as that."""
    reached = PHASES.index(phase)
    if reached >= 1:
        await exchange.headers()
    if reached == 2:
        is_whole = exchange.request.mode in (2, 3)
        if not is_whole:
            await exchange.body([chat(name=name)[:9]], ending="open")
    if reached >= 3:
        await exchange.body([chat(name=name)])
    if reached == 4:
        await exchange.answer_headers()
    if reached == 5:
        await exchange.answer_headers()
        if exchange.response.mode not in (0, 2, 3):
            await exchange.answer_chunk(ANSWER[:9])
    if reached == 6:
        await exchange.answer(200, [ANSWER])


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("mode", MODES)
@played
async def test_what_was_booked_is_released(play: Player, mode: str, end: str, phase: str) -> None:
    exchange = play.exchange(mode, mode)
    await _until(exchange, phase, "ended")
    if end == "reset":
        exchange.stream.cancel()
        assert await exchange.stream.ended() == "CANCELLED"
    else:
        assert await exchange.finish() == "OK"
    await play.admin.idle()


@pytest.mark.parametrize("end", ENDS)
@played
async def test_a_request_that_ends_well_is_counted_once(play: Player, end: str) -> None:
    name = model()
    exchange = play.exchange()
    await _until(exchange, "the whole", name)
    exchange.complete()
    if end == "reset":
        exchange.stream.cancel()
    else:
        await exchange.finish()
    await play.admin.becomes(COUNTED, 1, model_name=name)
    await play.admin.idle()
    assert await play.admin.total(COUNTED, model_name=name) == 1
    assert await play.admin.total(FAILED, model_name=name) == 0
    assert await play.admin.total("inference_objective_output_tokens_sum", model_name=name) == 2


@pytest.mark.parametrize("phase", ["response headers", "part of it"])
@played
async def test_a_client_that_leaves_is_counted_as_such(play: Player, phase: str) -> None:
    name = model()
    for reached in ("the whole", phase):  # a model gets figures of its own when one of its requests has gone well
        exchange = play.exchange()
        await _until(exchange, reached, name)
        exchange.stream.cancel()
        await play.admin.idle()
    await play.admin.becomes(FAILED, 1, model_name=name, error_code="Canceled")
    assert await play.admin.total(COUNTED, model_name=name) == 2


@played
async def test_what_is_under_way_is_booked_once(play: Player) -> None:
    target = "10.0.0.1:8001"
    before = await play.admin.total(PICKS, endpoint=target)
    exchange = play.exchange()
    await exchange.headers(hints=[target])
    await exchange.body([chat("x" * 4000)])
    booked = (await play.admin.endpoints())[target]
    assert (booked["requests"], booked["prefill_tokens"] > 0) == (1, True)
    await exchange.answer_headers(200, kind="text/event-stream")
    await exchange.answer_chunk(b'data: {"choices": []}\n\n')
    begun = (await play.admin.endpoints())[target]
    assert (begun["requests"], begun["prefill_tokens"]) == (1, 0)
    await exchange.finish()
    await play.admin.idle()
    assert await play.admin.total(PICKS, endpoint=target) == before + 1


@pytest.mark.parametrize("status", [200, 503])
@pytest.mark.parametrize("phase", ["request headers", "part of the body"])
@played
async def test_a_local_reply_in_place_of_the_request(play: Player, phase: str, status: int) -> None:
    """Envoy 1.40 shows its own 413 and 503 as responses, whatever has become of the request."""
    exchange = play.exchange()
    await _until(exchange, phase, "ended")
    exchange.request.headers_answered = True  # nobody waits for it any more
    await exchange.answer(status, [b"local"], kind="text/plain")
    assert exchange.response.forwarded == b"local"
    assert await exchange.finish() == "OK"
    await play.admin.idle()


@played
async def test_a_local_reply_behind_the_pick(play: Player) -> None:
    """A connection that was refused: 503 of the gateway, with nothing in it."""
    exchange = play.exchange()
    await _until(exchange, "the request", "ended")
    await exchange.answer(503, ending="headers")
    assert await exchange.finish() == "OK"
    await play.admin.idle()


@played
async def test_the_stream_of_a_refused_request_is_closed(play: Player) -> None:
    """By the server: the gateway has its answer."""
    exchange = play.exchange()
    await exchange.headers()
    await exchange.body([b"{"])
    assert exchange.immediate.status.code == 400
    assert await exchange.stream.ended() == "OK"
    await play.admin.idle()


GARBAGE = {
    "no message": b"\xff\xff\xff\xff",
    "an empty one": b"",
    "a body first": {"request_body": {"body": b"x", "end_of_stream": True}},
    "trailers first": {"request_trailers": {}},
    "a response's body first": {"response_body": {"body": b"x"}},
}


@pytest.mark.parametrize("name", GARBAGE)
@played
async def test_nonsense_ends_with_an_error(play: Player, name: str) -> None:
    """Never as if all were well: a gateway would go on with an empty body."""
    exchange = play.exchange()
    what = GARBAGE[name]
    await exchange.stream.send(exchange.first(**what) if isinstance(what, dict) else what)
    assert await exchange.stream.ended() == "INVALID_ARGUMENT"
    await play.admin.idle()


@pytest.mark.parametrize("phase", PHASES[1:])
@played
async def test_nonsense_under_way_releases_what_was_booked(play: Player, phase: str) -> None:
    exchange = play.exchange()
    await _until(exchange, phase, "ended")
    await exchange.stream.send(b"\xff\xff\xff\xff")
    assert await exchange.stream.ended() == "INVALID_ARGUMENT"
    await play.admin.idle()


@pytest.mark.parametrize("mode", MODES)
@played
async def test_a_response_alone(play: Player, mode: str) -> None:
    """The gateway answered before it asked (another filter): nothing to pick, all passes."""
    exchange = play.exchange(mode, mode)
    await exchange.answer(403, [b"forbidden"], kind="text/plain")
    assert exchange.response.is_complete
    assert DESTINATION not in exchange.response.set
    assert await exchange.finish() == "OK"
    await play.admin.idle()
