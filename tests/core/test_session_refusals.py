from typing import Any

import pytest

from picker._core import replies, session
from picker._core.session import Session, SessionError
from picker._core.stats import FAILURES
from tests.support import messages
from tests.support.exchange import (
    BODY,
    BUFFERED,
    DUPLEX,
    MODES,
    PARTIAL,
    STEERING,
    assert_idle,
    engine_with,
    error_of,
    failures,
)
from tests.support.gateway import DESTINATION, Gateway

# --- what a client must not be able to do ---


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/models"])
@pytest.mark.parametrize("end", [True, False])
def test_steering_headers_of_a_client_go_no_further(mode: int, path: str, end: bool) -> None:
    gateway = Gateway(engine_with(), modes=(mode, DUPLEX))
    gateway.send_headers(path, headers={"x-mine": "1", **STEERING, "x-gateway": "2"}, end=end)
    if mode in (BUFFERED, PARTIAL) and not end and path != "/v1/models":
        assert gateway.headers == {"x-mine": "1", "x-gateway": "2"}  # already, should the stream fail now
    if not end:
        gateway.send_body([BODY])
    gateway.complete()
    assert gateway.destination != STEERING[DESTINATION]
    length = gateway.headers.pop("content-length", None)  # of a body that holds another model now
    assert (length is not None) == (mode in (BUFFERED, PARTIAL) and not end and path != "/v1/models")
    assert gateway.headers == {"x-mine": "1", "x-gateway": "2", DESTINATION: gateway.destination}
    gateway.close()


@pytest.mark.parametrize(
    ("path", "body", "param", "says"),
    [
        ("/v1/chat/completions", b'{"model":', None, "unexpected byte at offset 9"),
        ("/v1/chat/completions", b"{,}", None, "offset 1"),
        ("/v1/chat/completions", b"[1]", None, "JSON object"),
        ("/v1/chat/completions", b'{"messages":[1]}', "model", "'model'"),
        ("/v1/chat/completions", b'{"model":"x"}', "messages", "'messages'"),
        ("/v1/completions", b'{"model":"x"}', "prompt", "'prompt'"),
        ("/v1/completions", b"[" * 10, None, "deeply nested"),
    ],
)
def test_bodies_that_are_refused(path: str, body: bytes, param: str | None, says: str) -> None:
    engine = engine_with(json_depth=9)
    for mode in (DUPLEX, BUFFERED):
        gateway = Gateway(engine, modes=(mode, DUPLEX))
        gateway.send_headers(path)
        gateway.send_body([body])
        error = error_of(gateway)
        assert (error["status"], error["type"], error["param"]) == (400, "invalid_request_error", param)
        assert says in error["message"]
        assert gateway.feed(messages.request_body(b"more"), 1) == []
        assert gateway.feed(messages.response_headers(), 1) == []
        gateway.close()
    assert_idle(engine)
    assert failures(engine) == {"BadRequest": 2}


def test_a_body_cut_by_the_gateway_is_not_the_clients_fault() -> None:
    engine = engine_with()
    gateway = Gateway(engine, modes=(PARTIAL, DUPLEX))
    gateway.send_headers()
    gateway.send_body([BODY[:100]], ending="open")
    gateway.complete()
    gateway.close()
    assert engine.decisions()[0]["prompt_tokens"] == 0


def test_a_body_that_is_too_large() -> None:
    engine = engine_with(body_bytes=len(BODY) - 1)
    gateway = Gateway(engine)
    gateway.send_headers()
    gateway.send_body([BODY[:300], BODY[300:]])
    assert error_of(gateway)["status"] == 413
    assert engine.buffered_bytes == 0
    gateway.close()
    assert failures(engine) == {"PayloadTooLarge": 1}


def test_bodies_that_are_too_much_together() -> None:
    engine = engine_with(buffered_bytes=1000)
    first, second, third = (Gateway(engine) for _ in range(3))
    for gateway in (first, second, third):
        gateway.send_headers()
    first.send_body([b"x" * 600], ending="open")
    second.send_body([b"x" * 400], ending="open")
    assert engine.buffered_bytes == 1000
    third.send_body([b"x"], ending="open")
    error = error_of(third)
    assert (error["status"], error["type"]) == (429, "rate_limit_error")
    second.send_body([b""])  # refused for what it is: its bytes are given back
    assert engine.buffered_bytes == 600
    first.send_body([b"x" * 400], ending="open")
    for gateway in (first, second, third):
        gateway.close()
    assert_idle(engine)
    assert failures(engine) == {"ResourceExhausted": 1, "BadRequest": 1, "Canceled": 1}


def test_no_more_sessions_than_may_be() -> None:
    engine = engine_with(sessions=2)
    held = [Session(engine, 0) for _ in range(2)]
    for further in (Session(engine, 0), Session(engine, 0)):
        (reply,) = further.feed(messages.request_headers(end_of_stream=True), 0)
        assert messages.parse(reply).immediate_response.status.code == 429
        assert further.is_over
        further.close(0)
    held.pop().close(0)
    last = Session(engine, 0)
    assert last.feed(messages.request_headers(), 0) == []
    last.close(0)
    held.pop().close(0)
    assert_idle(engine)
    assert failures(engine) == {"ResourceExhausted": 2, "Canceled": 1}


def test_too_many_sessions_even_to_say_so() -> None:
    engine = engine_with(sessions=1, surplus=2)
    first, second, third = (Session(engine, 0) for _ in range(3))
    with pytest.raises(OverflowError, match="3 streams at once are too many"):
        Session(engine, 0)
    first.close(0)
    fourth = Session(engine, 0)  # the two that are told so take no room from those that are served
    assert fourth.feed(messages.request_headers(), 0) == []
    with pytest.raises(OverflowError):
        Session(engine, 0)
    for stream in (second, third, fourth):
        stream.close(0)
    assert_idle(engine)


def test_a_surplus_stream_without_a_request_is_told_the_same() -> None:
    """A gateway may show the response alone."""
    engine = engine_with(sessions=1)
    with_first = Session(engine, 0)
    stream = Session(engine, 0)
    (reply,) = stream.feed(messages.response_headers(), 0)
    assert messages.parse(reply).immediate_response.status.code == 429
    stream.close(0)
    with_first.close(0)


@pytest.mark.parametrize("limits", [{"headers": 12}, {"header_bytes": 250}])
@pytest.mark.parametrize("mode", MODES)
def test_too_many_headers(mode: int, limits: dict[str, int]) -> None:
    engine = engine_with(**limits)
    few = Gateway(engine, modes=(mode, DUPLEX))
    few.send_headers(headers={f"x-{number}": "1" for number in range(9)}, end=True)
    few.complete()
    few.close()
    many = Gateway(engine, modes=(mode, DUPLEX))
    many.send_headers(headers={f"x-{number}": "1" * 20 for number in range(10)}, end=True)
    error = error_of(many)
    assert (error["status"], error["code"]) == (431, "headers_too_large")
    many.close()
    assert_idle(engine)
    assert failures(engine) == {"HeadersTooLarge": 1}


def test_no_endpoint_is_a_503() -> None:
    engine = engine_with(0)
    for path, body in (("/v1/chat/completions", BODY), ("/v1/models", b"")):
        gateway = Gateway(engine)
        gateway.send_headers(path)
        gateway.send_body([body])
        assert (error_of(gateway)["status"], error_of(gateway)["code"]) == (503, "no_endpoint")
        gateway.close()
    assert failures(engine) == {"ServiceUnavailable": 2}
    assert engine.stats()["not_picked"] == 2


@pytest.mark.parametrize("failure", range(-1, len(FAILURES) + 2))
def test_every_refusal_is_an_openai_error(failure: int) -> None:
    expected = {1: 400, 2: 413, 3: 503, 7: 408, 9: 429, 10: 431, 11: 400, 15: 503}.get(failure, 500)
    if failure in (12, 13, 14, 16, 17, 18):
        expected = 429
    gateway = Gateway(engine_with())
    for problem in range(-1, 9):
        gateway.immediate = messages.parse(replies.refusal(failure, problem, 2**32 - 1)).immediate_response
        assert error_of(gateway)["status"] == expected
        assert gateway.immediate.details.isascii() and " " not in gateway.immediate.details


@pytest.mark.parametrize(("retry_after_s", "said"), [(0, "1"), (1, "1"), (60, "60"), (2**32 - 1, "4294967295")])
@pytest.mark.parametrize("failure", [FAILURES.index("QueueTimeout"), FAILURES.index("ShuttingDown")])
def test_when_to_come_again(failure: int, retry_after_s: int, said: str) -> None:
    response = messages.parse(replies.refusal(failure, retry_after_s=retry_after_s)).immediate_response
    headers = {option.header.key: option.header.raw_value for option in response.headers.set_headers}
    assert headers["retry-after"] == said.encode()


def test_refusing_is_done_once() -> None:
    engine = engine_with()
    stream = Session(engine, 0)
    stream.feed(messages.request_headers(), 0)
    (reply,) = stream.refuse(session.FAIL_TIMEOUT)
    assert messages.parse(reply).immediate_response.status.code == 408
    assert stream.state == session.STATE_ENDED
    assert stream.refuse(session.FAIL_INTERNAL) == []
    stream.close(0)
    assert failures(engine) == {"RequestTimeout": 1}


def test_what_is_no_refusal_of_its_own_is_internal() -> None:
    engine = engine_with()
    for failure in (session.FAIL_INTERNAL, 4, 1, 0, -5, 1000):
        stream = Session(engine, 0)
        (reply,) = stream.refuse(failure)
        assert messages.parse(reply).immediate_response.status.code == 500
        stream.close(0)
    assert failures(engine) == {}  # nobody had asked anything
    stream = Session(engine, 0)
    stream.feed(messages.request_headers(), 0)
    stream.refuse(session.FAIL_INTERNAL)
    stream.close(0)
    assert failures(engine) == {"Internal": 1}


# --- subset hints ---


@pytest.mark.parametrize(
    ("subset", "picked"),
    [(["10.0.0.2:8000"], "10.0.0.2:8000"), ("10.0.0.2", "10.0.0.2:8000"), (["10.0.0.9"], ""), ([], "")],
)
def test_the_pick_keeps_to_the_subset(subset: Any, picked: str) -> None:
    for mode in MODES:
        gateway = Gateway(engine_with(9 - 2), modes=(mode, DUPLEX))
        gateway.send_headers(subset=subset)
        gateway.send_body([BODY])
        assert gateway.destination == picked
        assert (gateway.immediate is None) == bool(picked)


def test_a_hint_with_the_body_counts_too() -> None:
    gateway = Gateway(engine_with(8))
    gateway.send_headers()
    message = messages.with_subset(messages.request_body(BODY), ["10.0.0.7"])
    gateway.request.send("body", BODY, True)
    gateway.take(gateway.feed(message, 1))
    assert gateway.destination == "10.0.0.7:8000"


def test_a_hint_that_cannot_be_read_ends_the_stream() -> None:
    stream = Session(engine_with(), 0)
    with pytest.raises(SessionError):
        stream.feed(messages.request_headers() + b"\x42\x01\x0a", 0)


def test_a_policy_may_ignore_the_hint() -> None:
    engine = engine_with(1)
    engine.set_policy([(32, 1.0, (), 0)], ignore_subset=True)
    gateway = Gateway(engine)
    gateway.send_headers("/v1/models", end=True, subset=[])
    assert gateway.destination == "10.0.0.1:8000"
