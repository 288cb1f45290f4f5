"""Whole exchanges, whatever their shape and wherever they end: to the protocol, and leaving nothing behind."""

import base64
import json
import random
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from picker._core import session
from picker._core.engine import Engine
from picker._core.session import Session, SessionError
from tests.support import messages
from tests.support.builds import debug_build_only
from tests.support.exchange import (
    BODY,
    BUFFERED,
    DUPLEX,
    MODES,
    MS,
    NONE,
    PARTIAL,
    SSE,
    STEERING,
    STREAMED,
    assert_idle,
    engine_with,
    error_of,
    failures,
    whole_exchange,
)
from tests.support.fuzz import cuts
from tests.support.gateway import Gateway, ProtocolError
from tests.support.leaks import assert_flat, failing_allocations, succeeds
from tests.support.shared import SHARED, needs_shared

# --- any exchange ---


@st.composite
def exchanges(draw: st.DrawFn) -> dict[str, Any]:
    return {
        "modes": (draw(st.sampled_from(MODES)), draw(st.sampled_from(MODES))),
        "path": draw(st.sampled_from(["/v1/chat/completions", "/v1/completions", "/v1/models"])),
        "body": draw(st.sampled_from([BODY, BODY + b" " * 70_000, b"{}", b"", b'{"model":"x","prompt":[1,2]}'])),
        "ending": draw(st.sampled_from(["chunk", "empty", "trailers"])),
        "end": draw(st.booleans()),
        "status": draw(st.sampled_from([200, 200, 429, 503])),
        "answer": draw(st.sampled_from([b"".join(SSE), b"", b'{"usage":null}', b"x" * 100_000])),
        "kind": draw(st.sampled_from(["text/event-stream", "application/json"])),
        "answer_ending": draw(st.sampled_from(["chunk", "empty", "trailers"])),
        "seed": draw(st.integers(0, 2**32)),
    }


def steps(gateway: Gateway, plan: dict[str, Any]) -> list[Callable[[], None]]:
    """What a gateway does, one thing after the other."""
    rng = random.Random(plan["seed"])
    todo: list[Callable[[], None]] = [lambda: gateway.send_headers(plan["path"], headers=STEERING, end=plan["end"])]
    if not plan["end"]:
        *pieces, last = cuts(rng, plan["body"])
        if gateway.modes[0] in (BUFFERED, PARTIAL):
            pieces, last = [], plan["body"]
        todo += [lambda piece=piece: gateway.send_body([piece], ending="open") for piece in pieces]  # type: ignore[misc]
        todo.append(lambda: gateway.send_body([last], ending=plan["ending"]))
    todo.append(lambda: gateway.answer_headers(plan["status"], plan["kind"]))
    *parts, end = cuts(rng, plan["answer"])
    todo += [lambda part=part: gateway.answer_body([part], ending="open") for part in parts]  # type: ignore[misc]
    todo.append(lambda: gateway.answer_body([end], ending=plan["answer_ending"]))
    return todo


ENGINE = engine_with(3, chunk_bytes=1000)


@settings(max_examples=300, deadline=None)
@given(exchanges(), st.integers(0, 20))
def test_any_exchange_keeps_to_the_protocol_wherever_it_ends(plan: dict[str, Any], last: int) -> None:
    """`Gateway` raises for every answer that Envoy would not take, and for what it would wait for."""
    gateway = Gateway(ENGINE, modes=plan["modes"])
    todo = steps(gateway, plan)
    for step in todo[:last]:
        if gateway.immediate is None:
            step()
    if last >= len(todo):
        gateway.complete()
    if gateway.immediate is not None:
        assert error_of(gateway)["status"] == 400
    gateway.close()
    assert_idle(ENGINE)


def test_ten_thousand_sessions_leave_nothing_behind() -> None:
    """Mixed ends: success, abort at every phase, upstream errors, refused bodies; a hundred at a time."""
    engine = engine_with(5, body_bytes=20_000)
    rng = random.Random(7)
    plans = [
        {
            "modes": (rng.choice(MODES), rng.choice(MODES)),
            "path": rng.choice(["/v1/chat/completions"] * 3 + ["/v1/completions", "/v1/models"]),
            "body": rng.choice([BODY] * 4 + [b"{}", b"", BODY + b" " * 20_000]),
            "ending": rng.choice(["chunk", "empty", "trailers"]),
            "end": rng.random() < 0.1,
            "status": rng.choice([200, 200, 200, 429, 503]),
            "answer": rng.choice([b"".join(SSE), b""]),
            "kind": "text/event-stream",
            "answer_ending": rng.choice(["chunk", "empty", "trailers"]),
            "seed": rng.random(),
        }
        for _ in range(10_000)
    ]
    running: list[tuple[Gateway, list[Callable[[], None]]]] = []
    now_ns = 0
    while plans or running:
        now_ns += MS
        if plans and len(running) < 100:
            plan = plans.pop()
            gateway = Gateway(engine, modes=plan["modes"], now_ns=now_ns)
            running.append((gateway, steps(gateway, plan)))
        gateway, todo = rng.choice(running)
        gateway.now_ns = now_ns
        if todo and gateway.immediate is None and rng.random() > 0.03:
            todo.pop(0)()
        else:
            gateway.close()
            running.remove((gateway, todo))
    assert_idle(engine)
    stats = engine.stats()
    assert sum(series["requests"] for series in stats["series"]) == engine_requests(stats) <= 10_000
    assert stats["picked"] > 5000
    assert {"BadRequest", "PayloadTooLarge", "ModelServerError", "Canceled", "NoAnswer"} <= failures(engine).keys()
    assert all(series["running"] == 0 for series in stats["series"])


def engine_requests(stats: dict[str, Any]) -> int:
    """Requests by what their durations say."""
    return sum(series["duration_s"][0][-1][1] for series in stats["series"])


# --- golden streams ---


def golden() -> dict[str, list[bytes]]:
    """What a real Envoy sent, by exchange, in order."""
    found: dict[str, list[bytes]] = defaultdict(list)
    for line in (SHARED / "reference" / "envoy_messages.jsonl").read_text().splitlines():
        record = json.loads(line)
        found[record["exchange"]].append(base64.b64decode(record["processing_request_b64"]))
    return found


@needs_shared
@pytest.mark.parametrize("exchange", ["1KB", "100KB"])
def test_replays_what_a_real_envoy_sent(exchange: str) -> None:
    engine = engine_with(1)
    stream = Session(engine, 0)
    sent = {"request_body": b"", "response_body": b""}
    back = dict(sent)
    kinds = []
    for number, message in enumerate(golden()[exchange]):
        request = messages.ext_proc.ProcessingRequest.FromString(message)
        kind = request.WhichOneof("request")
        if kind in sent:
            sent[kind] += getattr(request, kind).body
        for reply in map(messages.parse, stream.feed(message, number)):
            kinds.append(reply.WhichOneof("response"))
            if kinds[-1] in back:
                back[kinds[-1]] += getattr(reply, kinds[-1]).response.body_mutation.streamed_response.body
    stream.close(9)
    assert back == sent
    assert kinds[0] == "request_headers" and kinds[-3:] == ["response_headers", "response_body", "response_body"]
    assert set(kinds[1:-3]) == {"request_body"}
    assert_idle(engine)
    assert failures(engine) == {}


# --- memory ---


def mixed_life(engine: Engine) -> None:
    """Every way a session can go, errors included."""
    for modes in ((DUPLEX, DUPLEX), (BUFFERED, BUFFERED), (STREAMED, NONE)):
        whole_exchange(engine, modes=modes)
    for body in (b"{", b"{}", b"x" * 5000):
        gateway = Gateway(engine)
        gateway.send_headers(headers=STEERING, subset=["10.0.0.1"])
        gateway.send_body([body])
        gateway.close()
    for junk in (b"\xff", messages.request_headers(modes=(9, 9)), messages.request_trailers()):
        stream = Session(engine, 0)
        with pytest.raises(SessionError):
            stream.feed(junk, 0)
        stream.close(0)
    gateway = Gateway(engine)
    gateway.send_headers()
    gateway.send_body([BODY[:9]], ending="open")
    del gateway


def test_leaks_nothing() -> None:
    engine = engine_with(2, body_bytes=4000)
    mixed_life(engine)  # what an engine makes once
    assert_flat(lambda: mixed_life(engine), calls=20)
    assert_idle(engine)


def test_leaks_nothing_with_its_engine() -> None:
    assert_flat(lambda: whole_exchange(engine_with(2)), calls=20)


@debug_build_only
def test_survives_failing_allocations() -> None:
    def life() -> None:
        engine = engine_with(2, prompt_blocks=8)
        engine.set_policy([(20, 1.0, (), 0), (30, 1.0, (), 0)], plugins=lambda step, asked, endpoints: [1.0, 0.5])
        gateway = Gateway(engine)
        try:
            gateway.send_headers(headers=STEERING, subset=["10.0.0.1", "10.0.0.2"])
            gateway.send_body([BODY])
            gateway.answer_headers()
            gateway.answer_body(SSE)
            gateway.complete()
        finally:
            gateway.close()
            assert_idle(engine)

    assert failing_allocations(life) > 20


@debug_build_only
def test_no_memory_for_a_pick_is_answered() -> None:
    """After a MemoryError the client can still be told."""
    for after in range(20):
        engine = engine_with(2)
        stream = Session(engine, 0)
        stream.feed(messages.request_headers(), 0)
        if succeeds(lambda stream=stream: stream.feed(messages.request_body(BODY), 0), after):  # type: ignore[misc]
            stream.close(0)
            break
        (reply,) = stream.refuse(session.FAIL_INTERNAL)
        assert messages.parse(reply).immediate_response.status.code == 500
        stream._check()
        stream.close(0)
        assert_idle(engine)
    assert after > 5


# --- the tests themselves ---


def test_the_gateway_of_these_tests_is_strict() -> None:
    """It must notice what Envoy would not take."""
    gateway = Gateway(engine_with())
    gateway.send_headers()
    with pytest.raises(ProtocolError):
        gateway.request.demand_complete()
    with pytest.raises(ProtocolError, match="unasked"):
        gateway.take([messages.ext_proc.ProcessingResponse(response_headers={}).SerializeToString()])
    chunk = messages.ext_proc.ProcessingResponse(request_body={}).SerializeToString()
    with pytest.raises(ProtocolError, match="before the headers"):
        gateway.take([chunk])
    gateway.send_body([BODY])
    with pytest.raises(ProtocolError, match="streamed_response"):
        gateway.take([chunk])
