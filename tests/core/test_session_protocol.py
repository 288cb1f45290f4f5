"""What the protocol asks for beside bodies given back: what leaves, what is obeyed, what may come that nobody knows."""

from typing import Any

import pytest

from picker._core import session
from picker._core.engine import Engine
from picker._core.session import Session, SessionError
from tests.support import messages as m
from tests.support.exchange import (
    BODY,
    BUFFERED,
    DUPLEX,
    MODES,
    PARTIAL,
    SSE,
    STEERING,
    assert_idle,
    engine_with,
    error_of,
    failures,
    whole_exchange,
)
from tests.support.gateway import DESTINATION, Gateway

QUEUE, MAX = (10, 1.0, (), 0), (30, 1.0, (), 0)
UNKNOWN = b"\xa0\x06\x96\x01" + b"\xa1\x06" + b"\xff" * 8 + b"\xa2\x06\x02\x0a\xff" + b"\xa5\x06" + b"\xff" * 4


def mutation_of(reply: bytes) -> Any:
    parsed = m.parse(reply)
    return getattr(parsed, parsed.WhichOneof("response")).response.header_mutation


# --- what leaves ---


@pytest.mark.parametrize("mode", MODES)
def test_a_list_of_endpoints_is_the_same_in_header_and_metadata(mode: int) -> None:
    engine = engine_with(4)
    engine.set_policy([MAX], wanted=3)
    gateway = whole_exchange(engine, modes=(mode, DUPLEX))
    chosen = gateway.destination.split(",")
    assert len(chosen) == len(set(chosen)) == 3
    assert gateway.headers == {DESTINATION: gateway.destination}


def test_endpoints_of_ipv6_are_in_brackets() -> None:
    engine = Engine(hash_seed=1)
    engine.add_endpoint("[fd00::1]:8000", "fd00::1")
    assert whole_exchange(engine).destination == "[fd00::1]:8000"


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/models"])
@pytest.mark.parametrize("mode", MODES)
def test_a_header_is_removed_once_however_often_and_however_it_is_written(mode: int, path: str) -> None:
    stream = Session(engine_with(), 0)
    message = m.request_headers(path, modes=(mode, DUPLEX))
    for name in STEERING:
        value = b"other"  # the two that rename want one
        for spelled in (name, name.upper(), name.title()):
            message = m.with_header(message, spelled, value)
    replies = [*stream.feed(message, 0), *stream.feed(m.request_body(BODY), 0)]
    removed = [name for reply in replies for name in mutation_of(reply).remove_headers]
    overwritten = [option.header.key for reply in replies for option in mutation_of(reply).set_headers]
    assert DESTINATION in overwritten
    assert sorted(removed) == sorted(STEERING.keys() - ({DESTINATION} - set(removed)))
    assert (DESTINATION in removed) == (mode in (BUFFERED, PARTIAL) and path != "/v1/models")


@pytest.mark.parametrize("mode", MODES)
def test_of_the_response_nothing_is_set_or_removed(mode: int) -> None:
    """Nor echoed: a copy of transfer-encoding would cut streams short."""
    stream = Session(engine_with(), 0)
    stream.feed(m.request_headers(end_of_stream=True, modes=(DUPLEX, mode)), 0)
    upstream = {":status": "200", "transfer-encoding": "chunked", "content-length": "7", "connection": "close"}
    for reply in (
        *stream.feed(m.response_headers_of(upstream), 0),
        *stream.feed(m.response_body(SSE[0]), 0),
        *stream.feed(m.response_body(b"", end_of_stream=True), 0),
    ):
        mutation = mutation_of(reply)
        assert not mutation.set_headers and not mutation.remove_headers
        assert not m.parse(reply).HasField("dynamic_metadata")


# --- what is obeyed ---


@pytest.mark.parametrize("mode", MODES)
def test_headers_alone_are_picked_by_the_policy_and_the_subset(mode: int) -> None:
    engine = Engine(hash_seed=1)
    engine.set_policy([QUEUE, MAX])
    for number in range(1, 6):
        slot = engine.add_endpoint(f"10.0.0.{number}:8000", f"10.0.0.{number}")
        assert engine.observe(*slot, now_ns=1, waiting=float(number != 4))
    for subset, picked in ((None, "10.0.0.4:8000"), (["10.0.0.2", "10.0.0.4:8000"], "10.0.0.4:8000"), ([], "")):
        gateway = Gateway(engine, modes=(mode, DUPLEX), now_ns=2)
        gateway.send_headers("/v1/models", method="GET", end=True, subset=subset)
        assert gateway.destination == picked
        if not picked:
            assert error_of(gateway)["status"] == 503
        gateway.close()


@pytest.mark.parametrize("mode", [BUFFERED, PARTIAL])
def test_where_the_body_is_not_read_the_pick_does_not_wait_for_it(mode: int) -> None:
    engine = engine_with(body_bytes=10, buffered_bytes=10)
    gateway = Gateway(engine, modes=(mode, DUPLEX))
    gateway.send_headers("/v1/other")
    assert gateway.destination
    gateway.send_body([b"x" * 1000])
    gateway.complete()
    gateway.close()


@pytest.mark.parametrize("mode", MODES)
def test_trailers_without_a_body(mode: int) -> None:
    """An HTTP/2 client can send such; a gateway that buffers then shows no body at all."""
    engine = engine_with()
    for path in ("/v1/other", "/v1/chat/completions"):
        gateway = Gateway(engine, modes=(mode, DUPLEX))
        gateway.send_headers(path)
        gateway.request.send("trailers", b"", False)
        gateway.take(gateway.feed(m.request_trailers(), 1))
        if path == "/v1/chat/completions" and mode in (DUPLEX, BUFFERED, PARTIAL):
            assert error_of(gateway)["status"] == 400
        else:
            gateway.complete()
        gateway.close()
    assert_idle(engine)


# --- what comes that was not asked for ---


@pytest.mark.parametrize("mode", MODES)
def test_the_gateway_may_answer_by_itself_at_any_time(mode: int) -> None:
    """As Envoy 1.40 shows what it answers itself: with the headers, in the body, behind it."""
    for sent, kind in ((0, "headers"), (1, "part"), (2, "whole")):
        engine = engine_with(1)
        gateway = Gateway(engine, modes=(mode, DUPLEX))
        gateway.send_headers()
        if sent == 1 and mode in (DUPLEX, m.STREAMED):
            gateway.send_body([BODY[:50]], ending="open")
        elif sent == 2:
            gateway.send_body([BODY])
        was_picked = bool(gateway.destination)
        gateway.answer_headers(413, "text/plain")
        gateway.answer_body([b"too large"])
        gateway.response.demand_complete()
        gateway.close()
        assert_idle(engine)
        expected = {"ModelServerError": 1} if was_picked else {"Canceled": 1}
        assert failures(engine) == expected, kind


@pytest.mark.parametrize("mode", MODES)
def test_what_comes_behind_a_refusal_is_not_answered(mode: int) -> None:
    """Envoy 1.40 shows its own answers, this one too."""
    engine = engine_with(0)
    gateway = Gateway(engine, modes=(mode, DUPLEX))
    gateway.send_headers()
    gateway.send_body([BODY])
    assert error_of(gateway)["status"] == 503
    for message in (m.request_trailers(), m.response_headers(503), m.response_body(b"x"), m.response_trailers()):
        assert gateway.feed(message, 1) == []
    gateway.close()
    assert failures(engine) == {"ServiceUnavailable": 1}


@pytest.mark.parametrize("mode", MODES)
def test_fields_that_are_to_come(mode: int) -> None:
    """Later Envoys may say more: in every message, the replies are the same."""

    def replies(more: bytes) -> list[bytes]:
        stream = Session(engine_with(1), 0)
        sent = [
            m.request_headers(modes=(mode, mode)),
            m.request_body(BODY),
            m.response_headers(),
            m.response_body(SSE[0], end_of_stream=True),
        ]
        return [reply for message in sent for reply in stream.feed(message + more, 0)]

    assert replies(UNKNOWN) == replies(b"") != []


def test_requests_that_are_to_come_end_the_stream() -> None:
    """What is asked in a way that is not known cannot be answered, and must not be waited for."""
    stream = Session(engine_with(), 0)
    stream.feed(m.request_headers(), 0)
    with pytest.raises(SessionError):
        stream.feed(UNKNOWN, 0)


# --- gateways that only show what passes ---


@pytest.mark.parametrize(
    "first", [m.request_headers(), m.request_body(BODY), m.response_headers(), m.request_trailers()]
)
def test_what_is_only_shown_is_let_go(first: bytes) -> None:
    engine = engine_with(0, sessions=1)
    served = Session(engine, 0)
    stream = Session(engine, 0)  # there is no room for it, but nobody asks
    assert stream.feed(m.observed(first), 0) == []
    assert stream.is_over and stream.state == session.STATE_ENDED and stream.destination == ""
    stream._check()
    assert stream.feed(m.request_body(BODY), 0) == []
    assert stream.refuse(session.FAIL_TIMEOUT) == []
    stream.close(0)
    served.close(0)
    assert_idle(engine)
    assert failures(engine) == {}
    assert [series["requests"] for series in engine.stats()["series"]] == [1]
    assert engine.stats()["not_picked"] == 0


def test_what_is_asked_is_asked_by_the_first_message() -> None:
    """A gateway does not change its mind."""
    gateway = Gateway(engine_with())
    gateway.send_headers()
    gateway.request.send("body", BODY, True)
    gateway.take(gateway.feed(m.observed(m.request_body(BODY)), 1))
    gateway.complete()
