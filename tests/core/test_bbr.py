"""The request direction of the body-based router, in every mode, against its model.

Plugins: test_view.py. Streams of gRPC: test_bbr_calls.py.
"""

import json
import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from picker._core import bbr
from picker._core.bbr import STEP_BASE, STEP_FIELD, STEP_PYTHON, Exchange, ExchangeError, Router
from picker._core.view import View
from tests.model import bbr as model
from tests.support import messages as m
from tests.support.bodies import BASE, MODEL, NAMES, REFUSAL, SPOOFED, STEPS, BodyGateway, router
from tests.support.builds import debug_build_only
from tests.support.leaks import assert_flat, each_allocation_failing

DUPLEX, BUFFERED, PARTIAL, STREAMED, NONE = m.FULL_DUPLEX, m.BUFFERED, m.BUFFERED_PARTIAL, m.STREAMED, m.NONE
READ = (DUPLEX, BUFFERED, PARTIAL)
BODY = json.dumps({"model": "food-review", "messages": [{"role": "user", "content": "Grüße " * 20}]}).encode()
ENDINGS = ["chunk", "empty", "trailers"]
SSE = [b'data: {"a":1}\n\n', b"data: [D", b"ONE]\n\n"]


def posted(body: bytes, mode: int = DUPLEX, made: Router | None = None, **options: Any) -> BodyGateway:
    """The gateway behind a whole request."""
    gateway = BodyGateway(made or router(), modes=(mode, mode))
    gateway.post(body, headers=SPOOFED, ending="chunk" if mode in (BUFFERED, PARTIAL) else "empty", **options)
    if gateway.immediate is None:
        gateway.request.demand_complete()
    return gateway


# --- what a body makes of headers ---


@pytest.mark.parametrize("mode", READ)
def test_the_model_and_its_base_become_headers_and_the_route_is_chosen_anew(mode: int) -> None:
    gateway = posted(BODY, mode)
    assert gateway.routing() == {MODEL: "food-review", BASE: "llama"}
    assert gateway.clears == (2 if mode in (BUFFERED, PARTIAL) else 1)
    assert gateway.exchange.is_over
    assert gateway.router.figures()["routed"] == 1


@pytest.mark.parametrize("mode", READ)
@pytest.mark.parametrize(
    ("model_json", "wanted"),
    [
        ('"llama"', {MODEL: "llama", BASE: "llama"}),
        ('"unknown"', {MODEL: "unknown", BASE: ""}),
        (r'"food\u002dreview"', {MODEL: "food-review", BASE: "llama"}),
        ('"世界"', {MODEL: "世界", BASE: ""}),
        (json.dumps("😀"), {MODEL: "😀", BASE: ""}),
        ("123", {MODEL: "123", BASE: ""}),
        ("1e3", {MODEL: "1e3", BASE: ""}),
        ("true", {MODEL: "true", BASE: ""}),
        ("null", {}),
        ('""', {}),
        ("[]", {}),
        ('{"a":1}', {}),
        (json.dumps("x" * 4096), {MODEL: "x" * 4096, BASE: ""}),
    ],
)
def test_models(mode: int, model_json: str, wanted: dict[str, str]) -> None:
    gateway = posted(f'{{"x":1, "model" : {model_json} }}'.encode(), mode)
    assert gateway.routing() == wanted
    assert gateway.immediate is None


@pytest.mark.parametrize("mode", READ)
@pytest.mark.parametrize("model_json", [r'"a\nb"', r'"\u0000"', '"\x7f"', r'"\ud800"', json.dumps("x" * 4097)])
def test_a_model_that_no_header_can_hold_is_400(mode: int, model_json: str) -> None:
    gateway = posted(f'{{"model":{model_json}}}'.encode(), mode)
    assert gateway.error() == (400, json.loads(REFUSAL))
    assert gateway.router.figures()["rejected"] == 1


@pytest.mark.parametrize("mode", [DUPLEX, BUFFERED])
@pytest.mark.parametrize("body", [b"{", b"not json", b'{"model": "a"} x', b"[1]", b'"model"', b'{"a":' * 300])
def test_what_is_no_json_object_is_400(mode: int, body: bytes) -> None:
    status, error = posted(body, mode).error()
    assert status == 400
    assert error["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize("mode", READ)
def test_a_body_without_a_model_passes_and_is_counted(mode: int) -> None:
    made = router()
    for body in (b"{}", b'{"model":""}', b'{"model":null}', b'{"model":[1]}'):
        gateway = posted(body, mode, made)
        assert (gateway.routing(), gateway.immediate) == ({}, None)
    counts = made.figures()["request"][0]
    assert (counts["runs"], counts["missing"], counts["empty"], counts["unusable"]) == (4, 1, 2, 1)
    assert made.figures()["routed"] == 0


def test_the_last_of_repeated_models_counts() -> None:
    """As for every reader in Python, which is what serves the models."""
    assert posted(b'{"model":"a","model":"travel"}').routing() == {MODEL: "travel", BASE: "qwen"}


def test_steps_may_be_any() -> None:
    steps = [(STEP_FIELD, b"user", b"x-user", REFUSAL), (STEP_BASE, b"user", b"x-tenant", REFUSAL)]
    gateway = BodyGateway(Router(steps))
    gateway.post(b'{"user": "me"}', headers={"x-user": "you", "x-tenant": "yours", MODEL: "mine"})
    assert gateway.headers == {"x-user": "me", "x-tenant": "", MODEL: "mine"}


# --- bodies as they come ---


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("cut", [1, 7, 0])
def test_in_full_duplex_nothing_is_said_before_the_end_of_the_body(cut: int, ending: str) -> None:
    gateway = BodyGateway(router())
    gateway.send_headers()
    chunks = [BODY[at : at + cut] for at in range(0, len(BODY), cut)] if cut else [BODY]
    gateway.send_body(chunks, ending="open")
    assert not gateway.request.headers_answered
    if ending == "chunk":
        gateway.send_body([b" "], ending="chunk")
    else:
        gateway.send_body([], ending=ending)
    gateway.request.demand_complete()
    assert gateway.routing() == {MODEL: "food-review", BASE: "llama"}


def test_a_large_body_is_given_back_in_chunks() -> None:
    body = json.dumps({"model": "llama", "prompt": "x" * 200_000}).encode()
    exchange = Exchange(router())
    exchange.feed(m.request_headers())
    replies = [m.parse(reply) for reply in exchange.feed(m.request_body(body))]
    chunks = [reply.request_body.response.body_mutation.streamed_response for reply in replies[1:]]
    assert b"".join(chunk.body for chunk in chunks) == body
    assert [chunk.end_of_stream for chunk in chunks] == [False] * (len(chunks) - 1) + [True]
    assert max(len(chunk.body) for chunk in chunks) <= 62_000


@pytest.mark.parametrize("mode", [DUPLEX, BUFFERED, PARTIAL, STREAMED, NONE])
def test_a_request_without_a_body_passes_stripped(mode: int) -> None:
    gateway = BodyGateway(router(), modes=(mode, mode))
    gateway.send_headers(headers=SPOOFED | {"x-other": "1"}, end=True)
    assert gateway.headers == {"x-other": "1"}
    assert (gateway.clears, gateway.exchange.is_over) == (1, True)


@pytest.mark.parametrize("ending", ["empty", "trailers"])
def test_a_body_of_nothing_passes_stripped(ending: str) -> None:
    gateway = posted(b"")
    assert (gateway.routing(), gateway.clears, gateway.exchange.is_over) == ({}, 1, True)


@pytest.mark.parametrize("mode", [STREAMED, NONE])
def test_modes_that_show_no_whole_body_pass_stripped(mode: int) -> None:
    gateway = BodyGateway(router(), modes=(mode, mode))
    gateway.post(BODY, headers=SPOOFED, cut=10)
    gateway.request.demand_complete()
    assert (gateway.routing(), gateway.clears, gateway.exchange.is_over) == ({}, 1, True)


def test_without_spoofed_headers_and_without_a_model_the_route_stays() -> None:
    gateway = BodyGateway(router())
    gateway.post(b"{}")
    assert gateway.clears == 0


def test_the_beginning_of_a_body_passes() -> None:
    """BUFFERED_PARTIAL: the gateway gives up gathering."""
    gateway = BodyGateway(router(), modes=(PARTIAL, PARTIAL))
    gateway.send_headers(headers=SPOOFED)
    gateway.send_body([BODY[:20]], ending="open")
    assert (gateway.routing(), gateway.immediate) == ({}, None)
    gateway.send_body([BODY[20:]], ending="chunk")
    gateway.request.demand_complete()


@pytest.mark.parametrize("kind", ["multipart/form-data; boundary=x", "application/grpc"])
def test_a_body_that_says_it_is_no_json_passes_as_it_comes(kind: str) -> None:
    gateway = BodyGateway(router())
    gateway.send_headers(headers={"content-type": kind, **SPOOFED})
    assert gateway.request.headers_answered
    gateway.send_body([b"--x", b"\r\n\x00"])
    gateway.request.demand_complete()
    assert gateway.headers == {"content-type": kind}


@pytest.mark.parametrize("mode", [DUPLEX, BUFFERED])
def test_a_body_over_the_cap_is_413(mode: int) -> None:
    made = router(body_bytes=100)
    gateway = BodyGateway(made, modes=(mode, mode))
    gateway.post(b" " * 101, cut=50)
    assert gateway.error()[0] == 413
    assert posted(b'{"x":"%s"}' % (b" " * 92), mode, made).immediate is None
    assert made.figures()["too_large"] == 1


def test_bodies_over_what_all_may_hold_are_429() -> None:
    made = router(buffered_bytes=100)
    first = BodyGateway(made)
    first.send_headers()
    first.send_body([b" " * 60], ending="open")
    second = BodyGateway(made)
    second.send_headers()
    second.send_body([b" " * 60], ending="open")
    assert second.error()[0] == 429
    assert made.buffered_bytes == 60
    first.send_body([BODY[:0], b"{}"], ending="chunk")
    assert (first.immediate, made.buffered_bytes) == (None, 0)


def test_an_exchange_too_many_is_429_and_far_too_many_none_at_all() -> None:
    made = router(sessions=1)
    kept = [Exchange(made)]
    gateway = BodyGateway(made)
    gateway.send_headers()
    assert gateway.error()[0] == 429
    with pytest.raises(OverflowError, match="2 streams at once"):
        Exchange(made)
    kept.pop().close()
    gateway.close()
    assert (made.sessions, posted(BODY, made=made).immediate) == (0, None)


def test_failures_are_told_once_and_before_the_answer_only() -> None:
    exchange = Exchange(router())
    exchange.feed(m.request_headers())
    assert m.parse(exchange.refuse(bbr.FAIL_TIMEOUT)[0]).immediate_response.status.code == 408
    assert (exchange.refuse(bbr.FAIL_TIMEOUT), exchange.is_over) == ([], True)
    answered = Exchange(router())
    answered.feed(m.request_headers(modes=(STREAMED, NONE)))
    with pytest.raises(ExchangeError, match="has an answer"):
        answered.refuse(bbr.FAIL_INTERNAL)


def test_who_only_watches_gets_no_answer() -> None:
    message = m.ext_proc.ProcessingRequest.FromString(m.request_headers(end_of_stream=True))
    message.observability_mode = True
    exchange = Exchange(router())
    assert (exchange.feed(message.SerializeToString()), exchange.is_over) == ([], True)


@pytest.mark.parametrize(
    "sent",
    [
        [b"\xff"],
        [m.request_body(b"{}")],
        [m.request_trailers()],
        [m.request_headers(), m.request_headers()],
        [m.request_headers(modes=(BUFFERED, BUFFERED)), m.request_trailers()],
        [m.request_headers(modes=(5, 5))],
        [m.response_body(b"")],
        [m.response_trailers()],
        [m.response_headers(), m.response_headers()],
    ],
)
def test_what_comes_out_of_order_is_an_error(sent: list[bytes]) -> None:
    exchange = Exchange(router())
    for message in sent[:-1]:
        exchange.feed(message)
    with pytest.raises(ExchangeError):
        exchange.feed(sent[-1])
    exchange.close()
    exchange._check()
    with pytest.raises(ExchangeError):
        exchange.feed(m.request_headers())


# --- responses ---


@pytest.mark.parametrize("mode", [BUFFERED, STREAMED, DUPLEX])
@pytest.mark.parametrize("ending", ENDINGS)
def test_responses_are_never_held(mode: int, ending: str) -> None:
    """The reference holds them to the end, so that streams do not stream, and for ever if trailers end them."""
    gateway = BodyGateway(router(), modes=(STREAMED, mode))
    gateway.send_headers()
    gateway.answer_headers()
    assert gateway.response.headers_answered
    for chunk in SSE:
        gateway.answer_body([chunk], ending="open")
        gateway.response.demand_complete()
    if ending == "chunk":
        gateway.answer_body([b"x"], ending="chunk")
    else:
        gateway.answer_body([], ending=ending)
    gateway.response.demand_complete()
    assert gateway.exchange.state == bbr.STATE_ENDED


def test_an_answer_of_the_gateways_own_passes() -> None:
    gateway = BodyGateway(router())
    gateway.send_headers()
    gateway.send_body([b'{"mod'], ending="open")
    gateway.respond([b"too slow"], status=504)
    assert gateway.router.buffered_bytes == 0
    assert gateway.exchange.feed(m.request_body(b"x")) == []
    gateway.response.demand_complete()


# --- settings ---


def test_arguments() -> None:
    with pytest.raises(ValueError, match="lower-case"):
        Router([(STEP_FIELD, b"model", b"X-Model", REFUSAL)])
    with pytest.raises(ValueError, match="lower-case"):
        Router([], headers=[b""])
    with pytest.raises(ValueError, match="no step of kind 7"):
        Router([(7, b"model", b"x", REFUSAL)])
    with pytest.raises(ValueError, match="need a host"):
        Router([(STEP_PYTHON, True, False)])
    with pytest.raises(OverflowError, match="at most 16 plugins"):
        Router([STEPS[0]] * 17)
    with pytest.raises(OverflowError, match="at most 32 headers"):
        Router([], headers=[b"x-%d" % number for number in range(33)])
    for limits in ({"chunk_bytes": 0}, {"timeout_ns": 0}, {"sessions": 0}):
        with pytest.raises(ValueError, match="above 0"):
            Router([], **limits)
    with pytest.raises(TypeError):
        Router([]).set_names({})  # type: ignore[arg-type]
    with pytest.raises(RuntimeError, match="only while its plugin is asked"):
        View().body  # noqa: B018


# --- against the model ---

VALUES = st.one_of(
    st.sampled_from([*NAMES, "", "x y", "é", "a\tb", "\x7f", "\ud800", "\U0001f600"]),
    st.integers(-3, 10**20),
    st.floats(),
    st.none(),
    st.booleans(),
    st.just([1]),
    st.just({}),
)
DOCUMENTS = st.one_of(
    st.dictionaries(st.sampled_from(["model", "a", 'mo"del']), VALUES, max_size=3),
    st.dictionaries(st.sampled_from(["model", "a"]), VALUES, min_size=1, max_size=2),
    st.lists(st.none(), max_size=1),
)


@st.composite
def bodies(draw: st.DrawFn) -> bytes:
    text = json.dumps(draw(DOCUMENTS), ensure_ascii=draw(st.booleans()), indent=draw(st.sampled_from([None, 1])))
    body = text.encode("utf-8", "surrogatepass")
    return body[: draw(st.integers(0, len(body)))] if draw(st.integers(0, 9)) == 0 else body


@settings(max_examples=300)
@given(
    bodies(), st.sampled_from([DUPLEX, BUFFERED]), st.integers(0, 5), st.sampled_from(["chunk", "empty", "trailers"])
)
def test_equals_the_model(body: bytes, mode: int, cut: int, ending: str) -> None:
    gateway = BodyGateway(router(), modes=(mode, DUPLEX))
    gateway.post(body, headers=SPOOFED, cut=cut, ending=ending)
    steps = [("model", MODEL, False), ("model", BASE, True)]
    try:
        wanted = model.headers_of(body, steps, NAMES) if body else {}
    except model.Refused:
        assert gateway.error()[0] == 400
    else:
        gateway.request.demand_complete()
        assert gateway.routing() == wanted
    gateway.close()
    assert (gateway.router.sessions, gateway.router.buffered_bytes) == (0, 0)


def test_exchanges_do_not_mix() -> None:
    """Many at once, their messages in any order; each gets its own answer."""
    rng = random.Random(7)
    made = router()
    gateways = [BodyGateway(made) for _ in range(20)]
    left = {number: [b'{"model":', b'"m%d"' % number, b"}"] for number in range(20)}
    for gateway in gateways:
        gateway.send_headers()
    while left:
        number = rng.choice(list(left))
        chunk = left[number].pop(0)
        gateways[number].send_body([chunk], ending="open" if left[number] else "chunk")
        if not left[number]:
            del left[number]
    assert [gateway.headers[MODEL] for gateway in gateways] == [f"m{number}" for number in range(20)]


# --- memory ---


def test_leaves_nothing_behind() -> None:
    made = router()

    def exchange() -> None:
        one = Exchange(made)
        one.feed(m.request_headers(headers=SPOOFED))
        one.feed(m.request_body(BODY[:9], end_of_stream=False))
        one.feed(m.request_body(BODY[9:]))
        one.close()
        left = Exchange(made)
        left.feed(m.request_headers())
        left.feed(m.request_body(BODY, end_of_stream=False))

    exchange()  # the router keeps its tape
    assert_flat(exchange, calls=50)
    assert (made.sessions, made.buffered_bytes) == (0, 0)


@debug_build_only
def test_memory_that_is_not_there() -> None:
    def exchange() -> None:
        made = router()
        one = Exchange(made)
        try:
            one.feed(m.request_headers(headers=SPOOFED))
            one.feed(m.request_body(BODY))
        finally:
            one.close()
            one._check()
            made._check()

    assert each_allocation_failing(exchange) > 5
