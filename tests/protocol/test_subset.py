"""The gateway's subset hint, in every form gateways send it: what it names may be picked, and nothing else."""

import itertools
from typing import Any

import pytest

from tests.protocol.play import subset
from tests.protocol.player import Player, chat, error_of, played

FIRST, SECOND, OTHER, SIXTH = "10.0.0.1:8000", "10.0.0.1:8001", "10.0.0.2:8000", "[fd00::3]:8000"
FORMS: dict[str, tuple[Any, set[str]]] = {
    "a list": ([SECOND], {SECOND}),
    "a list of two": ([SECOND, OTHER], {SECOND, OTHER}),
    "a comma string": (f"{SECOND},{OTHER}", {SECOND, OTHER}),
    "a comma string with blanks": (f" {SECOND} ,, {OTHER} ", {SECOND, OTHER}),
    "comma strings in a list": ([f"{FIRST},{OTHER}", SECOND], {FIRST, SECOND, OTHER}),
    "an address, all ports": (["10.0.0.1"], {FIRST, SECOND}),
    "an address as a string": ("10.0.0.1", {FIRST, SECOND}),
    "IPv6 with a port": (["[fd00::3]:8000"], {SIXTH}),
    "IPv6 in brackets": (["[fd00::3]"], {SIXTH}),
    "IPv6 bare": (["fd00::3"], {SIXTH}),
    "IPv6 as a string": ("[fd00::3]:8000,10.0.0.2", {SIXTH, OTHER}),
    "some that are not there": (["10.9.9.9:8000", OTHER, "nonsense"], {OTHER}),
    "some that are no text": ([1, None, OTHER, True, {"a": "b"}], {OTHER}),
}
NOTHING: dict[str, Any] = {
    "an empty list": [],
    "an empty string": "",
    "nothing that is there": ["10.9.9.9:8000"],
    "another port of an endpoint": ["10.0.0.1:9999"],
    "no text at all": [1, 2],
    "a number": 1,
    "null": [None],
    "a struct": {"a": OTHER},
}
ROUNDS = 4


async def _pick(play: Player, hints: object, *, end: bool, mode: str = "duplex") -> Any:
    exchange = play.exchange(mode)
    await exchange.headers(hints=hints, end=end)
    if not end:
        await exchange.body([chat()])
    if not exchange.stopped:
        await exchange.answer(200, [b"{}"])
    return exchange


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("end", [True, False], ids=["headers only", "with a body"])
@played
async def test_only_what_is_named_is_picked(play: Player, end: bool, form: str) -> None:
    hints, named = FORMS[form]
    for _ in range(ROUNDS):
        assert (await _pick(play, hints, end=end)).destination in named


@pytest.mark.parametrize("form", NOTHING)
@pytest.mark.parametrize("end", [True, False], ids=["headers only", "with a body"])
@played
async def test_a_hint_that_leaves_nothing_is_503(play: Player, end: bool, form: str) -> None:
    status, error, headers = error_of(await _pick(play, NOTHING[form], end=end))
    assert (status, error["code"]) == (503, "no_endpoint")
    assert int(headers["retry-after"]) >= 1


@pytest.mark.parametrize("mode", ["duplex", "buffered", "partial", "streamed", "none"])
@played
async def test_in_every_mode(play: Player, mode: str) -> None:
    assert (await _pick(play, [SECOND], end=False, mode=mode)).destination == SECOND
    assert (await _pick(play, [], end=False, mode=mode)).immediate.status.code == 503


@played
async def test_without_a_hint_the_whole_pool_is_there(play: Player) -> None:
    """Requests under way push the next ones elsewhere, so all endpoints come up."""
    for target in (FIRST, SECOND, OTHER, SIXTH):  # an answer brings back what an earlier test has had ejected
        await _pick(play, [target], end=True)
    exchanges = [play.exchange() for _ in range(24)]
    for number, exchange in enumerate(exchanges):
        await exchange.headers()
        await exchange.body([chat(f"{number} " * 3000)])
    assert {exchange.destination for exchange in exchanges} == {FIRST, SECOND, OTHER, SIXTH}
    for exchange in exchanges:
        await exchange.answer(200, [b"{}"])


@pytest.mark.parametrize("namespace", ["envoy.lb", "other"])
@played
async def test_a_hint_in_another_namespace_is_none(play: Player, namespace: str) -> None:
    exchange = play.exchange()
    message = exchange.first(request_headers={"end_of_stream": True})
    message.metadata_context.filter_metadata[namespace].update({"x-gateway-destination-endpoint-subset": []})
    message.request_headers.headers.headers.add(key=":path", raw_value=b"/v1/models")
    exchange.request.headers_sent = exchange.request.end_sent = exchange.request.end_answered = True
    await exchange.stream.send(message)
    await exchange.take()
    assert exchange.destination


@played
async def test_a_hint_that_comes_with_the_body(play: Player) -> None:
    """Gateways repeat metadata with each message; some have it only later."""
    for pieces in ([b"", chat()], [chat()[:5], chat()[5:]]):
        exchange = play.exchange()
        await exchange.headers()
        for number, piece in enumerate(pieces):
            message = exchange.first(request_body={"body": piece, "end_of_stream": number == 1})
            subset(message, [SECOND])
            exchange.request.sends(piece)
            exchange.request.end_sent = number == 1
            await exchange.stream.send(message)
        while not exchange.request.is_complete and not exchange.stopped:
            await exchange.take()
        assert exchange.destination == SECOND


@played
async def test_a_client_cannot_send_one(play: Player) -> None:
    """The header of the same name is nobody's hint."""
    for end, value in itertools.product((True, False), ("10.9.9.9:8000", SECOND)):
        exchange = play.exchange()
        await exchange.headers(more={"x-gateway-destination-endpoint-subset": value}, hints=[OTHER], end=end)
        if not end:
            await exchange.body([chat()])
        assert exchange.destination == OTHER
