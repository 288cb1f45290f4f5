"""The client's name of the model in responses, in every mode; `Gateway` compares what goes on with the slow model."""

import json
import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from picker._core.engine import Engine
from picker._core.session import Session, SessionError
from tests.support import messages
from tests.support.builds import debug_build_only
from tests.support.exchange import BODY, BUFFERED, DUPLEX, MODES, NONE, PARTIAL, STREAMED, assert_idle, engine_with
from tests.support.fuzz import cuts
from tests.support.gateway import Gateway
from tests.support.leaks import assert_flat, failing_allocations

REWRITE = {"x-gateway-model-name-rewrite": "meta/llama-3"}
EVENT = b'data: {"id":"x","model":"meta/llama-3","choices":[{"delta":{"content":"meta/llama-3"}}]}\n\n'
SSE = EVENT * 3 + b"data: [DONE]\n\n"
UNARY = json.dumps({"model": "meta/llama-3", "choices": [], "usage": {"prompt_tokens": 7}}).encode()


def renamed(engine: Engine, response_mode: int, kind: str = "text/event-stream", **headers: str) -> Gateway:
    """A request for "llama" that went to "meta/llama-3", and the headers of its response."""
    gateway = Gateway(engine, modes=(DUPLEX, response_mode))
    gateway.send_headers(headers=REWRITE)
    gateway.send_body([BODY])
    gateway.answer_headers(200, kind, headers=headers)
    return gateway


@pytest.mark.parametrize("mode", [DUPLEX, BUFFERED, PARTIAL, STREAMED])
@pytest.mark.parametrize(("kind", "body"), [("text/event-stream", SSE), ("application/json", UNARY)])
@pytest.mark.parametrize("ending", ["chunk", "empty", "trailers"])
def test_the_client_reads_the_name_it_asked_for(mode: int, kind: str, body: bytes, ending: str) -> None:
    engine = engine_with()
    for size in (len(body), 33, 7, 1):
        gateway = renamed(engine, mode, kind)
        gateway.answer_body([body[at : at + size] for at in range(0, len(body), size)], ending=ending)
        gateway.complete()
        gateway.close()
        assert gateway.response.forwarded == body.replace(b'"model":"meta/llama-3"', b'"model":"llama"').replace(
            b'"model": "meta/llama-3"', b'"model": "llama"'
        )
    assert_idle(engine)


@pytest.mark.parametrize("mode", MODES)
def test_a_length_that_no_longer_holds_is_not_told(mode: int) -> None:
    gateway = renamed(engine_with(), mode, "application/json", **{"content-length": str(len(UNARY))})
    assert ("content-length" in gateway.response_headers) == (mode not in (DUPLEX, STREAMED))
    gateway.answer_body([UNARY])
    if mode in (BUFFERED, PARTIAL):
        assert gateway.response_headers["content-length"] == str(len(UNARY) - len("meta/llama-3") + len("llama"))
    gateway.complete()


def test_the_length_of_what_is_not_all_there() -> None:
    """BUFFERED_PARTIAL: what does not fit follows unseen."""
    for told, wanted in (({"content-length": "90000"}, {"content-length": "89993"}), ({}, {})):
        gateway = renamed(engine_with(), PARTIAL, "application/json", **told)
        gateway.answer_body([UNARY], ending="open")
        assert gateway.response_headers == wanted


def test_no_length_is_told_where_none_was_but_in_a_held_body() -> None:
    gateway = renamed(engine_with(), STREAMED, "application/json")
    gateway.answer_body([UNARY])
    assert gateway.response_headers == {}


def test_nothing_is_restored_that_was_not_renamed() -> None:
    for headers in ({}, {"x-gateway-model-name-rewrite": "llama"}):
        gateway = Gateway(engine_with())
        gateway.send_headers(headers=headers)
        gateway.send_body([BODY])
        gateway.answer_headers(headers={"content-length": "5"})
        assert gateway.response_headers == {"content-length": "5"}
        gateway.answer_body([EVENT])
        assert gateway.response.forwarded == EVENT


@pytest.mark.parametrize("tracking", ["full", "headers"])
def test_it_can_be_switched_off(tracking: str) -> None:
    engine = engine_with()
    engine.set_policy([(32, 1.0, (), 0)], restores_models=tracking != "full", response_tracking=tracking)
    gateway = Gateway(engine)
    gateway.restores = False
    gateway.send_headers(headers=REWRITE)
    gateway.send_body([BODY])
    gateway.answer_headers()
    gateway.answer_body([EVENT[:30], EVENT[30:]])
    gateway.complete()
    assert gateway.response.forwarded == EVENT


def test_what_is_encoded_stays_as_it_is() -> None:
    gateway = renamed(engine_with(), DUPLEX, **{"content-encoding": "gzip", "content-length": "9"})
    assert gateway.response_headers == {"content-encoding": "gzip", "content-length": "9"}
    gateway.answer_body([EVENT])
    gateway.complete()
    assert gateway.response.forwarded == EVENT


# --- what is held back ---


def test_the_beginning_of_a_name_waits_for_its_end() -> None:
    gateway = renamed(engine_with(), DUPLEX)
    head = EVENT.index(b"meta") + 4
    replies = gateway.feed(messages.response_body(EVENT[:head]), 1)
    assert [messages.parse(reply).response_body.response.body_mutation.streamed_response.body for reply in replies] == [
        EVENT[: head - 4]
    ]
    assert gateway.feed(messages.response_body(b"/llama-"), 1) == []


@pytest.mark.parametrize("mode", [DUPLEX, STREAMED])
def test_the_beginning_of_another_name_goes_on(mode: int) -> None:
    gateway = renamed(engine_with(), mode)
    head = EVENT[: EVENT.index(b"meta")] + b"meta/llama-33"
    gateway.answer_body([head, b"000"])
    assert gateway.response.forwarded == head + b"000"


@pytest.mark.parametrize("tail", [b"", b"/llama-3"])
def test_trailers_wait_for_what_is_held(tail: bytes) -> None:
    gateway = renamed(engine_with(), DUPLEX)
    gateway.answer_body([EVENT[: EVENT.index(b"meta") + 4] + tail], ending="trailers")
    gateway.complete()


def test_a_mode_that_would_lose_what_is_held_ends_in_an_error() -> None:
    """A body that breaks off in the name, and trailers: no body can follow any more."""
    gateway = renamed(engine_with(), STREAMED)
    gateway.feed(messages.response_body(EVENT[: EVENT.index(b"meta") + 4]), 1)
    with pytest.raises(SessionError):
        gateway.feed(messages.response_trailers(), 1)


NAMES = st.sampled_from(["meta/llama-3", "meta/llama", "llama", "", "meta/llama-33", "m\u00e9"])
VALUES = st.recursive(
    NAMES | st.none() | st.integers(0, 9),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(st.sampled_from(["model", "message", "response", "x"]), inner, max_size=4)
    ),
)
ENGINE = engine_with(2)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(VALUES, max_size=3),
    st.sampled_from([DUPLEX, BUFFERED, PARTIAL, STREAMED, NONE]),
    st.sampled_from(["chunk", "empty", "trailers"]),
    st.sampled_from(["text/event-stream", "application/json"]),
    st.integers(0, 2**32),
)
def test_any_document_in_any_pieces(documents: list[Any], mode: int, ending: str, kind: str, seed: int) -> None:
    rng = random.Random(seed)
    frame = b"data: %b\n\n" if kind == "text/event-stream" else b"%b"
    body = b"".join(
        frame % json.dumps({"model": "meta/llama-3", "response": document}, ensure_ascii=rng.random() < 0.5).encode()
        for document in documents
    )
    gateway = renamed(ENGINE, mode, kind)
    gateway.answer_body(cuts(rng, body), ending=ending)
    gateway.complete()
    gateway.close()
    assert_idle(ENGINE)


# --- memory ---


def life(engine: Engine) -> None:
    """Without a gateway, whose models hold memory of their own."""
    for mode in (DUPLEX, BUFFERED, STREAMED):
        session = Session(engine, 1)
        try:
            session.feed(messages.request_headers(headers=REWRITE, modes=(DUPLEX, mode)), 1)
            session.feed(messages.request_body(BODY), 2)
            session.feed(messages.response_headers(), 3)
            for piece in (SSE[:25], SSE[25:32], SSE[32:]):
                session.feed(messages.response_body(piece), 4)
        finally:
            session.close(5)


def test_leaks_nothing() -> None:
    engine = engine_with(2)
    life(engine)
    assert_flat(lambda: life(engine), calls=20)
    assert_idle(engine)


@debug_build_only
def test_survives_failing_allocations() -> None:
    def whole() -> None:
        engine = engine_with(2)
        try:
            life(engine)
        finally:
            assert_idle(engine)

    assert failing_allocations(whole) > 20
