"""A model under another name: spliced into the body, everything else byte for byte; restored in the answer.

The rules are those of resources.yaml.
"""

import json

import pytest

from tests.protocol.play import CHAT
from tests.protocol.player import Player, chat, played

HEADERS = ("x-gateway-model-name-rewrite", "x-llm-d-model-name-rewrite")
MODES = ("duplex", "buffered")
BODIES = {
    "compact": b'{"model":"NAME","messages":[{"role":"user","content":"hi"}],"seed":12345678901234567890}',
    "odd spacing": b'{ "messages" : [ {"content":"hi","role":"user"} ] ,\n\t"model" :\t"NAME" , "temperature":1.0 }',
    "model last": b'{"messages":[{"role":"user","content":"\\"model\\":\\"NAME\\""}],"model":"NAME"}',
    "the name elsewhere": b'{"metadata":{"model":"NAME"},"user":"NAME","model":"NAME","messages":[{"role":"user"}]}',
    "escapes": b'{"model":"NAM\\u0045","messages":[{"role":"user","content":"\\u00e9\xc3\xa9\\/"}]}',
}


def spliced(body: bytes, old: str, new: str) -> bytes:
    """The body with its own model's value replaced, by hand: where the value stands is found by a marker."""
    if b"NAM\\u0045" in body:
        return body.replace(b"NAM\\u0045", new.encode())
    parsed = json.loads(body)
    assert parsed["model"] == "NAME"
    at = [i for i in range(len(body)) if body.startswith(b'"NAME"', i)]
    for start in at:
        tried = body[:start] + b'"MARK"' + body[start + 6 :]
        if json.loads(tried)["model"] == "MARK":
            body = tried
    return body.replace(b'"MARK"', json.dumps(new).encode()).replace(b"NAME", old.encode())


@pytest.mark.parametrize("name", BODIES)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("header", HEADERS)
@played
async def test_by_header(play: Player, header: str, mode: str, name: str) -> None:
    client, target = "asked-for", "another/model-7b"
    body = BODIES[name].replace(b"NAME", client.encode()) if b"NAM\\u0045" not in BODIES[name] else BODIES[name]
    wanted = spliced(BODIES[name], client, target)
    exchange = play.exchange(mode)
    await exchange.headers(more={header: target, "content-length": str(len(body))})
    await exchange.body([body[:11], body[11:]])
    assert bytes(exchange.request.forwarded) == wanted
    assert header not in exchange.request.headers
    if mode == "buffered":
        assert exchange.request.headers["content-length"] == str(len(wanted))


RULES = {"alias": {"the-real-model"}, "short": {"s"}, "split": {"split-a", "split-b"}, "no-rule": {"no-rule"}}


@pytest.mark.parametrize("client", RULES)
@pytest.mark.parametrize("mode", MODES)
@played
async def test_by_rule(play: Player, mode: str, client: str) -> None:
    """The oldest object's first rule; weighted; of another pool's nothing."""
    seen, targets = set(), RULES[client]
    for _ in range(1 if len(targets) == 1 else 40):
        exchange = play.exchange(mode)
        await exchange.headers()
        await exchange.body([chat(name=client)])
        target = json.loads(bytes(exchange.request.forwarded))["model"]
        assert exchange.request.forwarded == chat(name=target)
        seen.add(target)
        await exchange.finish()
    assert seen == targets


@played
async def test_a_rule_wins_over_the_header(play: Player) -> None:
    exchange = play.exchange()
    await exchange.headers(more={HEADERS[0]: "of-the-header"})
    await exchange.body([chat(name="alias")])
    assert exchange.request.forwarded == chat(name="the-real-model")


@pytest.mark.parametrize("end", [True, False], ids=["headers only", "with a body"])
@pytest.mark.parametrize("mode", ["duplex", "buffered", "streamed", "none"])
@played
async def test_the_header_goes_no_further(play: Player, mode: str, end: bool) -> None:
    exchange = play.exchange(mode)
    await exchange.headers("/x", more=dict.fromkeys(HEADERS, "other"), end=end)
    if not end:
        await exchange.body([b"not JSON"])
    assert exchange.destination
    assert not set(HEADERS) & exchange.request.headers.keys()


WHOLE = b'{"id": 1, "model": "the-real-model", "choices": [{"text": "\\"model\\": \\"the-real-model\\""}]}'
STREAM = (
    b'data: {"model":"the-real-model","choices":[{"delta":{"content":"the-real-model"}}]}\n\n'
    b'data: {"model": "the-real-model", "choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 2}}\n\n'
    b"data: [DONE]\n\n"
)
RESTORED = {
    "application/json": (WHOLE, WHOLE.replace(b"the-real-model", b"alias", 1)),
    "text/event-stream": (STREAM, STREAM.replace(b'l":"the-real-model"', b'l":"alias"').replace(
        b'l": "the-real-model"', b'l": "alias"')),
}  # fmt: skip


async def _restored(play: Player, kind: str, pieces: list[bytes], mode: str, ending: str = "chunk") -> bytes:
    exchange = play.exchange("duplex", mode)
    await exchange.headers(CHAT)
    await exchange.body([chat(name="alias")])
    await exchange.answer(200, pieces, kind=kind, ending=ending)
    assert exchange.response.is_complete
    assert await exchange.finish() == "OK"
    return bytes(exchange.response.forwarded)


@pytest.mark.parametrize("mode", ["duplex", "buffered", "streamed"])
@pytest.mark.parametrize("kind", RESTORED)
@played
async def test_the_client_reads_its_own_name(play: Player, kind: str, mode: str) -> None:
    text, wanted = RESTORED[kind]
    assert await _restored(play, kind, [text], mode, "chunk" if mode != "duplex" else "empty") == wanted


@pytest.mark.parametrize("kind", RESTORED)
@played
async def test_wherever_the_answer_is_cut(play: Player, kind: str) -> None:
    text, wanted = RESTORED[kind]
    for at in range(1, min(len(text), 140)):
        assert await _restored(play, kind, [text[:at], text[at:]], "duplex", "chunk") == wanted
    assert await _restored(play, kind, [bytes([byte]) for byte in text], "duplex", "trailers") == wanted


@played
async def test_content_length_follows_what_is_restored(play: Player) -> None:
    """In BUFFERED, where it would still be the model server's."""
    exchange = play.exchange("duplex", "buffered")
    await exchange.headers(CHAT)
    await exchange.body([chat(name="alias")])
    await exchange.answer(200, [WHOLE], more={"content-length": str(len(WHOLE))})
    assert exchange.response.headers["content-length"] == str(len(exchange.response.forwarded))


@played
async def test_who_asked_for_the_model_itself_reads_its_name(play: Player) -> None:
    exchange = play.exchange()
    await exchange.headers(CHAT)
    await exchange.body([chat(name="the-real-model")])
    await exchange.answer(200, [WHOLE])
    assert exchange.response.forwarded == WHOLE


@played
async def test_it_is_counted_under_both_names(play: Player) -> None:
    labels = {"model_name": "alias", "target_model_name": "the-real-model"}
    before = await play.admin.total("inference_objective_request_total", **labels)
    await _restored(play, "application/json", [WHOLE], "duplex")
    await play.admin.becomes("inference_objective_request_total", before + 1, **labels)
