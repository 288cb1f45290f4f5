"""`responseTracking: headers | off`: who answered and how, without the body; or nothing, once there is a pick."""

import pytest

from tests.protocol.player import Player, chat, played, played_with

ANSWER = b'{"usage": {"prompt_tokens": 7, "completion_tokens": 2}}'
MODES = ("duplex", "buffered", "streamed", "none")
ENDINGS = ("chunk", "empty", "trailers")


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("mode", MODES)
@played_with("off")
async def test_off_ends_the_stream_behind_the_request(play: Player, mode: str, ending: str) -> None:
    if mode == "none":
        ending = "chunk"
    exchange = play.exchange(mode, mode)
    await exchange.headers()
    await exchange.body([chat()[:9], chat()[9:]], ending=ending)
    if mode == "none":
        assert exchange.destination
    else:
        assert exchange.request.is_complete
        assert exchange.request.forwarded == chat()
    assert await exchange.stream.ended() == "OK"
    await play.admin.idle()


@played_with("off")
async def test_off_ends_header_only_requests_at_once(play: Player) -> None:
    exchange = play.exchange()
    await exchange.headers(end=True)
    assert exchange.destination
    assert await exchange.stream.ended() == "OK"


@played_with("off")
async def test_off_refuses_as_ever(play: Player) -> None:
    exchange = play.exchange()
    await exchange.headers(hints=[])
    await exchange.body([chat()])
    assert exchange.immediate.status.code == 503
    assert await exchange.stream.ended() == "OK"


@pytest.mark.parametrize("obeys", [True, False], ids=["obeyed", "ignored"])
@pytest.mark.parametrize("mode", MODES)
@played_with("headers")
async def test_headers_asks_not_to_be_shown_the_body(play: Player, mode: str, obeys: bool) -> None:
    """Where that can be asked: not in full duplex. A gateway that does not obey loses nothing."""
    exchange = play.exchange("duplex", mode, obeys_override=obeys)
    await exchange.headers()
    await exchange.body([chat()])
    await exchange.answer(200, [ANSWER], ending="trailers" if mode == "duplex" else "chunk")
    is_asked = exchange.override is not None
    assert is_asked == (mode in ("buffered", "streamed"))
    if is_asked:
        assert exchange.override.response_body_mode == 0
        assert exchange.override.response_trailer_mode == 2
    assert exchange.response.forwarded == exchange.response.sent
    assert await exchange.finish() == "OK"
    await play.admin.idle()


@pytest.mark.parametrize("status", [200, 404, 503])
@played_with("headers")
async def test_headers_tells_who_answered_and_how(play: Player, status: int) -> None:
    picked, other = "10.0.0.1:8000", "10.0.0.2:8000"
    exchange = play.exchange()
    await exchange.headers(hints=[picked])
    await exchange.body([chat()])
    await exchange.answer_headers(status, served=other)
    requests = {name: entry["requests"] for name, entry in (await play.admin.endpoints()).items() if entry["requests"]}
    assert set(requests) <= {other}, "whoever did not answer is charged nothing"
    await exchange.finish()
    await play.admin.idle()


async def _counts_a_failure(play: Player) -> None:
    failed, kind = "inference_objective_request_error_total", "ModelServerError"
    before = await play.admin.total(failed, error_code=kind)
    exchange = play.exchange()
    await exchange.headers()
    await exchange.body([chat()])
    await exchange.answer(503, [b"busy"])
    await exchange.finish()
    await play.admin.becomes(failed, before + 1, error_code=kind)


@played
async def test_full_counts_failures(play: Player) -> None:
    await _counts_a_failure(play)


@played_with("headers")
async def test_headers_counts_failures(play: Player) -> None:
    await _counts_a_failure(play)
