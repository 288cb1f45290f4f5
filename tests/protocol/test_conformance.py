"""What conformance suites need of a picker, where its configuration asks for it; and else nothing of it."""

import pytest

from tests.protocol.player import Player, chat, played, played_with

SELECTION, VERDICT = "test-epp-endpoint-selection", "x-conformance-test-served-endpoint"
FIRST, SECOND, OTHER, SIXTH = "10.0.0.1:8000", "10.0.0.1:8001", "10.0.0.2:8000", "[fd00::3]:8000"
SELECTED = {
    OTHER: {OTHER},
    f"{SECOND}, {OTHER}": {SECOND, OTHER},
    "10.0.0.1": {FIRST, SECOND},
    f"192.168.9.9,{OTHER}": {OTHER},
    SIXTH: {SIXTH},
}


@pytest.mark.parametrize("end", [True, False], ids=["headers only", "with a body"])
@pytest.mark.parametrize("value", SELECTED)
@played_with("conformance")
async def test_a_header_says_which_endpoints(play: Player, value: str, end: bool) -> None:
    """It wins over the gateway's hint; who is not of the pool does not count; it goes no further."""
    for hints in (None, ["10.0.0.2:8000"], []):
        exchange = play.exchange()
        await exchange.headers(more={SELECTION: value}, hints=hints, end=end)
        if not end:
            await exchange.body([chat()])
        assert exchange.destination in SELECTED[value]
        await exchange.answer(200, [b"{}"])


@pytest.mark.parametrize(
    ("served", "verdict"), [(OTHER, OTHER), ("", "fail: missing envoy lb metadata")], ids=["told", "not told"]
)
@played_with("conformance")
async def test_a_header_says_who_served(play: Player, served: str, verdict: str) -> None:
    exchange = play.exchange()
    await exchange.headers()
    await exchange.body([chat()])
    await exchange.answer(200, [b"{}"], served=served)
    assert exchange.response.set == {VERDICT: verdict}


@played
async def test_none_of_it_unasked(play: Player) -> None:
    """Any client could choose its endpoint."""
    exchange = play.exchange()
    await exchange.headers(more={SELECTION: SECOND}, hints=[OTHER])
    await exchange.body([chat()])
    assert exchange.destination == OTHER
    await exchange.answer(200, [b"{}"], served=OTHER)
    assert exchange.response.set == {}
