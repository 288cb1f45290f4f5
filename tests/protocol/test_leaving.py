"""What leaves: the destination, and nothing else that was not changed. Control headers of a client go no further."""

import pytest

from tests.protocol.play import DESTINATION, MODES, SERVED, SUBSET
from tests.protocol.player import Player, chat, played

ENDPOINTS = ("10.0.0.1:8000", "10.0.0.1:8001", "10.0.0.2:8000", "[fd00::3]:8000")
CONTROL = {
    DESTINATION: "6.6.6.6:80",
    SUBSET: "6.6.6.6",
    SERVED: "6.6.6.6:80",
    "x-gateway-inference-objective": "high",
    "x-llm-d-inference-objective": "high",
    "x-gateway-inference-fairness-id": "me",
    "x-llm-d-inference-fairness-id": "me",
    **dict.fromkeys(("x-slo-ttft-ms", "x-slo-tpot-ms", "x-llm-d-slo-ttft-ms", "x-llm-d-slo-tpot-ms"), "1"),
    **{f"x-llm-d-video-{what}": "1" for what in ("fps", "duration-seconds", "resolution")},
    "epp-profile": "mine",
    "x-llm-d-request-dropped-reason": "none",
    "x-prefiller-host-port": "6.6.6.6:80",
    "x-encoder-hosts-ports": "6.6.6.6:80",
    "x-data-parallel-host-port": "6.6.6.6:80",
    "x-kv-cache-source-host-port": "6.6.6.6:80",
}
"""Headers by which a client could steer. Those of the rewrite are in test_rewrite.py."""
INNOCENT = {
    "content-type": "application/json",
    "authorization": "Bearer secret",
    "x-request-id": "1",
    "x-gateway-model-name": "m",
    "accept": "text/event-stream",
}
PATHS = {"an API that is read": "/v1/chat/completions", "any other": "/x"}


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("end", [True, False], ids=["headers only", "with a body"])
@pytest.mark.parametrize("mode", MODES)
@played
async def test_control_headers_go_no_further(play: Player, mode: str, end: bool, path: str) -> None:
    exchange = play.exchange(mode)
    await exchange.headers(PATHS[path], more=CONTROL | INNOCENT, end=end)
    if not end:
        await exchange.body([chat()], ending="trailers" if mode != "none" else "chunk")
    assert exchange.destination in ENDPOINTS
    left = {name: value for name, value in exchange.request.headers.items() if not name.startswith(":")}
    assert left == INNOCENT | {DESTINATION: exchange.destination}


@pytest.mark.parametrize("end", [True, False], ids=["headers only", "with a body"])
@pytest.mark.parametrize("mode", MODES)
@played
async def test_only_what_changes_is_set(play: Player, mode: str, end: bool) -> None:
    body = chat()
    exchange = play.exchange(mode)
    length = {"content-length": str(len(body))}
    await exchange.headers(more=INNOCENT | ({} if end else length), end=end)
    if not end:
        await exchange.body([body])
    assert exchange.request.set.keys() == {DESTINATION}
    assert exchange.request.removed == []


@pytest.mark.parametrize("mode", MODES)
@played
async def test_the_response_goes_on_as_it_came(play: Player, mode: str) -> None:
    """No header is set, none removed: no debug header, no transfer-encoding, no upstream header a second time."""
    more = {"transfer-encoding": "chunked", "x-request-id": "1", "server": "vllm", "x-went-into-resp-headers": "0"}
    for kind in ("application/json", "text/event-stream"):
        exchange = play.exchange("duplex", mode)
        await exchange.headers()
        await exchange.body([chat()])
        await exchange.answer(200, [b"{}"], kind=kind, more=more)
        exchange.complete()
        assert (exchange.response.set, exchange.response.removed, exchange.response.metadata) == ({}, [], {})


@pytest.mark.parametrize("mode", MODES)
@played
async def test_transfer_encoding_is_never_set(play: Player, mode: str) -> None:
    exchange = play.exchange(mode, mode)
    await exchange.headers(more={"transfer-encoding": "chunked"})
    await exchange.body([chat()])
    await exchange.answer(200, [b"{}"], more={"transfer-encoding": "chunked"})
    exchange.complete()
    assert "transfer-encoding" not in {**exchange.request.set, **exchange.response.set}


@pytest.mark.parametrize("mode", MODES)
@played
async def test_content_length_stays_as_it_is_where_the_body_does(play: Player, mode: str) -> None:
    body = chat()
    exchange = play.exchange(mode)
    await exchange.headers(more={"content-length": str(len(body))})
    await exchange.body([body])
    assert exchange.request.headers["content-length"] == str(len(body))


@pytest.mark.parametrize("end", [True, False], ids=["headers only", "with a body"])
@pytest.mark.parametrize("mode", MODES)
@played
async def test_one_destination_in_header_and_metadata_of_one_reply(play: Player, mode: str, end: bool) -> None:
    exchange = play.exchange(mode)
    await exchange.headers(end=end)
    if not end:
        await exchange.body([chat()])
    assert exchange.destination in ENDPOINTS  # which demands that both agree
    assert exchange.request.metadata == {"envoy.lb": {DESTINATION: exchange.destination}}


@pytest.mark.parametrize("end", [True, False], ids=["headers only", "with a body"])
@played
async def test_ipv6_is_bracketed(play: Player, end: bool) -> None:
    exchange = play.exchange()
    await exchange.headers(hints=["[fd00::3]:8000"], end=end)
    if not end:
        await exchange.body([chat()])
    assert exchange.destination == "[fd00::3]:8000"


@pytest.mark.parametrize("raw", [True, False], ids=["raw_value", "value"])
@played
async def test_header_values_in_either_field(play: Player, raw: bool) -> None:
    """agentgateway sends pseudo-headers in `value`, all else in `raw_value`."""
    exchange = play.exchange()
    message = exchange.first(request_headers={})
    for key, value in ((":method", "POST"), (":path", "/v1/chat/completions")):
        message.request_headers.headers.headers.add(
            key=key, **({"raw_value": value.encode()} if raw else {"value": value})
        )
    await exchange.stream.send(message)
    exchange.request.headers_sent = True
    await exchange.body([b'{"model": "m"}'])
    assert exchange.immediate.status.code == 400, "the path was not read: a chat without messages is refused"
