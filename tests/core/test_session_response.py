import base64

import pytest

from picker._core import session
from picker._core.engine import Engine
from tests.support import messages
from tests.support.exchange import (
    BODY,
    DUPLEX,
    MODES,
    MS,
    SSE,
    assert_idle,
    engine_with,
    failures,
    only_series,
    whole_exchange,
)
from tests.support.gateway import Gateway

# --- the response ---


def test_the_session_token_goes_out_and_comes_back() -> None:
    engine = Engine(hash_seed=1)
    engine.set_policy([(18, 1.0, (), 0), (30, 1.0, (), 0)], session_header="X-My-Session")
    tokens = {}
    for number in range(4):
        target, token = f"10.0.0.{number}:80", base64.b64encode(b"ns/pod-%d" % number).decode()
        engine.add_endpoint(target, f"10.0.0.{number}", token=token)
        tokens[target] = token
    for target, token in tokens.items():
        gateway = Gateway(engine)
        gateway.send_headers(headers={"x-my-session": token})
        gateway.send_body([BODY])
        gateway.answer_headers()
        assert gateway.destination == target
        assert gateway.response_headers == {"x-my-session": token}
        gateway.close()


def test_the_token_is_that_of_the_endpoint_that_answers() -> None:
    engine = Engine(hash_seed=1)
    engine.set_policy([(18, 1.0, (), 0), (30, 1.0, (), 0)])
    engine.add_endpoint("10.0.0.1:80", "10.0.0.1", token="one")
    engine.add_endpoint("10.0.0.2:80", "10.0.0.2", token="two")
    gateway = Gateway(engine)
    gateway.send_headers(headers={"x-session-token": "one"})
    gateway.send_body([BODY])
    gateway.answer_headers(served="10.0.0.2:80")
    assert gateway.response_headers == {"x-session-token": "two"}


@pytest.mark.parametrize("status", [200, 404, 500])
def test_figures_of_the_response(status: int) -> None:
    engine = engine_with(1)
    gateway = Gateway(engine, now_ns=5 * MS)
    gateway.send_headers()
    gateway.now_ns = 10 * MS
    gateway.send_body([BODY])
    gateway.now_ns = 30 * MS
    gateway.answer_headers(status)
    gateway.now_ns = 55 * MS
    gateway.answer_body(SSE[:1], ending="open")
    gateway.now_ns = 105 * MS
    gateway.answer_body(SSE[1:])
    gateway.now_ns = 500 * MS
    gateway.close()
    series = only_series(engine)
    assert series["duration_s"][1] == pytest.approx(0.1)
    assert series["failures"] == ({} if status == 200 else {"ModelServerError": 1})
    assert series["ttft_s"][1] == pytest.approx(0.05 if status == 200 else 0)
    assert series["ttft_s"][0][-1][1] == (status == 200)
    assert series["tpot_s"][1] == pytest.approx(0.025 if status == 200 else 0)
    assert engine.decisions()[0]["ttft_s"] == (pytest.approx(0.045) if status == 200 else None)


def test_a_clock_that_starts_at_nought() -> None:
    engine = engine_with(1)
    gateway = whole_exchange(engine, now_ns=0)
    assert gateway.session.state == session.STATE_ENDED
    assert only_series(engine)["ttft_s"] == ((*((b, 1) for b, _ in only_series(engine)["ttft_s"][0]),), 0.0)


@pytest.mark.parametrize(
    ("kind", "body", "code"),
    [
        ("text/event-stream", b"data: [DONE]\n\n", {}),
        ("text/event-stream", b"data: {}\n\n", {"Canceled": 1}),
        ("text/event-stream", b'data: {"error":{"message":"no"}}\n\ndata: [DONE]\n\n', {"ModelServerError": 1}),
        ("application/json", b'{"usage":{}}', {}),
        ("application/json", b'{"usage":', {"Canceled": 1}),
        ("application/json", b'{"error":{}}', {"ModelServerError": 1}),
        ("application/json", b"", {"Canceled": 1}),
    ],
)
def test_a_body_whose_end_is_not_shown(kind: str, body: bytes, code: dict[str, int]) -> None:
    """Trailers are there, but the gateway keeps them to itself."""
    engine = engine_with(1)
    gateway = Gateway(engine)
    gateway.send_headers()
    gateway.send_body([BODY])
    gateway.answer_headers(200, kind)
    gateway.answer_body([body], ending="open")
    gateway.close()
    assert failures(engine) == code


def test_response_trailers_end_the_response() -> None:
    for mode in MODES[:4]:
        engine = engine_with(1)
        gateway = Gateway(engine, modes=(DUPLEX, mode))
        gateway.send_headers()
        gateway.send_body([BODY])
        gateway.answer_headers()
        gateway.answer_body(SSE, ending="trailers")
        gateway.complete()
        gateway.close()
        assert failures(engine) == {}


def test_a_response_without_a_body() -> None:
    engine = engine_with(1)
    gateway = Gateway(engine)
    gateway.send_headers("/v1/models", end=True)
    gateway.answer_headers(204, end=True)
    gateway.complete()
    assert gateway.session.state == session.STATE_ENDED
    gateway.close()
    assert failures(engine) == {}


def test_the_gateways_own_answer_before_the_pick() -> None:
    """A 413 of the gateway while the body is still coming: its response is answered, the request is given up."""
    engine = engine_with()
    gateway = Gateway(engine)
    gateway.send_headers()
    gateway.send_body([BODY[:100]], ending="open")
    gateway.answer_headers(413, "text/plain")
    assert engine.buffered_bytes == 0
    assert gateway.feed(messages.request_body(BODY[100:]), 1) == []
    gateway.answer_body([b"too large"])
    gateway.response.demand_complete()
    gateway.close()
    assert_idle(engine)
    assert (failures(engine), engine.stats()["picked"]) == ({"Canceled": 1}, 0)


@pytest.mark.parametrize("value", [b"", b"20", b"2000", b"2x0", b"\xff", b"200 OK"])
def test_a_status_that_is_none(value: bytes) -> None:
    engine = engine_with(1)
    gateway = Gateway(engine)
    gateway.send_headers()
    gateway.send_body([BODY])
    gateway.take([])
    gateway.response.send("headers", b"", False)
    gateway.take(gateway.feed(messages.response_headers_with(":status", value), 1))
    gateway.answer_body(SSE)
    gateway.complete()
    gateway.close()
    assert failures(engine) == {}
