"""What a response says of itself: tokens in every form and however it is cut, times, and the class of its status."""

import json
from collections.abc import Sequence

import pytest

from tests.protocol.play import CHAT
from tests.protocol.player import Player, chat, played
from tests.protocol.server import total

MODEL = "measured"
COUNTED = "inference_objective_request_total"
INPUT, OUTPUT, CACHED = "input_tokens", "output_tokens", "prompt_cached_tokens"


def event(value: object, kind: str = "") -> bytes:
    lead = f"event: {kind}\n" if kind else ""
    return f"{lead}data: {json.dumps(value)}\n\n".encode()


OPENAI = {"prompt_tokens": 70, "completion_tokens": 9, "prompt_tokens_details": {"cached_tokens": 64}}
RESPONSES = {"input_tokens": 70, "output_tokens": 9, "input_tokens_details": {"cached_tokens": 64}}
DELTA = event({"choices": [{"delta": {"content": "x"}}]})
WHOLE = {
    "chat": (CHAT, {"usage": OPENAI}),
    "completions": ("/v1/completions", {"choices": [{"text": "{\"usage\": 1}"}], "usage": OPENAI}),
    "responses": ("/v1/responses", {"output": [], "usage": RESPONSES}),
    "messages": ("/v1/messages", {"content": [], "usage": {
        "input_tokens": 6, "cache_read_input_tokens": 64, "cache_creation_input_tokens": 0, "output_tokens": 9}}),
}  # fmt: skip
STREAMED = {
    "chat": (CHAT, [DELTA, DELTA, event({"choices": [], "usage": OPENAI}), b"data: [DONE]\n\n"]),
    "responses": ("/v1/responses", [
        event({"type": "response.output_text.delta", "delta": "x"}, "response.output_text.delta"),
        event({"type": "response.completed", "response": {"usage": RESPONSES}}, "response.completed")]),
    "messages": ("/v1/messages", [
        event({"type": "message_start", "message": {"usage": {
            "input_tokens": 6, "cache_read_input_tokens": 64, "output_tokens": 1}}}, "message_start"),
        event({"type": "content_block_delta", "delta": {"text": "x"}}, "content_block_delta"),
        event({"type": "message_delta", "delta": {}, "usage": {"output_tokens": 9}}, "message_delta"),
        event({"type": "message_stop"}, "message_stop")]),
}  # fmt: skip
BODIES = {
    CHAT: {"messages": [{"role": "user", "content": "hi"}]},
    "/v1/completions": {"prompt": "hi"},
    "/v1/responses": {"input": "hi"},
    "/v1/messages": {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 9},
}


def cuts(text: bytes) -> dict[str, list[bytes]]:
    """As a whole, byte by byte, and in two at awkward places."""
    at = text.index(b"_tokens")
    return {
        "whole": [text],
        "bytes": [text[n : n + 1] for n in range(len(text))],
        "in a name": [text[:at], text[at:]],
        "in a number": [text[: text.index(b"70") + 1], text[text.index(b"70") + 1 :]] if b"70" in text else [text],
    }


class Figures:
    """What has been added to the figures of the model of these tests."""

    def __init__(self, before: str, after: str) -> None:
        self._pages = before, after

    def __getitem__(self, name: str) -> float:
        """By the name behind `inference_objective_`."""
        before, after = (total(page, f"inference_objective_{name}", {"model_name": MODEL}) for page in self._pages)
        return after - before

    @property
    def tokens(self) -> dict[str, float]:
        return {kind: self[f"{kind}_sum"] for kind in (INPUT, OUTPUT, CACHED)}


async def _answered(
    play: Player, path: str, pieces: Sequence[bytes], kind: str, *, mode: str = "duplex", status: int = 200
) -> Figures:
    """A request to `path`, answered so; what that adds."""
    before = await play.admin.page()
    exchange = play.exchange("duplex", mode)
    await exchange.headers(path)
    await exchange.body([json.dumps({"model": MODEL, **BODIES[path]}).encode()])
    await exchange.answer(status, pieces, kind=kind, ending="empty")
    exchange.complete()
    assert await exchange.finish() == "OK"
    return Figures(before, await play.admin.becomes(COUNTED, total(before, COUNTED) + 1))


@pytest.mark.parametrize("cut", ["whole", "bytes", "in a name", "in a number"])
@pytest.mark.parametrize("api", WHOLE)
@played
async def test_of_a_whole_answer(play: Player, api: str, cut: str) -> None:
    path, answer = WHOLE[api]
    figures = await _answered(play, path, cuts(json.dumps(answer).encode())[cut], "application/json")
    assert figures.tokens == {INPUT: 70, OUTPUT: 9, CACHED: 64}


@pytest.mark.parametrize("cut", ["whole", "bytes", "in a name", "in a number"])
@pytest.mark.parametrize("api", STREAMED)
@played
async def test_of_a_stream(play: Player, api: str, cut: str) -> None:
    path, events = STREAMED[api]
    figures = await _answered(play, path, cuts(b"".join(events))[cut], "text/event-stream")
    assert figures.tokens == {INPUT: 70, OUTPUT: 9, CACHED: 64}


@pytest.mark.parametrize("mode", ["duplex", "buffered", "partial", "streamed"])
@played
async def test_in_every_mode(play: Player, mode: str) -> None:
    figures = await _answered(play, CHAT, [b"".join(STREAMED["chat"][1])], "text/event-stream", mode=mode)
    assert figures.tokens[OUTPUT] == 9


@played
async def test_every_place_an_event_can_be_cut(play: Player) -> None:
    text = b"".join(STREAMED["chat"][1])
    before = await play.admin.page()
    for at in range(1, len(text)):
        exchange = play.exchange()
        await exchange.headers()
        await exchange.body([chat(name=MODEL)])
        await exchange.answer(200, [text[:at], text[at:]], kind="text/event-stream")
        exchange.complete()
        await exchange.finish()
    requests = len(text) - 1
    figures = Figures(before, await play.admin.becomes(COUNTED, total(before, COUNTED) + requests))
    assert figures.tokens[OUTPUT] == 9 * requests


@pytest.mark.parametrize(("status", "kind"), [(200, "2xx"), (301, "3xx"), (404, "4xx"), (500, "5xx")])
@played
async def test_the_class_of_the_status(play: Player, status: int, kind: str) -> None:
    """Of `:status`, as gateways send it."""
    before = await play.admin.page()
    await _answered(play, CHAT, [b"{}"], "application/json", status=status)
    counted, labels = "picker_responses_total", {"status_class": kind}
    assert await play.admin.total(counted, **labels) == total(before, counted, labels) + 1


@played
async def test_times_are_told(play: Player) -> None:
    """To the first token, and per token after it."""
    figures = await _answered(play, CHAT, STREAMED["chat"][1], "text/event-stream")
    for what in ("request_ttft", "request_duration", "request_tpot", "normalized_time_per_output_token"):
        assert figures[f"{what}_seconds_count"] == 1, what


@played
async def test_an_answer_without_usage_counts_all_the_same(play: Player) -> None:
    figures = await _answered(play, CHAT, [b'{"choices": []}'], "application/json")
    assert figures.tokens == {INPUT: 0, OUTPUT: 0, CACHED: 0}
    assert figures["request_error_total"] == 0
