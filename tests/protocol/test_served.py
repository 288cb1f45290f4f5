"""The served endpoint, where the gateway tells it: what counts for the books is who answered, not who was picked."""

import pytest

from tests.protocol.player import Player, chat, played

PICKED, OTHER = "10.0.0.1:8000", "10.0.0.2:8000"


@pytest.mark.parametrize("mode", ["duplex", "buffered", "streamed"])
@pytest.mark.parametrize("served", [OTHER, PICKED, "", "10.9.9.9:1", "nonsense"])
@played
async def test_who_answered_is_who_is_charged(play: Player, served: str, mode: str) -> None:
    """One that is not of the pool is charged nothing, and neither is who did not answer; nonsense changes nothing."""
    exchange = play.exchange("duplex", mode)
    await exchange.headers(hints=[PICKED])
    await exchange.body([chat()])
    await exchange.answer_headers(200, kind="text/event-stream", served=served)
    requests = {name: entry["requests"] for name, entry in (await play.admin.endpoints()).items() if entry["requests"]}
    assert requests == {name: 1 for name in (served if ":" in served else PICKED,) if name in (OTHER, PICKED)}
    await exchange.finish()
    await play.admin.idle()


@played
async def test_a_failure_is_that_of_who_answered(play: Player) -> None:
    """Three 503 in a row of OTHER eject OTHER, though PICKED was picked."""
    for _ in range(3):
        exchange = play.exchange()
        await exchange.headers(hints=[PICKED])
        await exchange.body([chat()])
        await exchange.answer(503, [b"busy"], served=OTHER)
        await exchange.finish()
    await play.admin.idle()
    assert (await play.admin.endpoints())[OTHER]["ejected"]
    exchange = play.exchange()  # and an answer brings it back
    await exchange.headers(hints=[OTHER])
    await exchange.body([chat()])
    await exchange.answer(200, [b"{}"])
    await exchange.finish()
    await play.admin.idle()
    assert not (await play.admin.endpoints())[OTHER]["ejected"]
