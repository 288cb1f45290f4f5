"""Exchanges by APIs whose bodies are no chat: what is picked with, refused, or let pass unread."""

import json
from typing import Any

import pytest

from picker._core import form, prompt, vllmgrpc
from picker._core.engine import Engine
from tests.core.test_form import body as form_body
from tests.core.test_form import part, sound
from tests.core.test_vllmgrpc import IDS, tokenized
from tests.support.exchange import BUFFERED, DUPLEX, PARTIAL, assert_idle, engine_with, error_of, failures
from tests.support.gateway import Gateway
from tests.support.leaks import assert_flat

FORM = {"content-type": "multipart/form-data; boundary=xyz"}
GRPC = {"content-type": "application/grpc"}
GENERATE = "/vllm.grpc.engine.VllmEngine/Generate"
CHAT = b'{"model":"llama","messages":[{"role":"user","content":"%b"}]}' % (b"hello " * 200)
RECORDING = form_body(sound(), part(b"model", b"whisper"), part(b"prompt", b"Words. " * 100))


def exchange(
    engine: Engine, path: str, body: bytes, headers: dict[str, str] | None = None, mode: int = DUPLEX
) -> Gateway:
    """As far as the pick; the body comes in two pieces where it may."""
    gateway = Gateway(engine, modes=(mode, DUPLEX))
    gateway.send_headers(path, headers=headers)
    gateway.send_body([body] if mode in (BUFFERED, PARTIAL) else [body[: len(body) // 2], body[len(body) // 2 :]])
    if gateway.immediate is None:
        gateway.complete()
    gateway.close()
    return gateway


def decided(engine: Engine) -> dict[str, Any]:
    return dict(engine.decisions(1)[0])


@pytest.mark.parametrize("mode", [DUPLEX, BUFFERED])
def test_a_form_is_read(mode: int) -> None:
    engine = engine_with(1)
    exchange(engine, "/v1/audio/transcriptions", RECORDING, FORM, mode)
    read = form.read(RECORDING, b"xyz")
    assert read is not None
    assert (decided(engine)["model"], decided(engine)["prompt_tokens"]) == ("whisper", read["tokens"])
    exchange(engine, "/v1/audio/transcriptions", RECORDING, FORM, mode)
    assert decided(engine)["cached_tokens"] > 0
    assert_idle(engine)


@pytest.mark.parametrize("model", [b"", b"\xff\xfe", b"\xed\xa0\x80"])
def test_a_form_without_a_model_has_none(model: bytes) -> None:
    engine = engine_with()
    exchange(engine, "/v1/images/edits", form_body(part(b"model", model), part(b"prompt", b"x" * 400)), FORM)
    assert (decided(engine)["model"], decided(engine)["prompt_tokens"]) == ("", 100)


@pytest.mark.parametrize(
    ("path", "body", "headers"),
    [
        ("/v1/audio/translations", RECORDING[:-9], FORM),
        ("/v1/audio/translations", RECORDING, {"content-type": "multipart/form-data"}),
        ("/v1/audio/translations", RECORDING, {}),
        ("/v1/images/edits", b"", FORM),
        (GENERATE, tokenized(IDS)[:-1], GRPC),
        (GENERATE, tokenized(IDS), {"content-type": "application/json"}),
        (GENERATE, b"\x01" + tokenized(IDS)[1:], GRPC),
        ("/vllm.grpc.engine.VllmEngine/Abort", tokenized(IDS), GRPC),
        ("/v1/chat/completions", b"\x1f\x8b no JSON", {"content-encoding": "gzip"}),
    ],
)
@pytest.mark.parametrize("mode", [DUPLEX, BUFFERED])
def test_what_cannot_be_read_passes(path: str, body: bytes, headers: dict[str, str], mode: int) -> None:
    engine = engine_with()
    gateway = exchange(engine, path, body, headers, mode)
    assert gateway.destination
    assert (decided(engine)["model"], decided(engine)["prompt_tokens"]) == ("", 0)
    assert_idle(engine)


def test_grpc_is_read() -> None:
    engine = engine_with(1)
    for cached in (False, True):
        exchange(engine, GENERATE, tokenized(IDS, sampling_params=[{"max_tokens": [5]}]), GRPC)
        assert (decided(engine)["model"], decided(engine)["prompt_tokens"]) == ("", 1000)
        assert (decided(engine)["cached_tokens"] > 0) == cached
    exchange(engine, "/generate", json.dumps({"input_ids": IDS}).encode())
    assert decided(engine)["cached_tokens"] > 0  # the same prompt by another API


def test_no_model_is_a_series_without_a_name() -> None:
    engine = engine_with()
    exchange(engine, "/generate", b'{"text":"x"}')
    exchange(engine, "/v1/embeddings", b'{"input":"x"}')
    (series,) = engine.stats()["series"]
    assert (series["model"], series["requests"]) == ("", 2)


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        ("/v1/responses", {"model": "m"}, "input"),
        ("/v1/messages", {"messages": [1]}, "model"),
        ("/v1/messages/count_tokens", {"model": "m"}, "messages"),
        ("/v1/rerank", {"query": "x"}, "documents"),
        ("/score", {"text_2": "x"}, "queries"),
        ("/inference/v1/generate", {"token_ids": []}, "token_ids"),
        ("/generate", {}, "text"),
    ],
)
def test_refusals_name_the_field(path: str, body: dict[str, Any], field: str) -> None:
    engine = engine_with()
    error = error_of(exchange(engine, path, json.dumps(body).encode()))
    assert (error["status"], error["param"], error["message"]) == (400, field, f"'{field}' is missing or empty")
    assert failures(engine) == {"BadRequest": 1}


def test_another_path_says_how_to_read() -> None:
    engine = engine_with()
    exchange(engine, "/rewritten", CHAT, {"x-original-path": "/v1/chat/completions"})
    assert decided(engine)["prompt_tokens"] == prompt.read(b"/chat/completions", CHAT)["tokens"]


def test_families_that_are_not_read_pass() -> None:
    engine = engine_with()
    engine.set_policy([(32, 1.0, (), 0)], apis=["anthropic"])
    exchange(engine, "/v1/chat/completions", b"no JSON")
    assert (decided(engine)["model"], decided(engine)["prompt_tokens"]) == ("", 0)
    exchange(engine, "/v1/messages", CHAT)
    assert (decided(engine)["model"], decided(engine)["prompt_tokens"] > 0) == ("llama", True)
    engine.set_policy([(32, 1.0, (), 0)])
    exchange(engine, "/v1/chat/completions", CHAT)
    assert decided(engine)["model"] == "llama"


def test_leaks_nothing() -> None:
    grpc = tokenized(IDS)
    assert vllmgrpc.read(grpc)

    def each() -> None:
        engine = engine_with(1)
        exchange(engine, "/v1/audio/transcriptions", RECORDING, FORM)
        exchange(engine, "/v1/audio/transcriptions", RECORDING[:-9], FORM)
        exchange(engine, GENERATE, grpc, GRPC)
        exchange(engine, "/generate", b"{}")

    assert_flat(each, calls=10)
