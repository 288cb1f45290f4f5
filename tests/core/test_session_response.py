import base64
from typing import Any

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
from tests.support.protobuf import chunk, complete, frame

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


def stream_of(*events: tuple[int, bytes], kind: str = "text/event-stream", status: int = 200) -> dict[str, Any]:
    """What is counted of a response whose pieces come at so many ms; it began at 0."""
    engine = engine_with(1)
    gateway = Gateway(engine, now_ns=0)
    gateway.send_headers()
    gateway.send_body([BODY])
    gateway.answer_headers(status, kind)
    for at, piece in events:
        gateway.now_ns = at * MS
        gateway.answer_body([piece], ending="open")
    gateway.answer_body([])
    gateway.complete()
    gateway.close()
    return only_series(engine)


def counts(series: dict[str, Any], name: str) -> list[tuple[float, int]]:
    """The buckets anything is in."""
    rows, _ = series[name]
    before = [0, *(count for _, count in rows)]
    return [(bound, count - less) for (bound, count), less in zip(rows, before, strict=False) if count > less]


TOKEN, DONE = b'data: {"choices":[]}\n\n', b"data: [DONE]\n\n"


def test_times_between_tokens() -> None:
    usage = b'data: {"usage":{"prompt_tokens":3,"completion_tokens":5}}\n\n'
    series = stream_of((100, TOKEN), (101, TOKEN[:9]), (120, TOKEN[9:] + TOKEN), (420, usage), (420, DONE))
    assert series["ttft_s"][1] == series["streaming_ttft_s"][1] == pytest.approx(0.1)
    assert counts(series, "itl_s") == [(0.02, 1), (0.3, 1)]
    assert series["itl_s"][1] == pytest.approx(0.32)
    assert series["tpot_s"][1] == pytest.approx(0.32 / 4)
    assert series["ntpot_s"][1] == pytest.approx(0.42 / 5)


def test_what_holds_no_token_is_not_the_first() -> None:
    """Some events come at once, some comments while the prompt is read."""
    created, delta = b'data: {"type":"response.created"}\n\n', b'data: {"type":"response.output_text.delta"}\n\n'
    series = stream_of((5, b": keep alive\n\n"), (10, created), (200, delta), (210, delta), (900, DONE))
    assert series["ttft_s"][1] == pytest.approx(0.2)
    assert counts(series, "itl_s") == [(0.01, 1)]


def test_a_stream_without_a_token_has_no_time_to_the_first() -> None:
    for events in ([(5, DONE)], [(5, b'data: {"error":{"message":"no"}}\n\n')], []):
        series = stream_of(*events)
        assert counts(series, "ttft_s") == counts(series, "itl_s") == []


def test_an_answer_that_is_no_stream_has_no_time_per_token() -> None:
    body = b'{"usage":{"prompt_tokens":3,"completion_tokens":5}}'
    series = stream_of((100, body[:9]), (200, body[9:]), kind="application/json")
    assert series["ttft_s"][1] == pytest.approx(0.1)
    assert counts(series, "streaming_ttft_s") == counts(series, "tpot_s") == counts(series, "itl_s") == []
    assert series["ntpot_s"][1] == pytest.approx(0.2 / 5)
    assert series["output_tokens"][1] == 5


@pytest.mark.parametrize(("status", "kind"), [(200, "2xx"), (204, "2xx"), (301, "3xx"), (429, "4xx"), (503, "5xx")])
def test_statuses_are_counted_by_class(status: int, kind: str) -> None:
    series = stream_of(status=status)
    assert series["statuses"] == {kind: 1}
    assert series["failures"] == ({"ModelServerError": 1} if status >= 400 else {})


def test_what_is_encoded_is_not_read() -> None:
    for encoding, tokens in (("gzip", 0), ("identity", 150)):
        engine = engine_with(1)
        gateway = Gateway(engine)
        gateway.send_headers()
        gateway.send_body([BODY])
        gateway.answer_headers(headers={"content-encoding": encoding})
        gateway.answer_body(SSE)
        gateway.close()
        assert only_series(engine)["input_tokens"][1] == tokens
        assert failures(engine) == {}


# --- gRPC ---

GENERATED = frame(chunk([5], prompt=7, completion=1)) + frame(chunk([6, 7], prompt=7, completion=2, cached=4))


def grpc_stream(*pieces: bytes, headers: dict[str, str] | None = None, **trailers: str) -> Engine:
    engine = engine_with(1)
    gateway = Gateway(engine)
    gateway.send_headers("/vllm.grpc.engine.VllmEngine/Generate", headers={"content-type": "application/grpc"})
    gateway.send_body([frame(b"")])
    gateway.answer_headers(200, "application/grpc+proto", headers=headers, end=headers is not None)
    if headers is None:
        gateway.answer_body(pieces, ending="open")
    if trailers:
        gateway.response.send("trailers", b"", False)
        gateway.take(gateway.feed(messages.response_trailers(**trailers), 1))
    gateway.close()
    return engine


def test_a_grpc_stream() -> None:
    cut = len(GENERATED) - 9
    engine = grpc_stream(GENERATED[:cut], GENERATED[cut:], grpc_status="0")
    series = only_series(engine)
    assert (series["input_tokens"][1], series["output_tokens"][1], series["cached_tokens"][1]) == (7, 3, 4)
    assert (series["ttft_s"][0][-1][1], series["itl_s"][0][-1][1], failures(engine)) == (1, 1, {})


def test_a_grpc_answer_that_is_no_stream() -> None:
    """All tokens come at once, so the time to them tells nothing of prefill."""
    engine = grpc_stream(frame(complete([5, 6], prompt=7, completion=2)), grpc_status="0")
    series = only_series(engine)
    assert (series["input_tokens"][1], series["output_tokens"][1]) == (7, 2)
    assert counts(series, "streaming_ttft_s") == counts(series, "tpot_s") == []
    assert engine.decisions()[0]["ttft_s"] is None
    assert grpc_stream(GENERATED, grpc_status="0").decisions()[0]["ttft_s"] is not None


def test_trailers_tell_nothing_else() -> None:
    engine = engine_with(1)
    gateway = Gateway(engine)
    gateway.send_headers()
    gateway.send_body([BODY])
    gateway.answer_headers()
    gateway.answer_body(SSE, ending="open")
    gateway.response.send("trailers", b"", False)
    gateway.take(gateway.feed(messages.response_trailers(**{":status": "500", "content-type": "text/plain"}), 1))
    gateway.close()
    assert failures(engine) == {}
    assert only_series(engine)["statuses"] == {"2xx": 1}


def test_the_status_of_grpc_is_in_its_trailers() -> None:
    assert failures(grpc_stream(GENERATED, grpc_status="13")) == {"ModelServerError": 1}
    assert failures(grpc_stream(GENERATED)) == {"Canceled": 1}
    assert failures(grpc_stream(headers={"grpc-status": "3"})) == {"ModelServerError": 1}
    assert failures(grpc_stream(headers={"grpc-status": "0"})) == {}


def test_a_grpc_endpoint_that_does_not_answer_is_ejected() -> None:
    """Gateways tell gRPC clients so with a status of 200."""
    for status, ejected in (("14", True), ("13", True), ("3", False), ("0", False)):
        engine = engine_with(2)
        for _ in range(40):
            gateway = Gateway(engine)
            gateway.send_headers("/vllm.grpc.engine.VllmEngine/Generate")
            gateway.send_body([frame(b"")])
            gateway.answer_headers(200, "application/grpc", headers={"grpc-status": status}, end=True)
            gateway.close()
        assert (engine.stats()["ejected"] > 0) == ejected


# --- who answered ---


@pytest.mark.parametrize(
    ("served", "moves"),
    [
        ("10.0.0.2:8000", True),
        ("[fd00::2]:8000", True),
        (" 10.0.0.2:8000 ", True),
        ("10.0.0.2:8000, 10.0.0.1:8000", True),
        ("10.0.0.1:8000,10.0.0.2:8000", False),
        ("10.9.9.9:1", None),
        ("10.0.0.2", False),
        (",", False),
        ("", False),
    ],
)
def test_the_endpoint_that_answers_is_charged(served: str, moves: bool | None) -> None:
    """None: it is not one of ours, and nobody is charged any more. `""`: the gateway does not say."""
    engine = Engine(hash_seed=1)
    first, second = "10.0.0.1:8000", served.strip().split(",")[0] if moves else "10.0.0.2:8000"
    engine.add_endpoint(first, "10.0.0.1")
    gateway = Gateway(engine)
    gateway.send_headers()
    gateway.send_body([BODY])
    engine.add_endpoint(second, "10.0.0.2")
    gateway.answer_headers(served=served)
    busy = {endpoint["target"]: endpoint["requests"] for endpoint in engine.endpoints(0)}
    assert busy == {first: moves is False, second: moves is True}
    gateway.answer_body(SSE)
    gateway.complete()
    gateway.close()
    assert_idle(engine)
    assert failures(engine) == {}


@pytest.mark.parametrize(
    ("value", "requests"),
    [
        (["10.0.0.9:8000"], 0),
        (["10.0.0.9:8000", "10.0.0.1:8000"], 0),
        (["10.0.0.1:8000"], 1),
        *((value, 1) for value in ([], [5], 5, True, None, {"a": "b"})),
    ],
)
def test_a_served_endpoint_may_stand_in_a_list_and_must_be_a_text(value: Any, requests: int) -> None:
    engine = engine_with(1)
    gateway = Gateway(engine)
    gateway.send_headers()
    gateway.send_body([BODY])
    message = messages.with_served(messages.response_headers(), value)
    gateway.response.send("headers", b"", False)
    gateway.take(gateway.feed(message, 1))
    assert engine.endpoints(0)[0]["requests"] == requests
    gateway.close()


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
