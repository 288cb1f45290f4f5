import json

import pytest

from picker._core import session
from picker._core.session import Session, SessionError
from tests.support import messages
from tests.support.exchange import (
    BODY,
    DUPLEX,
    MODES,
    NONE,
    SSE,
    STREAMED,
    assert_idle,
    engine_with,
    error_of,
    failures,
    only_series,
    whole_exchange,
)
from tests.support.gateway import Gateway

# --- the whole way ---


def test_a_streamed_exchange() -> None:
    engine = engine_with()
    gateway = whole_exchange(engine)
    assert gateway.destination in ("10.0.0.1:8000", "10.0.0.2:8000")
    assert gateway.session.destination == gateway.destination
    assert_idle(engine)
    series = only_series(engine)
    assert (series["model"], series["requests"], series["running"], series["failures"]) == ("llama", 1, 0, {})
    for name, total in (
        ("input_tokens", 150),
        ("output_tokens", 3),
        ("cached_tokens", 64),
        ("request_bytes", len(BODY)),
    ):
        assert series[name][1] == total
    assert series["response_bytes"][1] == sum(map(len, SSE))
    (decision,) = engine.decisions()
    assert (decision["model"], decision["endpoint"]) == ("llama", gateway.destination)


@pytest.mark.parametrize("mode", MODES)
def test_every_request_mode_gets_its_answers(mode: int) -> None:
    engine = engine_with()
    gateway = whole_exchange(engine, modes=(mode, DUPLEX))
    assert engine.decisions()[0]["prompt_tokens"] == (0 if mode in (STREAMED, NONE) else 152)
    assert gateway.destination
    assert_idle(engine)
    assert failures(engine) == {}


@pytest.mark.parametrize("mode", MODES)
def test_every_response_mode_gets_its_answers(mode: int) -> None:
    engine = engine_with()
    whole_exchange(engine, modes=(DUPLEX, mode))
    assert_idle(engine)
    assert failures(engine) == {}
    tokens = 0 if mode == NONE else 150
    assert only_series(engine)["input_tokens"][1] == tokens


def test_modes_that_are_not_known_end_the_stream() -> None:
    for modes in ((5, DUPLEX), (DUPLEX, 5), (2**31 - 1, DUPLEX)):
        with pytest.raises(SessionError):
            Session(engine_with(), 0).feed(messages.request_headers(modes=modes), 0)


def test_a_gateway_that_does_not_say_its_modes_is_full_duplex() -> None:
    stream = Session(engine_with(), 0)
    assert stream.feed(messages.without_modes(messages.request_headers()), 0) == []
    first, second = map(messages.parse, stream.feed(messages.request_body(BODY), 0))
    assert first.request_headers.response.header_mutation.set_headers
    assert second.request_body.response.body_mutation.streamed_response.body == BODY


def test_headers_alone_are_picked_at_once() -> None:
    for mode in MODES:
        gateway = Gateway(engine_with(), modes=(mode, DUPLEX))
        gateway.send_headers("/v1/chat/completions", end=True, method="GET")
        gateway.complete()
        gateway.close()


def test_an_empty_body_of_an_api_that_needs_one_is_refused() -> None:
    gateway = Gateway(engine_with())
    gateway.send_headers()
    gateway.send_body([b""], ending="chunk")
    assert error_of(gateway)["status"] == 400


def test_trailers_end_the_body() -> None:
    for mode in MODES:
        gateway = Gateway(engine_with(), modes=(mode, DUPLEX))
        gateway.send_headers()
        gateway.send_body([BODY[:50], BODY[50:]], ending="trailers")
        gateway.complete()
        gateway.close()


def test_trailers_behind_headers() -> None:
    """No body at all: nothing is said about one."""
    gateway = Gateway(engine_with())
    gateway.send_headers("/v1/models")
    gateway.send_body([], ending="trailers")
    gateway.complete()
    gateway = Gateway(engine_with())
    gateway.send_headers()
    gateway.send_body([], ending="trailers")
    assert error_of(gateway)["status"] == 400


def test_a_second_end_of_stream_wants_no_answer() -> None:
    """Envoy sends one with bodies of 1 MB and more."""
    for path, ending in (("/v1/chat/completions", "chunk"), ("/v1/files", "chunk")):
        gateway = Gateway(engine_with())
        gateway.send_headers(path)
        gateway.send_body([BODY], ending=ending)
        assert gateway.feed(messages.request_body(b""), 1) == []
        assert gateway.feed(messages.request_body(b"", end_of_stream=False), 1) == []
        with pytest.raises(SessionError):
            gateway.feed(messages.request_body(b"more"), 1)
        gateway.close()


def test_a_body_that_is_not_read_passes_chunk_by_chunk() -> None:
    engine = engine_with(body_bytes=10, buffered_bytes=10)
    gateway = Gateway(engine)
    gateway.send_headers("/v1/audio/transcriptions")
    assert gateway.destination
    for _ in range(10):
        gateway.send_body([b"x" * 50_000], ending="open")
        assert gateway.request.forwarded == gateway.request.sent
    gateway.answer_headers(413, "application/json")  # before the request is complete
    gateway.send_body([b"rest"])
    gateway.answer_body([b"{}"])
    gateway.complete()
    gateway.close()
    assert_idle(engine)
    assert failures(engine) == {"ModelServerError": 1}


def test_large_bodies_come_back_in_chunks() -> None:
    engine = engine_with(chunk_bytes=1000)
    stream = Session(engine, 0)
    stream.feed(messages.request_headers(), 0)
    body = json.dumps({"model": "llama", "messages": ["x" * 2477]}).encode()
    stream.feed(messages.request_body(body, end_of_stream=False), 0)
    _, *chunks = [messages.parse(reply) for reply in stream.feed(messages.request_body(b""), 0)]
    streamed = [chunk.request_body.response.body_mutation.streamed_response for chunk in chunks]
    assert [(len(chunk.body), chunk.end_of_stream) for chunk in streamed] == [
        (1000, False),
        (1000, False),
        (len(body) - 2000, True),
    ]


# --- the end ---


def test_closing_twice_and_feeding_the_dead() -> None:
    engine = engine_with()
    stream = Session(engine, 0)
    stream.feed(messages.request_headers(), 0)
    stream.close(1)
    stream.close(2)
    with pytest.raises(SessionError):
        stream.feed(messages.request_body(BODY), 3)
    assert stream.refuse(session.FAIL_TIMEOUT) == []
    assert_idle(engine)


def test_a_session_that_is_forgotten_is_closed() -> None:
    engine = engine_with()
    gateway = Gateway(engine)
    gateway.send_headers()
    gateway.send_body([BODY])
    assert engine.in_flight == 1
    del gateway
    assert_idle(engine)


def test_a_session_in_a_cycle_is_closed() -> None:
    """The collector must not take the engine away from under it."""
    import gc

    class Host:
        def __call__(self, *_: object) -> None:
            return None

    host = Host()
    engine = engine_with()
    engine.set_policy([(32, 1.0, (), 0)], plugins=host)
    stream = Session(engine, 0)
    stream.feed(messages.request_headers("/v1/models", end_of_stream=True), 0)
    host.held = (stream, engine)  # type: ignore[attr-defined]
    del host, stream, engine
    gc.collect()


def test_a_stream_that_asked_nothing_leaves_no_trace() -> None:
    engine = engine_with()
    Session(engine, 0).close(1)
    assert engine.stats()["series"] == []
    assert_idle(engine)


@pytest.mark.parametrize("junk", [b"", b"\x00", b"\xff" * 9, b"\x12", messages.request_headers()[:-1], b"\x42\x00"])
def test_what_is_no_message_ends_the_stream(junk: bytes) -> None:
    with pytest.raises(SessionError):
        Session(engine_with(), 0).feed(junk, 0)


def test_arguments() -> None:
    stream = Session(engine_with(), 0)
    with pytest.raises(TypeError):
        Session(None, 0)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        stream.feed(None, 0)  # type: ignore[arg-type]
    with pytest.raises((BufferError, ValueError)):
        stream.feed(memoryview(messages.request_headers())[::2], 0)
    with pytest.raises(OverflowError):
        stream.feed(messages.request_headers(), 2**63)
