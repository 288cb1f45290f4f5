"""Thirteen places where the reference picker goes wrong; here each one is a promise, by name.

 1. Header-only requests are sent anywhere: no policy, no subset hint.
 2. Their IPv6 destination is not bracketed.
 3. Without an endpoint they are answered 500, not 503.
 4. A request with trailers hangs.
 5. A second end of stream is taken for a body of its own, and answered 400.
 6. Response headers: `transfer-encoding` is set again, and every other one, and a debug header leaks to clients.
 7. The status of responses is looked for in `status`, not `:status`.
 8. Control headers of a client reach the model server.
 9. The subset hint is matched by address alone; IPv6 in brackets never matches; what is no list counts as no hint.
10. Usage and the model's name are missed where chunks cut them.
11. A body that is changed is written anew: order of members lost, integers through floating point.
12. No body is too large: there is no 413.
13. Errors are plain text without `Retry-After`, and a refusal to admit is 500.

Each is played as a gateway would; tests/e2e/test_spoofing.py takes the eighth through a real Envoy.
"""

import json

import pytest

from tests.protocol.play import CHAT, DESTINATION
from tests.protocol.player import Player, chat, error_of, model, played
from tests.protocol.test_leaving import CONTROL

OTHER, SECOND, SIXTH = "10.0.0.2:8000", "10.0.0.1:8001", "[fd00::3]:8000"


@played
async def test_01_header_only_requests_obey_policy_and_hint(play: Player) -> None:
    """Defect: picked at random from the whole pool."""
    for target in (OTHER, SECOND, SIXTH) * 3:
        exchange = play.exchange()
        await exchange.headers("/v1/models", method="GET", end=True, hints=[target])
        assert exchange.destination == target
        await exchange.answer(200, [b"{}"])


@played
async def test_02_header_only_requests_to_ipv6_are_bracketed(play: Player) -> None:
    """Defect: address and port joined by a colon, which no gateway can read."""
    exchange = play.exchange()
    await exchange.headers("/v1/models", method="GET", end=True, hints=["fd00::3"])
    assert exchange.destination == SIXTH


@played
async def test_03_header_only_requests_without_an_endpoint_are_503(play: Player) -> None:
    """Defect: 500, as if picker had failed."""
    exchange = play.exchange()
    await exchange.headers("/v1/models", method="GET", end=True, hints=["10.9.9.9:1"])
    assert error_of(exchange)[0] == 503


@played
async def test_04_request_trailers_end_the_body(play: Player) -> None:
    """Defect: the last chunk comes without an end of stream, so the request waits for ever."""
    exchange = play.exchange()
    await exchange.headers()
    await exchange.body([chat()[:9], chat()[9:]], ending="trailers")
    assert exchange.request.trailers_answered
    assert not exchange.request.end_answered, "an end of stream that was not sent"
    assert exchange.request.forwarded == chat()
    await exchange.answer(200, [b"{}"], ending="trailers")
    exchange.complete()


@played
async def test_05_a_second_end_of_stream_is_let_be(play: Player) -> None:
    """Defect: parsed as a new body, and refused."""
    exchange = play.exchange()
    await exchange.headers()
    await exchange.body([chat("x" * (1 << 20))])
    await exchange.stream.send(exchange.first(request_body={"body": b"", "end_of_stream": True}))
    await exchange.answer(200, [b"{}"])
    exchange.complete()
    assert await exchange.finish() == "OK"


@played
async def test_06_response_headers_are_left_alone(play: Player) -> None:
    """Defect: `transfer-encoding` echoed (SSE is cut at the next HTTP/2 hop), all headers set again, a debug header."""
    exchange = play.exchange()
    await exchange.headers()
    await exchange.body([chat()])
    await exchange.answer(200, [b"data: {}\n\n"], kind="text/event-stream", more={"transfer-encoding": "chunked"})
    assert (exchange.response.set, exchange.response.removed) == ({}, [])


@played
async def test_07_the_status_is_the_pseudo_header(play: Player) -> None:
    """Defect: errors of model servers are never counted."""
    name, failed = model(), "inference_objective_request_error_total"
    for status in (200, 500):
        exchange = play.exchange()
        await exchange.headers()
        await exchange.body([chat(name=name)])
        await exchange.answer(status, [b"{}"], more={"status": "200"})
        await exchange.finish()
    await play.admin.becomes(failed, 1, model_name=name, error_code="ModelServerError")


@pytest.mark.parametrize("end", [True, False], ids=["headers only", "with a body"])
@pytest.mark.parametrize("mode", ["duplex", "buffered", "streamed", "none"])
@played
async def test_08_control_headers_reach_no_backend(play: Player, mode: str, end: bool) -> None:
    """Defect: they are not echoed, and so stay where they are."""
    exchange = play.exchange(mode)
    await exchange.headers(more=CONTROL, end=end)
    if not end:
        await exchange.body([chat()])
    assert CONTROL.keys() & exchange.request.headers.keys() == {DESTINATION}
    assert exchange.destination != CONTROL[DESTINATION]


@pytest.mark.parametrize(
    ("hint", "wanted"),
    [([SECOND], SECOND), ([SIXTH], SIXTH), (OTHER, OTHER), (f"{SIXTH}, 10.9.9.9", SIXTH)],
    ids=["by port", "IPv6 in brackets", "a string", "a comma string"],
)
@played
async def test_09_the_subset_hint_is_read_in_every_form(play: Player, hint: object, wanted: str) -> None:
    """Defect: a port is ignored, brackets never match, a string is no hint at all."""
    for _ in range(3):
        exchange = play.exchange()
        await exchange.headers(hints=hint)
        await exchange.body([chat()])
        assert exchange.destination == wanted
        await exchange.answer(200, [b"{}"])


@played
async def test_10_usage_is_found_across_chunks(play: Player) -> None:
    """Defect: only what stands in one chunk is found."""
    name = model()
    text = b'data: {"usage": {"prompt_tokens": 70, "completion_tokens": 9}}\n\ndata: [DONE]\n\n'
    exchange = play.exchange()
    await exchange.headers()
    await exchange.body([chat(name=name)])
    await exchange.answer(200, [text[:30], text[30:41], text[41:]], kind="text/event-stream")
    await exchange.finish()
    await play.admin.becomes("inference_objective_output_tokens_sum", 9, model_name=name)


@played
async def test_10_the_model_is_restored_across_chunks(play: Player) -> None:
    """Defect: replaced only where the bytes `"model":"name"` stand in one chunk."""
    text = b'data: {"model" : "the-real-model", "choices": []}\n\ndata: [DONE]\n\n'
    for at in range(1, 40):
        exchange = play.exchange()
        await exchange.headers()
        await exchange.body([chat(name="alias")])
        await exchange.answer(200, [text[:at], text[at:]], kind="text/event-stream")
        assert exchange.response.forwarded == text.replace(b"the-real-model", b"alias")


@played
async def test_11_a_rewritten_body_is_otherwise_the_same(play: Player) -> None:
    """Defect: 12345678901234567890 becomes 12345678901234567000, and members change places."""
    body = (
        b'{"z":1,"seed":12345678901234567890,"model":"alias","a":1.10,"messages":[{"role":"user","content":"\\u00e9"}]}'
    )
    exchange = play.exchange()
    await exchange.headers()
    await exchange.body([body])
    assert exchange.request.forwarded == body.replace(b"alias", b"the-real-model")


@played
async def test_12_a_body_can_be_too_large(play: Player) -> None:
    """Defect: it is gathered until memory is gone."""
    exchange = play.exchange()
    await exchange.headers()
    await exchange.body([b"x" * 65_536] * 129)
    status, error, _ = error_of(exchange)
    assert (status, error["code"]) == (413, "request_too_large")


@played
async def test_13_errors_are_json_with_retry_after(play: Player) -> None:
    """Defect: `inference error: ServiceUnavailable - …`, and nothing to go by."""
    exchange = play.exchange()
    await exchange.headers(CHAT, hints=[])
    await exchange.body([chat()])
    status, error, headers = error_of(exchange)
    assert (status, error["type"], int(headers["retry-after"]) >= 1) == (503, "service_unavailable", True)
    assert json.loads(exchange.immediate.body)


@played
async def test_13_who_is_not_admitted_hears_429(play: Player) -> None:
    """Defect: 500, for the code of the refusal is lost on its way."""
    held = [play.exchange() for _ in range(64)]
    for exchange in held:
        await exchange.headers(end=True)
    refused = play.exchange()
    await refused.headers(end=True)
    status, _, headers = error_of(refused)
    assert (status, int(headers["retry-after"]) >= 1) == (429, True)
    for exchange in held:
        await exchange.finish()
    await play.admin.idle()
