"""The cases that the reference body-based router is tested with, by its own file names, as far as they say what to do.

Source: Gateway API Inference Extension v1.5, pkg/bbr and test/integration/bbr. Where picker answers otherwise on
purpose, the test says so.
"""

import json
from typing import Any

import pytest

from picker._core.bbr import Exchange, Router
from picker.bbr.catalogue import compile_plugins
from picker.bbr.models import base_models, claim_of
from picker.bbr.plugins import Message, Plugin
from picker.cli.main import main
from tests.bbr.test_models import made as config_map
from tests.support import messages as m
from tests.support.bodies import BASE, MODEL, BodyGateway, router

HERE = "tests.bbr.test_reference_vectors"


def gateway_of(*plugins: str, modes: tuple[int, int] = (m.FULL_DUPLEX, m.FULL_DUPLEX), **change: Any) -> BodyGateway:
    plan = compile_plugins(plugins)
    made = Router(plan.request, plan.response, headers=plan.headers, host=plan.host())
    return BodyGateway(made, modes=modes, **change)


class Guardrail(Plugin):
    """Rejects what asks for it."""

    def on_request(self, message: Message) -> None:
        if message.field("prompt") == "bad":
            message.reject(403, "blocked by the guardrail")


class Mutator(Plugin):
    """Changes bodies both ways."""

    sees_bodies = True

    def on_request(self, message: Message) -> None:
        message.set_field("injected", True)

    def on_response(self, message: Message) -> None:
        message.set_field("seen", True)


class HeaderOnly(Plugin):
    """Looks at no body."""

    def on_request(self, message: Message) -> None:
        message.set_header("x-from-header", message.header("x-tenant") or "nobody")


# --- pkg/bbr/handlers/request_test.go ---


def test_raw_value_is_preferred_and_value_read() -> None:
    for raw, value in ((b"mine", ""), (b"", "mine"), (b"mine", "other")):
        exchange = Exchange(router(headers=[b"x-gateway-model-name"]))
        message = m.ext_proc.ProcessingRequest.FromString(m.request_headers(end_of_stream=True))
        message.request_headers.headers.headers.add(key=MODEL, raw_value=raw, value=value)
        (reply,) = exchange.feed(message.SerializeToString())
        mutation = m.parse(reply).request_headers.response.header_mutation
        assert list(mutation.remove_headers) == [MODEL]


@pytest.mark.parametrize("modes", [(m.FULL_DUPLEX, m.FULL_DUPLEX), (m.BUFFERED, m.NONE)])
def test_a_model_that_is_a_number_is_its_text(modes: tuple[int, int]) -> None:
    gateway = gateway_of(modes=modes)
    gateway.post(b'{"model": 1, "prompt": "Tell me a joke"}', ending="chunk")
    assert gateway.routing() == {MODEL: "1", BASE: ""}


def test_unary_a_body_without_a_model_is_let_through() -> None:
    gateway = gateway_of(modes=(m.BUFFERED, m.NONE))
    gateway.post(b'{"prompt": "Tell me a joke"}', ending="chunk")
    gateway.request.demand_complete()
    assert gateway.headers == {}


def test_unary_a_body_that_is_no_json_is_400() -> None:
    gateway = gateway_of(modes=(m.BUFFERED, m.NONE))
    gateway.post(b"no json", ending="chunk")
    assert gateway.error()[0] == 400


def test_streaming_the_headers_come_with_the_end_of_the_body() -> None:
    exchange = Exchange(router())
    assert exchange.feed(m.request_headers()) == []
    body = json.dumps({"model": "foo", "prompt": "x"}).encode()
    for at in range(0, len(body), 5):
        assert exchange.feed(m.request_body(body[at : at + 5], end_of_stream=False)) == []
    replies = [m.parse(reply) for reply in exchange.feed(m.request_body(b""))]
    assert replies[0].request_headers.response.clear_route_cache
    assert replies[1].request_body.response.body_mutation.streamed_response.end_of_stream


def test_streaming_a_large_body_goes_back_in_chunks_of_62000() -> None:
    body = json.dumps({"model": "foo", "prompt": "x" * 150_000}).encode()
    exchange = Exchange(router())
    exchange.feed(m.request_headers())
    replies = [m.parse(reply).request_body for reply in exchange.feed(m.request_body(body))[1:]]
    sizes = [len(reply.response.body_mutation.streamed_response.body) for reply in replies]
    assert sizes == [62_000, 62_000, len(body) - 124_000]


@pytest.mark.parametrize("modes", [(m.FULL_DUPLEX, m.FULL_DUPLEX), (m.BUFFERED, m.NONE)])
def test_a_body_mutator_unary_and_streaming(modes: tuple[int, int]) -> None:
    """The reference writes the whole body anew; here the member is added and nothing else moves."""
    wanted = b'{ "model":"a", "n": 1.0,"injected":true }'
    gateway = gateway_of(f"{HERE}.Mutator:m", modes=modes, change_request=lambda _: wanted)
    gateway.post(b'{ "model":"a", "n": 1.0 }', ending="chunk")
    gateway.request.demand_complete()


def test_a_header_only_plugin_runs_on_a_request_without_a_body() -> None:
    gateway = gateway_of(f"{HERE}.HeaderOnly:h")
    gateway.send_headers(headers={"x-tenant": "me"}, end=True)
    assert gateway.headers == {"x-tenant": "me", "x-from-header": "me"}


def test_trailers_are_answered() -> None:
    gateway = gateway_of()
    gateway.post(b'{"model": "a"}', ending="trailers")
    gateway.request.demand_complete()


# --- pkg/bbr/server/options_test.go ---


@pytest.mark.parametrize(
    "flags",
    [
        ("--grpc-port=9005",),
        ("--grpc-port=9090",),
        ("--grpc-health-port=9090",),
        ("--grpc-port=70000",),
        ("--metrics-port=-1",),
        ("--plugin=",),
        ("--plugin=no-name",),
        ("--plugin=body-field-to-header:x:not json",),
    ],
)
def test_options_that_are_refused(flags: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bbr", *flags]) == 2
    assert capsys.readouterr().err.startswith("picker: error: ")


# --- pkg/bbr/plugins/basemodelextractor ---


def test_base_models() -> None:
    claims = [
        claim_of(config_map({"baseModel": "llama", "adapters": "- a\n- b\n"})),
        claim_of(config_map({"baseModel": "qwen", "adapters": ""})),
        claim_of(config_map({"baseModel": "ignored"}, other="label")),
    ]
    found = base_models(claim for claim in claims if claim)
    assert found == {"llama": "llama", "a": "llama", "b": "llama", "qwen": "qwen"}


# --- test/integration/bbr/hermetic_test.go ---


@pytest.mark.parametrize(
    "chunks", [[b'{"model":"sql-lora-sheddable","prompt":"test"}'], [b'{"mod', b'el":"sql-', b'lora-sheddable"}']]
)
def test_hermetic_split_chunks(chunks: list[bytes]) -> None:
    gateway = gateway_of()
    gateway.send_headers()
    gateway.send_body(chunks)
    gateway.request.demand_complete()
    assert gateway.headers[MODEL] == "sql-lora-sheddable"


@pytest.mark.parametrize("body", [b'{"prompt":"test"}', b'{"model":"","prompt":"test"}'])
def test_hermetic_missing_model(body: bytes) -> None:
    gateway = gateway_of()
    gateway.post(body)
    gateway.request.demand_complete()
    assert gateway.headers == {}


def test_hermetic_guardrail() -> None:
    gateway = gateway_of(f"{HERE}.Guardrail:g", "body-field-to-header:m")
    gateway.post(b'{"model":"a","prompt":"bad"}')
    assert gateway.error()[0] == 403
    gateway = gateway_of(f"{HERE}.Guardrail:g", "body-field-to-header:m")
    gateway.post(b'{"model":"a","prompt":"good"}')
    assert gateway.headers == {MODEL: "a"}


@pytest.mark.parametrize("ending", ["chunk", "empty", "trailers"])
def test_hermetic_response_mutator(ending: str) -> None:
    """The reference never answers a response that ends with trailers."""
    gateway = gateway_of(f"{HERE}.Mutator:m")
    gateway.send_headers(end=True)
    gateway.response.change = lambda body: body.replace(b"}", b',"seen":true}')
    gateway.respond([b'{"choices":', b"[]}"], ending=ending)
    gateway.response.demand_complete()


def test_hermetic_streams_are_not_held() -> None:
    """The reference holds a stream to its end, plugin or not."""
    gateway = gateway_of()
    gateway.send_headers(headers={"content-type": "text/plain"})
    gateway.answer_headers()
    assert gateway.response.headers_answered
    gateway.answer_body([b"data: 1\n\n"], ending="open")
    gateway.response.demand_complete()
