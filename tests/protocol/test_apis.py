"""Every API a client may call: picked, given back byte for byte, and known again when it comes a second time."""

import json
from dataclasses import dataclass
from typing import Any

import pytest

from tests.protocol.player import Player, error_of, played

TARGET = "10.0.0.2:8000"
TEXT = "The quick brown fox jumps over the lazy dog. " * 60
IDS = [*range(1000, 2000)]
MESSAGES = [{"role": "system", "content": TEXT}, {"role": "user", "content": "and?"}]


@dataclass(frozen=True)
class Api:
    """`is_hashed`: a model runs over the prompt, so who had it before has it cached."""

    path: str
    body: Any
    is_hashed: bool = True
    content_type: str = "application/json"

    def data(self, salt: str = "") -> bytes:
        """Its body, made this test's own by its model."""
        if isinstance(self.body, bytes):
            return self.body.replace(b"MODEL", f"m{salt}".encode())
        return json.dumps({"model": f"m{salt}", **self.body}, indent=1).encode()


def form(**fields: str | bytes) -> bytes:
    """multipart/form-data with the boundary `cut`."""
    parts = b"".join(
        b'--cut\r\nContent-Disposition: form-data; name="%s"%s\r\n\r\n%s\r\n'
        % (name.encode(), b'; filename="a.wav"' if isinstance(value, bytes) else b"",
           value if isinstance(value, bytes) else value.encode())
        for name, value in fields.items()
    )  # fmt: skip
    return parts + b"--cut--\r\n"


def grpc_frame(message: bytes) -> bytes:
    return b"\0" + len(message).to_bytes(4, "big") + message


def varint(number: int) -> bytes:
    out = b""
    while number > 127:
        out, number = out + bytes([number & 127 | 128]), number >> 7
    return out + bytes([number])


def lengthy(number: int, data: bytes) -> bytes:
    """A field of protobuf."""
    return bytes([number << 3 | 2]) + varint(len(data)) + data


TOKENIZED = lengthy(2, lengthy(2, b"".join(map(varint, IDS))))
FORM = "multipart/form-data; boundary=cut"
APIS = {
    "chat": Api("/v1/chat/completions", {"messages": MESSAGES, "tools": [{"type": "function"}]}),
    "chat with pictures": Api("/v1/chat/completions", {"messages": [{"role": "user", "content": [
        {"type": "text", "text": TEXT}, {"type": "image_url", "image_url": {"url": "http://a/b.png"}}]}]}),
    "chat render": Api("/v1/chat/completions/render", {"messages": MESSAGES}, is_hashed=False),
    "completions": Api("/v1/completions", {"prompt": TEXT}),
    "completions of token ids": Api("/v1/completions", {"prompt": IDS}),
    "completions of several": Api("/v1/completions", {"prompt": [TEXT, TEXT]}),
    "completions render": Api("/v1/completions/render", {"prompt": TEXT}, is_hashed=False),
    "responses": Api("/v1/responses", {"input": TEXT, "instructions": "be brief"}),
    "responses of items": Api("/v1/responses", {"input": [{"role": "user", "content": TEXT}]}),
    "conversations": Api("/v1/conversations", {"items": [{"type": "message", "role": "user", "content": TEXT}]}, False),
    "embeddings": Api("/v1/embeddings", {"input": TEXT}),
    "embeddings of several": Api("/v1/embeddings", {"input": [TEXT, TEXT]}),
    "images": Api("/v1/images/generations", {"prompt": TEXT}),
    "image edits": Api("/v1/images/edits", form(model="MODEL", prompt=TEXT, image=b"\x89PNG" * 300), True, FORM),
    "transcriptions": Api("/v1/audio/transcriptions", form(file=b"RIFF\0\xff" * 900, model="MODEL"), True, FORM),
    "translations": Api("/v1/audio/translations", form(model="MODEL", file=b"RIFF\r\n--cu" * 900), True, FORM),
    "speech": Api("/v1/audio/speech", {"input": TEXT, "voice": "alloy"}),
    "rerank": Api("/v1/rerank", {"query": TEXT, "documents": ["a", "b"]}),
    "rerank, version 2": Api("/v2/rerank", {"query": TEXT, "documents": ["a", "b"]}),
    "score": Api("/v1/score", {"text_1": TEXT, "text_2": ["a", "b"]}),
    "messages": Api("/v1/messages", {"system": TEXT, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 9}),
    "count_tokens": Api("/v1/messages/count_tokens", {"messages": MESSAGES[1:]}, False),
    "vLLM generate": Api("/inference/v1/generate", {"token_ids": IDS, "sampling_params": {"max_tokens": 5}}),
    "SGLang generate": Api("/generate", {"text": TEXT, "sampling_params": {"max_new_tokens": 5}}),
    "SGLang generate of ids": Api("/generate", {"input_ids": IDS}),
    "vLLM gRPC Generate": Api(
        "/vllm.grpc.engine.VllmEngine/Generate", grpc_frame(lengthy(1, b"id") + TOKENIZED), True, "application/grpc"),
    "vLLM gRPC Embed": Api(
        "/vllm.grpc.engine.VllmEngine/Embed", grpc_frame(lengthy(1, b"id") + TOKENIZED), True, "application/grpc"),
    "any other": Api("/v1/fine_tuning/jobs", b"\0\xff not JSON {", False, "application/octet-stream"),
    "no path of an API": Api("/", b"", False),
}  # fmt: skip


async def _send(play: Player, api: Api, salt: str, *, mode: str = "duplex") -> None:
    body = api.data(salt)
    more = {"content-type": api.content_type, "content-length": str(len(body))}
    exchange = play.exchange(mode)
    await exchange.headers(api.path, more=more, hints=[TARGET])
    await exchange.body([body[at : at + 1000] for at in range(0, len(body), 1000)], ending="empty")
    assert exchange.destination == TARGET
    assert exchange.request.forwarded == body
    assert exchange.request.headers["content-length"] == str(len(body))
    await exchange.answer(200, [b"{}"])
    exchange.complete()
    assert await exchange.finish() == "OK"


@pytest.mark.parametrize("mode", ["duplex", "buffered", "streamed"])
@pytest.mark.parametrize("name", APIS)
@played
async def test_is_picked_and_given_back_byte_for_byte(play: Player, name: str, mode: str) -> None:
    await _send(play, APIS[name], f"-{mode}", mode=mode)


@pytest.mark.parametrize("mode", ["duplex", "buffered"])
@pytest.mark.parametrize("name", APIS)
@played
async def test_is_known_again(play: Player, name: str, mode: str) -> None:
    """Where a model runs over the prompt; of what it does not compute nothing may be remembered."""
    salt = f"-again-{mode}"
    await _send(play, APIS[name], salt, mode=mode)
    await _send(play, APIS[name], salt, mode=mode)
    await play.admin.idle()
    decision = await play.admin.decision()
    assert decision["endpoint"] == TARGET
    if not APIS[name].is_hashed:
        assert (decision["prompt_tokens"], decision["cached_tokens"]) == (0, 0)
    else:
        assert decision["prompt_tokens"] > 0
        assert decision["cached_tokens"] > decision["prompt_tokens"] // 2


@pytest.mark.parametrize("path", ["/v1/chat/completions?x=1", "/v1/chat/completions/", "/tenant/a/v1/chat/completions"])
@played
async def test_is_found_by_the_end_of_its_path(play: Player, path: str) -> None:
    exchange = play.exchange()
    await exchange.headers(path)
    await exchange.body([b'{"model": "m"}'])
    assert error_of(exchange)[1]["param"] == "messages"


@pytest.mark.parametrize("name", [name for name, api in APIS.items() if not isinstance(api.body, bytes)])
@played
async def test_refuses_what_is_no_json(play: Player, name: str) -> None:
    exchange = play.exchange()
    await exchange.headers(APIS[name].path)
    await exchange.body([b"{"])
    assert error_of(exchange)[0] == 400


@played
async def test_prompts_of_other_models_are_not_taken_for_cached(play: Player) -> None:
    await _send(play, APIS["chat"], "-one")
    await _send(play, APIS["chat"], "-two")
    await play.admin.idle()
    assert (await play.admin.decision())["cached_tokens"] == 0
